"""One object in one depth image: which pixels count, where it is, how large it is.

Depth cameras invent distances at edges ("flying pixels"), leave holes there, and masks are a pixel
or two off. So the position comes from the mask without its rim, a pixel between a nearer and a
farther neighbor is left out, and so is everything beyond a gap in depth from the object's middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.spatial.boxes import axis_aligned_box, oriented_box
from stremn_ros.spatial.camera import Intrinsics
from stremn_ros.spatial.depth import Depth, DepthRange, Labels, in_meters
from stremn_ros.spatial.results import Box3D

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

_AROUND = np.ones((3, 3), np.uint8)
_FAR = 1e6  # m, stands for "no depth" while neighbors are compared
_KEPT = 0.4  # share of an object's measured pixels that the eroded mask must keep
_FEW = 0.002  # share of an object's points that may lie in a gap
_CORRELATED = 400  # points whose noise counts as independent
_ACCURACY = 0.002  # m, and the share of the distance, that a position has at best
_PER_METER = 0.001


@dataclass(frozen=True)
class SpatialSettings:
    """How objects are measured.

    Attributes:
        limits: distances that count.
        erosion: pixels of the mask's rim that are left out for the position, at most; fewer where
            the object is thin.
        min_points: measured pixels that an object needs.
        edge, edge_per_meter: a step in depth, in meters and as a share of the distance (the larger
            counts), from which neighbors are of different things.
        trim: share of the points that boxes leave out at each end.
        samples: points that boxes and medians are computed from at most.
        acceleration_noise, max_gap: of `MotionFilters`.

    Raises:
        InputError: a value out of range.
    """

    limits: DepthRange = field(default_factory=DepthRange)
    erosion: int = 3
    min_points: int = 20
    edge: float = 0.02
    edge_per_meter: float = 0.03
    trim: float = 0.001
    samples: int = 2048
    acceleration_noise: float = 0.15
    max_gap: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("erosion", 0, 100),
            ("min_points", 4, 1_000_000),
            ("edge", 0.001, 10.0),
            ("edge_per_meter", 0.0, 1.0),
            ("trim", 0.0, 0.25),
            ("samples", 64, 1_000_000),
            ("acceleration_noise", 0.001, 100.0),
            ("max_gap", 0.05, 60.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be {low} to {high}")


@dataclass(frozen=True)
class Pose:
    """Where the camera is in a fixed frame: a point p of the camera is at rotation @ p + place.

    `rotation` float64 [3, 3], `place` float64 [3].
    """

    rotation: Vector
    place: Vector

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.float64]) -> Pose:
        """From the transform [4, 4] of camera coordinates to the fixed frame.

        Raises:
            InputError: not a rigid transform.
        """
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise InputError(
                f"the camera's pose must be a finite matrix [4, 4], not {list(matrix.shape)}"
            )
        rotation = matrix[:3, :3]
        if (
            np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-3
            or np.linalg.det(rotation) < 0
            or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6
        ):
            raise InputError("the camera's pose must be a rotation and a translation, no more")
        return cls(rotation, matrix[:3, 3])


@dataclass(frozen=True)
class Measurement:
    """What one depth image tells of one object; position None with a reason where it is nothing.

    Attributes:
        position: float64 [3]; noise: its covariance [3, 3].
        area: pixels of the mask; valid: those with depth. Others: as `SpatialObject`.
    """

    area: int
    valid: int
    reason: str = ""
    position: Vector | None = None
    noise: Vector | None = None
    points: int = 0
    spread: float = 0.0
    box: Box3D | None = None
    oriented_box: Box3D | None = None


class Measurer:
    """Measures objects in depth images of one size; its buffers are made once."""

    def __init__(self, rows: int, columns: int, settings: SpatialSettings) -> None:
        self.settings = settings
        self.shape = (rows, columns)
        self._mask = np.empty((rows, columns), np.uint8)
        self._bytes: list[Labels] = [np.empty(rows * columns, np.uint8) for _ in range(3)]
        self._floats = [np.empty(rows * columns, np.float32) for _ in range(3)]
        # where in its part each sample lies changes by the golden ratio: even steps would meet the
        # same columns of an image again and again
        steps = np.arange(max(rows * columns // 4 + 1, settings.samples), dtype=np.float64)
        self._steps = steps + steps * 0.618034 % 1.0
        # the object that each pixel's depth was used for, as the last image has it
        self.used = np.zeros((rows, columns), np.uint8)

    @property
    def nbytes(self) -> int:
        whole = self._mask.nbytes + self.used.nbytes + self._steps.nbytes
        return whole + sum(a.nbytes for a in self._bytes) + sum(a.nbytes for a in self._floats)

    def begin(self) -> None:
        """A new image: no pixel is used yet."""
        self.used.fill(0)

    def measure(
        self,
        labels: Labels,
        object_id: int,
        depth: Depth,
        camera: Intrinsics,
        pose: Pose | None = None,
        oriented: bool = True,
    ) -> Measurement:
        """Measures one object.

        Args:
            labels: uint8 [H, W] at the depth's size. depth: as `check_depth`. camera: for that
            size. pose: of the camera, for results in the fixed frame. oriented: whether to find
            the oriented box.
        """
        settings = self.settings
        cv2.inRange(labels, object_id, object_id, dst=self._mask)
        x, y, width, height = cv2.boundingRect(self._mask)
        if not width:
            return Measurement(0, 0, "its mask is empty")
        # a margin, so that the rim of the mask is seen as one, but for the image's own border
        margin = max(1, settings.erosion)
        top, left = max(0, y - margin), max(0, x - margin)
        part = (
            slice(top, min(self.shape[0], y + height + margin)),
            slice(left, min(self.shape[1], x + width + margin)),
        )
        mask = self._mask[part]
        shape = (mask.shape[0], mask.shape[1])
        meters, nearest, farthest = (self._cut(buffer, shape) for buffer in self._floats)
        valid, core, keep = (self._cut(buffer, shape) for buffer in self._bytes)
        limits = settings.limits

        in_meters(depth[part], meters)
        cv2.inRange(meters, limits.near, limits.far, dst=valid)
        if not camera.sees_everywhere:
            mask[~np.isfinite(camera.rays[0][part])] = 0
        np.copyto(nearest, _FAR)
        cv2.copyTo(meters, valid, nearest)
        meters, nearest = nearest, meters  # now without NaN
        area = cv2.countNonZero(mask)
        cv2.bitwise_and(valid, mask, dst=valid)
        count = cv2.countNonZero(valid)
        if count < settings.min_points:
            return Measurement(area, count, self._too_few(area, count))

        self._erode(mask, valid, core, keep, count)
        cv2.bitwise_and(core, valid, dst=keep)
        middle = np.sort(meters.ravel()[self._sample(keep)])
        distance = float(middle[len(middle) // 2])
        spread = _spread(middle)

        self._without_flying(meters, nearest, farthest, valid, keep, self._step(distance))
        points, chosen = self._within_gap(meters, keep, distance)
        if points < settings.min_points:
            return Measurement(area, count, self._scattered(points))
        # the mask's own middle, as the holes in the depth say nothing of where the object is
        ray = _ray_at(camera, left + _median(core, 0), top + _median(core, 1))
        if not math.isfinite(sum(ray)):
            return Measurement(area, count, self._no_ray())
        position = np.array([ray[0] * distance, ray[1] * distance, distance])

        cloud = np.empty((3, len(chosen)), np.float32)
        cloud[2] = meters.ravel()[chosen]
        for axis, buffer in ((0, nearest), (1, farthest)):
            np.multiply(camera.rays[axis][part], meters, out=buffer)
            np.take(buffer.ravel(), chosen, out=cloud[axis], mode="clip")
        pixel = np.zeros((3, 2))
        pixel[0, 0], pixel[1, 1] = distance / camera.focal[0], distance / camera.focal[1]
        noise = self._noise(distance, spread, len(middle), pixel)
        place = np.zeros(3)
        if pose is not None:
            position, place = pose.rotation @ position + pose.place, pose.place
            noise = pose.rotation @ noise @ pose.rotation.T
            pixel = pose.rotation @ pixel
            # moved as boxes: float32 cannot tell points apart that are far from the frame's origin
            cloud = pose.rotation.astype(np.float32) @ cloud
        self.used[part] |= keep & np.uint8(object_id)
        return Measurement(
            area,
            count,
            "",
            position,
            noise,
            points,
            spread,
            axis_aligned_box(cloud, settings.trim, pixel).moved(place),
            oriented_box(cloud, settings.trim, pixel).moved(place) if oriented else None,
        )

    @staticmethod
    def _cut(buffer: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        return buffer[: shape[0] * shape[1]].reshape(shape)

    def _sample(self, mask: Labels) -> Indices:
        """Flat indices of pixels of a mask: all, or about as many as `samples`, evenly spread."""
        wanted, size, count = self.settings.samples, mask.size, cv2.countNonZero(mask)
        tries = size * wanted // max(count, 1)
        if count > wanted and 4 * tries <= size:
            # looking at some pixels only takes a tenth of the time that finding all takes
            some = self._spread_over(tries, size)
            some = some[mask.ravel()[some] != 0]
            if 2 * len(some) > wanted:  # else the mask has a pattern that is always missed
                return some
        found = np.flatnonzero(mask)
        return found if count <= wanted else found[self._spread_over(wanted, count)]

    def _spread_over(self, count: int, size: int) -> Indices:
        """`count` rising indices below `size`, one in each of as many equal parts."""
        return (self._steps[:count] * (size / count)).astype(np.intp)

    def _step(self, distance: float) -> float:
        return max(self.settings.edge, self.settings.edge_per_meter * distance)

    def _erode(self, mask: Labels, valid: Labels, core: Labels, work: Labels, count: int) -> None:
        """Takes the mask's rim off, as much of it as leaves enough measured pixels."""
        enough = max(self.settings.min_points, _KEPT * count)
        for rim in range(self.settings.erosion, 0, -1):
            cv2.erode(mask, _AROUND, dst=core, iterations=rim)
            cv2.bitwise_and(core, valid, dst=work)
            if cv2.countNonZero(work) >= enough:
                return
        np.copyto(core, mask)

    @staticmethod
    def _without_flying(
        meters: NDArray[np.float32],
        nearest: NDArray[np.float32],
        farthest: NDArray[np.float32],
        valid: Labels,
        keep: Labels,
        step: float,
    ) -> None:
        """Writes to `keep` the valid pixels that do not hang between a nearer and a farther one.

        A hole counts as farther: it is where a depth camera gives up at an edge.
        """
        cv2.erode(meters, _AROUND, dst=nearest)
        cv2.dilate(meters, _AROUND, dst=farthest)
        nearest += np.float32(step)
        farthest -= np.float32(step)
        flying = cv2.compare(meters, nearest, cv2.CMP_GT)
        cv2.bitwise_and(flying, cv2.compare(meters, farthest, cv2.CMP_LT), dst=flying)
        cv2.subtract(valid, flying, dst=keep)

    def _within_gap(
        self, meters: NDArray[np.float32], keep: Labels, distance: float
    ) -> tuple[int, Indices]:
        """Leaves in `keep` what no gap in depth parts from the object's middle.

        Returns:
            How many pixels that are, and the flat indices of a sample of them.
        """
        chosen = self._sample(keep)
        if not len(chosen):
            return 0, chosen
        taken = meters.ravel()[chosen]
        depths = np.sort(taken)
        step = self._step(distance)
        few = max(1, int(_FEW * len(depths)))
        gaps = np.flatnonzero(depths[few:] - depths[:-few] > step)
        if not len(gaps):
            return cv2.countNonZero(keep), chosen
        center = int(np.searchsorted(depths, distance))
        below, above = gaps[gaps + few <= center], gaps[gaps >= center]
        low = float(depths[below[-1] + few]) if len(below) else float(depths[0])
        high = float(depths[above[0]]) if len(above) else float(depths[-1])
        # the sample may have missed the outermost points of the object itself
        low, high = min(low, distance) - step / 4, max(high, distance) + step / 4
        cv2.bitwise_and(keep, cv2.inRange(meters, low, high), dst=keep)
        return cv2.countNonZero(keep), chosen[(taken >= low) & (taken <= high)]

    @staticmethod
    def _noise(distance: float, spread: float, count: int, pixel: Vector) -> Vector:
        """Covariance [3, 3] of a position in the camera's frame."""
        best = max(_ACCURACY, _PER_METER * distance)
        ahead = max(best, spread / min(count, _CORRELATED) ** 0.5)
        noise = np.zeros((3, 3))
        for axis, value in enumerate((max(best, pixel[0, 0]), max(best, pixel[1, 1]), ahead)):
            noise[axis, axis] = value**2
        return noise

    def _too_few(self, area: int, count: int) -> str:
        limits = self.settings.limits
        if area < self.settings.min_points:
            return (
                f"its mask has {area} pixels in the depth image, fewer than the "
                f"{self.settings.min_points} that a position needs: move closer, or use depth of "
                "a higher resolution"
            )
        return (
            f"{count} of its mask's {area} pixels have a depth of {limits.near:g} to "
            f"{limits.far:g} m, fewer than {self.settings.min_points}: it is too near or too far "
            "for the depth camera, or of glass, black or shiny; or depth and image are not aligned"
        )

    @staticmethod
    def _no_ray() -> str:
        return (
            "it is where the lens distortion of camera_info has no answer: calibrate the camera "
            "with points up to the corners, or use rectified images"
        )

    def _scattered(self, points: int) -> str:
        return (
            f"{points} pixels are left without those at edges in depth, fewer than "
            f"{self.settings.min_points}: the object is too thin, or the depth too noisy"
        )


def _median(mask: Labels, axis: int) -> float:
    """Median column (axis 0) or row (axis 1) of a mask's pixels, to a fraction of a pixel."""
    counts = np.cumsum(cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S), dtype=np.int64)
    half = counts[-1] / 2
    place = int(np.searchsorted(counts, half))
    before = counts[place - 1] if place else 0
    return place - 0.5 + float((half - before) / (counts[place] - before))


def _ray_at(camera: Intrinsics, column: float, row: float) -> tuple[float, float]:
    """x / z and y / z at a place between pixels; NaN where there is no ray."""
    left, top = max(math.floor(column), 0), max(math.floor(row), 0)
    right, bottom = min(left + 1, camera.width - 1), min(top + 1, camera.height - 1)
    across, down = max(column - left, 0.0), max(row - top, 0.0)
    x, y = (
        (1 - down) * ((1 - across) * float(ray[top, left]) + across * float(ray[top, right]))
        + down * ((1 - across) * float(ray[bottom, left]) + across * float(ray[bottom, right]))
        for ray in camera.rays
    )
    return x, y


def _spread(ordered: NDArray[np.float32]) -> float:
    """Half the distance of the percentiles 16 and 84: a Gaussian's standard deviation."""
    last = len(ordered) - 1
    return float(ordered[round(0.84 * last)] - ordered[round(0.16 * last)]) / 2
