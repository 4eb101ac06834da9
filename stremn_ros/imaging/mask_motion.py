"""Where masks will be: each object's motion in the picture, from its last masks. OpenCV only."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.results import TrackedObject

MASKS = 3  # that a velocity is fitted to
OLDEST = 1.0  # seconds that a mask may be older than the newest, to count for the velocity
# Objects turn and stop: a velocity fades with these time constants, in seconds. They were chosen on
# DAVIS training sequences and davis_dev; benchmark/predicted_masks.py measures them.
FADES = 0.3  # of the position
GROWTH_FADES = 0.35  # of the size
LARGEST_GROWTH = 2.0  # times the size, or one part of it


class MaskMotion:
    """Moves masks ahead in time, each object by its own velocity in the picture.

    The velocity of an object's centroid and of the logarithm of its size (the root of its area)
    is the least-squares slope over its last `MASKS` masks. It fades out: after t seconds an object
    has moved by v T (1 - exp(-t / T)). So a mask never runs away, however far ahead it is asked
    for. A camera that moves is part of that motion.

    Memory is constant: `MASKS` numbers of each object that is followed.
    """

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, float, float, float]]] = {}
        self._newest = -np.inf

    def update(self, objects: Sequence[TrackedObject], time: float) -> None:
        """Takes in a frame's objects; time: of the frame, in seconds.

        An object without a mask keeps what is known of it for `OLDEST` seconds. A time that is not
        after the last one (a recording that starts again) forgets everything.
        """
        if time <= self._newest:
            self._seen.clear()
        self._newest = time
        ids = {found.id for found in objects}
        for gone in self._seen.keys() - ids:
            del self._seen[gone]
        for found in objects:
            if found.area:
                seen = self._seen.setdefault(found.id, deque(maxlen=MASKS))
                seen.append((time, *found.centroid, 0.5 * float(np.log(found.area))))

    def seeded(self, found: TrackedObject) -> None:
        """An object was seeded again, or another one has its id now.

        Where its mask is farther than its size from the last one, what was known is forgotten.
        """
        if seen := self._seen.get(found.id):
            _, x, y, size = seen[-1]
            if np.hypot(found.centroid[0] - x, found.centroid[1] - y) > np.exp(size):
                del self._seen[found.id]

    def velocity(self, object_id: int) -> tuple[float, float, float]:
        """(x, y) in pixels/s, and the growth of the size's logarithm per second; 0 if unknown."""
        seen = self._seen.get(object_id, ())
        recent = np.array([row for row in seen if self._newest - row[0] <= OLDEST])
        if len(recent) < 2:
            return 0.0, 0.0, 0.0
        times = recent[:, 0] - recent[:, 0].mean()
        x, y, growth = times @ (recent[:, 1:] - recent[:, 1:].mean(axis=0)) / (times @ times)
        return float(x), float(y), float(growth)

    def ahead(
        self, labels: NDArray[np.uint8], objects: Sequence[TrackedObject], seconds: float
    ) -> NDArray[np.uint8]:
        """The label mask as it will be.

        Args:
            labels: uint8 [H, W] of the frame that was taken in last. objects: of that frame.
            seconds: how far ahead, 0 or more.

        Returns:
            uint8 [H, W]. Where two objects come to cover each other, the smaller one is in front.
        """
        height, width = labels.shape
        result = np.zeros_like(labels)
        for found in sorted(objects, key=lambda each: -each.area):
            if not found.area:
                continue
            vx, vy, growth = self.velocity(found.id)
            way = FADES * (1.0 - np.exp(-seconds / FADES))
            more = growth * GROWTH_FADES * (1.0 - np.exp(-seconds / GROWTH_FADES))
            scale = float(np.clip(np.exp(more), 1.0 / LARGEST_GROWTH, LARGEST_GROWTH))
            cx, cy = found.centroid
            matrix = np.array(
                [
                    [scale, 0.0, cx + vx * way - scale * cx],
                    [0.0, scale, cy + vy * way - scale * cy],
                ]
            )
            mask = (labels == found.id).view(np.uint8)
            moved = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
            result[moved > 0] = found.id
        return result
