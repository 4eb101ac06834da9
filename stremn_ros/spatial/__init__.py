"""Masks and depth to places in space: positions, boxes, points and velocities, in meters.

NumPy and OpenCV only: no network, no ROS. docs/spatial.md tells what is measured, and how well.
"""

from .camera import Intrinsics
from .depth import DepthRange, depth_without_objects, masked_depth
from .pairing import DepthPairing, Pair
from .points import PointCloud
from .results import Box3D, SpatialObject
from .tracker import SpatialSettings, SpatialTracker

__all__ = [
    "Box3D",
    "DepthPairing",
    "DepthRange",
    "Intrinsics",
    "Pair",
    "PointCloud",
    "SpatialObject",
    "SpatialSettings",
    "SpatialTracker",
    "depth_without_objects",
    "masked_depth",
]
