"""Motions as tensors in the memory's rows, from where snapshots and forks have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from stremn_ros.gating.motion import SIZE, Motion

Carried = dict[str, Tensor]  # name -> [objects, ...]


def carried_shapes(size: tuple[int, int], cells: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """What is carried of each object, by name.

    size: rows and columns of its mask. cells: of a template.
    """
    return {"place": (1, *size), "motion": (SIZE,), "seeded": (1, *cells), "usual": (1,)}


def motions_of(carried: Mapping[str, Tensor], rows: slice) -> list[Motion | None]:
    """Of the objects of these rows; None of one that was not seen in the frame before."""
    places = carried["place"][rows, 0].cpu().numpy().astype(np.uint8)
    packed = carried["motion"][rows].cpu().numpy()
    return [Motion.unpacked(*each) for each in zip(places, packed, strict=True)]


def packed_motions(motions: Sequence[Motion | None], like: Mapping[str, Tensor]) -> Carried:
    """What the memory carries of motions; all zero of None.

    like: what it carries now, for the size of a mask and the device.
    """
    # In NumPy: a default type or device of torch that another library set does not matter.
    places = np.zeros((len(motions), *like["place"].shape[1:]), np.float32)
    packed = np.zeros((len(motions), SIZE), np.float32)
    for n, motion in enumerate(motions):
        if motion is not None:
            places[n, 0] = motion.mask
            packed[n] = motion.packed()
    device = like["place"].device
    return {
        "place": torch.from_numpy(places).to(device),
        "motion": torch.from_numpy(packed).to(device),
    }
