"""Reading and writing of sensor_msgs/Image under one name."""

from __future__ import annotations

from stremn_ros.messages.image_read import (
    ENCODINGS,
    LABEL_ENCODINGS,
    decode_labels,
    decode_rgb,
    frame_size,
)
from stremn_ros.messages.image_write import encode

__all__ = ["ENCODINGS", "LABEL_ENCODINGS", "decode_labels", "decode_rgb", "encode", "frame_size"]
