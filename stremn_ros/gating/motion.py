"""Which parts of a mask can be the object, by where it just was and how it moved.

The network compares looks only, so it takes an object's twin along with the object. Trackers use a
validation gate against that (Bar-Shalom and Fortmann, "Tracking and Data Association", 1988): what
is too far from the place that is expected does not count. Here it is a gate for masks. Nothing in
it is learned, and it only takes parts away: connected ones, as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]  # [h, w], 0 or 1
# two parts of a mask [h, w] -> 0..1; see Likeness.shared
Shared = Callable[[NDArray[np.bool_], NDArray[np.bool_]], float]

SIZE = 7  # numbers of a motion as an array: center, velocity, area, joined, away
# lengths are shares of the object's size, the square root of its area
LOOSE = 0.7  # how far a part may be of an object that is not whole without it
LEAST = 2.0  # pixels that a part may be off in any case
WHOLE = 0.85  # share of its area with which an object is whole
ENOUGH = 0.2  # share of the last mask that has to be near; else it jumped, and nothing is dropped
SETTLING = 8  # frames until an object that came into view counts as whole
PATIENCE = 5  # frames that it is still expected where it was, after it jumped or was not seen
COPY = 0.35  # share of the object's area from which on a part can be a copy of it
COPIES = 1.4  # area of object and copies together, from which on only one of them is kept
JOINED = 1.2  # area at which it may have run into another object: its own motion is not seen then
LONGEST = 40  # frames that it may stay joined; then that is what it looks like
NEARER = 2.2  # area from which on it did not join another object, which would double it: it is near
GROWTH = 1.02  # the area's largest change in a frame, up or down
GROWTH_JOINED = 1.005
PART = 0.04  # share of the own part's area from which on another part can be compared with it
ALIKE = 0.7  # share of what a part reads of the seed that the own part reads as well: a twin
REMAINS = 0.5  # share of the object's area that has to stay when a twin goes
STEADY = 0.8  # of the velocity, from frame to frame


@dataclass(frozen=True, eq=False)
class Motion:
    """An object's last mask, and how it moves.

    Attributes:
        mask: [h, w]. center, velocity: (x, y), in pixels and pixels a frame.
        area: of the object alone, in pixels; it follows that of the mask slowly.
        joined: frames since the mask is larger than the object.
        away: frames since it is not where it is expected; below 0: frames until it has settled.
    """

    mask: Mask
    center: NDArray[np.float64]
    velocity: NDArray[np.float64]
    area: float
    joined: int = 0
    away: int = 0

    @classmethod
    def of(cls, mask: Mask, whole: bool = True) -> Motion:
        """Of an object that was not seen before.

        mask: not empty. whole: it is that of the whole object; else it may just come into view, and
        nothing is dropped for a while.
        """
        area = float(np.count_nonzero(mask))
        return cls(mask, _center(mask), np.zeros(2), area, away=0 if whole else -SETTLING)

    @classmethod
    def unpacked(cls, mask: Mask, packed: NDArray[np.floating]) -> Motion | None:
        """What ``packed`` gave, with its mask; None where that is nothing."""
        x, y, right, down, area, joined, away = (float(value) for value in packed)
        if not area > 0.0 or not mask.any():
            return None
        reach = float(max(mask.shape))  # a file may say anything
        velocity = np.clip([right, down], -reach, reach)
        joined, away = np.clip([joined, away], [0, -SETTLING], [LONGEST, PATIENCE])
        return cls(mask, np.array([x, y]), velocity, area, int(joined), int(away))

    def packed(self) -> NDArray[np.float32]:
        """float32 [SIZE], without the mask; all zero stands for none."""
        counts = self.joined, self.away
        return np.array([*self.center, *self.velocity, self.area, *counts], np.float32)

    def expected(self) -> Mask:
        """The last mask, moved on by a frame; as it was where that is out of the picture."""
        shift = np.array([[1.0, 0.0, self.velocity[0]], [0.0, 1.0, self.velocity[1]]])
        height, width = self.mask.shape
        moved = cv2.warpAffine(self.mask, shift, (width, height), flags=cv2.INTER_NEAREST)
        return np.asarray(moved, np.uint8) if moved.any() else self.mask

    def gate(self, found: Mask, distance: float, shared: Shared | None = None) -> tuple[Mask, bool]:
        """The parts of the mask found in the next frame that can be the object.

        A part stays that is near enough to the expected mask. Where the object is whole without
        what is far, that is ``distance``, else ``LOOSE``: a post in front of an object divides it.
        If two whole objects are left, the one nearest to the expected center stays. A part that
        looks like the rest is a twin: it goes if it is farther than ``distance`` from the rest.
        Where hardly anything would be left, everything stays: the object, or the camera, jumped.

        Args:
            found: [h, w], of the size of the last mask.
            distance: in object sizes.
            shared: of two parts, how much of what the first reads of the seed the second reads.

        Returns:
            [h, w], found or a copy without some of its parts; and whether it jumped.
        """
        if self.away < 0:
            return found, False
        count, parts, figures, centers = cv2.connectedComponentsWithStats(found, connectivity=8)
        areas = figures[:, cv2.CC_STAT_AREA].astype(float)
        areas[0] = 0.0
        last = float(np.count_nonzero(self.mask))
        expected = self.expected()
        if count == 2 and areas[1] >= ENOUGH * last and (found & expected).any():
            return found, False  # the usual case, without what takes time
        size = np.sqrt(min(last, self.area))
        away = cv2.distanceTransform(1 - expected, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

        def within(reach: float) -> NDArray[np.bool_]:
            near = parts[away <= max(LEAST, reach * size)]
            return (np.bincount(near, minlength=count) > 0) & (areas > 0)

        stay = within(distance)
        if areas[stay].sum() < max(ENOUGH * last, WHOLE * self.area):
            stay = within(max(distance, LOOSE))
            if areas[stay].sum() < ENOUGH * last:
                return found, True
        whole = np.flatnonzero(stay & (areas >= COPY * self.area))
        if len(whole) > 1 and areas[stay].sum() >= COPIES * self.area:
            stay[whole[whole != self._nearest(whole, centers)]] = False
        if shared is not None and np.count_nonzero(stay) > 1:
            self._leave_twins(stay, parts, areas, centers, distance * size, shared)
        return (found if stay[1:].all() else stay[parts].astype(np.uint8)), False

    def _leave_twins(
        self,
        stay: NDArray[np.bool_],
        parts: NDArray[Any],
        areas: NDArray[np.float64],
        centers: NDArray[Any],
        apart: float,
        shared: Shared,
    ) -> None:
        """Drops the parts that stand apart from the object's own and look like it."""
        kept = areas * stay
        own = self._nearest(np.flatnonzero(kept >= 0.5 * kept.max()), centers)
        if areas[own] < REMAINS * self.area:
            return
        its = parts == own
        away = cv2.distanceTransform(1 - its.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for part in np.flatnonzero(stay & (areas >= PART * areas[own])):
            if part == own:
                continue
            here = parts == part
            if away[here].min() > max(LEAST, apart) and shared(here, its) >= ALIKE:
                stay[part] = False

    def _nearest(self, parts: NDArray[np.intp], centers: NDArray[Any]) -> int:
        """The part whose center is nearest to the expected one."""
        off = np.linalg.norm(centers[parts] - self.center - self.velocity, axis=1)
        return int(parts[np.argmin(off)])

    def missed(self) -> Motion | None:
        """The motion after a frame in which it jumped; None: it is forgotten.

        A twin that is found in the place of the object is let go when that comes into view again.
        """
        if self.away >= PATIENCE or self.away < 0:
            return None
        return replace(
            self, mask=self.expected(), center=self.center + self.velocity, away=self.away + 1
        )

    def unseen(self) -> Motion | None:
        """As ``missed``, of a frame in which it is not seen; one at the picture's edge has left."""
        edges = (self.mask[0], self.mask[-1], self.mask[:, 0], self.mask[:, -1])
        return None if any(edge.any() for edge in edges) else self.missed()

    def after(self, mask: Mask) -> Motion:
        """The motion after the next frame. mask: of that frame; not empty."""
        area = float(np.count_nonzero(mask))
        center = _center(mask)
        velocity = STEADY * self.velocity + (1.0 - STEADY) * (center - self.center)
        if self.away < 0:
            return Motion(mask, center, velocity, max(area, self.area), away=self.away + 1)
        expected = self.center + self.velocity
        if area > JOINED * self.area:
            if self.joined >= LONGEST:
                return Motion.of(mask)
            if area > NEARER * self.area:
                return Motion(mask, center, velocity, area)
            grown = self.area * GROWTH_JOINED
            return Motion(mask, expected, self.velocity, grown, self.joined + 1)
        change = float(np.clip(area / self.area, 1.0 / GROWTH, GROWTH))
        return Motion(mask, center, velocity, self.area * change)


def _center(mask: Mask) -> NDArray[np.float64]:
    moments = cv2.moments(mask, binaryImage=True)
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]
