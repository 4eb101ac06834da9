"""The gate in one frame: what the masks lose, and what follows for scores and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stremn_ros.gating.carried import Carried, motions_of, packed_motions
from stremn_ros.gating.likeness import Likeness
from stremn_ros.gating.motion import Motion
from stremn_ros.network import aggregate_logits, object_probabilities

# mean probability in a mask below which the memory is not told that the object's copies are none of
# it: of two that are just the same it would believe the contrary of both, and the object would fade
FADED = 0.85


class Gate:
    """Takes from each object's mask the parts that cannot be it.

    Attributes:
        logits: [O, h, w], each object's own without those parts; the given tensor where it keeps
            everything.
    """

    def __init__(
        self,
        logits: Tensor,
        before: Mapping[str, Tensor],
        distance: float,
        likeness: Likeness,
    ) -> None:
        """logits: [O, h, w], each object's own. before: what the memory carries of the frame
        before, of these objects first. distance: of a part, in object sizes. likeness: of the
        frame."""
        self._found, self._before = logits, before
        self._motions = motions_of(before, slice(len(logits)))
        self._left: dict[int, float] = {}  # the share that is left of a mask that lost something
        self._jumped: set[int] = set()
        self.logits = logits
        for n, motion in enumerate(self._motions):
            found = (logits[n] > 0.0).cpu().numpy().view(np.uint8)
            if motion is None or not found.any():
                continue
            stays, far = motion.gate(found, distance, partial(likeness.shared, n))
            if far:
                self._jumped.add(n)
            if stays is found:
                continue
            if self.logits is logits:
                self.logits = logits.clone()
            gone = torch.from_numpy(found != stays).to(logits.device)
            self.logits[n] = torch.where(gone, -logits[n].abs(), logits[n])
            self._left[n] = float(np.count_nonzero(stays)) / float(np.count_nonzero(found))

    def carried(self, logits: Tensor) -> Carried:
        """What the memory carries to the next frame. logits: aggregated, [O + 1, h, w]."""
        best, moved = logits.amax(dim=0), list(self._motions)
        for n, motion in enumerate(self._motions):
            mask = (logits[n + 1] == best).cpu().numpy().view(np.uint8)
            if not mask.any():
                moved[n] = motion and motion.unseen()
                continue
            if motion is not None:
                motion = motion.missed() if n in self._jumped else motion.after(mask)
            moved[n] = motion or Motion.of(mask, whole=False)
        return packed_motions(moved, self._before)

    def judged(self, quality: Sequence[float]) -> list[float]:
        """Each object's IoU without what was not the object. quality: the predicted IoU with it."""
        return [min(1.0, each / self._left.get(n, 1.0)) for n, each in enumerate(quality)]

    def learned(self, probabilities: Tensor) -> dict[int, Tensor]:
        """What the memory learns of objects where that is more than their probability: [H, W] each.

        probabilities: [O, H, W], without what was dropped.
        """
        learned = {}
        for n in self._left:
            own = probabilities[n]
            inside = own > 0.5
            if not inside.any() or float(own[inside].mean()) < FADED:
                alone = aggregate_logits(self._found[n : n + 1])
                learned[n] = torch.maximum(own, object_probabilities(alone, own.shape)[0])
        return learned
