"""Masks for a time ahead of their image: what a slow consumer would else see too late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stremn_ros.imaging.mask_motion import MaskMotion
from stremn_ros.imaging.masks import measured
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.results import TrackedObject
from stremn_ros.stream.answers import Seeding, Segmented
from stremn_ros.stream.settings import FARTHEST_AHEAD

_AGES = 30  # of the last frames


@dataclass(frozen=True, eq=False)
class Ahead:
    """What an image will show.

    Attributes:
        stamp: nanoseconds of the time it is for; 0 where the camera sends no stamps.
        seconds: ahead of the image.
        labels: uint8 [H, W]. objects: as in the image, with the area, box and centroid of then.
    """

    stamp: int
    seconds: float
    labels: NDArray[np.uint8]
    objects: list[TrackedObject]


class MasksAhead:
    """The masks of one camera for a time ahead; made once for each frame, whoever asks."""

    def __init__(self) -> None:
        self._motion = MaskMotion()
        self._view: tuple[str, tuple[int, ...]] = "", ()  # frame_id and size of the last image
        self._ages: deque[float] = deque(maxlen=_AGES)
        self._last: tuple[Segmented, Ahead] | None = None
        self._seedings: Mapping[int, Seeding] = {}  # of the last frame

    def of(self, segmented: Segmented, horizon: float, now: int) -> Ahead:
        """Of a frame that is being published.

        Args:
            horizon: seconds ahead; 0 for the age that masks have when they go out: the median of
                the last frames, so that the mask is of the time at which it arrives.
            now: the node's clock in nanoseconds.
        """
        if self._last is not None and self._last[0] is segmented:
            return self._last[1]
        frame, result = segmented.frame, segmented.result
        taken = frame.stamp / NANOSECONDS if frame.stamp else frame.arrival
        view = frame.message.header.frame_id, result.labels.shape
        if view != self._view:  # what moved was in other coordinates
            self._motion, self._view = MaskMotion(), view
        for found in result.objects:
            seeding = segmented.seedings.get(found.id)
            if self._seedings.get(found.id, seeding) != seeding:
                self._motion.seeded(found)
        self._seedings = segmented.seedings
        self._motion.update(result.objects, taken)
        age = (now - frame.stamp) / NANOSECONDS
        if not frame.stamp or not 0.0 <= age <= FARTHEST_AHEAD:  # a clock that is not the camera's
            age = time.monotonic() - frame.arrival
        self._ages.append(min(max(age, 0.0), FARTHEST_AHEAD))
        seconds = horizon if horizon > 0.0 else float(np.median(self._ages))
        labels = self._motion.ahead(result.labels, result.objects, seconds)
        objects = []
        for found in result.objects:
            area, box, centroid = measured(labels, found.id)
            objects.append(replace(found, area=area, box=box, centroid=centroid))
        stamp = frame.stamp + round(seconds * NANOSECONDS) if frame.stamp else 0
        ahead = Ahead(stamp, seconds, labels, objects)
        self._last = segmented, ahead
        return ahead
