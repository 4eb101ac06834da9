"""Which objects are seen in a frame, how well, and for how long the others were not."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stremn_ros.frame_reader import SeenFrame
from stremn_ros.imaging.masks import measured
from stremn_ros.options import SegmenterOptions
from stremn_ros.results import ObjectState, TrackedObject


class ObjectStates:
    """Scores and states of the objects that a segmenter follows.

    Attributes:
        unseen: of each object, frames since it was last seen.
    """

    def __init__(self) -> None:
        self.unseen: dict[int, int] = {}

    def scores(
        self, seen: SeenFrame, ids: list[int], options: SegmenterOptions
    ) -> tuple[list[float], list[bool]]:
        """Of each object its score, and whether that is enough to be seen."""
        scores, shown = [], []
        for object_id, (area, total) in zip(ids, _inside(seen, ids), strict=True):
            mean = total / area if area else 0.0
            scores.append(seen.quality.get(object_id, mean) if area else 0.0)
            needed = options.min_score
            if self.unseen[object_id]:
                needed = max(needed, options.return_score)
            shown.append(area > 0 and scores[-1] >= needed)
        return scores, shown

    def labels(self, seen: SeenFrame, options: SegmenterOptions) -> NDArray[np.uint8]:
        """Label mask [h, w] of the objects that are seen in a frame, at the processing size."""
        ids = list(seen.probabilities)
        if not ids:
            return np.zeros(seen.image.shape[-2:], np.uint8)
        every = torch.stack([seen.probabilities[object_id] for object_id in ids])
        strongest, which = every.max(dim=0)
        inside = (strongest >= 1.0 - every.sum(dim=0)).cpu().numpy()
        shown = self.scores(seen, ids, options)[1]
        numbers = np.array([n if here else 0 for n, here in zip(ids, shown)], np.uint8)
        return numbers[which.cpu().numpy()] * inside

    def describe(
        self,
        object_id: int,
        score: float,
        labels: NDArray[np.uint8],
        options: SegmenterOptions,
    ) -> TrackedObject:
        """An object in a frame segmented, labels [H, W]; notes whether it was seen."""
        area, box, centroid = measured(labels, object_id)
        unseen = 0 if area else self.unseen[object_id] + 1
        self.unseen[object_id] = unseen
        state = ObjectState.TRACKED
        if unseen:
            state = ObjectState.LOST if unseen > options.lost_after else ObjectState.OCCLUDED
        return TrackedObject(object_id, state, score if area else 0.0, area, box, centroid)


def _inside(seen: SeenFrame, ids: list[int]) -> list[list[float]]:
    """Of each object, the pixels where it is the likeliest and its probabilities' sum there."""
    inside = torch.stack([seen.probabilities[object_id] for object_id in ids])
    if len(ids) == 1:
        own = inside >= 0.5
    else:
        strongest = inside.amax(dim=0)
        # the background may be likelier than all of them
        own = (inside == strongest) & (strongest >= 1.0 - inside.sum(dim=0))
    inside, weight = inside.flatten(1), own.flatten(1).to(inside.dtype)
    sums = torch.stack([weight.sum(dim=1), torch.linalg.vecdot(inside, weight)], dim=1)
    return sums.tolist()
