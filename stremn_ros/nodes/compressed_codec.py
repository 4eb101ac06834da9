"""sensor_msgs/CompressedImage (JPEG, PNG) to numpy arrays, with OpenCV.

Works on any object that has the attributes of sensor_msgs/CompressedImage (format, data); nothing
here imports ROS. What a message claims is read from its headers first, so that one that claims to
be 4 gigapixels, or was cut short on its way, is refused before anything is allocated for it. The
content is looked at, not the `format`, which senders fill in as they like.
"""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.nodes import image_codec

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# start of frame: all but DHT (c4), JPG (c8) and DAC (cc)
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


class CompressedImageLike(Protocol):
    """What the codec needs of a sensor_msgs/CompressedImage."""

    format: str
    data: Any


def frame_size(message: CompressedImageLike) -> tuple[int, int]:
    """(height, width) that the headers tell; nothing is decoded.

    Raises:
        InputError: neither JPEG nor PNG, cut short, damaged (a PNG's checksums), or too large.
    """
    data = _bytes(message)
    if data.startswith(_PNG):
        height, width = _png_size(data)
    elif data.startswith(_JPEG):
        height, width = _jpeg_size(data)
    else:
        kind = f" (format {message.format[:60]!r})" if message.format else ""
        raise InputError(
            f"the compressed image{kind} begins with {data[:4].hex(' ')}, which is neither JPEG "
            "nor PNG: set the publisher's format to jpeg or png"
        )
    if not (0 < width <= image_codec.MAX_SIDE and 0 < height <= image_codec.MAX_SIDE) or (
        height * width > image_codec.MAX_PIXELS
    ):
        raise InputError(
            f"the compressed image claims to be {width} x {height} pixels; sides of 1 to "
            f"{image_codec.MAX_SIDE} and {image_codec.MAX_PIXELS} pixels at most are taken"
        )
    return height, width


def decode_rgb(message: CompressedImageLike) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB; grey images become colour, 16 bits become 8, alpha is left out.

    Raises:
        InputError: as `frame_size`, or pixels that cannot be decoded.
    """
    size = frame_size(message)
    bayer = _bayer(message.format)
    # as sent: a camera's orientation tag would turn the picture against its masks and its
    # camera_info
    flags = cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_GRAYSCALE if bayer else cv2.IMREAD_COLOR)
    try:
        picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"the compressed image cannot be decoded: {error}") from None
    if picture is None or picture.shape[:2] != size:
        raise InputError("the compressed image cannot be decoded: its pixel data is damaged")
    if bayer:
        height, width = size
        return image_codec.decode_rgb(
            SimpleNamespace(
                height=height,
                width=width,
                encoding=bayer,
                is_bigendian=0,
                step=width,
                data=picture.reshape(-1),
            )
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _bytes(message: CompressedImageLike) -> bytes:
    if "compressedDepth" in message.format:
        raise InputError(
            "the compressed image is a depth image (compressedDepth): send the camera's colour "
            "image"
        )
    data = bytes(message.data)
    if not data:
        raise InputError("the compressed image has no data")
    return data


def _bayer(text: str) -> str:
    """The mosaic of a camera that compressed it raw: 'bayer_rggb8; png compressed ' and so on."""
    source, _, target = text.partition(";")
    source = source.strip()
    coloured = target.rstrip().endswith(("bgr8", "rgb8"))
    return source if source.startswith("bayer_") and source.endswith("8") and not coloured else ""


def _png_size(data: bytes) -> tuple[int, int]:
    """Walks over all chunks: their lengths and checksums show what was cut or changed."""
    at, size = len(_PNG), (0, 0)
    while True:
        if at + 12 > len(data):
            raise InputError(f"the PNG is cut short: {len(data)} bytes came")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise InputError(
                f"the PNG is cut short: {len(data)} bytes came, a part of it ends at {end}"
            )
        checksum = struct.unpack(">I", data[end - 4 : end])[0]
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != checksum:
            raise InputError(f"the PNG is damaged: the checksum at byte {end - 4} is wrong")
        if at == len(_PNG):
            if kind != b"IHDR" or length != 13:
                raise InputError("the PNG is damaged: it does not begin with IHDR")
            width, height = struct.unpack(">II", data[at + 8 : at + 16])
            size = height, width
        if kind == b"IEND":
            return size
        at = end


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks over the segments up to the pixels, which must come to their end marker."""
    at, size = 2, None
    while True:
        if at + 4 > len(data):
            raise InputError(f"the JPEG is cut short: {len(data)} bytes came")
        if data[at] != 0xFF:
            raise InputError(f"the JPEG is damaged: no marker at byte {at}")
        kind = data[at + 1]
        if kind == 0xFF:  # padding
            at += 1
            continue
        if kind in _BARE:
            at += 2
            continue
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if kind in _SOF and at + 9 <= len(data):
            size = struct.unpack(">HH", data[at + 5 : at + 9])
        at += 2 + length
        if kind == 0xDA:
            break
    if size is None:
        raise InputError("the JPEG is damaged: it does not tell its size")
    # within the pixels ff d9 can only be the end; cameras pad what follows
    if data.rfind(b"\xff\xd9", at) < 0:
        raise InputError(f"the JPEG is cut short: {len(data)} bytes came, and no end marker")
    return int(size[0]), int(size[1])
