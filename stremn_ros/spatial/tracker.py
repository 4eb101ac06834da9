"""Objects in space over a stream: label masks and depth in, positions, boxes and velocities out."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.spatial.camera import Intrinsics, same_view
from stremn_ros.spatial.depth import (
    Depth,
    Labels,
    check_depth,
    check_labels,
    fitted_labels,
    in_meters,
)
from stremn_ros.spatial.measuring import Measurement, Measurer, Pose, SpatialSettings
from stremn_ros.spatial.motion import IDS, MotionFilters
from stremn_ros.spatial.points import (
    POINT,
    PointCloud,
    check_voxel,
    color_codes,
    downsampled,
)
from stremn_ros.spatial.results import Point, SpatialObject

__all__ = ["SpatialSettings", "SpatialTracker"]

_BLOCK = 16384  # pixels


class TrackedLike(Protocol):
    """What is needed of an object of a SegmentResult."""

    @property
    def id(self) -> int: ...

    @property
    def state(self) -> Any:
        """An enumeration with the names TRACKED, OCCLUDED and LOST."""

    @property
    def score(self) -> float: ...


class SpatialTracker:
    """Follows the objects of one camera in space, with a memory of fixed size.

    Not for several threads at once.

    Args:
        settings: how objects are measured.
    """

    def __init__(self, settings: SpatialSettings | None = None) -> None:
        self.settings = settings or SpatialSettings()
        self._filters = MotionFilters(self.settings.acceleration_noise, self.settings.max_gap)
        self._measurer: Measurer | None = None
        self._cameras: tuple[Intrinsics, Intrinsics] | None = None
        self._last: tuple[Depth, Intrinsics, Pose | None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the filters and buffers: constant while the size of the depth image is."""
        buffers = 0 if self._measurer is None else self._measurer.nbytes
        return self._filters.nbytes + buffers

    def reset(self) -> None:
        """Forgets all objects."""
        self._filters.reset()
        self._last = None

    def seeded(self, object_id: int) -> None:
        """An object was seeded again, perhaps elsewhere, or another one has its id now.

        So its next position is taken, also where it does not fit the motion so far.
        """
        self._filters.doubt(_checked_id(object_id))

    def update(
        self,
        labels: Labels,
        objects: Iterable[TrackedLike],
        depth: Depth,
        intrinsics: Intrinsics,
        stamp: int,
        pose: NDArray[np.float64] | None = None,
        oriented: bool = True,
    ) -> list[SpatialObject]:
        """Measures the objects of an image and updates their motion.

        Args:
            labels: uint8 [H, W] of the image: 0 background, n = object n.
            objects: of the same image; those that are not among them any more are forgotten.
            depth: uint16 (millimeters) or float32 (meters) [h, w], aligned to the image; its size
                may differ.
            intrinsics: of the depth camera, or of the image that the depth is aligned to.
            stamp: of the image, in nanoseconds.
            pose: float64 [4, 4] from the camera's coordinates to a fixed frame. Where it is given
                all results are in that frame, and velocities are over ground.
            oriented: whether oriented boxes are wanted; they take about half of the time.

        Returns:
            One result for each object, in the order of their ids. An object that is OCCLUDED has
            a predicted position, one that is LOST has none, and its motion is forgotten.

        Raises:
            InputError: an argument that cannot be used, or depth, image and intrinsics that do
                not show the same view. Nothing is changed then.
        """
        labels, depth = check_labels(labels), check_depth(depth)
        chosen = sorted(((_checked_id(item.id), item) for item in objects), key=lambda one: one[0])
        rows, columns = int(depth.shape[0]), int(depth.shape[1])
        camera = self._camera(intrinsics, rows, columns)
        placed = None if pose is None else Pose.of_matrix(pose)
        fitted = fitted_labels(labels, (rows, columns))

        if self._measurer is None or self._measurer.shape != (rows, columns):
            self._measurer = Measurer(rows, columns, self.settings)
        self._measurer.begin()
        self._last = depth, camera, placed
        self._filters.keep_only({number for number, _ in chosen})
        results = []
        for number, item in chosen:
            state = str(item.state.name)
            if state == "TRACKED":
                found = self._measurer.measure(fitted, number, depth, camera, placed, oriented)
            else:
                found = Measurement(0, 0, f"it is {state}: no mask, no measurement")
            if state == "LOST":
                self._filters.reset(number)
            results.append(self._result(number, item, state, stamp, found))
        return results

    def position_at(self, object_id: int, stamp: int) -> Point | None:
        """Where an object is at another stamp, by its motion so far; None where nobody knows."""
        known = self._filters.predict(object_id, stamp) if 0 < object_id < IDS else None
        return None if known is None else _point(known[0][:3])

    def cloud(
        self,
        image: NDArray[np.uint8] | None = None,
        ids: Sequence[int] | None = None,
        voxel: float = 0.0,
    ) -> PointCloud:
        """The points of the last update's objects, without the pixels that were not used.

        Args:
            image: RGB uint8 [H, W, 3] of the same view, for the colors.
            ids: of the objects; None for all. voxel: as `downsampled`.

        Raises:
            InputError: an argument that cannot be used.
        """
        check_voxel(voxel)
        if self._measurer is None or self._last is None:
            return PointCloud(np.empty(0, POINT))
        depth, camera, pose = self._last
        used = self._measurer.used
        if ids is not None:
            table = np.zeros(IDS, np.uint8)
            for value in ids:
                if 0 < value < IDS:
                    table[value] = value
            used = np.asarray(cv2.LUT(used, table))
        x, y, width, height = cv2.boundingRect(used)
        part = (slice(y, y + height), slice(x, x + width))
        used = used[part]
        colors = None if image is None else _fitted_colors(image, depth.shape, part)
        if not width:
            return PointCloud(np.empty(0, POINT))
        found = np.empty(cv2.countNonZero(used), f"V{POINT.itemsize}")
        # some rows at a time, which stay in the processor's cache from step to step
        rows, filled = max(1, _BLOCK // width), 0
        for start in range(0, height, rows):
            block = (slice(start, start + rows), slice(None))
            fields = self._fields(depth[part][block], camera, y + start, x, used[block])
            if colors is not None:
                fields[3] = colors[block].view(np.float32)
            # as plain bytes: NumPy picks structures field by field, which takes ten times as long
            points = np.asarray(cv2.merge(fields)).view(found.dtype).reshape(-1)
            chosen = points[np.ravel(used[block] != 0)]
            found[filled : filled + len(chosen)] = chosen
            filled += len(chosen)
        cloud = PointCloud(found.view(POINT))
        if pose is not None and len(cloud):
            cloud.xyz[:] = cloud.xyz @ pose.rotation.T.astype(np.float32)
            cloud.xyz[:] += pose.place.astype(np.float32)
        return downsampled(cloud, voxel)

    @staticmethod
    def _fields(
        depth: Depth, camera: Intrinsics, top: int, left: int, used: Labels
    ) -> list[NDArray[np.float32]]:
        """x, y, z, no color and label of each pixel of a part of a depth image."""
        shape = (used.shape[0], used.shape[1])
        part = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        meters = in_meters(depth, np.empty(shape, np.float32))
        with np.errstate(all="ignore"):  # of pixels that are infinitely far, which are not used
            across, down = (ray[part] * meters for ray in camera.rays)
        label = used.astype(np.uint32).view(np.float32)
        return [across, down, meters, np.zeros(shape, np.float32), label]

    def _camera(self, intrinsics: Intrinsics, rows: int, columns: int) -> Intrinsics:
        """The intrinsics for the depth image's size; kept while they are the same."""
        if (
            self._cameras is not None
            and self._cameras[0] == intrinsics
            and (self._cameras[1].height, self._cameras[1].width) == (rows, columns)
        ):
            return self._cameras[1]
        if wrong := mismatched(intrinsics, (rows, columns)):
            raise InputError(wrong)
        if self._cameras is not None and self._cameras[0] != intrinsics:
            self._filters.doubt()  # positions may jump by what the calibration corrects
        self._cameras = intrinsics, intrinsics.scaled(columns, rows)
        return self._cameras[1]

    def _result(
        self, number: int, item: TrackedLike, state: str, stamp: int, found: Measurement
    ) -> SpatialObject:
        filters, reason = self._filters, found.reason
        taken = False
        if found.position is not None and found.noise is not None:
            taken = filters.update(number, stamp, found.position, found.noise)
        if found.position is not None and not taken:
            reason = (
                "this image's position does not fit its motion so far and is left out: its mask "
                "may be on another object"
            )
        known = filters.predict(number, stamp)
        covariance = None
        if known is not None:
            covariance = known[1]
            covariance.setflags(write=False)
        return SpatialObject(
            id=number,
            state=state,
            score=float(item.score),
            stamp=stamp,
            position=None if known is None else _point(known[0][:3]),
            measured=None if found.position is None else _point(found.position),
            predicted=known is not None and not taken,
            velocity=(
                _point(known[0][3:]) if known is not None and filters.has_velocity(number) else None
            ),
            covariance=covariance,
            valid_share=found.valid / found.area if found.area else 0.0,
            points=found.points,
            spread=found.spread,
            box=found.box,
            oriented_box=found.oriented_box,
            reason=reason,
        )


def _checked_id(value: Any) -> int:
    """An object id as an int; NumPy's integers are taken, too."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"object id {value!r}: ids are whole numbers") from None
    if not 0 < number < IDS:
        raise InputError(f"object id {number}: ids are 1 to {IDS - 1}")
    return number


def mismatched(intrinsics: Intrinsics, depth: tuple[int, int]) -> str:
    """Why intrinsics cannot be of a depth image of that size (rows, columns); empty if they can."""
    if same_view((intrinsics.height, intrinsics.width), depth):
        return ""
    return (
        f"camera_info is for {intrinsics.width} x {intrinsics.height} pixels and the depth image "
        f"has {depth[1]} x {depth[0]}: set depth_camera_info_topic to the camera_info beside "
        "depth_topic"
    )


def _fitted_colors(
    image: NDArray[np.uint8], shape: tuple[int, ...], part: tuple[slice, slice]
) -> NDArray[np.uint32]:
    """Color codes of a part of a depth image, from the RGB image of the same view."""
    check_frame(image)
    if image.shape[:2] != shape:
        if not same_view((image.shape[0], image.shape[1]), (shape[0], shape[1])):
            raise InputError(
                f"the image has {image.shape[1]} x {image.shape[0]} pixels and the depth image "
                f"{shape[1]} x {shape[0]}: they do not show the same view"
            )
        image = np.asarray(
            cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
        )
    return color_codes(image[part]) if image[part].size else np.empty((0, 0), np.uint32)


def _point(values: NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
