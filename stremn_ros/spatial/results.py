"""What is known of an object in space; plain values, no torch, no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
UPRIGHT: Quaternion = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Box3D:
    """A box around the visible part of an object.

    Attributes:
        center: in meters. size: lengths of the edges along the box's own axes, in meters.
        orientation: quaternion (x, y, z, w) of those axes; (0, 0, 0, 1) for an axis-aligned box.
    """

    center: Point
    size: Point
    orientation: Quaternion = UPRIGHT

    def moved(self, by: NDArray[np.float64]) -> Box3D:
        """The same box elsewhere. by: float64 [3] in meters."""
        x, y, z = (float(value) for value in self.center + by)
        return Box3D((x, y, z), self.size, self.orientation)


@dataclass(frozen=True)
class SpatialObject:
    """An object at one stamp, in the camera's optical frame (x right, y down, z ahead) or, where
    the tracker was told the camera's pose, in the fixed frame of that pose.

    Attributes:
        id, state, score: as in the 2D result; state is `TRACKED`, `OCCLUDED` or `LOST`.
        stamp: of the image, in nanoseconds.
        position: in meters, of the middle of the visible surface, filtered; predicted where this
            image has no measurement, None where there is nothing to tell.
        measured: the same from this image alone, or None.
        predicted: the position comes from the motion so far.
        velocity: in m/s, None before the second measurement.
        covariance: float64 [6, 6] of position and velocity, None without a position.
        valid_share: of the mask's pixels, how many have depth, 0..1.
        points: pixels of the mask whose depth was used. spread: robust standard deviation of
            their depth in meters: the object's own relief and the camera's noise.
        box: axis-aligned in the result's frame. oriented_box: along the object's own axes.
        reason: why there is no measurement, with the remedy; empty where there is one.
    """

    id: int
    state: str
    score: float
    stamp: int
    position: Point | None = None
    measured: Point | None = None
    predicted: bool = False
    velocity: Point | None = None
    covariance: NDArray[np.float64] | None = field(default=None, compare=False)
    valid_share: float = 0.0
    points: int = 0
    spread: float = 0.0
    box: Box3D | None = None
    oriented_box: Box3D | None = None
    reason: str = ""
