"""One decoder of pictures, for files and for messages: JPEG, PNG and whatever else OpenCV reads.

What the bytes claim is read first, so that a picture that was cut short, or that claims to be of 4
gigapixels, is refused before anything is made of it. The content counts, not a name or a `format`.

Pictures come as they are stored: an orientation tag (EXIF) is not followed, in files as little as
in messages, for a mask and a camera's calibration are of the pixels as they are stored.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# start of frame: all but DHT (c4), JPG (c8) and DAC (cc)
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length

_ORIENTATION = 0x0112  # EXIF
# how a TIFF begins: the order of its bytes, and the bytes of an entry of its list of tags
_TIFF = {b"II*\0": ("<", 12), b"MM\0*": (">", 12), b"II+\0": ("<", 20), b"MM\0+": (">", 20)}
# what a viewer that follows the tag does with the stored picture
TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "upside down",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 270 degrees",
    8: "turned by 270 degrees",
}


def decode(data: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The picture as RGB uint8 [H, W, 3], as it is stored.

    Grey becomes color, alpha is left out, 16 bits are stretched to 8 (``eight_bits``).

    Args:
        size: what ``stored_size`` found, so that it does not look again.

    Raises:
        InputError: empty, cut short, damaged, or nothing that OpenCV reads.
    """
    picture = _decoded(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, size)
    if picture.dtype == np.uint16:
        picture = eight_bits(picture)
    elif picture.dtype != np.uint8:
        raise InputError(f"its samples are {picture.dtype}; 8 or 16 bits are read")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def decode_gray(data: bytes, size: tuple[int, int] | None = None) -> NDArray[Any]:
    """As ``decode``, one channel as it is stored: uint8 or uint16 [H, W]."""
    return _decoded(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, size)


def _decoded(data: bytes, flags: int, size: tuple[int, int] | None) -> NDArray[Any]:
    size = size or stored_size(data)
    data = without_turn(data)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # for instance a header that claims an absurd size
        raise InputError(f"OpenCV says {' '.join(str(error).split())}") from None
    if picture is None:
        raise InputError("damaged, or of a kind that OpenCV does not read")
    if size is not None and picture.shape[:2] != size:
        raise InputError("its pixel data is damaged")
    return picture


def stored_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG or PNG claims; nothing is decoded. None for other kinds.

    Raises:
        InputError: empty, cut short, or damaged as far as that shows without decoding (a PNG's
            checksums, a JPEG's structure).
    """
    if not data:
        raise InputError("it has no data")
    if data.startswith(PNG):
        return _png_size(data)
    if data.startswith(JPEG):
        return _jpeg_size(data)
    return None


def _png_size(data: bytes) -> tuple[int, int]:
    """Walks over all chunks: their lengths and checksums show what was cut or changed."""
    at, size = len(PNG), (0, 0)
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
        if at == len(PNG):
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


def eight_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit samples [H, W] or [H, W, 3] as 8 bits of the same shape, stretched by their range.

    Thermal and other scientific cameras use a small part of the 65,536 values: 14-bit counts of a
    room span 300, which a division by 257 leaves one or two levels of. So the darkest and the
    brightest half percent of the picture become 0 and 255 (gray), or the brightest alone (color,
    whose hue stays). The two ends lie on a grid of an eighth of the range and more, so they stay
    where they are from frame to frame while the scene changes little. 256 values are spread at
    least, or noise would fill the picture.
    """
    sampled = values[:: 1 + values.shape[0] // 512, :: 1 + values.shape[1] // 512]
    total = np.bincount(sampled.ravel(), minlength=1 << 16).cumsum()
    low, high = (int(np.searchsorted(total, share * total[-1])) for share in (0.005, 0.995))
    if values.ndim == 3 and not (values == values[..., :1]).all():
        low = 0
    grid = max(1, (1 << max(0, (high - low).bit_length() - 1)) // 8)
    low, high = low // grid * grid, -(-high // grid) * grid
    if high - low < 255:
        low = min(max(0, (low + high) // 2 - 128), 65535 - 255)
        high = low + 255
    high = min(high, 65535)
    every = np.arange(1 << 16).clip(low, high) - low
    table = ((every * 255 + (high - low) // 2) // (high - low)).astype(np.uint8)
    return table[values]


def without_turn(data: bytes) -> bytes:
    """A picture's bytes, of a TIFF with the orientation tag set to "as stored".

    OpenCV and Pillow turn a TIFF by its tag and cannot be told not to, as they can of other kinds.
    """
    if data[:4] not in _TIFF:
        return data
    order, entry_bytes = _TIFF[data[:4]]
    large = entry_bytes == 20  # BigTIFF
    try:
        (at,) = struct.unpack_from(order + ("Q" if large else "I"), data, 8 if large else 4)
        (count,) = struct.unpack_from(order + ("Q" if large else "H"), data, at)
        first = at + (8 if large else 2)
        for entry in range(first, first + min(count, 65535) * entry_bytes, entry_bytes):
            tag, kind = struct.unpack_from(order + "HH", data, entry)
            value = entry + (12 if large else 8)
            if tag == _ORIENTATION and kind == 3 and data[value : value + 2]:
                return data[:value] + struct.pack(order + "H", 1) + data[value + 2 :]
    except struct.error:  # cut short: the decoder says so
        pass
    return data


def orientation(data: bytes) -> int:
    """The orientation tag of a picture, 1 to 8; 1, which means "as stored", where there is none."""
    from PIL import Image  # here, so that a node does without Pillow

    try:
        with Image.open(io.BytesIO(data)) as image:
            tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever is wrong with it: it says nothing about its orientation
        return 1
    return tag if tag in TURNS else 1
