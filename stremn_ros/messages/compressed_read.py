"""sensor_msgs/CompressedImage (JPEG, PNG) to numpy arrays, by the decoder that reads files, too.

Works on any object that has the attributes of sensor_msgs/CompressedImage (format, data); nothing
here imports ROS. The content is looked at, not the `format`, which senders fill in as they like.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging import pictures
from stremn_ros.messages import image_read


class CompressedImageLike(Protocol):
    """What the codec needs of a sensor_msgs/CompressedImage."""

    format: str
    data: Any


def frame_size(message: CompressedImageLike) -> tuple[int, int]:
    """(height, width) that the headers tell; nothing is decoded.

    Raises:
        InputError: neither JPEG nor PNG, cut short, damaged (a PNG's checksums), or too large.
    """
    return _checked_size(_bytes(message), message.format)


def _checked_size(data: bytes, format: str) -> tuple[int, int]:
    size = pictures.stored_size(data)
    if size is None:
        kind = f" (format {format[:60]!r})" if format else ""
        raise InputError(
            f"the compressed image{kind} begins with {data[:4].hex(' ')}, which is neither JPEG "
            "nor PNG: set the publisher's format to jpeg or png"
        )
    height, width = size
    if not (0 < width <= image_read.MAX_SIDE and 0 < height <= image_read.MAX_SIDE) or (
        height * width > image_read.MAX_PIXELS
    ):
        raise InputError(
            f"the compressed image claims to be {width} x {height} pixels; sides of 1 to "
            f"{image_read.MAX_SIDE} and {image_read.MAX_PIXELS} pixels at most are taken"
        )
    return height, width


def decode_rgb(message: CompressedImageLike) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB, as `pictures.decode` reads a file; a mosaic is colored.

    Raises:
        InputError: as `frame_size`, or pixels that cannot be decoded.
    """
    data = _bytes(message)
    size = _checked_size(data, message.format)
    bayer = _bayer(message.format)
    try:
        if not bayer:
            return pictures.decode(data, size)
        mosaic = pictures.decode_gray(data, size)
    except InputError as error:
        raise InputError(f"the compressed image cannot be decoded: {error}") from None
    layout = image_read.layout_of(bayer)
    image_read.check_even(bayer, *size)
    return layout.to_rgb(mosaic)


def _bytes(message: CompressedImageLike) -> bytes:
    if "compressedDepth" in message.format:
        raise InputError(
            "the compressed image is a depth image (compressedDepth): send the camera's color image"
        )
    data = bytes(message.data)
    if not data:
        raise InputError("the compressed image has no data")
    return data


def _bayer(text: str) -> str:
    """The mosaic of a camera that compressed it raw: 'bayer_rggb8; png compressed ' and so on; as
    that of 8 bits, also where it has 16."""
    source, _, target = text.partition(";")
    source = re.sub("16$", "8", source.strip())
    colored = target.rstrip().endswith(("bgr8", "rgb8"))
    return source if source.startswith("bayer_") and source.endswith("8") and not colored else ""
