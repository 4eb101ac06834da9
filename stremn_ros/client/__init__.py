"""Talks to nodes that run: their services, topics and processes; imports rclpy.

from stremn_ros.client import SegmentClient
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stremn_ros.client.segment_client import SegmentClient

__all__ = ["SegmentClient"]


def __getattr__(name: str) -> Any:
    """`SegmentClient`, loaded when it is used: launch files need no messages."""
    if name != "SegmentClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stremn_ros.client.segment_client import SegmentClient

    return SegmentClient
