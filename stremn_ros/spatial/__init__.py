"""Masks and depth to places in space: positions, boxes, points and velocities, in meters.

NumPy and OpenCV only: no network, no ROS. docs/spatial.md tells what is measured, and how well.
"""

from stremn_ros.spatial.camera import Intrinsics
from stremn_ros.spatial.depth import DepthRange, depth_without_objects, masked_depth
from stremn_ros.spatial.pairing import DepthPairing, Pair
from stremn_ros.spatial.points import PointCloud
from stremn_ros.spatial.results import Box3D, SpatialObject
from stremn_ros.spatial.tracker import SpatialSettings, SpatialTracker

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
