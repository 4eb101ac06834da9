"""Depth images and camera_info for images, by their stamps: nothing waits, nothing grows.

An image is paired when the nearest depth image is known: when one of its stamp or a later one has
come, or when the next image comes and the depth's rate tells that no nearer one is on its way. What
finds no partner within the slop is dropped and counted, and `explain` says why.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.spatial.camera import Intrinsics
from stremn_ros.spatial.depth import (
    Depth,
    DepthRange,
    check_depth,
    misaligned,
    valid_pixels,
    why_invalid,
)
from stremn_ros.spatial.tracker import mismatched

SECOND = 1_000_000_000
_JUMP = SECOND // 5  # back by more than this is a clock that was set back, not a late message
_FEW_VALID = 0.05  # share of the pixels
DepthSource = Depth | Callable[[], Depth]


@dataclass(frozen=True)
class Pair:
    """An image with its depth.

    Attributes:
        image: what was given for it. stamp: its own, in nanoseconds.
        depth: uint16 or float32 [h, w], as `check_depth`. distance: seconds from the image's stamp
            to the depth's, negative where the depth is older.
        intrinsics: the newest of the depth camera.
        depth_stamp: in nanoseconds; depth_frame: the depth's frame_id.
    """

    image: Any
    stamp: int
    depth: Depth
    distance: float
    intrinsics: Intrinsics
    depth_stamp: int = 0
    depth_frame: str = ""


@dataclass(frozen=True)
class _Depth:
    stamp: int
    source: DepthSource
    frame: str


@dataclass(frozen=True)
class _Image:
    stamp: int
    payload: Any
    size: tuple[int, int]
    frame: str


class DepthPairing:
    """Pairs the depth stream with the images of one camera. May be used from several threads.

    Args:
        slop: seconds that two stamps may be apart.
        depths, images: how many of each are kept at most; the oldest go.

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, slop: float = 0.05, depths: int = 8, images: int = 10) -> None:
        if not 0 <= slop <= 10:
            raise InputError(f"depth_slop is {slop:g} s; it must be 0 to 10")
        if depths < 1 or images < 1:
            raise InputError("at least one depth image and one image must be kept")
        self.slop = slop
        self._slop = round(slop * SECOND)
        self._lock = threading.Lock()
        self._depths: deque[_Depth] = deque(maxlen=depths)
        self._images: deque[_Image] = deque(maxlen=images)
        self._intrinsics: Intrinsics | None = None
        self._info_error = ""
        self._depth_error = ""
        self._image: _Image | None = None  # the newest, for explanations
        self.reset()

    def reset(self) -> None:
        """Forgets stamps and depth images; the camera_info stays."""
        with self._lock:
            self._depths.clear()
            self._images.clear()
            self._image = None
            self.paired = 0
            self.unpaired = 0
            self._smallest: int | None = None  # distance of stamps, of images that found nothing
            self._since_pair = 0  # images without a partner since the last one that had one
            self._behind = 0  # the newest depth image, when an image stopped waiting for its own
            self._unstamped = False  # the newest image
            self._depth_unstamped = False  # the newest depth image

    def add_camera_info(self, info: Any, rectified: bool = False) -> None:
        """Takes a sensor_msgs/CameraInfo of the depth camera, or `Intrinsics`.

        Raises:
            InputError: it describes no camera. The former one is used no longer.
        """
        try:
            found = (
                info
                if isinstance(info, Intrinsics)
                else Intrinsics.from_camera_info(info, rectified)
            )
        except InputError as error:
            with self._lock:
                self._intrinsics, self._info_error = None, str(error)
            raise
        with self._lock:
            self._info_error = ""
            if found != self._intrinsics:  # the same one has its rays already
                self._intrinsics = found

    def add_depth(self, stamp: int, depth: DepthSource, frame: str = "") -> list[Pair]:
        """Takes a depth image and returns the images that are paired by it, oldest first.

        Args:
            stamp: nanoseconds. frame: its frame_id.
            depth: the array, or a function that decodes it when it is needed. One without a stamp
                (0) is no image's.
        """
        with self._lock:
            self._depth_unstamped = not stamp
            if not stamp:
                return []
            if self._depths and stamp < self._depths[-1].stamp - _JUMP:
                self._depths.clear()
            self._depths.append(_Depth(stamp, depth, frame))
            ready = self._resolved()
        return self._pairs(ready)

    def add_image(
        self, stamp: int, payload: Any, size: tuple[int, int], frame: str = ""
    ) -> list[Pair]:
        """Takes an image (whatever goes with it, such as its mask) and returns what is paired now.

        Args:
            size: (rows, columns) of the image. Others: as `add_depth`. An image without a stamp (0)
                finds no depth: nothing tells which belongs to it.
        """
        with self._lock:
            self._unstamped = not stamp
            if not stamp:
                self._unpair(_Image(stamp, payload, size, frame))
                return []
            if self._image is not None and stamp < self._image.stamp - _JUMP:
                self._images.clear()
            if len(self._images) == self._images.maxlen:
                if self._depths and self._intrinsics is not None:
                    self._behind = max(0, stamp - max(depth.stamp for depth in self._depths))
                self._unpair(self._images.popleft())
            self._image = _Image(stamp, payload, size, frame)
            self._images.append(self._image)
            ready = self._resolved()
        return self._pairs(ready)

    def explain(self, limits: DepthRange | None = None, silent: float = 0.0) -> list[str]:
        """What keeps images from being paired, or depth from being used, each with its remedy.

        Looks at the newest depth image as a whole, so call it as often as a report is made, not
        for every image.

        Args:
            silent: seconds since the last depth image, where that is too long; else 0.
        """
        with self._lock:
            newest = self._depths[-1] if self._depths else None
            image, intrinsics = self._image, self._intrinsics
            smallest = self._smallest if self._since_pair else None
            behind = self._behind if self._since_pair else 0
            info_error, depth_error = self._info_error, self._depth_error
            unstamped, depth_unstamped = self._unstamped, self._depth_unstamped
        said = []
        if unstamped:
            said.append(
                "the images have no time stamp (header.stamp is 0), so no depth image is known to "
                "belong to them: have the camera's driver set it"
            )
        if newest is None and not depth_unstamped:
            said.append(
                "no depth image has come: check that depth_topic names a topic that is published "
                "(ros2 topic hz) and that its QoS fits (ros2 topic info --verbose)"
            )
        elif silent:
            said.append(
                f"no depth image has come for {silent:.1f} s: check that its publisher still runs "
                "(ros2 topic hz)"
            )
            newest = None  # what is old tells nothing of now
        elif depth_unstamped:
            said.append(
                "the depth images have no time stamp (header.stamp is 0), so none is known to "
                "belong to an image: have the depth camera's driver set it"
            )
        if info_error:
            said.append(info_error)
        elif intrinsics is None:
            said.append(
                "no camera_info of the depth camera has come: set depth_camera_info_topic to the "
                "camera_info beside depth_topic"
            )
        if newest is not None and 0 < behind < SECOND:
            said.append(
                f"depth comes too late: the newest is {behind / SECOND:.3f} s behind the newest "
                f"image, and no more than {self._images.maxlen} images wait for theirs; lower the "
                "rate or the resolution of both, or let the camera stamp both streams alike"
            )
        elif newest is not None and image is not None and smallest is not None:
            remedy = (
                "raise depth_slop above it, or let the camera stamp both streams alike"
                if smallest < SECOND
                else "two clocks stamp the streams: synchronize them, or set use_sim_time for both"
            )
            said.append(
                f"no depth image is within depth_slop ({self.slop:g} s) of an image: the smallest "
                f"distance of their stamps was {smallest / SECOND:.3f} s; {remedy}"
            )
        if depth_error:
            said.append(depth_error)
        if newest is not None and not depth_error:
            said += self._about(newest, image, intrinsics, limits)
        return said

    @staticmethod
    def _about(
        newest: _Depth,
        image: _Image | None,
        intrinsics: Intrinsics | None,
        limits: DepthRange | None,
    ) -> list[str]:
        try:
            depth = _decoded(newest.source)
        except InputError as error:
            return [str(error)]
        said = []
        size = (int(depth.shape[0]), int(depth.shape[1]))
        if image is not None and (wrong := misaligned(image.size, size)):
            said.append(wrong)
        if intrinsics is not None and (wrong := mismatched(intrinsics, size)):
            said.append(wrong)
        if image is not None and newest.frame and image.frame and newest.frame != image.frame:
            said.append(
                f"the depth image is in the frame {newest.frame!r} and the image in "
                f"{image.frame!r}: unless these are the same place, set depth_topic to the depth "
                "that is aligned to the image"
            )
        share = float((valid_pixels(depth, limits) > 0).mean())
        if share < _FEW_VALID:
            said.append(
                f"{share:.1%} of the depth image's pixels have a usable distance: "
                f"{why_invalid(depth, limits)}; check the depth camera's view, its projector and "
                "the unit (16UC1 millimeters, 32FC1 meters)"
            )
        return said

    def _resolved(self) -> list[tuple[_Image, _Depth]]:
        """Images whose nearest depth image is known, and it; drops those that will find none."""
        if not self._depths:
            return []
        ready, kept = [], []
        latest = max(depth.stamp for depth in self._depths)
        steps = sorted(
            after.stamp - before.stamp
            for before, after in itertools.pairwise(self._depths)
            if after.stamp > before.stamp
        )
        usual = steps[len(steps) // 2] if steps else 0
        for image in self._images:
            nearest = min(reversed(self._depths), key=lambda depth: abs(depth.stamp - image.stamp))
            distance = abs(nearest.stamp - image.stamp)
            # the next depth image will be nearer than the last one
            due = 0 < usual < 2 * (image.stamp - latest)
            certain = latest >= image.stamp or not (due or image is self._image)
            if distance > self._slop:
                if latest > image.stamp + self._slop:
                    self._unpair(image)
                else:
                    kept.append(image)
            elif certain and self._intrinsics is not None:
                ready.append((image, nearest))
            else:
                kept.append(image)
        self._images.clear()
        self._images.extend(kept)
        return ready

    def _unpair(self, image: _Image) -> None:
        self.unpaired += 1
        self._since_pair += 1
        if self._depths and image.stamp and self._intrinsics is not None:
            distance = min(abs(depth.stamp - image.stamp) for depth in self._depths)
            # one within the slop was of no use for another reason
            if distance > self._slop and (self._smallest is None or distance < self._smallest):
                self._smallest = distance

    def _pairs(self, ready: list[tuple[_Image, _Depth]]) -> list[Pair]:
        pairs = []
        for image, depth in ready:
            try:
                found, error = _decoded(depth.source), ""
            except InputError as problem:
                found, error = None, str(problem)
            with self._lock:
                self._depth_error = error
                if found is None or self._intrinsics is None:
                    self._unpair(image)
                    continue
                self.paired += 1
                self._since_pair, self._smallest, self._behind = 0, None, 0
                intrinsics = self._intrinsics
            distance = (depth.stamp - image.stamp) / SECOND
            pairs.append(
                Pair(
                    image.payload,
                    image.stamp,
                    found,
                    distance,
                    intrinsics,
                    depth.stamp,
                    depth.frame,
                )
            )
        return pairs


def _decoded(source: DepthSource) -> Depth:
    return check_depth(source() if callable(source) else source)
