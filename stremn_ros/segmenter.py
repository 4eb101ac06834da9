"""Online segmentation: one mask of an object in, a mask for every frame out.

    segmenter = Segmenter.load("segment_lite0")
    segmenter.seed(first_frame, first_mask)
    for frame in frames:
        result = segmenter.step(frame)

No ROS, no files but the model's and the snapshots it is told to save. Not thread-safe: one thread
owns a segmenter.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.errors import CapacityError, InputError, ModelError, UnknownObjectError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.masks import MAX_ID, checked_mask, drop_small_parts, label_mask
from stremn_ros.imaging.overlap import REST_DEPTH, Overlap, depth, is_cut, overlaps
from stremn_ros.imaging.sizes import (
    STRIDE,
    checked_size,
    fitted_size,
    resize,
    shape_text,
    size_is_possible,
    too_small,
)
from stremn_ros.memory import (
    RULES,
    GrowingMemory,
    ObjectMemory,
    SlotMemory,
    describe,
    slot_attention,
)
from stremn_ros.model_folder import SCORER_PREFIX, find_model, load_network
from stremn_ros.network import Decoded, Seen, aggregate_logits, object_probabilities
from stremn_ros.results import ObjectState as ObjectState  # their public place is here, too
from stremn_ros.results import SegmentResult as SegmentResult
from stremn_ros.results import TrackedObject as TrackedObject
from stremn_ros.runtime.choose import TorchStages, make_stages
from stremn_ros.runtime.staging import make_stager
from stremn_ros.snapshot import Snapshot, fingerprint

log = logging.getLogger(__name__)

PLACE_STRIDE = 4  # of the masks that the next frame gets to know
LINEAR_FRAMES = 5  # between two templates of the rule `linear`, as in STM


@dataclass
class _Frame:
    """A frame that was read: what remembering and seeding need of it, at the processing size."""

    source: NDArray[np.uint8]
    image: Tensor  # [1, 3, H, W], 0..255
    seen: Seen  # of its query
    probabilities: dict[int, Tensor]  # id -> [H, W]; objects whose template is still to be written
    quality: dict[int, float] = field(default_factory=dict)  # by id; empty where none is predicted
    # what the next frame gets to know of this one, for the objects of these rows; 0: of none
    rows: list[int] = field(default_factory=list)
    carried: dict[str, Tensor] = field(default_factory=dict)  # name -> [rows, ...]

    def forget(self, object_id: int) -> None:
        """Nothing of this object is written to the memory any more."""
        self.probabilities.pop(object_id, None)
        self.rows = [0 if row == object_id else row for row in self.rows]

    def rename(self, object_id: int, new: int) -> None:
        """Gives an object another id."""
        if object_id in self.probabilities:
            self.probabilities[new] = self.probabilities.pop(object_id)
        if object_id in self.quality:
            self.quality[new] = self.quality.pop(object_id)
        self.rows = [new if row == object_id else row for row in self.rows]

    def claim(self, masks: Tensor, owners: Collection[int]) -> None:
        """Objects that were seeded take their pixels, [n, H, W], from those that are in this frame.

        Nothing is written any more of the owners of new templates.
        """
        free = 1.0 - masks.amax(dim=0)
        self.probabilities = {
            object_id: probability * free
            for object_id, probability in self.probabilities.items()
            if object_id not in owners
        }
        self.rows = [0 if row in owners else row for row in self.rows]
        if "previous" in self.carried:
            small = F.avg_pool2d(masks, PLACE_STRIDE)
            stays = torch.tensor([row > 0 for row in self.rows], device=masks.device)
            own = self.carried["previous"][:, 0] * stays[:, None, None] * (1.0 - small.amax(dim=0))
            others = own.sum(dim=0) - own + small.sum(dim=0)
            self.carried["previous"] = torch.stack([own, others], dim=1)

    def copy(self) -> _Frame:
        """With tensors of its own: a runtime may overwrite in its next call what it returned."""
        return _Frame(
            self.source,
            self.image.clone(),
            self.seen.clone(),
            {object_id: value.clone() for object_id, value in self.probabilities.items()},
            dict(self.quality),
            list(self.rows),
            {name: value.clone() for name, value in self.carried.items()},
        )


@dataclass(frozen=True)
class _Template:
    """What is encoded of one object in a frame, to be written into its memory.

    Attributes:
        values: [C, h, w] for its slots.
        place: [2, 4h, 4w], its mask and that of all others at stride 4.
    """

    values: Tensor
    place: Tensor


@dataclass
class SeedJob:
    """A seed on its way into the memory; see ``Segmenter.begin_seed``.

    Attributes:
        ids: that will be seeded, in the order of the mask's.
        overlaps: with objects that are followed and are not in the seed themselves.
        forget: objects that are forgotten when this one is finished; to be set before the steps.
    """

    ids: list[int]
    overlaps: list[Overlap]
    _masks: Tensor  # [n, H, W] of the ids, at the processing size
    _seen: _Frame  # a copy
    _frame: _Frame  # that it is of
    forget: set[int] = field(default_factory=set)
    _templates: dict[int, _Template] = field(default_factory=dict)
    # of each object that is cut into: a template of what is left, and whether it starts again
    _rests: dict[int, tuple[_Template, bool]] = field(default_factory=dict)

    def rename(self, seeded: int, tracked: int) -> None:
        """Seeds an object that is followed in the place of the id in the mask; before the steps."""
        self.ids[self.ids.index(seeded)] = tracked
        self.overlaps = [each for each in self.overlaps if each.tracked != tracked]

    def spare(self, tracked: Sequence[int]) -> None:
        """Leaves their pixels to objects that are followed; before the steps."""
        for object_id in tracked:
            self._masks = self._masks * (1.0 - self._seen.probabilities[object_id])

    def drop(self, object_id: int) -> None:
        """Gives up one of the ids; after the steps."""
        self.ids.remove(object_id)

    @property
    def cut_ids(self) -> list[int]:
        """The objects followed that it cuts into; known after the steps."""
        return list(self._rests)


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _in_scope(
    method: Callable[Concatenate[Segmenter, _P], _T],
) -> Callable[Concatenate[Segmenter, _P], _T]:
    """Runs a method of the segmenter within its runtime's scope."""

    @functools.wraps(method)
    def run(self: Segmenter, /, *arguments: _P.args, **options: _P.kwargs) -> _T:
        with self._stages.scope():
            return method(self, *arguments, **options)

    return run


class Segmenter:
    """Follows objects through frames with a memory of fixed size.

    Args:
        stages: the network on a runtime.
        slots: K of each object's memory, 2..16, the locked seed included.
        update_rule: a name in ``memory.RULES``; ``linear`` is a baseline whose memory grows.
        input_to_memory: distil the new template itself into a slot (I2M, Eq. 9) instead of one
            slot into another (M2M).
        processing_size: shorter side that the network works at (the longer follows from the first
            frame's aspect), or (rows, columns); rounded to multiples of 16.
        max_objects: rows of the memory.
        update_every: write to the memory on every n-th frame only. An update treats the predicted
            mask as ground truth: frequent updates follow an object that changes its look, rare ones
            copy fewer errors on. docs/accuracy.md has the measurement.
        min_score: below this score an object counts as not seen: it has no mask in that frame, and
            is not remembered.
        return_score: the score that one that was not seen needs to be seen again, if higher.
            What is taken for it meanwhile is often another thing, of which the network is less
            sure.
        lost_after: frames an object may be unseen before its state is LOST.
        smallest_part: parts of a mask that have less than this share, 0..1, of the pixels of its
            largest part are left out of the result; the memory keeps what the network saw.

    Raises:
        InputError: an argument out of range; the message gives the range. ModelError: the update
        rule needs a scorer that the model does not have.
    """

    def __init__(
        self,
        stages: TorchStages,
        *,
        slots: int = 5,
        update_rule: str = "least_similar",
        input_to_memory: bool = False,
        processing_size: int | tuple[int, int] = 240,
        max_objects: int = 8,
        update_every: int = 1,
        min_score: float = 0.5,
        return_score: float = 0.0,
        lost_after: int = 30,
        smallest_part: float = 0.0,
    ) -> None:
        if not 1 <= max_objects <= MAX_ID:
            raise InputError(f"max_objects is {max_objects}; it must be 1..{MAX_ID}")
        if update_every < 1:
            raise InputError(f"update_every is {update_every}; it must be at least 1")
        self._stages = stages
        self._stager = make_stager(stages.device)
        self._requested_size = checked_size(processing_size)
        self.max_objects, self.update_every = max_objects, update_every
        self.lost_after, self.smallest_part = lost_after, smallest_part
        self.min_score, self.return_score = min_score, return_score
        self._slots, self._rule = slots, update_rule
        self._input_to_memory = input_to_memory
        self._size: tuple[int, int] | None = None
        # a small bank shows at once whether slots and rule are right; the real one is made when
        # the first frame tells the size
        self._memory = self._new_memory((STRIDE, STRIDE), objects=1)
        self._memory_size: tuple[int, int] | None = None
        self._frame: _Frame | None = None
        self._query_key: Tensor | None = None  # of the last frame, to look inside
        self._unseen: dict[int, int] = {}
        # objects of which a seed left nothing: its id, and their updates until then
        self._hidden: dict[int, tuple[int, int]] = {}
        self._remembered = 0
        self._model: str | None = None

    @classmethod
    def load(
        cls,
        model: str = "segment_lite0",
        *,
        device: str = "auto",
        runtime: str = "auto",
        auto_build: bool = False,
        **options: Any,
    ) -> Segmenter:
        """A segmenter with a model's weights.

        Args:
            model: a name under models/, or a path to a model folder.
            device: auto, cpu, cuda or cuda:N; runtime: auto or one of ``runtime.table.RUNTIMES``.
            auto_build: export the model for the runtime where that has not been done.
            **options: arguments of ``Segmenter``; what is absent or None is the model's default.

        Raises:
            ModelError: no such model, or a damaged one. RuntimeUnavailableError: device or
            runtime not there. InputError: an option out of range.
        """
        folder = find_model(model)
        network, spec = load_network(folder)
        stages = make_stages(network, runtime, device, folder, auto_build)
        given = {key: value for key, value in options.items() if value is not None}
        made = cls(stages, **{**spec.defaults, **given})
        stages.prepare(fitted_size(made._requested_size, (9, 16)))
        return made

    @property
    def ids(self) -> list[int]:
        """Sorted ids of the objects tracked."""
        return sorted(self._memory.rows)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory; constant once the first frame was seeded."""
        return self._memory.nbytes

    @property
    def memory(self) -> SlotMemory:
        """The bank of slots, to look into."""
        return self._memory

    @property
    def slots_used(self) -> dict[int, int]:
        """Slots in use by each object."""
        return {object_id: self._memory.used(object_id) for object_id in self.ids}

    def look_inside(
        self, labels: NDArray[np.uint8] | None = None, cells: int = 0
    ) -> list[ObjectMemory]:
        """What each object's memory holds, and what the last frame segmented takes from each slot.

        Args:
            labels: [H, W] of that frame: each object's attention is then that of its own cells,
                where it has any.
            cells: look at about this many of the frame's cells, evenly spread; 0 for all. The cost
                is that of an attention from so many cells.
        """
        key, attention = self._query_key, None
        if key is not None and self._memory.rows:
            h, w = key.shape[-2:]
            step = max(1, (h * w) // cells) if cells else 1
            keys, _, mask = self._memory.contents()
            query = key[0].flatten(1).T[::step]
            with torch.inference_mode():
                shares = slot_attention(query, keys, mask, h * w, self._stages.config.affinity)
            attention = shares.mean(dim=1)
            if labels is not None:
                small = cv2.resize(labels, (w, h), interpolation=cv2.INTER_NEAREST).ravel()[::step]
                for object_id, row in self._memory.rows.items():
                    own = torch.from_numpy(small == object_id)
                    if own.any():
                        attention[row] = shares[row, own.to(shares.device)].mean(dim=0)
        return describe(self._memory, attention)

    @property
    def runtime_name(self) -> str:
        """The runtime and device in use, e.g. ``torch (cpu)``."""
        return self._stages.name

    def wrap_stages(self, wrap: Callable[[TorchStages], _T]) -> _T:
        """Puts something around the stages, a clock for instance, before the first frame.

        Args:
            wrap: given the stages in use, returns the ones to use: it has all that they have.

        Returns:
            What ``wrap`` made.

        Raises:
            InputError: frames were seen already; the memory holds on to the stages it was made of.
        """
        if self._size is not None:
            raise InputError("the segmenter has seen frames already; wrap those of a fresh one")
        wrapped = wrap(self._stages)
        self._stages = cast(TorchStages, wrapped)
        return wrapped

    @property
    def processing_size(self) -> tuple[int, int] | None:
        """(rows, columns) the network works at; None before the first frame."""
        return self._size

    @property
    def update_rule(self) -> str:
        """Name of the memory's update rule; settable between frames (InputError if unknown)."""
        return self._memory.rule

    @update_rule.setter
    def update_rule(self, name: str) -> None:
        self._memory.rule = name
        self._rule = name

    def seed(
        self,
        frame: NDArray[np.uint8],
        mask: NDArray[Any],
        *,
        ids: Sequence[int] | None = None,
        replace: bool = False,
    ) -> list[int]:
        """Starts to follow the objects of a mask, or starts them again.

        A pixel belongs to one object. Where a seed takes pixels of an object that is followed, that
        one goes on with what is left of it: it starts again from there, as all that it remembers
        says otherwise. Objects that lose no more than a rim are left alone.

        Args:
            frame: uint8 [H, W, 3] RGB.
            mask: integer or bool [H, W]; each non-zero value 1..255 is an object's id.
            ids: take only these values of the mask.
            replace: forget all objects that were tracked before.

        Returns:
            The ids seeded, sorted.

        Raises:
            InputError: a frame or mask of the wrong kind or size, or without an object.
            CapacityError: more objects than max_objects. Nothing is changed in either case.
        """
        job = self.begin_seed(frame, mask, ids=ids, replace=replace)
        for overlap in job.overlaps:
            if overlap.same or overlap.inside:
                log.warning(
                    "the seed of object %d takes %.0f %% of the pixels of object %d (IoU %.2f), of "
                    "which little or nothing is left: is it the same object?",
                    overlap.seeded,
                    100 * overlap.covered,
                    overlap.tracked,
                    overlap.iou,
                )
        for _ in self.seed_steps(job):
            pass
        return self.finish_seed(job)

    @_in_scope
    def begin_seed(
        self,
        frame: NDArray[np.uint8],
        mask: NDArray[Any],
        *,
        ids: Sequence[int] | None = None,
        replace: bool = False,
    ) -> SeedJob:
        """The first part of ``seed``: it compares the mask with the objects that are followed.

        ``seed_steps`` is the second part, ``finish_seed`` the third; until that nothing is changed
        (but ``replace`` forgets at once). Frames may be segmented in between. The cost is about
        that of a frame.

        Args, Raises: as ``seed``; whether there is room beside the objects that are followed is
            looked at in the second part, as the caller may ``rename`` what is followed already.
        """
        check_frame(frame)
        labels = checked_mask(mask, frame.shape[:2])
        present = [int(value) for value in np.unique(labels) if value]
        wanted = present if ids is None else sorted(set(ids))
        if absent := [value for value in wanted if value not in present]:
            raise InputError(f"ids {absent} do not occur in the mask, which holds {present}")
        if not wanted:
            raise InputError("the mask is all zero; draw each object with a value from 1 to 255")
        self._check_capacity(wanted, replace=True)
        if replace:
            self.reset()
        seen = self._look(frame)
        masks = self._resized([labels == value for value in wanted], seen)
        height, width = seen.image.shape[-2:]
        if note := too_small(labels, (height, width), wanted):
            log.warning("%s", note)
        seeds = self._small(labels * np.isin(labels, wanted), seen)
        copy = seen.copy()
        return SeedJob(wanted, overlaps(seeds, self._tracked_labels(copy)), masks, copy, seen)

    def seed_steps(self, job: SeedJob) -> Iterator[None]:
        """The second part of ``seed``: it encodes the objects one by one, and yields in between.

        Raises:
            CapacityError: more objects than max_objects.
        """
        self._check_capacity(job.ids, forget=job.forget)
        seen, masks = job._seen, job._masks
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
            job._templates[object_id] = self._encode(seen, mask, rest - mask)
        for object_id in self._cut(seen, claimed, taken):
            yield
            job._rests[object_id] = self._rest(seen, claimed, taken, object_id)

    def finish_seed(self, job: SeedJob) -> list[int]:
        """The third part of ``seed``: it writes what was encoded into the memory.

        It may be the memory of a ``fork``, which then follows the objects on from the job's frame.

        Returns:
            The ids seeded, sorted.

        Raises:
            CapacityError: more objects than max_objects, as others came meanwhile.
        """
        self._check_capacity(job.ids, forget=job.forget)
        for object_id in job.forget & self._memory.rows.keys():
            self.remove(object_id)
        with self._stages.scope():
            for object_id in job.ids:
                self._start(object_id, job._templates[object_id], job._seen)
                self._unseen[object_id] = 0
                self._hidden.pop(object_id, None)
            self._write_rests(job._seen, job._rests, job.overlaps)
        if self._frame is job._frame:  # segmented, and not remembered yet
            self._frame.claim(job._masks, {*job.ids, *job._rests})
        return sorted(job.ids)

    @_in_scope
    def give_way(
        self, frame: NDArray[np.uint8], mask: NDArray[Any], ids: Collection[int]
    ) -> list[int]:
        """Takes pixels away from objects that are followed, as ``seed`` does; for ``adopt``.

        Args:
            frame: uint8 [H, W, 3] RGB, the newest.
            mask: [H, W]; what is not 0 belongs to objects of another segmenter.
            ids: of the objects here that are looked at.

        Returns:
            The ids of those that lost pixels, sorted.

        Raises:
            InputError: a frame or mask of the wrong kind or size.
        """
        check_frame(frame)
        labels = checked_mask(mask, frame.shape[:2])
        left_alone = self._memory.rows.keys() - set(ids)
        seen = self._look(frame)
        claimed = self._resized([labels > 0], seen)[0]
        cut = self._cut(seen, claimed, left_alone)
        rests = {number: self._rest(seen, claimed, left_alone, number) for number in cut}
        small = self._small(labels, seen)
        self._write_rests(seen, rests, overlaps(small, self._tracked_labels(seen)))
        return sorted(rests)

    @_in_scope
    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label mask of the objects in a frame, for looking at it only: nothing is changed, and the
        edges are those of the processing size.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.

        Returns:
            uint8 [H, W], 0 background, n = object n.

        Raises:
            InputError: a frame of the wrong kind.
        """
        check_frame(frame)
        height, width = frame.shape[:2]
        if not self._memory.rows:
            return np.zeros((height, width), np.uint8)
        before = self._query_key
        labels = self._tracked_labels(self._look(frame))
        self._query_key = before
        size = (width, height)
        return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    @_in_scope
    def segment(self, frame: NDArray[np.uint8]) -> SegmentResult:
        """Masks of a frame; the memory is read, not changed.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.

        Raises:
            InputError: a frame of the wrong kind.
        """
        check_frame(frame)
        height, width = frame.shape[:2]
        if not self._memory.rows:
            self._frame = None
            return SegmentResult(np.zeros((height, width), np.uint8))
        seen, logits = self._read(frame)
        self._frame = seen
        ids = self._memory.ids
        scores, shown = self._scores(seen, ids)
        labels = label_mask(logits, ids, shown, (height, width))
        if self.smallest_part > 0:
            drop_small_parts(labels, ids, self.smallest_part)
        objects = [self._describe(*each, labels) for each in zip(ids, scores, strict=True)]
        # an object that was not seen would only teach the memory an empty mask
        for n, found in enumerate(objects):
            if found.state is not ObjectState.TRACKED:
                del seen.probabilities[found.id]
                if "previous" in seen.carried:
                    seen.carried["previous"][n, 0] = 0.0
        return SegmentResult(labels, sorted(objects, key=lambda found: found.id))

    @_in_scope
    def remember(self) -> None:
        """Writes the frame last segmented into the memory of the objects seen in it.

        Only every ``update_every``-th call does; the others, and one without a frame segmented
        since the last call, do nothing.
        """
        seen = self._frame
        self._frame = None
        if seen is None:
            return
        kept = [n for n, object_id in enumerate(seen.rows) if object_id in self._memory.rows]
        self._memory.carry(
            [seen.rows[n] for n in kept],
            **{name: value[kept] for name, value in seen.carried.items()},
        )
        self._remembered += 1
        if self._remembered % self.update_every:
            return
        ids = [object_id for object_id in self._memory.ids if object_id in seen.probabilities]
        if not ids:
            return
        masks = torch.stack([seen.probabilities[object_id] for object_id in ids])
        pair = torch.stack([masks, masks.sum(dim=0) - masks], dim=1)
        templates = self._stages.encode_memory(seen.image, pair, seen.seen)
        self._memory.remember(ids, templates, seen.seen.key.expand(len(ids), -1, -1, -1))

    def step(self, frame: NDArray[np.uint8]) -> SegmentResult:
        """``segment`` and ``remember`` in one."""
        result = self.segment(frame)
        self.remember()
        return result

    def remove(self, object_id: int) -> None:
        """Stops following an object.

        Raises:
            UnknownObjectError: it is not tracked.
        """
        if object_id not in self._memory.rows:
            raise UnknownObjectError(
                f"object {object_id} is not tracked; tracked are {self.ids or 'none'}"
            )
        self._memory.remove(object_id)
        self._unseen.pop(object_id, None)
        self._hidden.pop(object_id, None)
        for hidden, (taker, updates) in list(self._hidden.items()):
            if taker == object_id:
                del self._hidden[hidden]
                if self._memory.updates(hidden) == updates:  # its pixels are its own again
                    self._memory.drop_newest(hidden)
        if self._frame is not None:
            self._frame.forget(object_id)

    def rename(self, object_id: int, new: int) -> None:
        """Gives an object another id.

        Raises:
            UnknownObjectError: it is not tracked. InputError: the new id is in use, or is none.
        """
        if not 1 <= new <= MAX_ID:
            raise InputError(f"{new} is no id; ids are 1..{MAX_ID}")
        self._memory.rename(object_id, new)
        self._unseen[new] = self._unseen.pop(object_id)
        self._hidden.pop(object_id, None)
        if self._frame is not None:
            self._frame.rename(object_id, new)

    def fork(
        self, ids: Sequence[int], *, replace: bool = False, forget: Collection[int] = ()
    ) -> Segmenter:
        """A second segmenter on the same network with the same options, its memory still empty.

        It is for objects that are seeded in a frame of the past: seed it there, step it through
        the frames since, and give it to ``adopt``. This one is not changed meanwhile and may
        go on; both belong to one thread.

        Args:
            ids: of the objects it will follow; its memory is made for this many.
            replace, forget: as ``adopt`` will be called.

        Raises:
            CapacityError: ``adopt`` could not take these.
        """
        self._check_capacity(ids, replace, forget)
        made = Segmenter(
            self._stages,
            slots=self._slots,
            update_rule=self._rule,
            input_to_memory=self._input_to_memory,
            processing_size=self._requested_size,
            max_objects=len(set(ids)),
            update_every=self.update_every,
            min_score=self.min_score,
            return_score=self.return_score,
            lost_after=self.lost_after,
            smallest_part=self.smallest_part,
        )
        if self._size is not None and not replace:
            made._use_size(self._size)
        return made

    def adopt(
        self, other: Segmenter, *, replace: bool = False, forget: Collection[int] = ()
    ) -> list[int]:
        """Takes over all objects of a ``fork`` with their memory; the others are left alone.

        An object of the same id is replaced. What is taken is copied. Where objects taken over and
        others lie on the same pixels, the two fight for them, unless one was told to ``give_way``.

        Args:
            replace: forget all objects that were tracked before; forget: only these, if they are
                tracked.

        Returns:
            The ids taken over, sorted.

        Raises:
            InputError: another network, or another processing size. CapacityError: more objects
            than max_objects. Nothing is changed in either case.
        """
        ids = other.ids
        self._check_capacity(ids, replace, forget)
        if other._stages is not self._stages:
            raise InputError("only a fork of this segmenter can be adopted: the networks differ")
        if not ids:
            return ids
        kept = bool(self._memory.rows) and not replace
        if kept and self._size != other._size:
            raise InputError(
                f"the objects to adopt were followed at {other._size}, those here at {self._size}; "
                "fork again"
            )
        if replace:
            self.reset()
        for object_id in self._memory.rows.keys() & set(forget) - set(ids):
            self.remove(object_id)
        if not kept and other._size is not None:
            self._use_size(other._size)
        self._memory.adopt(other._memory)
        for object_id in ids:
            self._unseen[object_id] = other._unseen[object_id]
            self._hidden.pop(object_id, None)
            if self._frame is not None:
                self._frame.forget(object_id)
        return ids

    def snapshot(self, names: Mapping[int, str] | None = None) -> Snapshot:
        """A copy of the memory, to be written later or elsewhere; ``save`` does both.

        Args:
            names: of the objects, kept beside them as text.

        Raises:
            ModelError: the runtime does not hold the network that made the memory.
        """
        ids = self._memory.ids
        return Snapshot(
            model=self._fingerprint(),
            slots=self._slots,
            update_rule=self._rule,
            processing_size=self._size,
            ids=ids,
            unseen=[self._unseen[object_id] for object_id in ids],
            remembered=self._remembered,
            tensors=self._memory.state(),
            names={
                object_id: name for object_id, name in (names or {}).items() if object_id in ids
            },
            saved=time.time(),
        )

    def save(self, path: str | os.PathLike[str], names: Mapping[int, str] | None = None) -> int:
        """Writes the memory to a file, from which ``load_memory`` goes on bit for bit.

        The file is replaced as a whole or, when anything fails, not at all. Save between frames:
        a frame that was segmented but not yet remembered is not in it.

        Args:
            path: of the safetensors file; its folder must exist.
            names: of the objects, kept beside them as text.

        Returns:
            The bytes written.

        Raises:
            InputError: the file cannot be written.
        """
        return self.snapshot(names).write(path)

    def load_memory(self, path: str | os.PathLike[str]) -> dict[int, str]:
        """Goes on from a file that ``save`` wrote; all objects tracked now are forgotten.

        The number of slots, the network and the processing size must be those of the file; the
        rule, min_score and the like stay those of this segmenter.

        Returns:
            The names saved with the objects, by id.

        Raises:
            InputError: no such file, a damaged one, other slots or another processing size.
            ModelError: the memory of another network. CapacityError: more objects than
            max_objects. Nothing is changed in any case.
        """
        return self.restore(Snapshot.read(path))

    def restore(self, snapshot: Snapshot) -> dict[int, str]:
        """As ``load_memory``, from a snapshot that was read before; the same errors."""
        if snapshot.model != self._fingerprint():
            raise ModelError(
                f"the snapshot is of a network with the fingerprint {snapshot.model[:12]}, this "
                f"one has {self._fingerprint()[:12]}: load the model that it was saved with"
            )
        if snapshot.slots != self._slots:
            raise InputError(
                f"the snapshot has {snapshot.slots} slots for each object, this segmenter "
                f"{self._slots}: load the model with slots={snapshot.slots}"
            )
        if len(snapshot.ids) > self.max_objects:
            raise CapacityError(
                f"the snapshot has {len(snapshot.ids)} objects, but max_objects is "
                f"{self.max_objects}: load the model with max_objects={len(snapshot.ids)} or more"
            )
        size = snapshot.processing_size
        if size is not None and not size_is_possible(size, self._requested_size):
            raise InputError(
                f"the snapshot was made at a processing size of {shape_text(size)}, this segmenter "
                f"works at {self._requested_size}: load the model with "
                f"processing_size={min(size)}, or with {size}"
            )
        # beside the present memory, so that a bad snapshot leaves that as it is
        memory, memory_size = self._memory, self._memory_size
        if size is not None and memory_size != size:
            memory, memory_size = self._new_memory(size, self.max_objects), size
        if snapshot.ids:
            try:
                memory.restore(snapshot.ids, snapshot.tensors)
            except InputError as error:
                raise InputError(f"the snapshot is damaged: {error}") from None
        else:
            memory.reset()
        self._memory, self._memory_size, self._size = memory, memory_size, size
        self._unseen = dict(zip(snapshot.ids, snapshot.unseen, strict=True))
        self._hidden.clear()
        self._remembered = snapshot.remembered
        self._frame = None
        return dict(snapshot.names)

    def _fingerprint(self) -> str:
        """Of the network; made once, as it takes a moment."""
        if self._model is None:
            network = self._stages.network
            # the scorer makes nothing that is remembered, it only chooses
            weights = {
                name: value
                for name, value in network.state_dict().items()
                if not name.startswith(SCORER_PREFIX)
            }
            self._model = fingerprint(network.config.to_mapping(), weights)
        return self._model

    def reset(self) -> None:
        """Forgets every object; the next frame seeded decides the processing size again."""
        self._memory.reset()
        self._unseen.clear()
        self._hidden.clear()
        self._frame = self._query_key = None
        self._size = None
        self._remembered = 0

    def _check_capacity(
        self, ids: Sequence[int], replace: bool = False, forget: Collection[int] = ()
    ) -> None:
        """CapacityError if these ids could not be tracked beside those that stay."""
        stay = set() if replace else self._memory.rows.keys() - set(forget)
        count = len(set(ids) | stay)
        if count > self.max_objects:
            remedy = "remove some first, or set replace"
            if len(set(ids)) > self.max_objects:  # neither would help
                remedy = (
                    f"seed {self.max_objects} at most, or load the model with max_objects={count}"
                )
            raise CapacityError(
                f"{count} objects would be tracked, but max_objects is {self.max_objects}; {remedy}"
            )

    def _use_size(self, size: tuple[int, int]) -> None:
        """Fixes the processing size; the memory is made anew if it is of another."""
        self._size = size
        if self._memory_size != size:
            self._memory = self._new_memory(size, self.max_objects)
            self._memory_size = size

    def _new_memory(self, size: tuple[int, int], objects: int) -> SlotMemory:
        config, network = self._stages.config, self._stages.network
        scored = network.pair_scorer is not None
        rule = RULES.get(self._rule)
        grown: dict[str, Any] = {}
        if rule is not None and rule.grows:
            grown["keep_every"] = max(1, round(LINEAR_FRAMES / self.update_every))
        return (GrowingMemory if grown else SlotMemory)(
            objects,
            self._slots,
            (config.template_channels, size[0] // STRIDE, size[1] // STRIDE),
            config.memory_key_channels,
            config.value_channels,
            fuse=self._stages.fuse,
            project=self._stages.project,
            compare=self._stages.compare,
            score=self._stages.score if scored else None,
            rule=self._rule,
            input_to_memory=self._input_to_memory,
            carried=config.carried((size[0] // STRIDE, size[1] // STRIDE)),
            device=self._stages.device,
            **grown,
        )

    def _prepare(self, frame: NDArray[np.uint8]) -> Tensor:
        """[1, 3, H, W] float in 0..255 at the processing size, which the first frame fixes."""
        if self._size is None:
            self._use_size(fitted_size(self._requested_size, frame.shape[:2]))
            assert self._size is not None
        return self._stager(frame, self._size)

    def _look(self, frame: NDArray[np.uint8]) -> _Frame:
        """The frame's query and the masks that tracked objects have in it, for a seed."""
        last = self._frame
        if last is not None and last.source is frame:
            filled_again = not torch.equal(self._prepare(frame), last.image)  # by its driver
            if not filled_again:
                return last
        if self._memory.rows:
            seen, _ = self._read(frame)
            return seen
        image = self._prepare(frame)
        query = self._stages.encode_query(image)
        return _Frame(frame, image, query.seen, {})

    def _read(self, frame: NDArray[np.uint8]) -> tuple[_Frame, Tensor]:
        """Reads the memory: the frame with all objects' probabilities, and logits at stride 4.

        The logits [O + 1, h, w] are aggregated; the probabilities are at the processing size.
        """
        image = self._prepare(frame)
        seen, decoded = self._segment(image)
        self._query_key = seen.key
        logits = aggregate_logits(decoded.logits[:, 0])
        probabilities = object_probabilities(logits, image.shape[-2:])
        ids = self._memory.ids
        by_id = dict(zip(ids, probabilities, strict=True))
        carried = {}
        if "previous" in self._memory.carried:
            own = logits.softmax(dim=0)[1:]
            carried["previous"] = torch.stack([own, own.sum(dim=0) - own], dim=1)
        if decoded.hidden is not None:
            carried["hidden"] = decoded.hidden
        quality = {}
        if decoded.quality is not None:
            quality = dict(zip(ids, decoded.quality.sigmoid().tolist(), strict=True))
        return _Frame(frame, image, seen, by_id, quality, ids, carried), logits

    def _segment(self, image: Tensor) -> tuple[Seen, Decoded]:
        """What is remembered of the frame, and the masks of all objects."""
        memory = self._memory.contents()
        count = len(self._memory.rows)
        carried = {name: value[:count] for name, value in self._memory.carried.items()}
        previous, hidden = carried.get("previous"), carried.get("hidden")
        whole = self._stages.segment(image, *memory, previous, hidden)
        if whole is not None:
            return whole
        query = self._stages.encode_query(image)
        read = self._stages.read(query.key, *memory)
        return query.seen, self._stages.decode(read, query, previous, hidden)

    def _resized(self, masks: Sequence[NDArray[np.bool_]], seen: _Frame) -> Tensor:
        """Masks [H, W] of a frame's size as float [n, h, w] at the processing size."""
        height, width = seen.image.shape[-2:]
        parts = [resize(mask.astype(np.float32), (height, width)) for mask in masks]
        return torch.from_numpy(np.stack(parts)).to(self._stages.device)

    def _small(self, labels: NDArray[Any], seen: _Frame) -> NDArray[np.uint8]:
        """A label mask [H, W] of a frame's size at the processing size."""
        height, width = seen.image.shape[-2:]
        small = cv2.resize(
            labels.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        return np.asarray(small, np.uint8)

    def _encode(self, seen: _Frame, mask: Tensor, others: Tensor) -> _Template:
        """Of one object's mask and that of all others, each [H, W]."""
        pair = torch.stack([mask, others])[None]
        with self._stages.scope():
            values = self._stages.encode_memory(seen.image, pair, seen.seen)[0].clone()
        return _Template(values, F.avg_pool2d(pair, PLACE_STRIDE)[0])

    def _start(self, object_id: int, template: _Template, seen: _Frame) -> None:
        """The object's memory holds this template only, and its place in that frame."""
        carried = {}
        if "previous" in self._memory.carried:
            carried["previous"] = template.place[None]
        if "hidden" in self._memory.carried:
            carried["hidden"] = self._stages.start(template.values[None])
        self._memory.seed(object_id, template.values, seen.seen.key[0])
        self._memory.carry([object_id], **carried)

    def _tracked_labels(self, seen: _Frame) -> NDArray[np.uint8]:
        """Label mask [h, w] of the objects that are seen in a frame, at the processing size."""
        ids = list(seen.probabilities)
        if not ids:
            return np.zeros(seen.image.shape[-2:], np.uint8)
        every = torch.stack([seen.probabilities[object_id] for object_id in ids])
        strongest, which = every.max(dim=0)
        inside = (strongest >= 1.0 - every.sum(dim=0)).cpu().numpy()
        shown = self._scores(seen, ids)[1]
        numbers = np.array([n if here else 0 for n, here in zip(ids, shown)], np.uint8)
        return numbers[which.cpu().numpy()] * inside

    def _cut(self, seen: _Frame, claimed: Tensor, skipped: Collection[int]) -> list[int]:
        """Objects, but those skipped, that are cut into where pixels [H, W] are claimed (0..1)."""
        labels, given = self._tracked_labels(seen), (claimed >= 0.5).cpu().numpy()
        return [
            object_id
            for object_id in seen.probabilities
            if object_id not in skipped and is_cut(labels == object_id, given)
        ]

    def _rest(
        self, seen: _Frame, claimed: Tensor, skipped: Collection[int], object_id: int
    ) -> tuple[_Template, bool]:
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
        mask = self._tracked_labels(seen) == object_id
        again = depth(mask & (claimed < 0.5).cpu().numpy()) > REST_DEPTH
        return self._encode(seen, left, others), again

    def _write_rests(
        self,
        seen: _Frame,
        rests: Mapping[int, tuple[_Template, bool]],
        found: Sequence[Overlap],
    ) -> None:
        """found: overlaps of what took the pixels with the objects, the largest first."""
        for object_id, (template, again) in rests.items():
            if object_id not in self._memory.rows:  # of a fork, or removed meanwhile
                continue
            if again:
                self._start(object_id, template, seen)
                continue
            self._memory.remember([object_id], template.values[None], seen.seen.key)
            if "previous" in self._memory.carried:
                self._memory.carry([object_id], previous=template.place[None])
            takers = [overlap.seeded for overlap in found if overlap.tracked == object_id]
            if takers:
                self._hidden[object_id] = takers[0], self._memory.updates(object_id)

    def _scores(self, seen: _Frame, ids: list[int]) -> tuple[list[float], list[bool]]:
        """Of each object its score, and whether that is enough to be seen."""
        scores, shown = [], []
        for object_id, (area, total) in zip(ids, self._inside(seen, ids), strict=True):
            mean = total / area if area else 0.0
            scores.append(seen.quality.get(object_id, mean) if area else 0.0)
            needed = self.min_score
            if self._unseen[object_id]:
                needed = max(needed, self.return_score)
            shown.append(area > 0 and scores[-1] >= needed)
        return scores, shown

    def _inside(self, seen: _Frame, ids: list[int]) -> list[list[float]]:
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

    def _describe(self, object_id: int, score: float, labels: NDArray[np.uint8]) -> TrackedObject:
        mask = (labels == object_id).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        moments = cv2.moments(mask[y : y + height, x : x + width], binaryImage=True)
        area = int(moments["m00"])
        centroid = (0.0, 0.0)
        if area:
            centroid = (x + moments["m10"] / area, y + moments["m01"] / area)
        unseen = 0 if area else self._unseen[object_id] + 1
        self._unseen[object_id] = unseen
        state = ObjectState.TRACKED
        if unseen:
            state = ObjectState.LOST if unseen > self.lost_after else ObjectState.OCCLUDED
        return TrackedObject(
            object_id, state, score if area else 0.0, area, (x, y, width, height), centroid
        )
