"""numpy arrays as sensor_msgs/Image; see `image_read`."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.messages.image_read import check_even, layout_of

JPEG_QUALITY = 80


def encode_jpeg(message: Any, rgb: NDArray[np.uint8]) -> Any:
    """Fills format and data of a sensor_msgs/CompressedImage with RGB uint8 [H, W, 3]; returns it.

    The header is left. The format is image_transport's, so that its plugins read it.
    """
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not done:
        raise InputError(f"a picture of {rgb.shape[1]} x {rgb.shape[0]} pixels is no JPEG")
    message.format = "rgb8; jpeg compressed bgr8"
    message.data = array.array("B", data.tobytes())
    return message


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
    layout = layout_of(encoding)
    array_in = np.asarray(image)
    dtype = np.dtype(layout.dtype)
    gray = encoding not in _ENCODERS
    wanted = f"{dtype.name} [H, W]" if gray else "uint8 [H, W, 3] (RGB)"
    right_shape = array_in.ndim == 2 if gray else array_in.ndim == 3 and array_in.shape[2] == 3
    if not right_shape or array_in.dtype != dtype or array_in.size == 0:
        raise InputError(
            f"{encoding} is written from {wanted}, got {array_in.dtype} {list(array_in.shape)}"
        )
    height, width = array_in.shape[:2]
    check_even(encoding, height, width)
    samples = array_in if gray else _ENCODERS[encoding](array_in)
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
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[..., ::-1],
    "8UC3": lambda rgb: rgb[..., ::-1],
    "rgba8": lambda rgb: np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)),
    "bgra8": lambda rgb: np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)),
    "yuv422": _encode_yuv422(y_first=False),
    "uyvy": _encode_yuv422(y_first=False),
    "yuv422_yuy2": _encode_yuv422(y_first=True),
    "yuyv": _encode_yuv422(y_first=True),
    "nv12": _encode_nv12,
    # where the red sample of each 2 x 2 cell is: row, column
    "bayer_rggb8": _encode_bayer(0, 0),
    "bayer_bggr8": _encode_bayer(1, 1),
    "bayer_gbrg8": _encode_bayer(1, 0),
    "bayer_grbg8": _encode_bayer(0, 1),
}
