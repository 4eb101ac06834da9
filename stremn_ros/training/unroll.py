"""The segmentation network run over a clip with its memory in the loop, differentiable.

The bank of ``memory.bank`` writes in place, which back-propagation cannot follow; this is the same
procedure on stacked tensors. test_unroll holds the two to the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..memory.rules import Rule
from ..memory.similarity import slot_similarity
from ..network import SegmentationNetwork, aggregate_logits, space_time_read


def unroll(
    network: SegmentationNetwork,
    frames: Tensor,
    labels: Tensor,
    objects: int,
    slots: int,
    rule: Rule,
) -> list[Tensor]:
    """Segments frames 1..T-1 of clips whose first masks are given.

    Args:
        frames: float [B, T, 3, H, W] in 0..255; labels: [B, H, W] of frame 0, with 0..O.
        objects: O; slots: K of the memory, the seed's included; rule: chooses what is fused.

    Returns:
        T - 1 tensors of aggregated logits [B, O + 1, H, W].
    """
    clips, length = frames.shape[:2]
    height, width = frames.shape[-2:]
    query = network.encode_query(frames.flatten(0, 1))
    h, w = query.key.shape[-2:]

    def at(tensor: Tensor, t: int) -> Tensor:
        """Frame t's rows, repeated for each object: [B * O, ...]."""
        row = tensor.unflatten(0, (clips, length))[:, t]
        return row.repeat_interleave(objects, dim=0) if objects > 1 else row

    masks = F.one_hot(labels.long(), objects + 1)[..., 1:].movedim(-1, 1).float()
    memory = _ClipMemory(network, slots, rule)
    results = []
    for t in range(1, length):
        image = frames[:, t - 1].repeat_interleave(objects, dim=0)
        others = masks.sum(dim=1, keepdim=True) - masks
        pair = torch.stack([masks, others], dim=2).flatten(0, 1)
        template = network.encode_memory(image, pair, at(query.stride16, t - 1))
        memory.remember(template, at(query.key, t - 1))
        read = memory.read(at(query.key, t))
        read = read.transpose(1, 2).unflatten(2, (h, w))
        logits = network.decode(read, at(query.value, t), at(query.skip8, t), at(query.skip4, t))
        logits = F.interpolate(logits, size=(height, width), mode="bilinear")
        result = aggregate_logits(logits.view(clips, objects, height, width))
        results.append(result)
        masks = result.detach().softmax(dim=1)[:, 1:]
    return results


class _ClipMemory:
    """Slots of all objects of a batch of clips, oldest first; slot 0 is the seed and locked."""

    def __init__(self, network: SegmentationNetwork, slots: int, rule: Rule) -> None:
        self.network, self.slots, self.rule = network, slots, rule
        self.templates: Tensor | None = None  # [N, n, C, h, w]
        self.keys: Tensor | None = None  # [N, n, hw, Ck]

    def remember(self, template: Tensor, image_key: Tensor) -> None:
        key = _cells(self.network.memory_key(template, image_key))
        if self.templates is None or self.keys is None:
            self.templates, self.keys = template[:, None], key[:, None]
            return
        if self.templates.shape[1] == self.slots:
            self._make_room()
        self.templates = torch.cat([self.templates, template[:, None]], dim=1)
        self.keys = torch.cat([self.keys, key[:, None]], dim=1)

    def _make_room(self) -> None:
        assert self.templates is not None
        assert self.keys is not None
        count, used = self.templates.shape[:2]
        rows = torch.arange(count)
        if used == 2:  # the seed and one more: nothing to distil it into
            self.templates, self.keys = self.templates[:, :1], self.keys[:, :1]
            return
        with torch.no_grad():
            unlocked = self.keys[:, 1:]
            table = slot_similarity(unlocked[:, :, None], unlocked[:, None]).cpu().numpy()
        chosen = [self.rule.choose(table[n]) for n in range(count)]
        templates, keys = self.templates, self.keys
        for step in range(max(len(pairs) for pairs in chosen)):
            i = torch.tensor([pairs[step][0] + 1 for pairs in chosen])
            j = torch.tensor([pairs[step][1] + 1 for pairs in chosen])
            fused = self.network.fusion(templates[rows, i], templates[rows, j])
            here = (torch.arange(used)[None] == j[:, None]).to(templates.device)
            templates = torch.where(here[..., None, None, None], fused[:, None], templates)
            if self.network.memory_key_head is not None:
                fused_key = _cells(self.network.memory_key_head(fused))
                keys = torch.where(here[..., None, None], fused_key[:, None], keys)
        kept = torch.tensor([[s for s in range(used) if s != pairs[0][0] + 1] for pairs in chosen])
        self.templates, self.keys = templates[rows[:, None], kept], keys[rows[:, None], kept]

    def read(self, query_key: Tensor) -> Tensor:
        assert self.templates is not None
        assert self.keys is not None
        count, used = self.templates.shape[:2]
        values = self.network.memory_value(self.templates.flatten(0, 1))
        values = _cells(values).unflatten(0, (count, used)).flatten(1, 2)
        return space_time_read(
            _cells(query_key),
            self.keys.flatten(1, 2),
            values,
            affinity=self.network.config.affinity,
        )


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
