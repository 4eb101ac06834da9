"""sensor_msgs/CompressedImage of a depth image to a numpy array.

Reads what image_transport_plugins writes on `.../compressedDepth`: 12 bytes of header (ConfigHeader
in compression_common.h: the kind as int32, two float32 of the quantization, little endian), then a
PNG with 16 bits for a pixel. In `16UC1` these are millimeters; in `32FC1` they are inverse depths,
and a pixel q stands for a / (q - b) meters with the header's a and b, or for nothing where q is 0.
A 16-bit PNG without the header, as the transport `compressed` writes it, is read as millimeters.

Works on any object with the attributes of sensor_msgs/CompressedImage; nothing here imports ROS.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.pictures import stored_size

_HEADER = struct.Struct("<iff")
_PNG = b"\x89PNG\r\n\x1a\n"
_INVERSE_DEPTH = 0
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 1 << 26


class CompressedImageLike(Protocol):
    """What is needed of a sensor_msgs/CompressedImage."""

    format: str
    data: Any


def decode_depth(message: CompressedImageLike) -> NDArray[Any]:
    """The depth image of a message: uint16 [H, W] in millimeters, or float32 [H, W] in meters.

    What was not measured is 0 in uint16 and NaN in float32.

    Raises:
        InputError: another kind of compression or encoding, a message that is cut short or
            damaged, or an image that is too large; the text says what would be right.
    """
    data, kind = bytes(message.data), str(message.format)
    if not data:
        raise InputError("the compressed depth image has no data")
    encoding, _, compression = (part.strip() for part in kind.partition(";"))
    if "rvl" in compression:
        raise InputError(
            "the depth image is compressed by RVL, which is not read here: set the publisher's "
            "parameter <topic>.compressedDepth.format to png"
        )
    if data.startswith(_PNG):
        header, png = None, data
    else:
        if len(data) <= _HEADER.size:
            raise InputError(
                f"the compressed depth image is cut short: {len(data)} bytes came, its header "
                f"alone has {_HEADER.size}"
            )
        header, png = _HEADER.unpack_from(data), data[_HEADER.size :]
    if not png.startswith(_PNG):
        raise InputError(
            f"the compressed depth image ({kind[:60]!r}) begins with {png[:4].hex(' ')}, which is "
            "no PNG: publish depth with image_transport's compressedDepth and its format png"
        )
    codes = _decoded(png)
    if encoding in ("16UC1", "mono16"):
        return codes
    if encoding != "32FC1":
        raise InputError(
            f"the compressed depth image has the encoding {encoding[:40]!r}: depth is 16UC1 "
            "(millimeters) or 32FC1 (meters)"
        )
    if header is None:
        raise InputError(
            "the compressed 32FC1 depth image has no header to tell its quantization: publish it "
            "with image_transport's compressedDepth, not compressed"
        )
    return _dequantized(codes, *header)


def _decoded(png: bytes) -> NDArray[np.uint16]:
    try:
        size = stored_size(png)
    except InputError as error:
        raise InputError(f"the compressed depth image cannot be decoded: {error}") from None
    assert size is not None  # it is a PNG
    rows, columns = size
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE) or rows * columns > MAX_PIXELS:
        raise InputError(
            f"the compressed depth image claims to be {columns} x {rows} pixels; sides of 1 to "
            f"{MAX_SIDE} and {MAX_PIXELS} pixels at most are taken"
        )
    try:
        found = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(
            f"the compressed depth image cannot be decoded: {' '.join(str(error).split())}"
        ) from None
    if found is None or found.shape[:2] != size:
        raise InputError("the compressed depth image cannot be decoded: its PNG is damaged")
    if found.ndim != 2 or found.dtype != np.uint16:
        channels = 1 if found.ndim == 2 else found.shape[2]
        raise InputError(
            f"the compressed depth image has {channels} channels of {found.dtype}: one of 16 bits "
            "is depth; this may be a color or colorized image"
        )
    return np.asarray(found, np.uint16)


def _dequantized(codes: NDArray[np.uint16], kind: int, a: float, b: float) -> NDArray[np.float32]:
    if kind != _INVERSE_DEPTH or not (np.isfinite([a, b]).all() and a > 0):
        raise InputError(
            f"the compressed depth image's header has the kind {kind} and the quantization "
            f"{a:g}, {b:g}: kind 0, a number above 0 and a number are needed"
        )
    inverse = codes.astype(np.float32) - np.float32(b)
    # a code that no sender writes: behind the camera, or at no distance at all
    wrong = (codes == 0) | (inverse <= 0)
    inverse[wrong] = np.nan
    return np.asarray(np.float32(a) / inverse, np.float32)
