"""One decoder of pictures for files and messages: cut ones, 16 bits, orientation tags."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from stremn_ros.errors import InputError
from stremn_ros.imaging import pictures
from stremn_ros.imaging.video import open_frames, read_image, write_image
from stremn_ros.messages import compressed_read, image_read, image_write


def drawn(height: int = 120, width: int = 160) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


def encoded(image: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def as_message(data: bytes) -> np.ndarray:
    return compressed_read.decode_rgb(SimpleNamespace(format="", data=data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.97, 0.6, 0.3])
def test_a_picture_that_was_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(drawn(), kind)
    path = tmp_path / "a.jpg"  # the content counts
    path.write_bytes(data)
    assert read_image(path).shape == (120, 160, 3)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded: .*"):
        read_image(path)
    if kind in ("JPEG", "PNG"):
        with pytest.raises(InputError, match="cut short"):
            as_message(path.read_bytes())


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 30}, {"subsampling": 2}])
def test_a_cut_jpeg_of_any_kind_is_refused(tmp_path: Path, options: dict) -> None:
    data = encoded(drawn(), "JPEG", **options)
    thumbnail = encoded(drawn(24, 32))  # with an end marker of its own, in the header
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    for whole in (data, data[:2] + exif + data[2:]):
        pictures.decode(whole)
        for share in (0.95, 0.5):
            with pytest.raises(InputError, match="cut short"):
                pictures.decode(whole[: int(len(whole) * share)])


def test_a_folder_with_a_cut_frame_names_it(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(encoded(drawn())[: 1500 if n == 2 else None])
    frames = iter(open_frames(tmp_path))
    next(frames), next(frames)
    with pytest.raises(InputError, match=r"2\.jpg: cannot be decoded: the JPEG is cut short"):
        next(frames)


@pytest.mark.parametrize("tag", range(1, 9))
def test_an_orientation_tag_is_not_followed_and_is_told(
    tmp_path: Path, tag: int, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encoded(drawn(), "JPEG", quality=95, exif=exif.tobytes())
    (tmp_path / "a.jpg").write_bytes(data)
    plain = pictures.decode(encoded(drawn(), "JPEG", quality=95))
    assert pictures.orientation(data) == tag
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), plain)
    np.testing.assert_array_equal(as_message(data), plain)
    source = open_frames(tmp_path)
    assert (source.size, source.orientation) == ((120, 160), tag)
    assert (f"orientation tag {tag}" in caplog.text) == (tag != 1)
    assert (f"shown {pictures.TURNS.get(tag)}" in caplog.text) == (tag != 1)


def test_what_says_nothing_about_its_orientation_is_as_stored() -> None:
    for data in (b"", b"nothing", encoded(drawn(), "PNG"), encoded(drawn())):
        assert pictures.orientation(data) == 1
    exif = Image.Exif()
    exif[0x0112] = 99
    assert pictures.orientation(encoded(drawn(), exif=exif.tobytes())) == 1


# ---------------------------------------------------------------- 16 bits


def thermal(low: int = 7500, span: int = 400, height: int = 120, width: int = 160) -> np.ndarray:
    """Counts of a camera of 14 bits: a room, and somebody in it."""
    y, x = np.mgrid[0:height, 0:width]
    room = low + (x + y) * span // (2 * (height + width))
    return np.where((y - 60) ** 2 + (x - 80) ** 2 < 900, room + span // 2, room).astype(np.uint16)


def readings(tmp_path: Path, counts: np.ndarray) -> list[np.ndarray]:
    """The same picture from a PNG, a TIFF and a PGM, and from a message, plain and compressed."""
    found = []
    for suffix in (".png", ".tif", ".pgm"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), counts)
        found.append(read_image(tmp_path / f"a{suffix}"))
    message = image_write.encode(SimpleNamespace(), counts, "mono16")
    found.append(image_read.decode_rgb(message))
    message = image_write.encode(SimpleNamespace(), counts, "16UC1", big_endian=True)
    found.append(image_read.decode_rgb(message))
    found.append(as_message((tmp_path / "a.png").read_bytes()))
    return found


@pytest.mark.parametrize("span", [300, 3000, 16000])
def test_16_bits_are_stretched_alike_in_files_and_messages(tmp_path: Path, span: int) -> None:
    counts = thermal(span=span)
    first, *others = readings(tmp_path, counts)
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert np.unique(first).size > 100
    # brighter stays brighter
    order = np.argsort(counts.ravel(), kind="stable")
    assert (np.diff(first[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_the_ends_hardly_move_while_the_scene_changes_a_little() -> None:
    """Else a picture that moves by a count would flicker."""
    means = [pictures.eight_bits(thermal(7500 + n)).mean() for n in range(40)]
    assert np.ptp(means) < 40
    assert sum(abs(a - b) > 2 for a, b in itertools.pairwise(means)) <= 3


def test_the_whole_range_and_flat_pictures() -> None:
    full = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(pictures.eight_bits(full), (full.astype(int) + 128) // 257)
    for value, wanted in ((0, 0), (65535, 255), (30000, 128)):
        assert (pictures.eight_bits(np.full((4, 5), value, np.uint16)) == wanted).all()
    noise = np.random.default_rng(0).integers(1000, 1008, (50, 50)).astype(np.uint16)
    assert np.ptp(pictures.eight_bits(noise)) < 10  # noise is not spread over all


def test_dead_pixels_do_not_take_the_range(tmp_path: Path) -> None:
    counts = thermal()
    counts[3, 3], counts[7, 9] = 0, 65535
    assert np.unique(pictures.eight_bits(counts)).size > 100


def test_colors_of_16_bits_keep_their_hue(tmp_path: Path) -> None:
    wide = drawn().astype(np.uint16) * 20
    cv2.imwrite(str(tmp_path / "a.png"), wide[..., ::-1])
    read = read_image(tmp_path / "a.png").astype(float)
    share = read[60, 80] / read[60, 80].sum()
    assert np.abs(share - wide[60, 80] / wide[60, 80].sum()).max() < 0.02
    assert read.max() > 200


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_is_read_as_it_is_stored(tmp_path: Path, tag: int, big: bool) -> None:
    """OpenCV and Pillow turn a TIFF by its tag, whatever they are told."""
    path = tmp_path / "a.tif"
    color = drawn()
    gray = color[..., 0].copy()
    for stored in (color, gray, gray.astype("<u2") * 200, gray.astype(">u2") * 200):
        Image.fromarray(stored).save(path, tiffinfo={274: tag}, big_tiff=big)
        data = path.read_bytes()
        assert data.startswith(b"MM" if stored.dtype.str == ">u2" else b"II")
        assert pictures.orientation(data) == tag
        read = read_image(path)
        assert read.shape[:2] == stored.shape[:2]
        if stored.ndim == 3:
            np.testing.assert_array_equal(read, stored)
        elif stored.dtype == np.uint8:
            np.testing.assert_array_equal(read[..., 0], stored)
        else:
            wanted = pictures.eight_bits(stored.astype(np.uint16))
            np.testing.assert_array_equal(read[..., 0], wanted)


def test_bytes_that_are_no_tiff_or_cut_short_stay_as_they_are() -> None:
    far = b"II*\0" + 4 * b"\xff"
    for data in (b"", b"II*\0", b"MM\0*\0\0", far, b"\x89PNG", b"II+\0" + 9 * b"\0"):
        assert pictures.without_turn(data) == data


def test_a_picture_written_appears_whole_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a:b.png", "100%d.png", "ü\udce9.png", "n\nl.jpg"):
        write_image(tmp_path / name, drawn())
        assert read_image(tmp_path / name).shape == (120, 160, 3)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(InputError, match=r"a\.xyz"):
        write_image(tmp_path / "a.xyz", drawn())
