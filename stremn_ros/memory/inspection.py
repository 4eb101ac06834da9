"""A look inside a memory: what each slot holds, and how much a frame takes from each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.memory.bank import NEW, SlotMemory, Update
from stremn_ros.memory.similarity import selective_terms


def slot_attention(
    query_key: Tensor,
    keys: Tensor,
    mask: Tensor | None,
    cells: int,
    affinity: str,
    nearest: int = 0,
) -> Tensor:
    """How the attention of a read (Eq. 10) divides among the slots.

    Args:
        query_key: [n, Ck], keys of n cells of the query.
        keys, mask: [N, M, Ck] and additive [N, 1, M] or None, as ``SlotMemory.contents`` has them;
            M = slots * cells. affinity, nearest: as in ``network.space_time_read``.

    Returns:
        [N, n, slots]; sums to one over the slots. Holds [N, n, M] for a moment.
    """
    channels = query_key.shape[-1]
    if affinity == "selective":
        query_key, keys = selective_terms(query_key, keys)
        channels = (channels - 1) // 2
    scores = query_key @ keys.transpose(1, 2)
    if affinity == "l2":
        scores = 2.0 * scores - keys.square().sum(dim=-1)[:, None]
    scores = scores / math.sqrt(channels)
    if mask is not None:
        scores = scores + mask
    if nearest:
        least = scores.topk(min(nearest, scores.shape[2]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    shares: Tensor = scores.softmax(dim=-1).unflatten(2, (-1, cells))
    return shares.sum(dim=-1)


@dataclass(frozen=True)
class SlotContent:
    """One slot of an object.

    Attributes:
        slot: its place in the bank. born: the update that wrote it, 0 for what was given: the seed,
            its mirror image, masks that were learned.
        fusions: how many other templates were distilled into it, directly or with what it absorbed.
        attention: share 0..1 of the last frame's attention, mean over the cells looked at; None
            where no frame was read since.
    """

    slot: int
    born: int
    fusions: int
    attention: float | None


@dataclass(frozen=True)
class ObjectMemory:
    """The memory of one object: its slots, the seed first, then oldest to newest.

    similarity: S(i, j) between the slots in this order (Eq. 1), [] for a memory without a table;
    0 where it was never needed. updates: since the seed. last_update: None before the first.
    """

    id: int
    updates: int
    slots: list[SlotContent]
    similarity: list[list[float]]
    last_update: Update | None

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        last = self.last_update
        return {
            "id": self.id,
            "updates": self.updates,
            "slots": [vars(slot) for slot in self.slots],
            "similarity": self.similarity,
            "last_update": None
            if last is None
            else {"number": last.number, "pairs": [list(p) for p in last.pairs], "slot": last.slot},
        }

    def text(self) -> str:
        """In a line: each slot's update, what it absorbed and its attention; the last fusion."""
        parts = []
        for n, content in enumerate(self.slots):
            part = f"update {content.born}" if content.born else "given" if n else "seed"
            if content.fusions:
                part += f" +{content.fusions}"
            if content.attention is not None:
                part += f" {100 * content.attention:.0f}%"
            parts.append(part)
        line = f"{self.updates} updates; " + ", ".join(parts)
        if self.last_update is not None and self.last_update.pairs:
            fused = ", ".join(
                f"{'new' if i == NEW else f'slot {i}'} into slot {j}"
                for i, j in self.last_update.pairs
            )
            line += f"; last fused {fused}"
        return line


def describe(memory: SlotMemory, attention: Tensor | None = None) -> list[ObjectMemory]:
    """What each object's slots hold.

    Args:
        attention: [N, slots] of the objects by row, or None.
    """
    found = []
    for object_id in sorted(memory.rows):
        row, order = memory.rows[object_id], memory.order(object_id)
        table: list[list[float]] = []
        if memory.similarity.shape[1]:
            part = memory.similarity[row][order][:, order]
            np.fill_diagonal(
                part, 1.0
            )  # of a template with itself, whether it was asked for or not
            table = [[round(float(value), 4) for value in line] for line in part]
        shares = None if attention is None else attention[row].tolist()
        slots = [
            SlotContent(
                slot,
                int(memory.born[row, slot]),
                int(memory.fusions[row, slot]),
                round(shares[slot], 4) if shares is not None and slot < len(shares) else None,
            )
            for slot in order
        ]
        found.append(
            ObjectMemory(
                object_id,
                memory.updates(object_id),
                slots,
                table,
                memory.last_update.get(object_id),
            )
        )
    return found


def look_inside(
    memory: SlotMemory,
    key: Tensor | None,
    affinity: str,
    labels: NDArray[np.uint8] | None = None,
    cells: int = 0,
    nearest: int = 0,
) -> list[ObjectMemory]:
    """What each object's memory holds, and what a frame takes from each slot.

    Args:
        key: the frame's query key [1, C, h, w]; None: no frame was seen.
        affinity, nearest: of the network's read. labels, cells: as in ``Segmenter.look_inside``.
    """
    if key is None or not memory.rows:
        return describe(memory)
    h, w = key.shape[-2:]
    step = max(1, (h * w) // cells) if cells else 1
    keys, _, mask = memory.contents()
    query = key[0].flatten(1).T[::step]
    with torch.inference_mode():
        shares = slot_attention(query, keys, mask, h * w, affinity, nearest)
    attention = shares.mean(dim=1)
    if labels is not None:
        small = cv2.resize(labels, (w, h), interpolation=cv2.INTER_NEAREST).ravel()[::step]
        for object_id, row in memory.rows.items():
            own = torch.from_numpy(small == object_id)
            if own.any():
                attention[row] = shares[row, own.to(shares.device)].mean(dim=0)
    return describe(memory, attention)
