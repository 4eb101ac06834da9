"""Online segmentation: one mask of an object in, a mask for every frame out.

    segmenter = Segmenter.load("segment_lite0")
    segmenter.seed(first_frame, first_mask)
    for frame in frames:
        result = segmenter.step(frame)

No ROS, no files but the model's and the snapshots it is told to save. Not thread-safe: one thread
owns a segmenter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stremn_ros.errors import CapacityError, InputError, UnknownObjectError
from stremn_ros.frame_reader import FrameReader
from stremn_ros.imaging.checks import check_frame, check_name
from stremn_ros.imaging.masks import checked_mask, drop_small_parts, label_mask
from stremn_ros.imaging.sizes import fitted_size, whole_number
from stremn_ros.memory import ObjectMemory, SlotMemory
from stremn_ros.memory.inspection import look_inside
from stremn_ros.model_folder import find_model, load_network
from stremn_ros.object_states import ObjectStates
from stremn_ros.options import TUNABLES, OptionAttribute, SegmenterOptions
from stremn_ros.results import MAX_ID
from stremn_ros.results import ObjectState as ObjectState  # their public place is here, too
from stremn_ros.results import SegmentResult as SegmentResult
from stremn_ros.results import TrackedObject as TrackedObject
from stremn_ros.runtime.choose import TorchStages, make_stages
from stremn_ros.seed_job import SeedJob, Seeds, wanted_ids
from stremn_ros.snapshot import Snapshot, fingerprint

_T = TypeVar("_T")


class Segmenter:
    """Follows objects through frames with a memory of fixed size.

    Args:
        stages: the network on a runtime.
        options: what it is tuned with.
        **changes: fields of the options that are to be others.
        defaults: of the segmenter that this one is a fork of.

    Attributes:
        defaults: the options that it was made with, before any ``change``.

    Raises:
        InputError: an option out of range.
        ModelError: the update rule needs a scorer that the model does not have.
    """

    max_objects = OptionAttribute[int]()
    update_every = OptionAttribute[int]()
    update_change = OptionAttribute[float]()
    update_rule = OptionAttribute[str]()
    min_score = OptionAttribute[float]()
    return_score = OptionAttribute[float]()
    lost_after = OptionAttribute[int]()
    smallest_part = OptionAttribute[float]()
    gate = OptionAttribute[float]()

    def __init__(
        self,
        stages: TorchStages,
        options: SegmenterOptions | None = None,
        *,
        defaults: SegmenterOptions | None = None,
        **changes: Any,
    ) -> None:
        options = replace(options or SegmenterOptions(), **changes)
        self.defaults = defaults or options
        self._reader = FrameReader(stages, options)
        self._states = ObjectStates()
        self._seeds = Seeds(self._reader, self._states)
        self._remembered, self._model = 0, ""

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "segment_lite0",
        *,
        device: str = "auto",
        runtime: str = "auto",
        auto_build: bool = False,
        **options: Any,
    ) -> Segmenter:
        """A segmenter with a model's weights.

        Args:
            model: a name under models/, or a path to a model folder.
            device: auto, cpu, cuda or cuda:N.
            runtime: auto or one of ``runtime.table.RUNTIMES``.
            auto_build: export the model for the runtime where that has not been done.
            **options: fields of ``SegmenterOptions``; what is absent or None is the model's own.

        Raises:
            ModelError: no such model, or a damaged one.
            RuntimeUnavailableError: device or runtime not there.
            InputError: an option out of range.
        """
        folder = find_model(model)
        network, spec = load_network(folder)
        stages = make_stages(network, runtime, device, folder, auto_build)
        given = {key: value for key, value in options.items() if value is not None}
        made = cls(stages, spec.options(), **given)
        stages.prepare(fitted_size(made.options.processing_size, (9, 16)))
        return made

    @property
    def options(self) -> SegmenterOptions:
        """What it is tuned with; ``change`` changes some of it."""
        return self._reader.options

    @property
    def ids(self) -> list[int]:
        """Sorted ids of the objects tracked."""
        return sorted(self.memory.rows)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory; constant once the first frame was seeded."""
        return self.memory.nbytes

    @property
    def memory(self) -> SlotMemory:
        """The bank of slots, to look into."""
        return self._reader.memory

    @property
    def slots_used(self) -> dict[int, int]:
        """Slots in use by each object."""
        return {object_id: self.memory.used(object_id) for object_id in self.ids}

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
        config, key = self._reader.stages.config, self._reader.query_key
        return look_inside(self.memory, key, config.affinity, labels, cells, config.read_cells)

    @property
    def runtime_name(self) -> str:
        """The runtime and device in use, e.g. ``torch (cpu)``."""
        return self._reader.stages.name

    def wrap_stages(self, wrap: Callable[[TorchStages], _T]) -> _T:
        """Puts something around the stages, a clock for instance, before the first frame.

        Args:
            wrap: given the stages in use, returns the ones to use: it has all that they have.

        Returns:
            What ``wrap`` made.

        Raises:
            InputError: frames were seen already; the memory holds on to the stages it was made of.
        """
        if self.processing_size is not None:
            raise InputError("the segmenter has seen frames already; wrap those of a fresh one")
        wrapped = wrap(self._reader.stages)
        self._reader.stages = cast(TorchStages, wrapped)
        return wrapped

    @property
    def processing_size(self) -> tuple[int, int] | None:
        """(rows, columns) the network works at; None before the first frame."""
        return self._reader.size

    def change(self, **options: Any) -> None:
        """Changes options between two frames.

        Raises:
            InputError: one of them is out of range, or cannot change any more.
            ModelError: the update rule needs a scorer that the model does not have.
        """
        for name in options:
            if name in TUNABLES and not TUNABLES[name].run_time:
                raise InputError(f"{name} cannot change: load the model with another one")
        changed = replace(self.options, **options)
        if changed.update_rule != self.memory.rule:
            self.memory.rule = changed.update_rule
        if changed.gate != self.options.gate:  # what it did not follow is not where it was
            self._reader.forget_motion()
        self._reader.options = changed

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
        job.warn()
        for _ in self.seed_steps(job):
            pass
        return self.finish_seed(job)

    def correct(
        self,
        frame: NDArray[np.uint8],
        mask: NDArray[Any],
        *,
        ids: Sequence[int] | None = None,
        learn: bool = True,
    ) -> list[int]:
        """Objects that are followed go on from a mask, and keep what they remember.

        ``seed`` starts an object again, so it knows of it what that one frame shows. Where a
        correction takes pixels of another object, that one remembers what is left of it, and
        forgets nothing, either.

        Args:
            frame: uint8 [H, W, 3] RGB, the newest.
            mask: as in ``seed``.
            ids: as in ``seed``.
            learn: lock the mask in the memory, as ``learn`` does; False where it did so before.

        Returns:
            The ids corrected, sorted.

        Raises:
            InputError: a frame or mask of the wrong kind or size, or without an object.
            UnknownObjectError: one of the objects is not followed. Nothing is changed in any case.
        """
        job = self._job_of_followed(frame, mask, ids, newest=True)
        if learn:
            self._seeds.learn(job)
        self._seeds.correct(job)
        return sorted(job.ids)

    def learn(
        self, frame: NDArray[np.uint8], mask: NDArray[Any], *, ids: Sequence[int] | None = None
    ) -> list[int]:
        """Shows objects that are followed in another frame, an earlier or a later one.

        The mask is locked in the memory beside the seed and is never fused. Slots - 2 are locked at
        most, the seed's included; another one takes the place of the oldest after the seed, or of
        the seed where 3 slots or fewer have room for one only. Where the objects are now, and
        what they remember, stays as it is.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.
            mask: as in ``seed``.
            ids: as in ``seed``.

        Returns:
            The ids shown, sorted.

        Raises:
            InputError, UnknownObjectError: as of ``correct``.
        """
        before = self._reader.query_key
        job = self._job_of_followed(frame, mask, ids, newest=False)
        self._reader.query_key = before
        self._seeds.learn(job)
        return sorted(job.ids)

    def _job_of_followed(
        self,
        frame: NDArray[np.uint8],
        mask: NDArray[Any],
        ids: Sequence[int] | None,
        newest: bool,
    ) -> SeedJob:
        """What is encoded of objects that are followed; nothing is changed yet."""
        check_frame(frame)
        labels = checked_mask(mask, frame.shape[:2])
        wanted = wanted_ids(labels, ids)
        for object_id in wanted:
            self._check_followed(object_id)
        with self._reader.stages.scope():
            job = self._seeds.begin(frame, labels, wanted, newest)
        for _ in self._seeds.steps(job):
            pass
        return job

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
        wanted = wanted_ids(labels, ids)
        self._check_capacity(wanted, replace=True)
        if replace:
            self.reset()
        with self._reader.stages.scope():
            return self._seeds.begin(frame, labels, wanted)

    def seed_steps(self, job: SeedJob) -> Iterator[None]:
        """The second part of ``seed``: it encodes the objects one by one, and yields in between.

        Raises:
            CapacityError: more objects than max_objects.
        """
        self._check_capacity(job.ids, forget=job.forget)
        yield from self._seeds.steps(job, self.options.mirrored_seed)

    def finish_seed(self, job: SeedJob) -> list[int]:
        """The third part of ``seed``: it writes what was encoded into the memory.

        It may be the memory of a ``fork``, which then follows the objects on from the job's frame.

        Returns:
            The ids seeded, sorted.

        Raises:
            CapacityError: more objects than max_objects, as others came meanwhile.
        """
        self._check_capacity(job.ids, forget=job.forget)
        for object_id in job.forget & self.memory.rows.keys():
            self.remove(object_id)
        self._seeds.finish(job)
        return sorted(job.ids)

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
        with self._reader.stages.scope():
            return self._seeds.give_way(frame, labels, ids)

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
        if not self.memory.rows:
            return np.zeros((height, width), np.uint8)
        before = self._reader.query_key
        with self._reader.stages.scope():
            labels = self._states.labels(self._reader.look(frame), self.options)
        self._reader.query_key = before
        size = (width, height)
        return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    def segment(self, frame: NDArray[np.uint8]) -> SegmentResult:
        """Masks of a frame; the memory is read, not changed.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.

        Raises:
            InputError: a frame of the wrong kind.
        """
        check_frame(frame)
        height, width = frame.shape[:2]
        if not self.memory.rows:
            self._reader.frame = None
            return SegmentResult(np.zeros((height, width), np.uint8))
        with self._reader.stages.scope():
            seen, logits = self._reader.read(frame, gated=True)
            self._reader.frame = seen
            ids = self.memory.ids
            scores, shown = self._states.scores(seen, ids, self.options)
            labels = label_mask(logits, ids, shown, (height, width))
            if self.smallest_part > 0:
                drop_small_parts(labels, ids, self.smallest_part)
            objects = [
                self._states.describe(*each, labels, self.options)
                for each in zip(ids, scores, strict=True)
            ]
            # an object that was not seen would only teach the memory an empty mask
            for n, found in enumerate(objects):
                if found.state is not ObjectState.TRACKED:
                    del seen.probabilities[found.id]
                    self._reader.miss(seen, n)
        return SegmentResult(labels, sorted(objects, key=lambda found: found.id))

    def remember(self) -> None:
        """Writes the frame last segmented into the memory of the objects seen in it.

        Only every ``update_every``-th call does, for the objects that have changed by
        ``update_change`` since their newest template; the others, and one without a frame segmented
        since the last call, do nothing.
        """
        seen, self._reader.frame = self._reader.frame, None
        if seen is None:
            return
        with self._reader.stages.scope():
            kept = [n for n, object_id in enumerate(seen.rows) if object_id in self.memory.rows]
            self.memory.carry(
                [seen.rows[n] for n in kept],
                **{name: value[kept] for name, value in seen.carried.items()},
            )
            self._remembered += 1
            if self._remembered % self.options.update_every:
                return
            ids = [object_id for object_id in self.memory.ids if object_id in seen.probabilities]
            if not ids:
                return
            shares = torch.stack([seen.probabilities[object_id] for object_id in ids])
            others = shares.sum(dim=0) - shares
            masks = shares
            if seen.learned:  # with copies; one that is followed as well is not also the contrary
                maps = {**seen.probabilities, **seen.learned}
                masks = torch.stack([maps[object_id] for object_id in ids])
                others = torch.minimum(others, 1.0 - masks)
            pair = torch.stack([masks, others], dim=1)
            if self.options.update_change > 0.0 and not self.memory.grows:
                key = seen.seen.key[0, : self._reader.stages.config.key_channels]
                changes = self.memory.changes(ids, key, masks)
                news = np.flatnonzero(changes >= self.options.update_change)
                if not len(news):
                    return
                ids, pair = [ids[n] for n in news], pair[news]
            templates = self._reader.stages.encode_memory(seen.image, pair, seen.seen)
            self.memory.remember(ids, templates, seen.seen.key.expand(len(ids), -1, -1, -1))

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
        self._check_followed(object_id)
        self.memory.remove(object_id)
        self._states.unseen.pop(object_id, None)
        self._seeds.removed(object_id)
        if self._reader.frame is not None:
            self._reader.frame.forget(object_id)

    def rename(self, object_id: int, new: int) -> None:
        """Gives an object another id.

        Raises:
            UnknownObjectError: it is not tracked.
            InputError: the new id is in use, or is none.
        """
        new = whole_number(new, "the new id", 1, MAX_ID)
        self.memory.rename(object_id, new)
        self._states.unseen[new] = self._states.unseen.pop(object_id)
        self._seeds.rename(object_id, new)
        if self._reader.frame is not None:
            self._reader.frame.rename(object_id, new)

    def fork(
        self, ids: Sequence[int], *, replace: bool = False, forget: Collection[int] = ()
    ) -> Segmenter:
        """A second segmenter on the same network with the same options, its memory still empty.

        It is for objects that are seeded in a frame of the past: seed it there, step it through
        the frames since, and give it to ``adopt``. This one is not changed meanwhile and may
        go on; both belong to one thread.

        Args:
            ids: of the objects it will follow; its memory is made for this many.
            replace: as ``adopt`` will be called.
            forget: as ``adopt`` will be called.

        Raises:
            CapacityError: ``adopt`` could not take these.
        """
        self._check_capacity(ids, replace, forget)
        made = Segmenter(
            self._reader.stages, self.options, defaults=self.defaults, max_objects=len(set(ids))
        )
        if self.processing_size is not None and not replace:
            made._reader.use(self.processing_size)
        return made

    def adopt(
        self, other: Segmenter, *, replace: bool = False, forget: Collection[int] = ()
    ) -> list[int]:
        """Takes over all objects of a ``fork`` with their memory; the others are left alone.

        An object of the same id is replaced. What is taken is copied. Where objects taken over and
        others lie on the same pixels, the two fight for them, unless one was told to ``give_way``.

        Args:
            replace: forget all objects that were tracked before.
            forget: forget only these, if they are tracked.

        Returns:
            The ids taken over, sorted.

        Raises:
            InputError: another network, or another processing size. Nothing is changed.
            CapacityError: more objects than max_objects. Nothing is changed.
        """
        ids = other.ids
        self._check_capacity(ids, replace, forget)
        if other._reader.stages is not self._reader.stages:
            raise InputError("only a fork of this segmenter can be adopted: the networks differ")
        if not ids:
            return ids
        if self.memory.grows:  # it refuses, which must not come after what is forgotten
            self.memory.adopt(other.memory)
        kept = bool(self.memory.rows) and not replace
        here, there = self.processing_size, other.processing_size
        if kept and here != there:
            raise InputError(
                f"the objects to adopt were followed at {there}, those here at {here}; fork again"
            )
        if replace:
            self.reset()
        for object_id in self.memory.rows.keys() & set(forget) - set(ids):
            self.remove(object_id)
        if not kept and there is not None:
            self._reader.use(there)
        self.memory.adopt(other.memory)
        for object_id in ids:
            self._states.unseen[object_id] = other._states.unseen[object_id]
            self._seeds.forget(object_id)
            if self._reader.frame is not None:
                self._reader.frame.forget(object_id)
        return ids

    def snapshot(self, names: Mapping[int, str] | None = None) -> Snapshot:
        """A copy of the memory, to be written later or elsewhere; ``save`` does both.

        Args:
            names: of the objects, kept beside them as text.

        Raises:
            InputError: a name that is too long or cannot be printed.
            ModelError: the runtime does not hold the network that made the memory.
        """
        ids = self.memory.ids
        for name in (names or {}).values():
            check_name(name)
        return Snapshot(
            model=self._fingerprint(),
            slots=self.options.slots,
            update_rule=self.options.update_rule,
            processing_size=self.processing_size,
            ids=ids,
            unseen=[self._states.unseen[object_id] for object_id in ids],
            remembered=self._remembered,
            tensors=self.memory.state(),
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
            InputError: the file cannot be written, or a name is too long or cannot be printed.
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
            ModelError: the memory of another network.
            CapacityError: more objects than max_objects. Nothing is changed in any case.
        """
        return self.restore(Snapshot.read(path))

    def restore(self, snapshot: Snapshot) -> dict[int, str]:
        """As ``load_memory``, from a snapshot that was read before; the same errors."""
        snapshot.check(self._fingerprint(), self.options)
        size, memory = snapshot.processing_size, self.memory
        # beside the present memory, so that a bad snapshot leaves that as it is
        if size is not None:
            memory = self._reader.memory_of(size)
        if snapshot.ids:
            try:
                memory.restore(snapshot.ids, snapshot.tensors)
            except InputError as error:
                raise InputError(f"the snapshot is damaged: {error}") from None
        else:
            memory.reset()
        if size is not None:
            self._reader.use(size, memory)
        self._reader.size, self._reader.frame, self._reader.query_key = size, None, None
        self._states.unseen = dict(zip(snapshot.ids, snapshot.unseen, strict=True))
        self._seeds.clear()
        self._remembered = snapshot.remembered
        return dict(snapshot.names)

    def _fingerprint(self) -> str:
        """Of the network; made once, as it takes a moment."""
        self._model = self._model or fingerprint(self._reader.stages.network)
        return self._model

    def reset(self) -> None:
        """Forgets every object; the next frame seeded decides the processing size again."""
        self._reader.reset()
        self._states.unseen.clear()
        self._seeds.clear()
        self._remembered = 0

    def _check_followed(self, object_id: int) -> None:
        """UnknownObjectError if an object is not."""
        if object_id not in self.memory.rows:
            raise UnknownObjectError(
                f"object {object_id} is not tracked; tracked are {self.ids or 'none'}"
            )

    def _check_capacity(
        self, ids: Sequence[int], replace: bool = False, forget: Collection[int] = ()
    ) -> None:
        """CapacityError if these ids could not be tracked beside those that stay."""
        stay = set() if replace else self.memory.rows.keys() - set(forget)
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
