"""A network with its memory, which reads frames: what is remembered of one, and where in it the
objects are that are followed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.gating import (
    Familiarity,
    Gate,
    Likeness,
    Motion,
    carried_shapes,
    motions_of,
    packed_motions,
)
from stremn_ros.imaging.sizes import STRIDE, fitted_size
from stremn_ros.memory import RULES, GrowingMemory, SlotMemory
from stremn_ros.memory.growing import LINEAR_FRAMES
from stremn_ros.network import Decoded, Seen, aggregate_logits, kept_shares, object_probabilities
from stremn_ros.options import SegmenterOptions
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.staging import make_stager

PLACE_STRIDE = 4  # of the masks that the next frame gets to know


@dataclass
class SeenFrame:
    """A frame that was read: what remembering and seeding need of it, at the processing size."""

    source: NDArray[np.uint8]
    image: Tensor  # [1, 3, H, W], 0..255
    seen: Seen  # of its query
    probabilities: dict[int, Tensor]  # id -> [H, W]; objects whose template is still to be written
    quality: dict[int, float] = field(default_factory=dict)  # by id; empty where none is predicted
    # what the memory learns of an object where that is not its probability
    learned: dict[int, Tensor] = field(default_factory=dict)
    # what the next frame gets to know of this one, for the objects of these rows; 0: of none
    rows: list[int] = field(default_factory=list)
    carried: dict[str, Tensor] = field(default_factory=dict)  # name -> [rows, ...]

    def forget(self, object_id: int) -> None:
        """Nothing of this object is written to the memory any more."""
        self.probabilities.pop(object_id, None)
        self.learned.pop(object_id, None)
        self.rows = [0 if row == object_id else row for row in self.rows]

    def rename(self, object_id: int, new: int) -> None:
        """Gives an object another id."""
        if object_id in self.probabilities:
            self.probabilities[new] = self.probabilities.pop(object_id)
        if object_id in self.quality:
            self.quality[new] = self.quality.pop(object_id)
        if object_id in self.learned:
            self.learned[new] = self.learned.pop(object_id)
        self.rows = [new if row == object_id else row for row in self.rows]

    def claim(self, masks: Tensor, owners: Collection[int]) -> None:
        """Objects that were seeded take their pixels, [n, H, W], from those that are in this frame.

        Nothing is written any more of the owners of new templates.
        """
        free = 1.0 - masks.amax(dim=0)
        self.probabilities, self.learned = (
            {
                object_id: probability * free
                for object_id, probability in maps.items()
                if object_id not in owners
            }
            for maps in (self.probabilities, self.learned)
        )
        self.rows = [0 if row in owners else row for row in self.rows]
        small = F.avg_pool2d(masks, PLACE_STRIDE)
        if "place" in self.carried:
            self.carried["place"] = self.carried["place"] * (small.amax(dim=0) < 0.5)
        if "previous" in self.carried:
            stays = torch.tensor([row > 0 for row in self.rows], device=masks.device)
            own = self.carried["previous"][:, 0] * stays[:, None, None] * (1.0 - small.amax(dim=0))
            others = own.sum(dim=0) - own + small.sum(dim=0)
            self.carried["previous"] = torch.stack([own, others], dim=1)

    def copy(self) -> SeenFrame:
        """With tensors of its own: a runtime may overwrite in its next call what it returned."""
        return SeenFrame(
            self.source,
            self.image.clone(),
            self.seen.clone(),
            {object_id: value.clone() for object_id, value in self.probabilities.items()},
            dict(self.quality),
            {object_id: value.clone() for object_id, value in self.learned.items()},
            list(self.rows),
            {name: value.clone() for name, value in self.carried.items()},
        )


@dataclass(frozen=True)
class Template:
    """What is encoded of one object in a frame, to be written into its memory.

    Attributes:
        values: [C, h, w] for its slots.
        place: [2, 4h, 4w], its mask and that of all others at stride 4.
    """

    values: Tensor
    place: Tensor


class FrameReader:
    """Reads frames against the memory of the objects that are followed.

    Attributes:
        stages: the network on a runtime. options: of the segmenter; replaced as a whole.
        memory: of the objects; made again where the processing size changes.
        size: the processing size, (rows, columns); None before the first frame.
        frame: the last one segmented, until it is remembered.
        query_key: of the last frame, to look inside.
    """

    def __init__(self, stages: TorchStages, options: SegmenterOptions) -> None:
        self.stages, self.options = stages, options
        self._stager = make_stager(stages.device)
        # a small bank shows at once whether the rule is right; the real one is made when the first
        # frame tells the size
        self.memory = self._new_memory((STRIDE, STRIDE), 1)
        self._memory_size: tuple[int, int] | None = None
        self.size: tuple[int, int] | None = None
        self.frame: SeenFrame | None = None
        self.query_key: Tensor | None = None

    def reset(self) -> None:
        """Forgets every object; the next frame read decides the processing size again."""
        self.memory.reset()
        self.frame = self.query_key = self.size = None

    def memory_of(self, size: tuple[int, int]) -> SlotMemory:
        """The memory, where it is of this processing size, else a new one."""
        return self.memory if self._memory_size == size else self._new_memory(size)

    def use(self, size: tuple[int, int], memory: SlotMemory | None = None) -> None:
        """Fixes the processing size. memory: of that size; else the one that is there, or a new."""
        if size != self.size:
            self.query_key = None  # of the last frame read, in cells of another size
        self.memory = self.memory_of(size) if memory is None else memory
        self.size = self._memory_size = size

    def _new_memory(self, size: tuple[int, int], objects: int = 0) -> SlotMemory:
        config, network = self.stages.config, self.stages.network
        scored = network.pair_scorer is not None
        rule = RULES.get(self.options.update_rule)
        grown: dict[str, Any] = {}
        if rule is not None and rule.grows:
            grown["keep_every"] = max(1, round(LINEAR_FRAMES / self.options.update_every))
        cells = (size[0] // STRIDE, size[1] // STRIDE)
        places = (size[0] // PLACE_STRIDE, size[1] // PLACE_STRIDE)
        return (GrowingMemory if grown else SlotMemory)(
            objects or self.options.max_objects,
            self.options.slots,
            (config.template_channels, *cells),
            config.memory_key_channels,
            config.value_channels,
            fuse=self.stages.fuse,
            project=self.stages.project,
            compare=self.stages.compare,
            score=self.stages.score if scored else None,
            rule=self.options.update_rule,
            input_to_memory=self.options.input_to_memory,
            carried={**config.carried(cells), **carried_shapes(places, cells)},
            device=self.stages.device,
            **grown,
        )

    def _prepare(self, frame: NDArray[np.uint8]) -> Tensor:
        """[1, 3, H, W] float in 0..255 at the processing size, which the first frame fixes."""
        if self.size is None:
            self.use(fitted_size(self.options.processing_size, frame.shape[:2]))
            assert self.size is not None
        return self._stager(frame, self.size)

    def look(self, frame: NDArray[np.uint8], gated: bool = False) -> SeenFrame:
        """The frame's query and the masks that tracked objects have in it, for a seed.

        gated: as of ``read``.
        """
        last = self.frame
        if last is not None and last.source is frame:
            filled_again = not torch.equal(self._prepare(frame), last.image)  # by its driver
            if not filled_again:
                return last
        if self.memory.rows:
            seen, _ = self.read(frame, gated)
            return seen
        image = self._prepare(frame)
        query = self.stages.encode_query(image)
        return SeenFrame(frame, image, query.seen, {})

    def read(self, frame: NDArray[np.uint8], gated: bool = False) -> tuple[SeenFrame, Tensor]:
        """Reads the memory: the frame with all objects' probabilities, and logits at stride 4.

        The logits [O + 1, h, w] are aggregated; the probabilities are at the processing size.

        gated: the frame comes after the one last remembered, so objects are where they can be.
        """
        image = self._prepare(frame)
        seen, decoded = self._segment(image)
        self.query_key = seen.key
        ids, found = self.memory.ids, decoded.logits[:, 0]
        seeds = [self.memory.seed_key(each) for each in ids]
        likeness = Likeness(seen.key, seeds, self.stages.config.affinity)
        gate = None
        if gated and self.options.gate > 0.0:
            gate = Gate(found, self.memory.carried, self.options.gate, likeness)
        own = found if gate is None else gate.logits
        logits = aggregate_logits(own)
        probabilities = object_probabilities(logits, image.shape[-2:])
        carried = {} if gate is None else gate.carried(logits)
        if "previous" in self.memory.carried:
            share = logits.softmax(dim=0)[1:]
            carried["previous"] = torch.stack([share, share.sum(dim=0) - share], dim=1)
        if decoded.hidden is not None:
            carried["hidden"] = decoded.hidden
        quality = {}
        if decoded.quality is not None:
            # the head judges each mask alone: what other objects took from it is not found, and an
            # object that lost most of it is another's duplicate or hidden by it
            kept = kept_shares(own, logits)
            judged = (decoded.quality.sigmoid() * kept * (kept >= 0.5)).tolist()
            if gate is not None:
                judged = gate.judged(judged)
            if gated:
                familiarity = Familiarity(likeness, self.memory.carried, logits)
                judged = familiarity.judged(judged, self.options.return_score)
                carried |= familiarity.carried()
            quality = dict(zip(ids, judged, strict=True))
        by_id = dict(zip(ids, probabilities, strict=True))
        more = {} if gate is None else gate.learned(probabilities)
        learned = {ids[n]: maps for n, maps in more.items()}
        return SeenFrame(frame, image, seen, by_id, quality, learned, ids, carried), logits

    def _segment(self, image: Tensor) -> tuple[Seen, Decoded]:
        """What is remembered of the frame, and the masks of all objects."""
        memory = self.memory.contents()
        count = len(self.memory.rows)
        carried = {name: value[:count] for name, value in self.memory.carried.items()}
        previous, hidden = carried.get("previous"), carried.get("hidden")
        whole = self.stages.segment(image, *memory, previous, hidden)
        if whole is not None:
            return whole
        query = self.stages.encode_query(image)
        read = self.stages.read(query.key, *memory)
        return query.seen, self.stages.decode(read, query, previous, hidden)

    def encode(self, seen: SeenFrame, mask: Tensor, others: Tensor) -> Template:
        """Of one object's mask and that of all others, each [H, W]."""
        pair = torch.stack([mask, others])[None]
        with self.stages.scope():
            values = self.stages.encode_memory(seen.image, pair, seen.seen)[0].clone()
        return Template(values, F.avg_pool2d(pair, PLACE_STRIDE)[0])

    def mirrored(self, seen: SeenFrame) -> SeenFrame:
        """The mirror image of a frame, left for right; its objects are not looked for."""
        image = seen.image.flip(-1)
        with self.stages.scope():
            query = self.stages.encode_query(image)
        return SeenFrame(seen.source, image, query.seen.clone(), {})

    def start(self, object_id: int, template: Template, seen: SeenFrame) -> None:
        """The object's memory holds this template only, and its place in that frame."""
        self.memory.seed(object_id, template.values, seen.seen.key[0])
        self._note_seed(object_id, template)
        self.place(object_id, template)

    def learn(self, object_id: int, template: Template, seen: SeenFrame) -> None:
        """The object's memory holds this template, too."""
        self.memory.learn(object_id, template.values, seen.seen.key[0])
        if self.memory.most_locked == 1:  # it took the place of the seed
            self._note_seed(object_id, template)

    def _note_seed(self, object_id: int, template: Template) -> None:
        """Where the object is in the frame of its seed."""
        place = F.avg_pool2d(template.place[:1], STRIDE // PLACE_STRIDE)
        self.memory.carry([object_id], seeded=place[None])

    def place(self, object_id: int, template: Template) -> None:
        """The object was last seen in the place of a template."""
        self.rest(object_id, template)
        if "hidden" in self.memory.carried:
            self.memory.carry([object_id], hidden=self.stages.start(template.values[None]))

    def rest(self, object_id: int, template: Template) -> None:
        """The object has only the place of a template left of where it was last seen."""
        mask = (template.place[0] > 0.5).cpu().numpy().view(np.uint8)
        known = self.options.gate > 0.0 and mask.any()
        carried = packed_motions([Motion.of(mask) if known else None], self.memory.carried)
        if "previous" in self.memory.carried:
            carried["previous"] = template.place[None]
        self.memory.carry([object_id], **carried)

    def forget_motion(self) -> None:
        """The next frame is not compared with this one."""
        self.memory.carried["motion"].zero_()
        if self.frame is not None:
            for name in ("place", "motion"):
                self.frame.carried.pop(name, None)

    def miss(self, seen: SeenFrame, n: int) -> None:
        """The object of row n of a frame that was read does not count as seen."""
        if "previous" in seen.carried:
            seen.carried["previous"][n, 0] = 0.0
        before = self.memory.carried
        if "usual" in seen.carried:
            seen.carried["usual"][n] = before["usual"][n]
        if "motion" in seen.carried:
            (motion,) = motions_of(before, slice(n, n + 1))
            for name, value in packed_motions([motion and motion.unseen()], before).items():
                seen.carried[name][n] = value[0]
