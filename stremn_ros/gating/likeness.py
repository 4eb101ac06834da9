"""What the cells of a mask read of the object's seed: other objects give themselves away by it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.network import space_time_weights

FEWEST = 3  # cells of a part; fewer say nothing
MOST = 64  # cells of a mask that are asked; more say no more


class Likeness:
    """How the masks of one frame read the seeds of their objects, as the network reads a memory.

    The parts of one object read different places of its seed: a wheel reads the wheel, and the
    rider the rider. Two objects that look alike read the same places.

    Args:
        key: [1, C, h, w] of the frame. seeds: [h * w, C] of each object's seed.
        affinity: of the network; see ``space_time_read``.
    """

    def __init__(self, key: Tensor, seeds: Sequence[Tensor], affinity: str) -> None:
        self._key, self._seeds, self._affinity = key.float(), seeds, affinity

    def shared(self, n: int, part: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
        """How much of what a part of object n reads of its seed another part reads as well.

        part, other: [H, W], of any size.

        Returns:
            0..1; 0 where one of them is too small to say.
        """
        h, w = self._key.shape[-2:]
        reads = []
        for each in (part, other):
            covered = cv2.resize(each.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
            cells = torch.from_numpy(np.flatnonzero(covered > 0.5)).to(self._key.device)
            if len(cells) < FEWEST:
                return 0.0
            reads.append(self._read(n, cells).sum(dim=0))
        return float(torch.minimum(*reads).sum() / reads[0].sum())

    def inside(self, n: int, covered: Tensor, place: Tensor) -> float | None:
        """How much of what the cells of object n read of its seed is the object's there.

        covered, place: [h, w], 0..1: of each cell, what the object covers in the frame and in the
        seed.

        Returns:
            0..1; None where there is too little to say.
        """
        cells = (covered > 0.5).flatten().nonzero()[:, 0]
        if len(cells) < FEWEST or not place.any():
            return None
        cells = cells[:: -(-len(cells) // MOST)]
        return float((self._read(n, cells) @ place.flatten()).mean())

    def _read(self, n: int, cells: Tensor) -> Tensor:
        """How much these cells of the frame read of each of the seed's: [cells, h * w]."""
        key = self._key[0].flatten(1)[:, cells].T
        seed = self._seeds[n].float()
        return space_time_weights(key[None], seed[None], self._affinity)[0]
