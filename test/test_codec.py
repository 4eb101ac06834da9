"""The image codec: round trips, padding, byte order, OpenCV as the independent reference."""

from __future__ import annotations

import array
import sys
import tracemalloc
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stremn_ros.errors import InputError
from stremn_ros.messages.image_read import (
    DEPTH_ENCODINGS,
    ENCODINGS,
    LABEL_ENCODINGS,
    checked_rows,
    decode_depth,
    decode_labels,
    decode_rgb,
    frame_size,
)
from stremn_ros.messages.image_write import encode

DIRECT_COLOR = ["rgb8", "bgr8", "rgba8", "bgra8", "8UC3"]
GREY_DTYPES = {
    "mono8": np.uint8,
    "8UC1": np.uint8,
    "mono16": np.uint16,
    "16UC1": np.uint16,
    "32FC1": np.float32,
}
BAYER = {  # OpenCV names the pattern by its second row, from the second column
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}


def decode_raw(message):
    """The samples of a message, without padding and in the machine's byte order."""
    rows = checked_rows(message)
    out = rows[..., 0] if rows.shape[2] == 1 else rows
    return np.array(out, dtype=out.dtype.newbyteorder("="), order="C")


def message(height=4, width=6, encoding="rgb8", step=None, data=None, is_bigendian=0):
    channels = {"rgb8": 3, "mono8": 1, "16UC1": 2, "32FC1": 4}.get(encoding, 4)
    if step is None:
        step = width * channels
    if data is None:
        data = array.array("B", bytes(step * height))
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        data=data,
        is_bigendian=is_bigendian,
    )


def write(image, encoding, **options):
    return encode(SimpleNamespace(), image, encoding, **options)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_picture(height=48, width=64):
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    channels = [120 + 90 * np.sin(columns / 17 + k) * np.cos(rows / 13 - k) for k in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
even_sizes = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda s: (2 * s[0], 2 * s[1]))


@given(
    encoding=st.sampled_from(DIRECT_COLOR),
    size=sizes,
    pad=st.integers(0, 9),
    big=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_color_round_trip_is_exact_with_any_padding(encoding, size, pad, big, seed):
    image = picture(*size, seed)
    row = size[1] * (4 if encoding.endswith("a8") else 3)
    msg = write(image, encoding, step=row + pad, big_endian=big)
    assert msg.step == row + pad
    assert len(msg.data) == msg.step * size[0]
    np.testing.assert_array_equal(decode_rgb(msg), image)


@given(
    encoding=st.sampled_from(sorted(GREY_DTYPES)),
    size=sizes,
    pad=st.integers(0, 9),
    big=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_raw_round_trip_keeps_every_bit_in_both_byte_orders(encoding, size, pad, big, seed):
    dtype = np.dtype(GREY_DTYPES[encoding])
    values = np.random.default_rng(seed).integers(0, 60000, size)
    image = (values % 251 if dtype.itemsize == 1 else values).astype(dtype)
    msg = write(image, encoding, step=size[1] * dtype.itemsize + pad, big_endian=big)
    # the bytes themselves, against struct-like numpy of the stated order
    stated = dtype.newbyteorder(">" if big else "<")
    first_row = bytes(msg.data[: size[1] * dtype.itemsize])
    np.testing.assert_array_equal(np.frombuffer(first_row, stated), image[0])
    out = decode_raw(msg)
    assert out.dtype == dtype
    assert out.dtype.isnative
    np.testing.assert_array_equal(out, image)


@given(
    encoding=st.sampled_from(LABEL_ENCODINGS),
    size=sizes,
    pad=st.integers(0, 5),
    big=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_labels_round_trip(encoding, size, pad, big, seed):
    labels = np.random.default_rng(seed).integers(0, 256, size).astype(GREY_DTYPES[encoding])
    msg = write(labels, encoding, step=labels[0].nbytes + pad, big_endian=big)
    out = decode_labels(msg)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, labels)


@pytest.mark.parametrize("encoding", sorted(YUV))
@pytest.mark.parametrize("pad", [0, 10])
def test_yuv422_is_read_as_opencv_reads_it(encoding, pad):
    raw = np.random.default_rng(3).integers(0, 256, (20, 34, 2), np.uint8)
    step = 68 + pad
    padded = np.zeros((20, step), np.uint8)
    padded[:, :68] = raw.reshape(20, 68)
    msg = message(20, 34, encoding, step=step, data=array.array("B", padded.tobytes()))
    expected = cv2.cvtColor(raw, YUV[encoding])
    difference = np.abs(decode_rgb(msg).astype(int) - expected.astype(int))
    assert difference.max() <= 1  # a rounding of the coefficients, over all codes


@pytest.mark.parametrize("pad", [0, 6])
def test_nv12_is_read_as_opencv_reads_it(pad):
    raw = np.random.default_rng(4).integers(0, 256, (36, 32), np.uint8)  # 24 rows of Y, 12 of UV
    padded = np.zeros((36, 32 + pad), np.uint8)
    padded[:, :32] = raw
    msg = message(24, 32, "nv12", step=32 + pad, data=array.array("B", padded.tobytes()))
    expected = cv2.cvtColor(raw, cv2.COLOR_YUV2RGB_NV12)
    assert np.abs(decode_rgb(msg).astype(int) - expected.astype(int)).max() <= 1


def test_yuv_extremes_are_black_and_white():
    for y, rgb in ((16, 0), (235, 255), (0, 0), (255, 255)):
        data = array.array("B", [128, y, 128, y])
        assert (decode_rgb(message(1, 2, "yuv422", step=4, data=data)) == rgb).all()


@pytest.mark.parametrize("encoding", sorted(BAYER))
def test_bayer_interior_equals_opencv(encoding):
    raw = np.random.default_rng(5).integers(0, 256, (18, 22), np.uint8)
    msg = message(18, 22, encoding, step=22, data=array.array("B", raw.tobytes()))
    expected = cv2.cvtColor(raw, BAYER[encoding])
    out = decode_rgb(msg)
    # the outermost pixels are extrapolated, and OpenCV copies their neighbours there
    np.testing.assert_array_equal(out[1:-1, 1:-1], expected[1:-1, 1:-1])


@pytest.mark.parametrize("encoding", sorted(BAYER))
def test_bayer_of_one_color_is_that_color_up_to_the_border(encoding):
    color = np.broadcast_to(np.array([200, 90, 10], np.uint8), (6, 8, 3))
    for pad in (0, 3):
        msg = write(np.ascontiguousarray(color), encoding, step=8 + pad)
        np.testing.assert_array_equal(decode_rgb(msg), color)


@given(size=even_sizes, encoding=st.sampled_from(sorted(BAYER)), seed=st.integers(0, 99))
def test_bayer_keeps_every_sample_that_was_measured(size, encoding, seed):
    image = picture(*size, seed)
    msg = write(image, encoding)
    out = write(decode_rgb(msg), encoding)
    assert out.data == msg.data


@pytest.mark.parametrize("encoding", [*sorted(YUV), "nv12"])
def test_smooth_pictures_survive_yuv(encoding):
    image = smooth_picture()
    out = decode_rgb(write(image, encoding))
    assert np.abs(out.astype(int) - image.astype(int)).mean() < 2.5
    expected_y = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)[:48]
    raw = decode_raw(write(image, encoding))
    y = (
        raw[:48]
        if encoding == "nv12"
        else raw[..., 0 if encoding in ("yuyv", "yuv422_yuy2") else 1]
    )
    assert np.abs(y.astype(int) - expected_y.astype(int)).max() <= 1


def test_grey_pictures_fill_three_channels():
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    for encoding in ("mono8", "8UC1"):
        out = decode_rgb(write(grey, encoding))
        np.testing.assert_array_equal(out, np.repeat(grey[..., None], 3, 2))
    wide = grey.astype(np.uint16) * 257
    for encoding in ("mono16", "16UC1"):
        for big in (False, True):
            out = decode_rgb(write(wide, encoding, big_endian=big))
            np.testing.assert_array_equal(out[..., 1], grey)
    out = decode_rgb(write(grey.astype(np.float32) / 255, "32FC1", big_endian=True))
    np.testing.assert_array_equal(out[..., 2], grey)


def test_a_depth_image_as_a_picture_says_so():
    for value in (7.5, -0.1, np.nan, np.inf):
        depth = np.full((3, 4), value, np.float32)
        with pytest.raises(InputError, match="depth"):
            decode_rgb(write(depth, "32FC1"))


def test_the_last_row_may_lack_its_padding():
    image = picture(5, 7)
    msg = write(image, "bgr8", step=32)
    msg.data = msg.data[: 32 * 4 + 21]
    np.testing.assert_array_equal(decode_rgb(msg), image)
    msg.data = msg.data[:-1]
    with pytest.raises(InputError, match=r"cut short: 148 bytes came.*needs 149"):
        decode_rgb(msg)


def test_the_result_is_a_copy_of_its_own():
    msg = write(picture(4, 4), "rgb8")
    out = decode_rgb(msg)
    before = out.copy()
    msg.data[0:12] = array.array("B", [0] * 12)
    np.testing.assert_array_equal(out, before)
    assert out.flags.c_contiguous
    assert out.flags.writeable


def test_bytes_and_numpy_data_are_read_too():
    image = picture(3, 5)
    for data in (image.tobytes(), image.reshape(-1), memoryview(image.tobytes())):
        np.testing.assert_array_equal(decode_rgb(message(3, 5, "rgb8", data=data)), image)


MALFORMED = {
    "no data": ({"data": array.array("B")}, "no data: 6 x 4 rgb8 with step 18 needs 72 bytes"),
    "cut short": ({"data": array.array("B", bytes(71))}, "cut short: 71 bytes came.*needs 72"),
    "one byte": ({"data": array.array("B", b"x")}, "cut short: 1 bytes came"),
    "step small": ({"step": 17}, "step is 17 bytes.*6 pixels of rgb8 take 18"),
    "step zero": ({"step": 0, "data": array.array("B", bytes(99))}, "step is 0 bytes"),
    "zero width": ({"width": 0}, "0 x 4 pixels: width and height must be at least 1"),
    "zero height": ({"height": 0}, "6 x 0 pixels"),
    "negative": ({"height": -3, "data": array.array("B", bytes(99))}, "6 x -3 pixels"),
    "wide": ({"width": 2**32 - 1, "data": array.array("B", bytes(99))}, "claims 4294967295 x 4"),
    "absurd": (
        {
            "width": 2**32 - 1,
            "height": 2**32 - 1,
            "step": 2**32 - 1,
            "data": array.array("B", b"xx"),
        },
        "claims 4294967295 x 4294967295",
    ),
    "many pixels": (
        {"width": 16000, "height": 16000, "step": 48000, "data": array.array("B", b"xx")},
        "67108864 pixels together",
    ),
    "long step": ({"step": 2**32 - 1, "data": array.array("B", bytes(99))}, "cut short: 99 bytes"),
    "unknown": ({"encoding": "rgb9"}, "unknown encoding 'rgb9' .did you mean 'rgb8'.*bgr8"),
    "case": ({"encoding": "RGB8"}, "did you mean 'rgb8'"),
    "empty encoding": ({"encoding": ""}, "unknown encoding ''"),
    "long encoding": ({"encoding": "x" * 10000}, "unknown encoding 'x{40}\\.\\.\\.'"),
    "no string": ({"encoding": None}, "not a string"),
    "float height": ({"height": 4.0}, "height is 4.0, not a whole number"),
    "no buffer": ({"data": 3}, "the data is a int, not a sequence of bytes"),
    "list": ({"data": [1, 2, 3]}, "the data is a list"),
    "odd yuv": ({"encoding": "yuv422", "width": 5}, "yuv422 needs an even width.*5 x 4"),
    "odd nv12": ({"encoding": "nv12", "height": 3}, "nv12 needs an even width and height"),
    "odd bayer": ({"encoding": "bayer_rggb8", "width": 5}, "bayer_rggb8 needs an even"),
}


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_malformed_messages_are_refused_in_words(name):
    changes, text = MALFORMED[name]
    msg = message(4, 6, "rgb8", step=18, data=array.array("B", bytes(72)))
    for key, value in changes.items():
        setattr(msg, key, value)
    tracemalloc.start()
    try:
        for read in (decode_rgb, decode_raw, frame_size):
            with pytest.raises(InputError, match=text):
                read(msg)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=400)
@given(
    height=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    width=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    step=st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)),
    encoding=st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=12)),
    data=st.binary(max_size=400),
    big=st.sampled_from([0, 1, 255]),
)
def test_anything_is_either_read_or_refused(height, width, step, encoding, data, big):
    msg = message(height, width, encoding, step, array.array("B", data), big)
    for read, last in ((decode_rgb, (3,)), (decode_labels, ())):
        try:
            out = read(msg)
        except InputError:
            pass
        else:
            assert out.shape == (height, width, *last)
            assert out.dtype == np.uint8


BAD_LABELS = {
    "nan": (np.array([[0, 1], [np.nan, 1]], np.float32), "1 values that are NaN.*row 1, column 0"),
    "inf": (np.array([[0, np.inf]], np.float32), "NaN or infinite"),
    "fraction": (np.array([[0, 0.5]], np.float32), "1 fractional values .*0.5.*threshold"),
    "negative": (np.array([[-1, 0]], np.float32), "the value -1"),
    "huge": (np.array([[1e30, 0]], np.float32), "the value 1e\\+30"),
    "float 256": (np.array([[256, 0]], np.float32), "the value 256: .* 0 .background. to 255"),
    "16 bit": (np.array([[300, 0]], np.uint16), "the value 300"),
}


@pytest.mark.parametrize("name", sorted(BAD_LABELS))
@pytest.mark.parametrize("big", [False, True])
def test_bad_label_values_are_refused_in_words(name, big):
    values, text = BAD_LABELS[name]
    encoding = "32FC1" if values.dtype == np.float32 else "16UC1"
    with pytest.raises(InputError, match=text):
        decode_labels(write(values, encoding, big_endian=big))


def test_a_color_mask_is_refused_with_what_would_be_right():
    with pytest.raises(InputError, match=r"mask cannot be of encoding 'rgb8'.*mono8, 8UC1"):
        decode_labels(write(picture(2, 2), "rgb8"))
    with pytest.raises(InputError, match="a mask cannot be of encoding 'mono9': send one label"):
        decode_labels(message(encoding="mono9"))
    with pytest.raises(InputError, match=r"the mask has no encoding: send one label.*32FC1"):
        decode_labels(message(encoding=""))


@pytest.mark.parametrize(
    ("image", "encoding", "text"),
    [
        (np.zeros((2, 2), np.uint8), "rgb8", "rgb8 is written from uint8 .H, W, 3. .RGB."),
        (np.zeros((2, 2, 3), np.float32), "bgr8", "got float32"),
        (np.zeros((2, 2, 3), np.uint8), "mono8", "mono8 is written from uint8 .H, W.,"),
        (np.zeros((2, 2), np.uint8), "32FC1", "written from float32"),
        (np.zeros((0, 2, 3), np.uint8), "rgb8", "got uint8 .0, 2, 3."),
        (np.zeros((2, 3, 3), np.uint8), "nv12", "even"),
        (np.zeros((2, 2, 3), np.uint8), "jpeg", "unknown encoding"),
    ],
)
def test_what_cannot_be_written_is_refused(image, encoding, text):
    with pytest.raises(InputError, match=text):
        write(image, encoding)
    with pytest.raises(InputError, match="step is 5 bytes"):
        write(np.zeros((2, 2, 3), np.uint8), "rgb8", step=5)


@pytest.fixture
def bridge(monkeypatch):
    """cv_bridge as beside a ROS distribution: what it is asked, and what it says."""
    asked = []

    class CvBridge:
        answer = np.full((4, 6, 3), 7, np.uint8)

        def imgmsg_to_cv2(self, msg, desired_encoding):
            asked.append((msg.encoding, desired_encoding))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    module = ModuleType("cv_bridge")
    module.__spec__ = ModuleSpec("cv_bridge", None)
    module.CvBridge, module.asked = CvBridge, asked
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    return module


def test_what_is_not_in_the_table_is_read_by_cv_bridge(bridge):
    msg = message(4, 6, "rgb16", step=36, data=array.array("B", bytes(144)))
    np.testing.assert_array_equal(decode_rgb(msg), bridge.CvBridge.answer)
    assert frame_size(msg) == (4, 6)
    assert bridge.asked == [("rgb16", "rgb8")]
    decode_rgb(write(picture(4, 6), "rgb8"))  # in the table: not asked
    assert len(bridge.asked) == 1


def test_what_cv_bridge_cannot_read_is_refused_in_words(bridge):
    msg = message(4, 6, "rgb16", step=36, data=array.array("B", bytes(144)))
    bridge.CvBridge.answer = RuntimeError("[rgb99] is not a color format")
    with pytest.raises(InputError, match=r"by cv_bridge, which says: .rgb99.*mono8"):
        decode_rgb(msg)
    bridge.CvBridge.answer = np.zeros((4, 6), np.uint16)
    with pytest.raises(InputError, match=r"cv_bridge made uint16 .4, 6. of a 6 x 4 rgb16"):
        decode_rgb(msg)
    asked = len(bridge.asked)
    msg.data = msg.data[:-1]
    with pytest.raises(InputError, match=r"cut short: 143 bytes came.*needs 144"):
        decode_rgb(msg)
    msg.height = 2**32 - 1
    with pytest.raises(InputError, match="claims 6 x 4294967295"):
        frame_size(msg)
    assert len(bridge.asked) == asked


# ---------------------------------------------------------------- depth


@given(
    encoding=st.sampled_from(DEPTH_ENCODINGS),
    size=sizes,
    pad=st.integers(0, 9),
    big=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_depth_comes_back_exactly_with_any_padding_and_byte_order(encoding, size, pad, big, seed):
    dtype = np.dtype(GREY_DTYPES[encoding])
    depth = np.random.default_rng(seed).integers(0, 60000, size).astype(dtype)
    if dtype.kind == "f":
        depth.flat[0] = np.nan
    msg = write(depth, encoding, step=size[1] * dtype.itemsize + pad, big_endian=big)
    found = decode_depth(msg)
    assert found.dtype == dtype
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, depth)


def test_depth_that_lies_right_is_not_copied():
    msg = write(np.arange(24, dtype=np.uint16).reshape(4, 6), "16UC1")
    assert np.shares_memory(decode_depth(msg), np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize("encoding", [*sorted(set(ENCODINGS) - set(DEPTH_ENCODINGS)), "", "junk"])
def test_another_encoding_is_no_depth(encoding):
    with pytest.raises(InputError, match="depth is 16UC1 or mono16"):
        decode_depth(message(encoding=encoding))


def test_a_depth_message_is_checked_as_an_image_is():
    msg = write(np.ones((4, 6), np.uint16), "16UC1")
    msg.data = msg.data[:-1]
    with pytest.raises(InputError, match="cut short"):
        decode_depth(msg)
    msg.step = 11
    with pytest.raises(InputError, match="smaller than one row"):
        decode_depth(msg)
