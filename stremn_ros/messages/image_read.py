"""sensor_msgs/Image to numpy arrays and back, without cv_bridge.

Works on any object that has the attributes of sensor_msgs/Image (height, width, encoding,
is_bigendian, step, data); nothing here imports ROS. cv_bridge is not used because it fails on
padded rows, which many camera drivers send for widths that are no multiple of 16.

Every message that cannot be read raises `InputError`. All sizes are checked as Python integers
against the bytes that really came before anything is allocated, so that a message which claims
to be 4 gigapixels costs nothing.
"""

from __future__ import annotations

import array
import difflib
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class _Layout:
    """How the bytes of one encoding lie in a row."""

    dtype: str  # of one sample, without the byte order
    channels: int  # samples per pixel in a row (nv12: of the Y plane)
    even_width: bool = False
    even_height: bool = False
    rows_per_height: float = 1.0  # nv12 has half as many rows again, for the color


_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout("u1", 3),
    "bgr8": _Layout("u1", 3),
    "rgba8": _Layout("u1", 4),
    "bgra8": _Layout("u1", 4),
    "mono8": _Layout("u1", 1),
    "mono16": _Layout("u2", 1),
    "8UC1": _Layout("u1", 1),
    "8UC3": _Layout("u1", 3),
    "16UC1": _Layout("u2", 1),
    "32FC1": _Layout("f4", 1),
    # sensor_msgs/image_encodings.hpp: yuv422 is UYVY, yuv422_yuy2 is YUYV; the short names are
    # those of later distributions.
    "yuv422": _Layout("u1", 2, even_width=True),
    "uyvy": _Layout("u1", 2, even_width=True),
    "yuv422_yuy2": _Layout("u1", 2, even_width=True),
    "yuyv": _Layout("u1", 2, even_width=True),
    "nv12": _Layout("u1", 1, even_width=True, even_height=True, rows_per_height=1.5),
    "bayer_rggb8": _Layout("u1", 1, even_width=True, even_height=True),
    "bayer_bggr8": _Layout("u1", 1, even_width=True, even_height=True),
    "bayer_gbrg8": _Layout("u1", 1, even_width=True, even_height=True),
    "bayer_grbg8": _Layout("u1", 1, even_width=True, even_height=True),
}
ENCODINGS: tuple[str, ...] = tuple(_LAYOUTS)
LABEL_ENCODINGS: tuple[str, ...] = ("mono8", "8UC1", "16UC1", "32FC1")

# channel order of the interleaved color encodings, as indices of R, G, B; 8UC3 says nothing of
# color and is read as OpenCV and cv_bridge do: BGR
_COLOR_ORDER = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "8UC3": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
}
_UYVY = ("yuv422", "uyvy")
_YUYV = ("yuv422_yuy2", "yuyv")
# where the red sample of each 2 x 2 cell is: (row, column)
_BAYER_RED = {
    "bayer_rggb8": (0, 0),
    "bayer_bggr8": (1, 1),
    "bayer_gbrg8": (1, 0),
    "bayer_grbg8": (0, 1),
}


# ---------------------------------------------------------------------------------- reading


def decode_rgb(message: ImageLike) -> NDArray[np.uint8]:
    """The picture of a message as RGB, a new uint8 array [H, W, 3].

    Grey encodings are repeated in the three channels; 16-bit ones are stretched by the picture's
    range, as `pictures.eight_bits` does with files; 32FC1 is read as brightness 0..1. YUV is
    BT.601 with limited range, as cameras send it and OpenCV reads it; Bayer patterns are
    interpolated bilinearly. `8UC3` is read as BGR.

    Raises:
        InputError: anything wrong with the message; the text says what and what would be right.
    """
    encoding, rows = _rows(message)
    if encoding in _COLOR_ORDER:
        out = np.empty((*rows.shape[:2], 3), np.uint8)
        for channel, source in enumerate(_COLOR_ORDER[encoding]):
            out[..., channel] = rows[..., source]
        return out
    if encoding in _UYVY or encoding in _YUYV:
        return _decode_yuv422(rows, y_first=encoding in _YUYV)
    if encoding == "nv12":
        return _decode_nv12(rows)
    if encoding in _BAYER_RED:
        return _demosaic(rows[..., 0], *_BAYER_RED[encoding])
    grey = rows[..., 0]
    if grey.dtype.kind == "f":
        grey = _brightness(grey)
    elif grey.dtype.itemsize == 2:
        grey = eight_bits(grey)
    out = np.empty((*grey.shape, 3), np.uint8)
    for channel in range(3):
        out[..., channel] = grey
    return out


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
    _, rows = _rows(message)
    labels = rows[..., 0]
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


def frame_size(message: ImageLike) -> tuple[int, int]:
    """(height, width) as the message claims, after every check of `decode_rgb` but the values.

    Raises:
        InputError: a malformed message.
    """
    _rows(message)
    return int(message.height), int(message.width)


def _layout(encoding: object) -> _Layout:
    if not isinstance(encoding, str):
        raise InputError(f"the encoding is a {type(encoding).__name__}, not a string")
    if encoding not in _LAYOUTS:
        shown = encoding if len(encoding) <= 40 else encoding[:40] + "..."
        lower = {name.lower(): name for name in ENCODINGS}
        near = difflib.get_close_matches(shown.lower(), lower, n=1, cutoff=0.7)
        hint = f" (did you mean '{lower[near[0]]}'?)" if near else ""
        raise InputError(
            f"unknown encoding {shown!r}{hint}: this node reads {', '.join(ENCODINGS)}"
        )
    return _LAYOUTS[encoding]


def _integer(value: object, name: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} is {value!r}, not a whole number") from None


def _rows(message: ImageLike) -> tuple[str, NDArray[Any]]:
    """The encoding, and a view [rows, W, C] of the message's bytes in the sender's byte order."""
    encoding = message.encoding
    layout = _layout(encoding)
    height = _integer(message.height, "height")
    width = _integer(message.width, "width")
    step = _integer(message.step, "step")
    if height <= 0 or width <= 0:
        raise InputError(
            f"the image is {width} x {height} pixels: width and height must be at least 1"
        )
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise InputError(
            f"the image claims {width} x {height} pixels: at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS} pixels together are taken for real"
        )
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        sides = "width and height" if layout.even_height else "width"
        raise InputError(f"{encoding} needs an even {sides}, this image is {width} x {height}")
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
    return encoding, view


def _brightness(grey: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(grey.min()), float(grey.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0.0 or high > 1.0:
        raise InputError(
            f"a 32FC1 picture is read as brightness 0..1, this one spans {low:g}..{high:g}: if it "
            "is a depth image, subscribe to the camera's color or mono topic instead"
        )
    return np.asarray(np.rint(grey * np.float32(255)), np.uint8)


# BT.601, limited range (Y 16..235, chroma 16..240). Rec. ITU-R BT.601-7, section 2.5:
# R = 1.164 (Y - 16) + 1.596 (V - 128), and so on. Look-up tables in 1/32 fit every sum into
# int16, which numpy adds and clips about four times as fast as int32 or float32; the rounding of
# the tables is at most 3/64 of a code.
_SHIFT = 5
_CODES = np.arange(256, dtype=np.float64)


def _table(values: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.rint(values * (1 << _SHIFT)).astype(np.int16)


_Y_TERM = _table(np.maximum(_CODES - 16, 0) * 255 / 219 + 0.5)
_RED_OF_V = _table((_CODES - 128) * 2 * (1 - 0.299) * 255 / 224)
_BLUE_OF_U = _table((_CODES - 128) * 2 * (1 - 0.114) * 255 / 224)
_GREEN_OF_U = _table(-(_CODES - 128) * 2 * (1 - 0.114) * 0.114 / 0.587 * 255 / 224)
_GREEN_OF_V = _table(-(_CODES - 128) * 2 * (1 - 0.299) * 0.299 / 0.587 * 255 / 224)


def _yuv_to_rgb(
    y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """y [H, W]; u, v [H or H / 2, W / 2], shared by the pixels of a cell; RGB [H, W, 3]."""
    luma = _Y_TERM[y]
    out = np.empty((*y.shape, 3), np.uint8)
    work = np.empty(y.shape, np.int16)
    cell_rows = y.shape[0] // u.shape[0]
    chroma = (_RED_OF_V[v], _GREEN_OF_U[u] + _GREEN_OF_V[v], _BLUE_OF_U[u])
    for channel, term in enumerate(chroma):
        wide = np.repeat(term, 2, axis=1)
        for row in range(cell_rows):
            np.add(luma[row::cell_rows], wide, out=work[row::cell_rows])
        np.right_shift(work, _SHIFT, out=work)
        np.clip(work, 0, 255, out=work)
        out[..., channel] = work
    return out


def _decode_yuv422(rows: NDArray[np.uint8], y_first: bool) -> NDArray[np.uint8]:
    luma, chroma = (0, 1) if y_first else (1, 0)
    return _yuv_to_rgb(rows[..., luma], rows[:, 0::2, chroma], rows[:, 1::2, chroma])


def _decode_nv12(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = rows.shape[0] * 2 // 3
    plane = rows[..., 0]
    color = plane[height:]
    return _yuv_to_rgb(plane[:height], color[:, 0::2], color[:, 1::2])


def _demosaic(mosaic: NDArray[np.uint8], red_row: int, red_column: int) -> NDArray[np.uint8]:
    """Bilinear interpolation; the border is mirrored, which keeps the pattern."""
    height, width = mosaic.shape
    wide = np.pad(mosaic, 1, mode="reflect").astype(np.uint16)
    centre = wide[1:-1, 1:-1]
    up, down = wide[:-2, 1:-1], wide[2:, 1:-1]
    left, right = wide[1:-1, :-2], wide[1:-1, 2:]
    row_pair, column_pair = left + right, up + down
    beside = (row_pair + 1) >> 1
    above = (column_pair + 1) >> 1
    cross = (row_pair + column_pair + 2) >> 2
    corners = (wide[:-2, :-2] + wide[:-2, 2:] + wide[2:, :-2] + wide[2:, 2:] + 2) >> 2
    out = np.empty((height, width, 3), np.uint8)
    blue_row, blue_column = 1 - red_row, 1 - red_column
    at_red = (slice(red_row, None, 2), slice(red_column, None, 2))
    at_blue = (slice(blue_row, None, 2), slice(blue_column, None, 2))
    green_by_red = (slice(red_row, None, 2), slice(blue_column, None, 2))  # red left and right
    green_by_blue = (slice(blue_row, None, 2), slice(red_column, None, 2))
    for (rows, columns), values in (
        (at_red, (centre, cross, corners)),
        (at_blue, (corners, cross, centre)),
        (green_by_red, (beside, centre, above)),
        (green_by_blue, (above, centre, beside)),
    ):
        for channel, value in enumerate(values):
            out[rows, columns, channel] = value[rows, columns]
    return out


# ---------------------------------------------------------------------------------- writing


def encode(
    message: Any,
    image: NDArray[Any],
    encoding: str,
    *,
    big_endian: bool = False,
    step: int | None = None,
) -> Any:
    """Fills height, width, encoding, is_bigendian, step and data of `message`; returns it.

    Args:
        message: a sensor_msgs/Image, or anything that takes those attributes. The header is left.
        image: for color encodings (also YUV and Bayer) RGB uint8 [H, W, 3]; for the others
            [H, W] of the encoding's own dtype (uint8, uint16, float32).
        encoding: one of `ENCODINGS`.
        big_endian: byte order of 16- and 32-bit samples.
        step: bytes from row to row, for senders that pad; None packs the rows.

    Raises:
        InputError: an array or step that does not fit the encoding.
    """
    layout = _layout(encoding)
    array_in = np.asarray(image)
    dtype = np.dtype(layout.dtype)
    grey = layout.channels == 1 and encoding not in _BAYER_RED and encoding != "nv12"
    wanted = f"{dtype.name} [H, W]" if grey else "uint8 [H, W, 3] (RGB)"
    right_shape = array_in.ndim == 2 if grey else array_in.ndim == 3 and array_in.shape[2] == 3
    if not right_shape or array_in.dtype != dtype or array_in.size == 0:
        raise InputError(
            f"{encoding} is written from {wanted}, got {array_in.dtype} {list(array_in.shape)}"
        )
    height, width = array_in.shape[:2]
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        sides = "width and height" if layout.even_height else "width"
        raise InputError(f"{encoding} needs an even {sides}, this image is {width} x {height}")
    samples = array_in if grey else _ENCODERS[encoding](array_in)
    if dtype.itemsize > 1:
        samples = samples.astype(dtype.newbyteorder(">" if big_endian else "<"), copy=False)
    row_bytes = width * layout.channels * dtype.itemsize
    rows = samples.shape[0]
    if step is None:
        step = row_bytes
    if step < row_bytes:
        raise InputError(
            f"step is {step} bytes, smaller than one row: {width} pixels of {encoding} take "
            f"{row_bytes}"
        )
    if step > row_bytes:
        padded = np.zeros((rows, step), np.uint8)
        padded[:, :row_bytes] = (
            np.ascontiguousarray(samples).reshape(rows, -1).view(np.uint8).reshape(rows, row_bytes)
        )
        samples = padded
    data = array.array("B")
    # rclpy takes this one type as it is; any other sequence it checks byte by byte, which costs
    # 80 to 540 ms for a VGA to 720p picture
    data.frombytes(np.ascontiguousarray(samples).data.cast("B"))
    message.height = height
    message.width = width
    message.encoding = encoding
    message.is_bigendian = int(big_endian)
    message.step = step
    message.data = data
    return message


def _interleave(order: tuple[int, int, int], alpha: bool) -> Callable[..., NDArray[np.uint8]]:
    def write(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if order == (0, 1, 2) and not alpha:
            return rgb
        out = np.empty((*rgb.shape[:2], 4 if alpha else 3), np.uint8)
        for channel, place in enumerate(order):
            out[..., place] = rgb[..., channel]
        if alpha:
            out[..., 3] = 255
        return out

    return write


def _rgb_to_yuv(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """BT.601 limited range, as float32 [H, W] of Y, U and V in their 8-bit codes."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    y = 16 + luma * np.float32(219 / 255)
    u = 128 + (blue - luma) * np.float32(224 / 255 / (2 * (1 - 0.114)))
    v = 128 + (red - luma) * np.float32(224 / 255 / (2 * (1 - 0.299)))
    return y, u, v


def _codes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _encode_yuv422(y_first: bool) -> Callable[..., NDArray[np.uint8]]:
    def write(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        y, u, v = _rgb_to_yuv(rgb)
        luma, chroma = (0, 1) if y_first else (1, 0)
        out = np.empty((*y.shape, 2), np.uint8)
        out[..., luma] = _codes(y)
        out[:, 0::2, chroma] = _codes((u[:, 0::2] + u[:, 1::2]) / np.float32(2))
        out[:, 1::2, chroma] = _codes((v[:, 0::2] + v[:, 1::2]) / np.float32(2))
        return out

    return write


def _encode_nv12(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    y, u, v = _rgb_to_yuv(rgb)
    height, width = y.shape
    out = np.empty((height * 3 // 2, width), np.uint8)
    out[:height] = _codes(y)
    for first, plane in enumerate((u, v)):
        cells = plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        out[height:, first::2] = _codes(cells)
    return out


def _encode_bayer(red_row: int, red_column: int) -> Callable[..., NDArray[np.uint8]]:
    def write(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        out: NDArray[np.uint8] = rgb[..., 1].copy()
        out[red_row::2, red_column::2] = rgb[red_row::2, red_column::2, 0]
        blue_row, blue_column = 1 - red_row, 1 - red_column
        out[blue_row::2, blue_column::2] = rgb[blue_row::2, blue_column::2, 2]
        return out

    return write


_ENCODERS: dict[str, Callable[..., NDArray[np.uint8]]] = {
    **{
        name: _interleave((order[0], order[1], order[2]), alpha=name.endswith("a8"))
        for name, order in _COLOR_ORDER.items()
    },
    **{name: _encode_yuv422(y_first=False) for name in _UYVY},
    **{name: _encode_yuv422(y_first=True) for name in _YUYV},
    "nv12": _encode_nv12,
    **{name: _encode_bayer(*place) for name, place in _BAYER_RED.items()},
}
