"""Any image message, raw or compressed: its pixels, size and time.

Messages are any objects with the attributes of sensor_msgs/Image or CompressedImage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.messages import compressed_depth, compressed_read, image_read

NANOSECONDS = 1_000_000_000


def decode(message: Any) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB of an Image or a CompressedImage; InputError when it cannot be read."""
    if _is_compressed(message):
        return compressed_read.decode_rgb(message)
    return image_read.decode_rgb(message)


def decode_depth(message: Any) -> NDArray[Any]:
    """uint16 [H, W] (millimeters) or float32 [H, W] (meters) of an Image or a CompressedImage
    (compressedDepth); InputError when it cannot be read."""
    if _is_compressed(message):
        return compressed_depth.decode_depth(message)
    return image_read.decode_depth(message)


def frame_size(message: Any) -> tuple[int, int]:
    """(rows, columns), from as little of the message as possible; InputError for a bad one."""
    if _is_compressed(message):
        return compressed_read.frame_size(message)
    return image_read.frame_size(message)


def _is_compressed(message: Any) -> bool:
    return hasattr(message, "format")


def stamp_of(message: Any) -> int:
    """Nanoseconds; 0 for none. A negative time is none as well."""
    return nanoseconds(message.header.stamp)


def nanoseconds(stamp: Any) -> int:
    """Of a builtin_interfaces/Time; 0 for none and for a negative one."""
    return max(0, int(stamp.sec) * NANOSECONDS + int(stamp.nanosec))
