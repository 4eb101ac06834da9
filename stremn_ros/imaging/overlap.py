"""How a seed lies on the objects that are followed: on the same one, on a part of one, beside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# IoU above which two masks are of one object. Of masks that do not overlap each other only one can
# have it, so a seed is never the same as two objects, and no object the same as two seeds.
SAME = 0.5
# Share of an object from which it lies within a larger seed (a wheel in a car).
INSIDE = 0.8
# Two objects side by side share a thin line of pixels, as no mask is exact. A seed cuts into an
# object where the pixels they share are deeper than that, or are a good part of the object. In
# pixels of the processing size: what is narrower than twice this depth cannot be followed anyway.
CUT_DEPTH = 4.0
CUT_SHARE = 0.2
# What is left of an object is followed on where it is deeper than this; else it is only a rim.
REST_DEPTH = 3.0


@dataclass(frozen=True)
class Overlap:
    """A seed and an object that is followed, which share pixels in the seed's frame.

    Attributes:
        seeded: id of the seed; tracked: id of the object.
        iou: of their masks, 0..1.
        covered: share of the object's pixels that the seed takes, 0..1.
    """

    seeded: int
    tracked: int
    iou: float
    covered: float

    @property
    def same(self) -> bool:
        """The two masks are of one object."""
        return self.iou > SAME

    @property
    def inside(self) -> bool:
        """The object lies within the seed, which is another, larger one."""
        return not self.same and self.covered >= INSIDE

    def by(self, renamed: Mapping[int, int]) -> Overlap:
        """The same, where seeds have other ids now."""
        return replace(self, seeded=renamed.get(self.seeded, self.seeded))


def overlaps(
    seed: NDArray[np.uint8], tracked: NDArray[np.uint8], wanted: Collection[int] = ()
) -> list[Overlap]:
    """Compares two label masks of one frame.

    Args:
        seed: uint8 [H, W], what is seeded; tracked: uint8 [H, W], what is followed.
        wanted: all ids of the seed, where the mask may not show each: one may be hidden, or too
            small for this size.

    Returns:
        All pairs that share pixels, the largest IoU first, but those of one id: to seed an object
        again is no overlap, and neither is to seed two that have been exchanged.
    """
    seeds, objects = (np.bincount(labels.ravel(), minlength=256) for labels in (seed, tracked))
    given = {*np.flatnonzero(seeds).tolist(), *wanted}
    both = (seed > 0) & (tracked > 0)
    pairs, shared = np.unique(seed[both].astype(np.int64) * 256 + tracked[both], return_counts=True)
    found = []
    for pair, pixels in zip(pairs.tolist(), shared.tolist(), strict=True):
        a, b = divmod(pair, 256)
        if b not in given:
            iou = pixels / int(seeds[a] + objects[b] - pixels)
            found.append(Overlap(a, b, iou, pixels / int(objects[b])))
    return sorted(found, key=lambda overlap: -overlap.iou)


def depth(mask: NDArray[Any]) -> float:
    """Pixels from the edge of a mask [H, W] to its innermost pixel; 0 for an empty one."""
    return float(np.max(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3), initial=0.0))


def is_cut(mask: NDArray[np.bool_], claimed: NDArray[np.bool_]) -> bool:
    """Whether pixels that are claimed, bool [H, W], cut into an object's mask, bool [H, W]."""
    shared = mask & claimed
    pixels = int(np.count_nonzero(shared))
    return pixels > 0 and (
        pixels >= CUT_SHARE * int(np.count_nonzero(mask)) or depth(shared) > CUT_DEPTH
    )
