"""The segmentation network run over a clip with its memory in the loop, differentiable.

The bank of ``memory.bank`` writes in place, which back-propagation cannot follow; this is the same
procedure on stacked tensors. test_training holds the two to the same result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.imaging.sizes import STRIDE
from stremn_ros.memory.rules import Rule
from stremn_ros.memory.similarity import slot_similarity
from stremn_ros.network import Query, SegmentationNetwork, aggregate_logits, space_time_read
from stremn_ros.network.flow_prediction import FlowPredictionNetwork
from stremn_ros.network.prediction import PredictionNetwork
from stremn_ros.training.damage import MaskDamage

ABSENT = -20.0  # logit of an object that is not known yet


class Unrolled(NamedTuple):
    """Frames 1..T-1 of a batch of clips; after a run-in of n frames, frames n..T-1.

    logits: a tensor [B, O + 1, H, W] for each of these frames, aggregated. presence, quality:
    tensors [B, O] of logits, or none from a network without that head. given: [B, O] int, the frame
    whose mask each object was given with, T if none shows it; up to that frame its logits say that
    it is not there. It counts from the frame before the first of these, so it is negative where the
    mask was given earlier than that. matches: tensors [B, O, h, w], the share of each object in
    what each cell reads (0..1), from the true masks of the frames that are read; none unless asked
    for.
    """

    logits: list[Tensor]
    presence: list[Tensor]
    quality: list[Tensor]
    given: Tensor
    matches: list[Tensor]


def unroll(
    network: SegmentationNetwork,
    frames: Tensor,
    labels: Tensor,
    objects: int,
    slots: int,
    rule: Rule,
    input_to_memory: bool = False,
    update_every: int = 1,
    damage: MaskDamage | None = None,
    match: bool = False,
    run_in: int = 0,
) -> Unrolled:
    """Segments frames 1..T-1 of clips.

    Args:
        frames: float [B, T, 3, H, W] in 0..255.
        labels: [B, T, H, W] with 0..O. An object's mask is taken from the first frame that shows
            it, as YouTube-VOS has it; the rest is not looked at.
        objects: O; slots: K of the memory, the seed's included; rule: chooses what is fused.
            A ``scored`` rule chooses by Gumbel-Softmax while the network is in training mode, so
            that the scorer gets a gradient, and else the best pair. input_to_memory: see memory.
        update_every: the memory takes in every n-th frame, and those that show a new object.
        damage: of the masks that the memory and the next frame see; never of those that were given.
        match: give ``matches``, too.
        run_in: frames at the start that are followed without a gradient, and of which nothing is
            given.
    """
    clips, length = frames.shape[:2]
    height, width = frames.shape[-2:]
    learns = torch.is_grad_enabled()
    query = _encoded(network, frames, run_in)
    h, w = query.key.shape[-2:]

    def at(tensor: Tensor, t: int) -> Tensor:
        """Frame t's rows, repeated for each object: [B * O, ...]."""
        row = tensor.unflatten(0, (clips, length))[:, t]
        return row.repeat_interleave(objects, dim=0) if objects > 1 else row

    def with_others(masks: Tensor) -> Tensor:
        """Probabilities [B, O, ...] of objects -> [B * O, 2, ...], beside those of all others."""
        others = masks.sum(dim=1, keepdim=True) - masks
        return torch.stack([masks, others], dim=2).flatten(0, 1)

    truth = F.one_hot(labels.long(), objects + 1)[..., 1:].movedim(-1, 2).float()
    seen = truth.flatten(3).any(dim=3)
    given = torch.where(seen.any(dim=1), seen.int().argmax(dim=1), length)
    masks = truth[:, 0]
    previous = F.avg_pool2d(masks, 4)  # [B, O, 4h, 4w]
    hidden: Tensor | None = None
    memory = ClipMemory(network, slots, rule, input_to_memory)
    results, presences, qualities, matches = [], [], [], []
    for t in range(1, length):
        with torch.set_grad_enabled(learns and t >= run_in):
            seeded = (given == t - 1).flatten()
            if (t - 1) % update_every == 0 or bool(seeded.any()):
                image = frames[:, t - 1].repeat_interleave(objects, dim=0)
                seen_maps = (query.stride16, query.stride8, query.stride4)
                template = network.encode_memory(
                    image, with_others(masks), *(at(each, t - 1) for each in seen_maps)
                )
                places = cell_shares(truth[:, t - 1]).flatten(0, 1).flatten(1) if match else None
                there = (masks.flatten(2).amax(dim=2) > 0.5).flatten()
                memory.remember(template, at(query.key, t - 1), seeded, places, there)
                if network.sensory is not None and (hidden is None or bool(seeded.any())):
                    started = network.sensory.start(template)
                    if hidden is not None:
                        started = torch.where(seeded[:, None, None, None], started, hidden)
                    hidden = started
            read = memory.read(at(query.key, t))
            read = read.transpose(1, 2).unflatten(2, (h, w))
            decoded = network.decode(
                read,
                at(query.skip16, t),
                at(query.skip8, t),
                at(query.skip4, t),
                with_others(previous) if network.previous_mask is not None else None,
                hidden,
            )
            hidden = decoded.hidden
            unknown = (given >= t)[..., None, None]
            new = (given == t)[..., None, None]
            coarse = decoded.logits.view(clips, objects, *decoded.logits.shape[-2:])
            previous = aggregate_logits(coarse.detach().masked_fill(unknown, ABSENT))
            previous = previous.softmax(dim=1)[:, 1:]
            logits = F.interpolate(coarse, size=(height, width), mode="bilinear")
            result = aggregate_logits(logits.masked_fill(unknown, ABSENT))
            masks = result.detach().softmax(dim=1)[:, 1:]
            if damage is not None:
                previous, masks = damage(previous, masks)
            masks = _claimed(masks, truth[:, t], new)
            previous = _claimed(previous, F.avg_pool2d(truth[:, t], 4), new)
            if t < run_in:
                continue
            results.append(result)
            if decoded.presence is not None:
                presences.append(decoded.presence.view(clips, objects))
            if decoded.quality is not None:
                qualities.append(decoded.quality.view(clips, objects))
            if match:
                matches.append(memory.match(at(query.key, t)).view(clips, objects, h, w))
    return Unrolled(results, presences, qualities, given - max(run_in - 1, 0), matches)


def _encoded(network: SegmentationNetwork, frames: Tensor, run_in: int) -> Query:
    """What the query encoder gives for frames [B, T, 3, H, W], as rows [B * T, ...]; a gradient
    reaches it from frame ``run_in`` on."""
    if not run_in:
        return network.encode_query(frames.flatten(0, 1))
    with torch.no_grad():
        first = network.encode_query(frames[:, :run_in].flatten(0, 1))
    rest = network.encode_query(frames[:, run_in:].flatten(0, 1))
    clips = len(frames)

    def joined(first: Tensor, rest: Tensor) -> Tensor:
        parts = [maps.unflatten(0, (clips, -1)) for maps in (first, rest)]
        return torch.cat(parts, dim=1).flatten(0, 1)

    return Query(*(joined(*maps) for maps in zip(first, rest, strict=True)))


def cell_shares(masks: Tensor) -> Tensor:
    """The share of masks [..., H, W] in each cell of the network's maps: [..., h, w]."""
    shares = F.avg_pool2d(masks.reshape(-1, 1, *masks.shape[-2:]), STRIDE)
    return shares.view(*masks.shape[:-2], *shares.shape[-2:])


def _claimed(masks: Tensor, truth: Tensor, new: Tensor) -> Tensor:
    """Masks [B, O, ...] where new objects (bool [B, O, 1, 1]) have theirs from the truth."""
    claimed = (truth * new).amax(dim=1, keepdim=True)
    return torch.where(new, truth, masks * (1.0 - claimed))


Remembering = SegmentationNetwork | PredictionNetwork | FlowPredictionNetwork


class ClipMemory:
    """Slots of all objects of a batch of clips, oldest first; slot 0 is the seed and locked.

    Of the network it needs only what a memory is made of: ``fusion``, ``memory_key`` and its head,
    ``memory_value``, a ``pair_scorer`` or None, and the ``affinity`` of its configuration.
    """

    def __init__(
        self, network: Remembering, slots: int, rule: Rule, input_to_memory: bool = False
    ) -> None:
        self.network, self.rule, self.input_to_memory = network, rule, input_to_memory
        self.slots = slots if rule.limit is None else min(slots, rule.limit)
        self.templates: Tensor | None = None  # [N, n, C, h, w]
        self.keys: Tensor | None = None  # [N, n, hw, Ck]
        self.places: Tensor | None = None  # [N, n, hw], of the objects in the frames; where given

    def remember(
        self,
        template: Tensor,
        image_key: Tensor,
        seeded: Tensor,
        places: Tensor | None = None,
        there: Tensor | None = None,
    ) -> None:
        """Takes a frame in; rows that are ``seeded`` (bool [N]) with it begin with it.

        Args:
            places: [N, hw], the share of the object in each cell, for ``match``.
            there: bool [N], which objects are seen in the frame; the newest template of the others
                is kept twice. The bank takes in nothing of them. Here all rows need equally many
                templates, and a template that is kept twice changes a read only a little.
        """
        key = _cells(self.network.memory_key(template, image_key))
        if self.templates is None or self.keys is None:
            self.templates, self.keys = template[:, None], key[:, None]
            self.places = None if places is None else places[:, None]
            return
        if there is not None:
            keep = there | seeded
            template = torch.where(keep[:, None, None, None], template, self.templates[:, -1])
            key = torch.where(keep[:, None, None], key, self.keys[:, -1])
            if self.places is not None and places is not None:
                places = torch.where(keep[:, None], places, self.places[:, -1])
        if self.templates.shape[1] == self.slots and not self.rule.grows:
            if self.input_to_memory:
                self._absorb(template, key)
                return
            self._make_room()
        self.templates = torch.cat([self.templates, template[:, None]], dim=1)
        self.keys = torch.cat([self.keys, key[:, None]], dim=1)
        if self.places is not None and places is not None:
            self.places = torch.cat([self.places, places[:, None]], dim=1)
        if seeded.any():
            # The rest of such a row is of frames before its object was known. Copies of the seed in
            # its place read as one: a softmax over equal keys shares its weight among equal values
            # (of the nearest cells alone, as far as the copies leave room among them).
            rows = seeded[:, None, None, None]
            self.templates = torch.where(rows[..., None], template[:, None], self.templates)
            self.keys = torch.where(rows, key[:, None], self.keys)
            if self.places is not None and places is not None:
                self.places = torch.where(rows[..., 0], places[:, None], self.places)

    def _make_room(self) -> None:
        assert self.templates is not None
        assert self.keys is not None
        count, used = self.templates.shape[:2]
        rows = torch.arange(count)
        if used == 2:  # the seed and one more: nothing to distil it into
            self.templates, self.keys = self.templates[:, :1], self.keys[:, :1]
            if self.places is not None:
                self.places = self.places[:, :1]
            return
        with torch.no_grad():
            unlocked = self.keys[:, 1:, :, : self.network.config.key_channels]
            table = slot_similarity(unlocked[:, :, None], unlocked[:, None])
        if self.rule.scored:
            self._make_scored_room(table)
            return
        similarity = table.float().cpu().numpy()
        chosen = [self.rule.choose(similarity[n]) for n in range(count)]
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
        if self.places is not None:
            self.places = self.places[rows[:, None], kept]

    def _make_scored_room(self, table: Tensor) -> None:
        """As ``_make_room``, by every pair at once, of which the scorer's choice gets weight one.

        Straight through: forwards the weights are 1 and 0, backwards they are those of the Gumbel
        softmax, so the loss tells the scorer what each of the other pairs would have been worth.
        """
        assert self.templates is not None
        assert self.keys is not None
        assert self.network.pair_scorer is not None
        unlocked, keys = self.templates[:, 1:], self.keys[:, 1:]
        used = unlocked.shape[1]
        i, j = torch.triu_indices(used, used, 1)
        logits = self.network.pair_scorer(unlocked, table)[:, i, j]
        if self.network.training:
            weights = F.gumbel_softmax(logits, hard=True)
        else:
            weights = F.one_hot(logits.argmax(dim=1), len(i)).to(logits.dtype)
        fused = self.network.fusion(unlocked[:, i].flatten(0, 1), unlocked[:, j].flatten(0, 1))
        kept = torch.stack([torch.tensor([s for s in range(used) if s != gone]) for gone in i])
        here = (kept == j[:, None]).to(unlocked.device)[..., None, None]  # [pairs, used - 1, 1, 1]
        outcomes = torch.where(
            here[..., None], fused.unflatten(0, (-1, len(i)))[:, :, None], unlocked[:, kept]
        )
        key_outcomes = keys[:, kept]
        if self.network.memory_key_head is not None:
            fused_key = _cells(self.network.memory_key_head(fused)).unflatten(0, (-1, len(i)))
            key_outcomes = torch.where(here, fused_key[:, :, None], key_outcomes)
        chosen = torch.einsum("np,npschw->nschw", weights, outcomes)
        chosen_keys = torch.einsum("np,npsmc->nsmc", weights, key_outcomes)
        self.templates = torch.cat([self.templates[:, :1], chosen], dim=1)
        self.keys = torch.cat([self.keys[:, :1], chosen_keys], dim=1)

    def _absorb(self, template: Tensor, key: Tensor) -> None:
        """Fuses the new template into a slot (I2M, Eq. 9)."""
        assert self.templates is not None
        assert self.keys is not None
        assert self.rule.absorb is not None
        rows = torch.arange(len(template))
        with torch.no_grad():
            channels = self.network.config.key_channels
            near = slot_similarity(key[:, None, :, :channels], self.keys[:, 1:, :, :channels])
        j = torch.tensor([self.rule.absorb(row) + 1 for row in near.float().cpu().numpy()])
        fused = self.network.fusion(template, self.templates[rows, j])
        here = (torch.arange(self.templates.shape[1])[None] == j[:, None]).to(template.device)
        self.templates = torch.where(here[..., None, None, None], fused[:, None], self.templates)
        if self.network.memory_key_head is not None:
            fused_key = _cells(self.network.memory_key_head(fused))
            self.keys = torch.where(here[..., None, None], fused_key[:, None], self.keys)

    def read(self, query_key: Tensor) -> Tensor:
        assert self.templates is not None
        assert self.keys is not None
        count, used = self.templates.shape[:2]
        values = self.network.memory_value(self.templates.flatten(0, 1))
        values = _cells(values).unflatten(0, (count, used)).flatten(1, 2)
        # networks that predict have no such entry
        return self._read(query_key, values, getattr(self.network.config, "read_cells", 0))

    def match(self, query_key: Tensor) -> Tensor:
        """[N, hw]: what part of the cells that each cell reads is of the object, 0..1.

        Of all cells: where only the nearest ones count, no gradient tells a key to come near.
        """
        assert self.places is not None
        return self._read(query_key, self.places.flatten(1, 2)[..., None])[..., 0]

    def _read(self, query_key: Tensor, values: Tensor, nearest: int = 0) -> Tensor:
        assert self.keys is not None
        # never in half precision: distances of keys are small differences of large sums
        with torch.autocast(query_key.device.type, enabled=False):
            return space_time_read(
                _single(_cells(query_key)),
                _single(self.keys.flatten(1, 2)),
                _single(values),
                affinity=self.network.config.affinity,
                nearest=nearest,
            )


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
