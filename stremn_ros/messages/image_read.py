"""sensor_msgs/Image as numpy arrays.

Works on any object that has the attributes of sensor_msgs/Image (height, width, encoding,
is_bigendian, step, data). All sizes are checked as Python integers against the bytes that really
came before anything is allocated, so that a message which claims to be 4 gigapixels costs nothing;
OpenCV then converts the checked view. cv_bridge alone would not do: it skews images whose rows are
padded by parts of a pixel, fails on big-endian ones with numpy 2, and does not know nv12. It reads
the encodings that are not in the table, where it is installed.

Every message that cannot be read raises `InputError`.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.pictures import eight_bits
from stremn_ros.results import MAX_ID

MAX_SIDE = 16384  # pixels; the largest side of an image that is taken for real
MAX_PIXELS = 1 << 26  # 67 megapixels


class ImageLike(Protocol):
    """What the codec needs of a sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


ToRgb = Callable[[NDArray[Any]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Encoding:
    """How the bytes of one encoding lie in a row, and how they become RGB.

    Attributes:
        to_rgb: [rows, W, channels] in the sender's byte order -> uint8 [H, W, 3], a new array.
        dtype: of one sample, without the byte order. channels: samples per pixel in a row.
        even_width, even_height: the sides must be even. rows_per_height: nv12 has half as many
            rows again, for the color.
    """

    to_rgb: ToRgb
    dtype: str = "u1"
    channels: int = 1
    even_width: bool = False
    even_height: bool = False
    rows_per_height: float = 1.0


def _opencv(code: int) -> ToRgb:
    def convert(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.cvtColor(rows, code), np.uint8)

    return convert


def _demosaic(code: int) -> ToRgb:
    """Bilinear interpolation; the border is mirrored, which keeps the pattern: OpenCV copies the
    pixels beside it instead."""

    def convert(rows: NDArray[Any]) -> NDArray[np.uint8]:
        wide = cv2.copyMakeBorder(rows, 2, 2, 2, 2, cv2.BORDER_REFLECT_101)
        colored: NDArray[Any] = np.asarray(cv2.cvtColor(wide, code)[2:-2, 2:-2])
        return np.ascontiguousarray(
            eight_bits(colored) if colored.dtype == np.uint16 else colored, np.uint8
        )

    return convert


def _deep_grey(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return _GREY(eight_bits(rows[..., 0]))


def _brightness(rows: NDArray[Any]) -> NDArray[np.uint8]:
    grey = rows[..., 0]
    low, high = float(grey.min()), float(grey.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0.0 or high > 1.0:
        raise InputError(
            f"a 32FC1 picture is read as brightness 0..1, this one spans {low:g}..{high:g}: if it "
            "is a depth image, subscribe to the camera's color or mono topic instead"
        )
    return _GREY(np.asarray(np.rint(grey * np.float32(255)), np.uint8))


_GREY = _opencv(cv2.COLOR_GRAY2RGB)
_BGR = Encoding(_opencv(cv2.COLOR_BGR2RGB), channels=3)
_UYVY = Encoding(_opencv(cv2.COLOR_YUV2RGB_UYVY), channels=2, even_width=True)
_YUYV = Encoding(_opencv(cv2.COLOR_YUV2RGB_YUY2), channels=2, even_width=True)


def _bayer(code: int) -> Encoding:
    return Encoding(_demosaic(code), even_width=True, even_height=True)


TABLE: dict[str, Encoding] = {
    "rgb8": Encoding(lambda rows: rows.copy(), channels=3),
    "bgr8": _BGR,
    "rgba8": Encoding(_opencv(cv2.COLOR_RGBA2RGB), channels=4),
    "bgra8": Encoding(_opencv(cv2.COLOR_BGRA2RGB), channels=4),
    "mono8": Encoding(_GREY),
    "mono16": Encoding(_deep_grey, "u2"),
    "8UC1": Encoding(_GREY),
    "8UC3": _BGR,  # says nothing of color; OpenCV and cv_bridge take it for BGR, too
    "16UC1": Encoding(_deep_grey, "u2"),
    "32FC1": Encoding(_brightness, "f4"),
    # sensor_msgs/image_encodings.hpp: yuv422 is UYVY, yuv422_yuy2 is YUYV; the short names are
    # those of later distributions.
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding(
        _opencv(cv2.COLOR_YUV2RGB_NV12), even_width=True, even_height=True, rows_per_height=1.5
    ),
    # OpenCV names the pattern by its second row, from the second column
    "bayer_rggb8": _bayer(cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer(cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer(cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer(cv2.COLOR_BayerGB2RGB),
}
ENCODINGS: tuple[str, ...] = tuple(TABLE)
LABEL_ENCODINGS: tuple[str, ...] = ("mono8", "8UC1", "16UC1", "32FC1")
DEPTH_ENCODINGS: tuple[str, ...] = ("16UC1", "mono16", "32FC1")


def decode_rgb(message: ImageLike) -> NDArray[np.uint8]:
    """The picture of a message as RGB, a new uint8 array [H, W, 3].

    Grey encodings are repeated in the three channels; 16-bit ones are stretched by the picture's
    range, as `pictures.eight_bits` does with files; 32FC1 is read as brightness 0..1. YUV is
    BT.601 with limited range, as cameras send it; Bayer patterns are interpolated bilinearly.
    `8UC3` is read as BGR. Other encodings are read by cv_bridge where it is installed.

    Raises:
        InputError: anything wrong with the message; the text says what and what would be right.
    """
    if _by_cv_bridge(message.encoding):
        return _read_by_cv_bridge(message)
    return layout_of(message.encoding).to_rgb(checked_rows(message))


def decode_labels(message: ImageLike) -> NDArray[np.uint8]:
    """The label mask of a message as a new uint8 array [H, W]: 0 background, n = object id.

    Reads mono8, 8UC1, 16UC1 and 32FC1 (whose values must be whole numbers).

    Raises:
        InputError: a malformed message, another encoding, NaN, a fractional or negative value, or
            a value above 255.
    """
    if message.encoding not in LABEL_ENCODINGS:
        shown = str(message.encoding)[:40]
        wrong = f"a mask cannot be of encoding '{shown}'" if shown else "the mask has no encoding"
        raise InputError(
            f"{wrong}: send one label per pixel as {', '.join(LABEL_ENCODINGS)} (0 background, "
            "n = object id)"
        )
    labels = checked_rows(message)[..., 0]
    if labels.dtype.kind == "f":
        finite = np.isfinite(labels)
        if not finite.all():
            count = int(labels.size - np.count_nonzero(finite))
            row, column = (int(v) for v in np.argwhere(~finite)[0])
            raise InputError(
                f"the 32FC1 mask has {count} values that are NaN or infinite (the first at row "
                f"{row}, column {column}): every pixel must be a whole number 0..{MAX_ID}"
            )
        fractional = labels != np.floor(labels)
        if fractional.any():
            row, column = (int(v) for v in np.argwhere(fractional)[0])
            raise InputError(
                f"the 32FC1 mask has {int(np.count_nonzero(fractional))} fractional values (the "
                f"first, {float(labels[row, column]):g}, at row {row}, column {column}): labels "
                f"are whole numbers 0..{MAX_ID}; threshold a probability map first"
            )
    low, high = labels.min(), labels.max()
    if low < 0 or high > MAX_ID:
        wrong = low if low < 0 else high
        raise InputError(
            f"the mask has the value {float(wrong):g}: labels are object ids, "
            f"0 (background) to {MAX_ID}"
        )
    return labels.astype(np.uint8)


def decode_depth(message: ImageLike) -> NDArray[Any]:
    """The depth image of a message: uint16 [H, W] in millimeters or float32 [H, W] in meters.

    Reads 16UC1 and mono16 (millimeters) and 32FC1 (meters), as REP 118 has them. Values are not
    looked at: 0, NaN, infinite and negative ones are holes. It is a view of the message's bytes
    where they lie as an array does, so do not write to it.

    Raises:
        InputError: a malformed message, or another encoding.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        shown = str(message.encoding)[:40]
        raise InputError(
            f"the depth image has the encoding {shown!r}: depth is 16UC1 or mono16 (millimeters) "
            "or 32FC1 (meters); set depth_topic to the camera's depth image, not to a color or "
            "colorized one"
        )
    rows = checked_rows(message)[..., 0]
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))


def frame_size(message: ImageLike) -> tuple[int, int]:
    """(height, width) as the message claims, after every check of `decode_rgb` but the values.

    Raises:
        InputError: a malformed message.
    """
    if _by_cv_bridge(message.encoding):
        return _claimed_size(message)
    checked_rows(message)
    return int(message.height), int(message.width)


def layout_of(encoding: object) -> Encoding:
    """The row of the table; InputError for an encoding that is not in it."""
    if not isinstance(encoding, str):
        raise InputError(f"the encoding is a {type(encoding).__name__}, not a string")
    if encoding not in TABLE:
        shown = encoding if len(encoding) <= 40 else encoding[:40] + "..."
        lower = {name.lower(): name for name in ENCODINGS}
        near = difflib.get_close_matches(shown.lower(), lower, n=1, cutoff=0.7)
        hint = f" (did you mean '{lower[near[0]]}'?)" if near else ""
        raise InputError(
            f"unknown encoding {shown!r}{hint}: this node reads {', '.join(ENCODINGS)}, and what "
            "cv_bridge reads where that is installed"
        )
    return TABLE[encoding]


def _integer(value: object, name: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} is {value!r}, not a whole number") from None


def _claimed_size(message: ImageLike) -> tuple[int, int]:
    """(height, width), which are those of an image."""
    height = _integer(message.height, "height")
    width = _integer(message.width, "width")
    if height <= 0 or width <= 0:
        raise InputError(
            f"the image is {width} x {height} pixels: width and height must be at least 1"
        )
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise InputError(
            f"the image claims {width} x {height} pixels: at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS} pixels together are taken for real"
        )
    return height, width


def check_even(encoding: str, height: int, width: int) -> None:
    """InputError where the encoding needs sides that are even, and these are not."""
    layout = TABLE[encoding]
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        sides = "width and height" if layout.even_height else "width"
        raise InputError(f"{encoding} needs an even {sides}, this image is {width} x {height}")


def checked_rows(message: ImageLike) -> NDArray[Any]:
    """A view [rows, W, C] of the message's bytes in the sender's byte order.

    Raises:
        InputError: a malformed message.
    """
    encoding = message.encoding
    layout = layout_of(encoding)
    height, width = _claimed_size(message)
    step = _integer(message.step, "step")
    check_even(encoding, height, width)
    dtype = np.dtype(layout.dtype)
    row_bytes = width * layout.channels * dtype.itemsize
    if step < row_bytes:
        raise InputError(
            f"step is {step} bytes, smaller than one row: {width} pixels of {encoding} take "
            f"{row_bytes}"
        )
    rows = int(height * layout.rows_per_height)
    try:
        data = np.frombuffer(message.data, np.uint8)
    except (TypeError, ValueError, BufferError):
        data = None
    if data is None:
        if hasattr(message.data, "__len__") and len(message.data) == 0:
            data = np.empty(0, np.uint8)  # numpy refuses to look at an empty buffer
        else:
            raise InputError(
                f"the data is a {type(message.data).__name__}, not a sequence of bytes"
            )
    # The padding after the last row may be missing: images cut out of larger ones come so.
    needed = step * (rows - 1) + row_bytes
    if data.size == 0:
        raise InputError(
            f"the image has no data: {width} x {height} {encoding} with step {step} needs "
            f"{needed} bytes"
        )
    if data.size < needed:
        raise InputError(
            f"the data is cut short: {data.size} bytes came, {width} x {height} {encoding} with "
            f"step {step} needs {needed}"
        )
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
    view: NDArray[Any] = np.ndarray(
        (rows, width, layout.channels),
        dtype,
        buffer=data,
        strides=(step, layout.channels * dtype.itemsize, dtype.itemsize),
    )
    return view


def _by_cv_bridge(encoding: object) -> bool:
    """Whether an encoding is not in the table and cv_bridge is there."""
    if not isinstance(encoding, str) or encoding in TABLE:
        return False
    try:
        return importlib.util.find_spec("cv_bridge") is not None
    except ValueError:  # a module without a specification
        return False


def _read_by_cv_bridge(message: ImageLike) -> NDArray[np.uint8]:
    size = _claimed_size(message)
    encoding = message.encoding[:40]
    needed = _integer(message.step, "step") * size[0]
    if len(message.data) < needed:
        raise InputError(
            f"the data is cut short: {len(message.data)} bytes came, {size[1]} x {size[0]} "
            f"{encoding} with step {message.step} needs {needed}"
        )
    try:
        from cv_bridge import CvBridge

        rgb = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # CvBridgeError, and whatever its parts raise for a bad message
        raise InputError(
            f"encoding {encoding!r} is read by cv_bridge, which says: {error}; this node itself "
            f"reads {', '.join(ENCODINGS)}"
        ) from error
    if rgb.shape != (*size, 3) or rgb.dtype != np.uint8:
        raise InputError(
            f"cv_bridge made {rgb.dtype} {list(rgb.shape)} of a {size[1]} x {size[0]} {encoding}, "
            "and not RGB of its size"
        )
    return np.ascontiguousarray(rgb)
