"""Damage to predicted masks in training, as mistakes of the network would do it.

At work a mistake feeds itself: the next frame sees the mask with its missing part, and the memory
keeps it. Training clips are short and mostly easy, so the network hardly ever sees its own mistakes
there, and does not learn to make them good again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST = 12  # cells; a smaller mask is left alone
CUT, ADD = 0.65, 0.9  # of the damage: a part is cut off; a patch is added; the rest vanishes


class MaskDamage:
    """Damages the masks of some objects of some frames.

    Args:
        share: of objects in frames whose mask is damaged, 0..1.
        seed: the same damage is done again with the same seed and masks.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._rng = np.random.default_rng(seed)

    def __call__(self, previous: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Damages a frame's masks in both sizes alike.

        Args:
            previous: [B, O, h, w] probabilities, what the next frame sees of them.
            masks: [B, O, H, W], what the memory takes in; H and W are multiples of h and w. A mask
                that vanishes does so for the next frame only: an object that is not seen is not
                remembered.

        Returns:
            Both, of the same shapes; the arguments are not changed.
        """
        cells = previous.detach().float().cpu().numpy()
        kept, added = np.ones_like(cells), np.zeros_like(cells)
        gone = np.ones(cells.shape[:2], np.float32)
        for index in np.ndindex(cells.shape[:2]):
            rows, columns = np.nonzero(cells[index] > 0.5)
            if self._rng.random() >= self._share or len(rows) < FEWEST:
                continue
            kind = self._rng.random()
            if kind < CUT:
                kept[index] = self._cut(rows, columns, cells.shape[2:])
            elif kind < ADD:
                added[index] = self._patch(rows, columns, cells.shape[2:])
            else:
                gone[index] = 0.0
        keep, add, seen = (torch.from_numpy(x).to(masks) for x in (kept, added, gone))
        # what is added to one object is taken from the others of its clip
        free = 1.0 - (add.sum(dim=1, keepdim=True) - add).clamp(max=1.0)
        small = torch.maximum(previous * keep, add) * free * seen[..., None, None]
        size = masks.shape[-2:]
        keep, add, free = (F.interpolate(x, size=size, mode="nearest") for x in (keep, add, free))
        return small, torch.maximum(masks * keep, add) * free

    def _cut(self, rows: np.ndarray, columns: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """Zero on one side of a line that 20 to 60 percent of the mask lie beyond."""
        angle = self._rng.uniform(0.0, 2.0 * np.pi)
        normal = np.sin(angle), np.cos(angle)
        limit = np.quantile(
            normal[0] * rows + normal[1] * columns, 1.0 - self._rng.uniform(0.2, 0.6)
        )
        y, x = np.ogrid[: size[0], : size[1]]
        return (normal[0] * y + normal[1] * x <= limit).astype(np.float32)

    def _patch(self, rows: np.ndarray, columns: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """An ellipse of 0.95 on or beside the mask, of a tenth to a whole of its area."""
        which = self._rng.integers(len(rows))
        radius = np.sqrt(len(rows) / np.pi)
        center = self._rng.normal((rows[which], columns[which]), 0.7 * radius)
        axes = radius * np.sqrt(self._rng.uniform(0.1, 1.0)) * self._rng.uniform(0.6, 1.6, 2)
        y, x = np.ogrid[: size[0], : size[1]]
        inside = ((y - center[0]) / axes[0]) ** 2 + ((x - center[1]) / axes[1]) ** 2 <= 1.0
        return (0.95 * inside).astype(np.float32)
