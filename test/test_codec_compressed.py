"""The codec of compressed images: what OpenCV reads, and everything else refused with a reason."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stremn_ros.errors import InputError
from stremn_ros.messages import compressed_read, image_read, image_write

HEIGHT, WIDTH = 48, 70


def picture(height=HEIGHT, width=WIDTH):
    """Smooth colors, so that JPEG keeps them."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9.0))
    return np.stack(channels, axis=2).astype(np.uint8)


def compress(array, kind=".jpg", options=(), text=""):
    done, data = cv2.imencode(kind, array, list(options))
    assert done
    return message(data.tobytes(), text or f"rgb8; {kind[1:]} compressed bgr8")


def message(data, text="jpeg"):
    return SimpleNamespace(format=text, data=data)


def bgr(array):
    return np.ascontiguousarray(array[..., ::-1])


def test_a_png_is_read_exactly_and_a_jpeg_nearly():
    sent = compress(bgr(picture()), ".png")
    assert compressed_read.frame_size(sent) == (HEIGHT, WIDTH)
    found = compressed_read.decode_rgb(sent)
    np.testing.assert_array_equal(found, picture())
    assert found.flags.c_contiguous
    for options in (
        (),
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    ):
        sent = compress(bgr(picture()), ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 95, *options))
        assert compressed_read.frame_size(sent) == (HEIGHT, WIDTH)
        found = compressed_read.decode_rgb(sent)
        assert np.abs(found.astype(int) - picture()).mean() < 3


def test_grey_deep_and_transparent_pictures():
    grey = picture()[..., 0]
    for sent in (compress(grey, ".png"), compress(grey.astype(np.uint16) * 257, ".png")):
        found = compressed_read.decode_rgb(sent)
        np.testing.assert_array_equal(found, np.stack([grey] * 3, axis=2))
    with_alpha = np.dstack([bgr(picture()), np.full((HEIGHT, WIDTH), 7, np.uint8)])
    found = compressed_read.decode_rgb(compress(with_alpha, ".png"))
    np.testing.assert_array_equal(found, picture())


def test_the_format_does_not_matter_and_a_mosaic_is_colored():
    for text in ("", "png", "jpeg", "nonsense; \N{BANANA}", "rgb8; jpeg compressed bgr8"):
        sent = compress(bgr(picture()), ".png", text=text)
        np.testing.assert_array_equal(compressed_read.decode_rgb(sent), picture())
    mosaic = SimpleNamespace()
    image_write.encode(mosaic, picture(), "bayer_rggb8")
    raw = np.frombuffer(mosaic.data, np.uint8).reshape(HEIGHT, WIDTH)
    sent = compress(raw, ".png", text="bayer_rggb8; png compressed ")
    np.testing.assert_array_equal(compressed_read.decode_rgb(sent), image_read.decode_rgb(mosaic))
    # of 12 bits in 16, as scientific cameras send it: the same picture, but for its brightness
    sent = compress(raw.astype(np.uint16) * 16, ".png", text="bayer_rggb16; png compressed ")
    deep, plain = compressed_read.decode_rgb(sent), image_read.decode_rgb(mosaic)
    assert np.corrcoef(deep.ravel(), plain.ravel())[0, 1] > 0.995
    assert deep.mean() == pytest.approx(plain.mean(), rel=0.2)
    with pytest.raises(InputError, match="unknown encoding 'bayer_abcd8'"):
        compressed_read.decode_rgb(compress(raw, ".png", text="bayer_abcd16; png compressed "))
    colored = compress(bgr(picture()), ".png", text="bayer_rggb8; png compressed bgr8")
    np.testing.assert_array_equal(compressed_read.decode_rgb(colored), picture())


def test_an_orientation_tag_does_not_turn_the_picture():
    data = compress(bgr(picture())).data
    tags = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tags
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    upright = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert upright.shape[:2] == (WIDTH, HEIGHT), "OpenCV does not see the tag of this test"
    assert compressed_read.decode_rgb(message(turned)).shape[:2] == (HEIGHT, WIDTH)


def refused(data, text, kind="jpeg"):
    for function in (compressed_read.frame_size, compressed_read.decode_rgb):
        with pytest.raises(InputError, match=text):
            function(message(data, kind))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_what_is_no_picture_is_refused_with_the_reason():
    refused(b"", "the compressed image has no data")
    refused(b"GIF89a....", r"\(format 'jpeg'\) begins with 47 49 46 38, .* neither JPEG nor PNG")
    refused(b"\0" * 12, "depth image", "16UC1; compressedDepth png")
    refused(b"\xff\xd8\xff", "cut short")
    png = b"\x89PNG\r\n\x1a\n"
    refused(png, "PNG is cut short: 8 bytes came")
    refused(png + chunk(b"IDAT", b""), "does not begin with IHDR")
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    refused(png + huge + chunk(b"IEND", b""), "claims to be 60000 x 60000 pixels")
    empty = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 10, 8, 2, 0, 0, 0))
    refused(png + empty + chunk(b"IEND", b""), "claims to be 0 x 10 pixels")
    fine = chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    with pytest.raises(InputError, match="cannot be decoded"):
        compressed_read.decode_rgb(message(png + fine + chunk(b"IEND", b"")))
    jpeg = compress(bgr(picture())).data
    frame = jpeg.index(b"\xff\xc0")
    large = jpeg[: frame + 5] + struct.pack(">HH", 65000, 65000) + jpeg[frame + 9 :]
    refused(large, "claims to be 65000 x 65000 pixels")
    refused(jpeg[:frame] + b"\xff\xda\0\x02" + b"\xff\xd9", "does not tell its size")
    refused(jpeg[:20] + b"x" + jpeg[20:], "damaged|cut short|cannot be decoded")


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_picture_that_was_cut_short_anywhere_is_refused(kind):
    data = compress(bgr(picture(24, 30)), kind).data
    for length in range(len(data) - 1):
        with pytest.raises(InputError):
            compressed_read.decode_rgb(message(data[:length]))
    assert compressed_read.decode_rgb(message(data + b"\0" * 64)).shape == (24, 30, 3)


def test_every_flipped_byte_of_a_png_is_noticed():
    data = bytearray(compress(bgr(picture(12, 15)), ".png").data)
    for position in range(len(data)):
        data[position] ^= 0x10
        with pytest.raises(InputError):
            compressed_read.decode_rgb(message(bytes(data)))
        data[position] ^= 0x10


JPEG = compress(bgr(picture(24, 30))).data


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)), min_size=1, max_size=8
    )
    | st.binary(max_size=60),
    text=st.text(max_size=20),
)
def test_whatever_comes_is_a_picture_or_refused(changes, text):
    data = bytearray(JPEG)
    if isinstance(changes, bytes):
        data = bytearray(b"\xff\xd8\xff" + changes)
    else:
        for position, value in changes:
            data[position] = value
    try:
        size = compressed_read.frame_size(message(bytes(data), text))
        found = compressed_read.decode_rgb(message(bytes(data), text))
    except InputError:
        return
    assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
