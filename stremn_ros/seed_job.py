"""Seeds in parts: compared with what is followed, encoded object by object, written to the memory.

In between frames may be segmented, so that a seed of many objects does not hold up a stream.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.errors import InputError
from stremn_ros.frame_reader import FrameReader, SeenFrame, Template
from stremn_ros.imaging.masks import ids_in
from stremn_ros.imaging.overlap import REST_DEPTH, Overlap, depth, is_cut, overlaps
from stremn_ros.imaging.resize import resize, too_small
from stremn_ros.imaging.sizes import whole_number
from stremn_ros.object_states import ObjectStates
from stremn_ros.results import MAX_ID

log = logging.getLogger(__name__)


@dataclass
class SeedJob:
    """A seed on its way into the memory; see ``Segmenter.begin_seed``.

    Attributes:
        ids: that will be seeded, in the order of the mask's.
        overlaps: with objects that are followed and are not in the seed themselves.
        forget: objects that are forgotten when this one is finished; to be set before the steps.
        masks: [n, H, W] of the ids, at the processing size.
        seen: a copy of the frame that it is of; frame: that frame itself.
        templates: of the ids, known after the steps; rests: of each object that is cut into, a
            template of what is left, and whether it starts again.
        mirrored: the mirror image of the frame, where the options ask for it; mirrors: templates
            of the ids in it.
    """

    ids: list[int]
    overlaps: list[Overlap]
    masks: Tensor
    seen: SeenFrame
    frame: SeenFrame
    forget: set[int] = field(default_factory=set)
    templates: dict[int, Template] = field(default_factory=dict)
    mirrored: SeenFrame | None = None
    mirrors: dict[int, Template] = field(default_factory=dict)
    rests: dict[int, tuple[Template, bool]] = field(default_factory=dict)

    def rename(self, seeded: int, tracked: int) -> None:
        """Seeds an object that is followed in the place of the id in the mask; before the steps."""
        self.ids[self.ids.index(seeded)] = tracked
        self.overlaps = [
            each.by({seeded: tracked}) for each in self.overlaps if each.tracked != tracked
        ]

    def spare(self, tracked: Sequence[int]) -> None:
        """Leaves their pixels to objects that are followed; before the steps."""
        for object_id in tracked:
            self.masks = self.masks * (1.0 - self.seen.probabilities[object_id])

    def drop(self, object_id: int) -> None:
        """Gives up one of the ids; after the steps."""
        self.ids.remove(object_id)

    def warn(self) -> None:
        """Logs overlaps that nobody will decide about."""
        for overlap in self.overlaps:
            if overlap.same or overlap.inside:
                log.warning(
                    "the seed of object %d takes %.0f %% of the pixels of object %d (IoU %.2f), of "
                    "which little or nothing is left: is it the same object?",
                    overlap.seeded,
                    100 * overlap.covered,
                    overlap.tracked,
                    overlap.iou,
                )

    @property
    def cut_ids(self) -> list[int]:
        """The objects followed that it cuts into; known after the steps."""
        return list(self.rests)


class Seeds:
    """Writes seeds into the memory, and takes the pixels that they cover from other objects."""

    def __init__(self, reader: FrameReader, states: ObjectStates) -> None:
        self._reader, self._states = reader, states
        # objects of which a seed left nothing: its id, and their updates until then
        self._hidden: dict[int, tuple[int, int]] = {}

    def begin(
        self,
        frame: NDArray[np.uint8],
        labels: NDArray[Any],
        wanted: list[int],
        newest: bool = True,
    ) -> SeedJob:
        """Compares the wanted ids of a label mask [H, W] with the objects that are followed.

        newest: no other frame comes between the last one segmented and this one.
        """
        seen = self._reader.look(frame, newest)
        masks = self._resized([labels == value for value in wanted], seen)
        seeds = _small(labels * np.isin(labels, wanted), seen)
        height, width = seen.image.shape[-2:]
        if note := too_small(labels, (height, width), wanted):
            log.warning("%s", note)
        copy = seen.copy()
        found = overlaps(seeds, self._labels(copy), wanted)
        return SeedJob(wanted, found, masks, copy, seen)

    def steps(self, job: SeedJob, mirror: bool = False) -> Iterator[None]:
        """Encodes the objects one by one, and what is left of others; yields in between.

        mirror: encodes them in the mirror image of the frame, too, where a slot can be locked.
        """
        seen, masks = job.seen, job.masks
        claimed = masks.amax(dim=0)
        free = 1.0 - claimed
        taken = {*job.ids, *job.forget}
        others = torch.zeros_like(claimed)
        for object_id, probability in seen.probabilities.items():
            if object_id not in taken:
                others += probability * free
        rest = masks.sum(dim=0) + others
        for n, (object_id, mask) in enumerate(zip(job.ids, masks, strict=True)):
            if n:
                yield
            job.templates[object_id] = self._reader.encode(seen, mask, rest - mask)
            if mirror and self._reader.memory.most_locked > 1:
                yield
                if job.mirrored is None:
                    job.mirrored = self._reader.mirrored(seen)
                job.mirrors[object_id] = self._reader.encode(
                    job.mirrored, mask.flip(-1), (rest - mask).flip(-1)
                )
        for object_id in self._cut(seen, claimed, taken):
            yield
            job.rests[object_id] = self._rest(seen, claimed, taken, object_id)

    def learn(self, job: SeedJob) -> None:
        """Locks what was encoded into the memory of objects that are followed, and no more."""
        with self._reader.stages.scope():
            for object_id in job.ids:
                self._reader.learn(object_id, job.templates[object_id], job.seen)

    def correct(self, job: SeedJob) -> None:
        """Objects that are followed go on from where the job has them, and forget nothing."""
        reader = self._reader
        with reader.stages.scope():
            for object_id in job.ids:
                reader.place(object_id, job.templates[object_id])
                self._states.unseen[object_id] = 0
                self._hidden.pop(object_id, None)
            rests = {number: (template, False) for number, (template, _) in job.rests.items()}
            self._write_rests(job.seen, rests, job.overlaps)
            for number, (_, again) in job.rests.items():
                if again:  # enough is left of it
                    self._hidden.pop(number, None)
        self._claim(job)

    def finish(self, job: SeedJob) -> None:
        """Writes what was encoded into the memory."""
        reader = self._reader
        with reader.stages.scope():
            for object_id in job.ids:
                reader.start(object_id, job.templates[object_id], job.seen)
                if object_id in job.mirrors and job.mirrored is not None:
                    reader.learn(object_id, job.mirrors[object_id], job.mirrored)
                self._states.unseen[object_id] = 0
                self._hidden.pop(object_id, None)
            self._write_rests(job.seen, job.rests, job.overlaps)
        self._claim(job)

    def _claim(self, job: SeedJob) -> None:
        """Takes the pixels from the objects of a frame that is segmented and not remembered yet."""
        if self._reader.frame is job.frame:
            job.frame.claim(job.masks, {*job.ids, *job.rests})

    def give_way(
        self, frame: NDArray[np.uint8], labels: NDArray[Any], ids: Collection[int]
    ) -> list[int]:
        """Takes the pixels of labels [H, W] from those of the ids that lie there."""
        left_alone = self._reader.memory.rows.keys() - set(ids)
        seen = self._reader.look(frame, gated=True)
        claimed = self._resized([labels > 0], seen)[0]
        cut = self._cut(seen, claimed, left_alone)
        rests = {number: self._rest(seen, claimed, left_alone, number) for number in cut}
        self._write_rests(seen, rests, overlaps(_small(labels, seen), self._labels(seen)))
        return sorted(rests)

    def clear(self) -> None:
        """All objects were forgotten."""
        self._hidden.clear()

    def forget(self, object_id: int) -> None:
        """An object starts again, or is another."""
        self._hidden.pop(object_id, None)

    def rename(self, object_id: int, new: int) -> None:
        """An object, also one that took the pixels of others, has another id."""

        def named(number: int) -> int:
            return new if number == object_id else number

        self._hidden = {
            named(hidden): (named(taker), updates)
            for hidden, (taker, updates) in self._hidden.items()
        }

    def removed(self, object_id: int) -> None:
        """An object was removed: those of which its seed left nothing have their pixels again."""
        memory = self._reader.memory
        self.forget(object_id)
        for hidden, (taker, updates) in list(self._hidden.items()):
            if taker == object_id:
                del self._hidden[hidden]
                if memory.updates(hidden) == updates:
                    memory.drop_newest(hidden)

    def _labels(self, seen: SeenFrame) -> NDArray[np.uint8]:
        return self._states.labels(seen, self._reader.options)

    def _resized(self, masks: Sequence[NDArray[np.bool_]], seen: SeenFrame) -> Tensor:
        """Masks [H, W] of a frame's size as float [n, h, w] at the processing size."""
        height, width = seen.image.shape[-2:]
        parts = [resize(mask.astype(np.float32), (height, width)) for mask in masks]
        return torch.from_numpy(np.stack(parts)).to(self._reader.stages.device)

    def _cut(self, seen: SeenFrame, claimed: Tensor, skipped: Collection[int]) -> list[int]:
        """Objects, but those skipped, that are cut into where pixels [H, W] are claimed (0..1)."""
        labels, given = self._labels(seen), (claimed >= 0.5).cpu().numpy()
        return [
            object_id
            for object_id in seen.probabilities
            if object_id not in skipped and is_cut(labels == object_id, given)
        ]

    def _rest(
        self, seen: SeenFrame, claimed: Tensor, skipped: Collection[int], object_id: int
    ) -> tuple[Template, bool]:
        """A template of what is left of an object, and whether that is enough to start again from.

        Where it is not, the template says that nothing is there: else the object and the one that
        took its pixels would fight for them.
        """
        free = 1.0 - claimed
        left = seen.probabilities[object_id] * free
        others = claimed + sum(
            probability * free
            for number, probability in seen.probabilities.items()
            if number != object_id and number not in skipped
        )
        mask = self._labels(seen) == object_id
        again = depth(mask & (claimed < 0.5).cpu().numpy()) > REST_DEPTH
        return self._reader.encode(seen, left, others), again

    def _write_rests(
        self,
        seen: SeenFrame,
        rests: Mapping[int, tuple[Template, bool]],
        found: Sequence[Overlap],
    ) -> None:
        """found: overlaps of what took the pixels with the objects, the largest first."""
        memory = self._reader.memory
        for object_id, (template, again) in rests.items():
            if object_id not in memory.rows:  # of a fork, or removed meanwhile
                continue
            if again:
                self._reader.start(object_id, template, seen)
                continue
            memory.remember([object_id], template.values[None], seen.seen.key)
            self._reader.rest(object_id, template)
            takers = [overlap.seeded for overlap in found if overlap.tracked == object_id]
            if takers:
                self._hidden[object_id] = takers[0], memory.updates(object_id)


def _small(labels: NDArray[Any], seen: SeenFrame) -> NDArray[np.uint8]:
    """A label mask [H, W] of a frame's size at the processing size."""
    height, width = seen.image.shape[-2:]
    small = cv2.resize(labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.uint8)


def wanted_ids(labels: NDArray[Any], ids: Sequence[int] | None) -> list[int]:
    """The ids of a label mask, or those of them that are given; InputError where there are none."""
    present = ids_in(labels)
    if not present:
        raise InputError("the mask is all zero; draw each object with a value from 1 to 255")
    if ids is None:
        return present
    if isinstance(ids, str) or not np.iterable(ids):
        raise InputError(f"ids is {ids!r}; it must be a list of ids, or None for all of the mask")
    wanted = sorted({whole_number(value, "one of the ids", 1, MAX_ID) for value in ids})
    if absent := [value for value in wanted if value not in present]:
        raise InputError(f"ids {absent} do not occur in the mask, which holds {present}")
    if not wanted:
        raise InputError(f"ids is empty; name one or more of {present}, or None for all")
    return wanted
