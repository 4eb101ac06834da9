"""What the segmentation node does for one camera, without ROS: frames in, masks out, objects seeded
meanwhile.

Threads: the worker (`worker.Worker`, one for all cameras) owns the segmenters, so no two calls of
the network ever run at the same time. A core keeps a small mailbox for it: two queues of commands
and one place for a frame, which always holds the newest. Callers (the node's service and image
callbacks) only put something into the mailbox and, for commands, wait for the answer. A slow
network makes frames drop (and be counted) instead of pile up.

Urgent commands (remove, reset, and the copy that is saved) take a moment, and wait for one piece
of work at most. What adds objects (seeds, a snapshot that is loaded) waits behind them. It takes
long and is a generator: after each step, which costs about as much as a frame, a frame that waits
goes first, and frames that wait have at least the share of the time that seeds leave them
(`seed_share`). A seed that is on its way when its object is removed, or when all is reset, is given
up (`seed_requests.Tickets`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.mask_reading import VOID, clean
from stremn_ros.imaging.overlap import Overlap, overlaps
from stremn_ros.imaging.seeding import DOUBTFUL, agreement, make_mask
from stremn_ros.imaging.sizes import too_small
from stremn_ros.messages import image_read
from stremn_ros.messages.reading import NANOSECONDS, decode, frame_size, stamp_of
from stremn_ros.options import RUN_TIME
from stremn_ros.results import MAX_ID, ObjectState, SegmenterState, SegmentResult, TrackedObject
from stremn_ros.segmenter import Segmenter
from stremn_ros.snapshot import Snapshot
from stremn_ros.stream.diagnosis import CoreStatus, Report, diagnose, listed_ids
from stremn_ros.stream.frame_core import FrameCore, describe_error
from stremn_ros.stream.intake import Frame
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.seed_inbox import SeedInbox, WaitingSeed
from stremn_ros.stream.seed_requests import FreeIds, OnOverlap, SeedOptions, SeedWork, Tickets
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.worker import Job, Worker

# A command waits for the frame in work; a worker that takes longer than this is stuck.
COMMAND_TIMEOUT = 60.0

# Seconds between two looks inside the memory for the diagnostics, and how many of the frame's cells
# are asked for their attention: about a millisecond for an object
LOOK_PERIOD = 1.0
LOOK_CELLS = 64

# Seconds that a step of a seed may take before a frame that waits goes first, where frames take
# less than that.
LEAST_STEP = 0.1
# From so many objects on, a seed's answer tells what a frame costs with all of them.
MANY = 5
# A seed of many objects that takes longer than this is announced in the log.
LONG_SEED = 2.0
# Objects side by side share a line of pixels; what is less than this share is not looked at.
EDGE_SHARE = 0.01

Steps = Generator[None, None, Any]
"""A command in the worker: it yields where a frame may go first, and returns the answer."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame and what was found in it, for publishing."""

    frame: Frame
    rgb: NDArray[np.uint8]
    result: SegmentResult
    names: dict[int, str]


@dataclass
class Answer:
    """Of a service: what happened, in words, and the state after it."""

    success: bool
    message: str
    ids: list[int] = field(default_factory=list)
    tracked_ids: list[int] = field(default_factory=list)
    frame: Frame | None = None  # that the seed was applied to
    exact: bool = False  # it is the one that was asked for
    mask: NDArray[np.uint8] | None = None
    overlapped_ids: list[int] = field(default_factory=list)  # of objects that the seed covered
    frame_time: float = 0.0  # seconds of a frame with all objects; 0 where not measured
    agreement: float = 0.0  # of a mask made of hints, see `seeding.agreement`


class SegmentCore(FrameCore):
    """Frames, commands and counters around one segmenter; see the module's text for the threads.

    Args:
        segmenter: the loaded `Segmenter`; from now on only the worker touches it.
        publish: called in the worker for each segmented frame, before the memory is updated.
        seeded: told what came of each mask of `seed_later`, in a thread of its own.
        seed_buffer: how many of the last frames are kept for seeds.
        log, settings, topic, node, now, clock, worker: as in FrameCore.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        publish: Callable[[Segmented], None],
        log: Log,
        seeded: Callable[[Answer], None] = lambda answer: None,
        settings: Settings | None = None,
        seed_buffer: int = 30,
        topic: str = "image",
        node: str = "/stremn",
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        worker: Worker | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        super().__init__(seed_buffer, log, self.settings, topic, node, now, clock, worker)
        self._segmenter = segmenter
        self._publish, self._seeded = publish, seeded
        # guarded by the condition, as all that FrameCore has
        self._urgent: deque[tuple[Steps, Future[Any]]] = deque()
        self._adding: deque[tuple[Steps, Future[Any]]] = deque()
        self._frame_next = False  # so that a stream of urgent commands does not keep frames out
        self._owed = 0.0  # seconds that frames have before the next step of a seed, if they wait
        self._tickets = Tickets()
        self._stopping = False
        self._last_seed: tuple[float, str] | None = None
        self._by_topic = {True: 0, False: 0}  # masks seeded, and refused
        # written by the worker alone
        self._changes = 0  # of the memory
        self._saved_changes = 0  # what that was when it was last saved or loaded
        self._names: dict[int, str] = {}
        self._free_ids = FreeIds()
        self._latest: tuple[int, NDArray[np.uint8]] | None = None  # the last frame, and its labels
        self._frame_time = 0.0, 0  # seconds in the network for the last frame, and its objects
        # A picture of the segmenter's state for diagnostics, made by the worker after each job:
        # the segmenter itself must not be asked while it works.
        self._inside: dict[int, str] = {}
        self._looked_at = -LOOK_PERIOD
        self._state = self._look(())
        self._inbox = SeedInbox(
            int(segmenter.max_objects), self._seed_waiting, self._refuse_mask, self._give_up
        )
        self._worker.add(self)

    def deactivate(self) -> None:
        """No frame is taken any more, and masks of the topic that wait are forgotten; returns when
        no frame is in work, so nothing gets published."""
        self._inbox.clear()
        super().deactivate()

    def close(self) -> None:
        """Ends the work of this core after its current job; commands that wait are answered with a
        failure."""
        with self._condition:
            self._stopping = True
            self._active = False  # nobody waits for a frame any more
            pending = [*self._urgent, *self._adding]
            self._urgent.clear()
            self._adding.clear()
            self._condition.notify_all()
        for _, future in pending:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(StremnError("the node is being cleaned up"))
        self._inbox.close()
        super().close()
        del self._segmenter
        self._latest = None

    # ------------------------------------------------------------------ commands

    def seed_mask(
        self,
        mask: Any,
        names: Sequence[str] = (),
        replace: bool = False,
        *,
        strict: bool = False,
        on_overlap: int = OnOverlap.SEED_AGAIN,
    ) -> Answer:
        """~/seed_mask. mask: an image message whose stamp chooses the frame (0: the newest).

        replace, strict, on_overlap: see `SeedOptions`.
        """
        with self._condition:
            ticket = self._tickets.take()
        try:
            labels, notes = clean(image_read.decode_labels(mask)).labels(alone=VOID)
            options = SeedOptions(stamp_of(mask), replace, strict, on_overlap)
            answer = self._seed_labels(labels, names, options, ticket, notes)
        except InputError as error:
            answer = self.failure(str(error))
        return self._noted(answer, ticket)

    def seed_later(self, mask: Any) -> None:
        """~/seed: as `seed_mask`, in another thread; of masks that wait the newest of each object
        is seeded. What comes of it is told to `seeded`."""
        with self._condition:
            ticket = self._tickets.take()
        self._inbox.put(mask, ticket)

    def _seed_waiting(self, waiting: WaitingSeed) -> None:
        options = SeedOptions(waiting.stamp, strict=self.settings.strict_seeds)
        try:
            answer = self._seed_labels(waiting.labels, (), options, waiting.ticket, waiting.notes)
        except Exception as error:  # the thread must live on
            answer = self._refused(error)
        self._tell_seeded(answer, waiting.ticket)

    def _refuse_mask(self, ticket: int, reason: str) -> None:
        self._tell_seeded(self.failure(reason), ticket)

    def _give_up(self, ticket: int) -> None:
        with self._condition:
            self._tickets.done(ticket)

    def _tell_seeded(self, answer: Answer, ticket: int) -> None:
        self._by_topic[answer.success] += 1
        self._seeded(self._noted(answer, ticket))

    def _seed_labels(
        self,
        labels: NDArray[np.uint8],
        names: Sequence[str],
        options: SeedOptions,
        ticket: int,
        notes: Sequence[str] = (),
    ) -> Answer:
        """notes: on how the mask was read, for the answer."""
        wanted = [int(value) for value in np.unique(labels) if value]
        if not wanted:
            raise InputError(
                "the mask is all zero: mark each object with its id, 1 to 255, in the pixels "
                "it covers"
            )
        if names and len(names) != len(wanted):
            raise InputError(
                f"{len(names)} names for the {len(wanted)} objects {wanted} of the mask: give "
                "one for each, in rising order of the ids, or none"
            )
        with self._condition:
            self._tickets.expect(ticket, wanted)

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            height, width = frame_size(frame.message)
            if labels.shape != (height, width):
                raise InputError(
                    f"the mask is {labels.shape[1]} x {labels.shape[0]} pixels, the frame is "
                    f"{width} x {height}: send the mask at the frame's size"
                )
            return decode(frame.message), labels

        answer = self._seed(options, make, lambda _: dict(zip(wanted, names)), ticket)
        answer.message = "; ".join([answer.message, *notes])
        return answer

    def seed_object(
        self,
        object_id: int = 0,
        name: str = "",
        *,
        box: tuple[int, int, int, int] | None = None,
        polygon: Sequence[tuple[float, float]] = (),
        inside: Sequence[tuple[float, float]] = (),
        outside: Sequence[tuple[float, float]] = (),
        stamp: int = 0,
        strict: bool = False,
        on_overlap: int = OnOverlap.SEED_AGAIN,
    ) -> Answer:
        """~/seed_object. GrabCut runs in the caller's thread, so frames go on meanwhile."""
        with self._condition:
            ticket = self._tickets.take()
        if not 0 <= object_id <= MAX_ID:
            text = f"the id {object_id} cannot be used: give 1 to {MAX_ID}, or 0 for a free one"
            return self._noted(self.failure(text), ticket)
        if object_id:
            with self._condition:
                self._tickets.expect(ticket, [object_id])

        hints: dict[str, Any] = {
            "box": box,
            "polygon": polygon,
            "inside": inside,
            "outside": outside,
        }
        picture: list[NDArray[np.uint8]] = []

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            picture.append(decode(frame.message))
            return picture[0], make_mask(picture[0], **hints)

        def number(mask: NDArray[np.uint8]) -> dict[int, str]:
            chosen = object_id or self._free_ids.take(self._segmenter.ids)
            mask *= np.uint8(chosen)  # in place: the answer shows the mask with the id
            return {chosen: name} if name else {}

        options = SeedOptions(stamp, strict=strict, on_overlap=on_overlap)
        answer = self._seed(options, make, number, ticket)
        if answer.mask is not None:  # the object is followed meanwhile
            answer.agreement = agreement(picture[0], answer.mask, **hints)
            if answer.agreement < DOUBTFUL:
                answer.message += (
                    "; the mask is doubtful, as it changes when the hints are moved a little "
                    f"(agreement {answer.agreement:.2f}): look at ~/overlay, and give more points, "
                    "a box or a polygon, or send a mask to seed_mask"
                )
        return self._noted(answer, ticket)

    def remove(self, object_id: int) -> Answer:
        """~/remove_object."""
        on_its_way = False

        def overtake() -> None:
            nonlocal on_its_way
            on_its_way = self._tickets.remove(object_id)

        def work() -> str:
            if on_its_way and object_id not in self._segmenter.ids:
                return f"object {object_id}, which was being seeded, is given up"
            self._segmenter.remove(object_id)
            self._names.pop(object_id, None)
            self._changes += 1
            return f"object {object_id} is removed"

        return self._simple(work, overtake)

    def reset(self) -> Answer:
        """~/reset: forgets all objects and goes on."""

        def work() -> str:
            count = len(self._segmenter.ids)
            self._forget()
            return f"{count} objects forgotten" if count != 1 else "1 object forgotten"

        return self._simple(work, self._tickets.reset)

    def save(self, path: Path, mark: bool = True) -> Answer:
        """Writes a snapshot; frames go on while the disk works. ids: of the objects saved.

        mark: it is the one that `unsaved` speaks of.
        """

        def copy() -> tuple[Snapshot, int]:
            return self._segmenter.snapshot(self._names), self._changes

        try:
            snapshot, changes = self._call(_at_once(copy), self._urgent)
            size = snapshot.write(path)
        except Exception as error:
            return self._refused(error)
        if mark:
            self._saved_changes = changes
        text = f"saved {_objects(snapshot.ids)} to {path} ({size / 1e6:.1f} MB)"
        return Answer(True, text, sorted(snapshot.ids), self.tracked())

    def restore(self, snapshot: Snapshot, mark: bool = True) -> Answer:
        """All objects give way to those of a snapshot, or nothing is changed. mark: as in save."""

        def work() -> str:
            names = self._segmenter.restore(snapshot)
            self._names.clear()
            self._names.update(names)
            self._latest = None
            self._changes += 1
            if mark:
                self._saved_changes = self._changes
            return f"loaded {_objects(snapshot.ids)}"

        return self._simple(work)

    def unsaved(self) -> bool:
        """The memory has changed since it was last saved or loaded."""
        return self._changes != self._saved_changes

    def enable(self, on: bool) -> Answer:
        """~/enable: pauses (frames count as dropped, objects are kept) and goes on."""
        with self._condition:
            before, self._enabled = self._enabled, bool(on)
            if not on:
                self._frames.drop_waiting()
        state = "enabled" if on else "paused: images are dropped until it is enabled again"
        return Answer(True, ("already " if before == bool(on) else "") + state)

    def _simple(
        self, work: Callable[[], str], overtake: Callable[[], None] | None = None
    ) -> Answer:
        """overtake: of an urgent command; called when it is queued, with the condition held."""
        queue = self._adding if overtake is None else self._urgent
        try:
            message = self._call(_at_once(work), queue, overtake)
        except Exception as error:  # whatever a runtime may raise must not end the service
            return self._refused(error)
        return Answer(True, message, tracked_ids=self.tracked())

    def _seed(
        self,
        options: SeedOptions,
        make: Callable[[Frame], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
        number: Callable[[NDArray[np.uint8]], dict[int, str]],
        ticket: int,
    ) -> Answer:
        """make: picture and mask, in the caller's thread; number: gives a mask its ids where it
        has none yet, and returns the names, in the worker."""
        try:
            options.check()
            frame, note, exact = self._frame_for(options, ticket)
            seed = SeedWork(options, frame, *make(frame), ticket)
            carried = self._call(self._seed_steps(seed, number), self._adding)
        except Exception as error:
            return self._refused(error)
        listed = ", ".join(str(number) for number in seed.ids)
        message = f"seeded object{'s' if len(seed.ids) != 1 else ''} {listed}{note}{carried}"
        message = "; ".join((message, *seed.overlapped.values()))
        mask = seed.mask
        for given, used in seed.renamed.items():
            mask = np.where(mask == given, np.uint8(used), mask)
        return Answer(
            True,
            message,
            seed.ids,
            self.tracked(),
            frame,
            exact,
            mask,
            sorted(seed.overlapped),
            seed.frame_time,
        )

    def _seed_steps(
        self, seed: SeedWork, number: Callable[[NDArray[np.uint8]], dict[int, str]]
    ) -> Steps:
        """In the worker: compares a seed with what is followed, encodes it object by object, and
        writes it to the memory. Until that nothing is changed. Returns what to say of it.

        Where frames came since the seed's, those of the past or such as came meanwhile, the
        objects are carried forward in a memory of their own.
        """
        begin = self._clock()
        self._check_overtaken(seed)
        self._apply_settings()
        seed.names = number(seed.mask)
        segmenter, frame = self._segmenter, seed.frame
        fork = None
        if seed.options.replace or self._frames_since(frame.number):
            wanted = [int(value) for value in np.unique(seed.mask) if value]
            fork = segmenter.fork(wanted, replace=seed.options.replace)
        job = (fork or segmenter).begin_seed(seed.rgb, seed.mask)
        if fork is None:
            again, spared = seed.settle(job.overlaps)
            for given, used in again.items():
                job.rename(given, used)
            job.spare([overlap.tracked for overlap in spared])
            job.forget |= seed.replaced
        yield from self._in_portions((fork or segmenter).seed_steps(job), seed, len(job.ids))
        self._check_overtaken(seed)
        if fork is None and self._frames_since(frame.number):
            fork = segmenter.fork(job.ids, forget=job.forget)
        if fork is None:
            self._drop_removed(seed, job.ids, job.drop)
            self._note_cuts(seed, job.overlaps, job.cut_ids)
            seed.ids = segmenter.finish_seed(job)
            text = ""
        else:
            fork.finish_seed(job)
            text = yield from self._carry(seed, fork, begin)
        if seed.options.replace:
            self._names.clear()
        for old in seed.replaced:
            self._names.pop(old, None)
        for given, name in seed.names.items():
            used = seed.renamed.get(given, given)
            if used in seed.ids and (used == given or used not in self._names):
                self._names[used] = name
        self._changes += 1
        self._latest = None  # it does not show these
        size = getattr(segmenter, "processing_size", None)
        if size is not None and (small := too_small(seed.mask, size)):
            text += f"; {small}"
        return text + (yield from self._measure_frame(seed))

    def _in_portions(
        self, steps: Iterator[None], seed: SeedWork, count: int
    ) -> Generator[None, None, None]:
        """Goes through the steps of a seed of so many objects, and yields about once in the time of
        a frame."""
        budget = max(LEAST_STEP, self._frame_time[0])
        portion = self._clock()
        for done, _ in enumerate(steps, 1):
            spent = self._clock() - portion
            if done == 1:
                seed.encoding = spent
                if spent * count > LONG_SEED:
                    text = f"seeding {count} objects takes about {spent * count:.0f} s or more"
                    self._log("info", "", text)
            if spent >= budget:
                yield
                portion = self._clock()
        seed.encoding = seed.encoding or self._clock() - portion

    def _carry(self, seed: SeedWork, fork: Segmenter, begin: float) -> Generator[None, None, str]:
        """Follows the objects of a fork from the seed's frame to now, and takes them over; what to
        say of it.

        The frames since are those of the buffer. Each step costs about as much as a frame, and
        between two steps the stream goes on, so new frames come meanwhile; to be done in
        `catch_up_time`, steps get longer as that runs out, and the last is the newest frame.

        Args:
            begin: when the work on the seed began.
        """
        frame = seed.frame
        at, stepped, result, picture = frame.number, 0, None, seed.rgb
        while self._frames_since(at):
            yield
            self._check_overtaken(seed)
            ahead = self._frames_since(at)  # again, as a newer frame may have been through
            spent = self._clock() - begin
            left = self.settings.catch_up_time - spent
            affordable = max(1, int(left * (1 + stepped) / spent)) if spent > 0 else len(ahead)
            step = min(len(ahead), math.ceil(len(ahead) / affordable))
            chosen = ahead[step - 1]
            at = chosen.number
            try:
                picture = decode(chosen.message)
            except InputError:
                continue  # it was counted and told when its turn came
            result = fork.step(picture)
            stepped += 1
        self._check_overtaken(seed)
        self._drop_removed(seed, fork.ids, fork.remove)
        labels = seed.mask if result is None else result.labels
        if not seed.options.replace:
            self._meet(seed, fork, at, picture, labels)
        seed.ids = self._segmenter.adopt(fork, replace=seed.options.replace, forget=seed.replaced)
        if not stepped:
            return ""
        unseen = [
            item.id
            for item in (result.objects if result else ())
            if item.state is not ObjectState.TRACKED
        ]
        text = (
            f"; carried forward through {stepped} of the {at - frame.number} frames since then in "
            f"{self._clock() - begin:.2f} s"
        )
        if unseen:
            text += f"; not seen in the newest: object {listed_ids(unseen)}"
        return text

    def _meet(
        self,
        seed: SeedWork,
        fork: Segmenter,
        at: int,
        picture: NDArray[np.uint8],
        labels: NDArray[np.uint8],
    ) -> None:
        """Compares the objects of a fork with those followed, where they meet: in the newest frame.

        Args:
            at: number of that frame; picture, labels: of it, and of the fork's objects in it.
        """
        segmenter = self._segmenter
        followed = set(segmenter.ids) - seed.replaced
        if not (labels.any() and followed):
            return
        if self._latest is not None and self._latest[0] == at:
            tracked = self._latest[1]
        else:  # paused, or that frame could not be segmented, or others came since
            tracked = segmenter.find(picture)
        # some may have been removed since that frame
        found = [each for each in overlaps(labels, tracked) if each.tracked in followed]
        again, spared = seed.settle(found)
        for given, used in again.items():
            fork.rename(given, used)
        settled = {*again.values(), *seed.replaced}
        if spared:
            kept = [overlap.tracked for overlap in spared]
            settled.update(kept)
            labels = labels * ~np.isin(tracked, kept)
            fork.give_way(picture, np.where(np.isin(tracked, kept), tracked, np.uint8(0)), fork.ids)
        rest = [
            overlap
            for overlap in found
            if overlap.tracked not in settled and overlap.covered >= EDGE_SHARE
        ]
        if rest:
            cut = segmenter.give_way(picture, labels, [overlap.tracked for overlap in rest])
            self._note_cuts(seed, rest, cut)

    def _note_cuts(self, seed: SeedWork, found: Iterable[Overlap], cut: Sequence[int]) -> None:
        for overlap in found:
            if overlap.tracked in cut:
                text = (
                    f"object {overlap.tracked} loses {overlap.covered:.0%} of its pixels to object "
                    f"{overlap.seeded} and keeps what is left"
                )
                seed.overlapped.setdefault(overlap.tracked, text)

    def _drop_removed(
        self, seed: SeedWork, ids: Sequence[int], drop: Callable[[int], None]
    ) -> None:
        """Gives up those objects of a seed that were removed while it was on its way."""
        with self._condition:
            removed = self._tickets.removed(seed.ticket, ids)
        if removed and len(removed) == len(ids):
            raise StremnError(
                f"object {listed_ids(removed)} was removed while it was being seeded, so nothing "
                "was seeded"
            )
        for number in removed:
            drop(number)

    def _measure_frame(self, seed: SeedWork) -> Generator[None, None, str]:
        """With many objects: what a frame costs from now on; what to say of it."""
        count = len(self._segmenter.ids)
        if count < MANY:
            return ""
        yield
        if count != len(self._segmenter.ids):
            return ""
        network, objects = self._frame_time
        if objects != count:  # no frame has been through since
            begin = self._clock()
            self._segmenter.find(seed.rgb)
            network = self._clock() - begin
        seed.frame_time = network + count * seed.encoding / self._segmenter.update_every
        with self._condition:
            period = self._frames.period()
        text = f"; with {count} objects an image takes about {seed.frame_time:.2f} s"
        if period and seed.frame_time > 2 * period:
            text += f", and one comes every {period:.2f} s, so most will be dropped"
        return text

    def _frames_since(self, number: int) -> list[Frame]:
        with self._condition:
            return self._frames.since(number, paused=not self._enabled)

    def _check_overtaken(self, seed: SeedWork) -> None:
        """StremnError where a seed has been overtaken by a reset, or by a jump of time."""
        if seed.frame.number < self._frames.first_number:
            raise StremnError(
                "time jumped back after the frame of this seed, so nothing was seeded: seed a "
                "frame of the new time"
            )
        with self._condition:
            self._check_reset(seed.ticket)

    def _check_reset(self, ticket: int) -> None:
        if self._tickets.forgotten(ticket):
            raise StremnError(
                "all objects were reset while this one was being seeded, so nothing was seeded: "
                "seed it again if it is wanted"
            )

    def _frame_for(self, options: SeedOptions, ticket: int) -> tuple[Frame, str, bool]:
        """The frame that a seed is for, what to say about it, and whether it is the one asked for.

        A stamp that no kept frame has may be that of a frame on its way, or of none.
        """
        stamp = options.stamp
        with self._condition:
            recent = self._frames.recent
            if not self._active:
                raise StremnError(
                    f"the node is not active: `ros2 lifecycle set {self._node} activate` first"
                )
            if not recent:
                raise StremnError(
                    f"no frame received yet on {self.topic}: check that something publishes "
                    f"there (ros2 topic info -v {self.topic}) and that its images are readable "
                    f"(/diagnostics){': ' + self._last_error if self._last_error else ''}"
                )
            if not stamp:
                return recent[-1], "", True
            if (frame := self._frames.of_stamp(stamp)) is not None:
                if frame is recent[-1]:
                    return frame, "", True
                late = (recent[-1].stamp - stamp) / NANOSECONDS
                return frame, f" in the frame of {late:.3f} s before the newest", True
            kept = (
                f"no kept frame has the stamp {_seconds(stamp)} (the {len(recent)} kept: "
                f"{_seconds(recent[0].stamp)} to {_seconds(recent[-1].stamp)})"
            )
            remedy = "send the stamp of a frame that the node received, or zero for the newest"
            wait = self.settings.seed_wait
            known = self._frames.last_number

            def come() -> bool:
                self._check_reset(ticket)
                if not self._active:
                    return True
                if options.strict:
                    return self._frames.of_stamp(stamp) is not None
                return self._frames.last_number > known

            if options.strict and not 0 < stamp - recent[-1].stamp <= wait * NANOSECONDS:
                raise InputError(f"{kept}, and the seed is strict, so nothing was seeded: {remedy}")
            if not self._condition.wait_for(come, wait):
                other = "it did not come" if options.strict else "no other frame came"
                raise StremnError(f"{kept} and {other} within {wait:g} s: {remedy}")
            if not self._active or not recent:
                raise StremnError("the node was deactivated before the next frame came")
            if (frame := self._frames.of_stamp(stamp)) is not None:
                return frame, "", True
            return recent[-1], f"; {kept}, so the next frame was taken", False

    def _call(
        self,
        steps: Steps,
        queue: deque[tuple[Steps, Future[Any]]],
        overtake: Callable[[], None] | None = None,
    ) -> Any:
        """Runs `steps` in the worker and returns what they return or raises what they raise.

        overtake: called when they are queued, with the condition held.
        """
        future: Future[Any] = Future()
        with self._condition:
            if self._stopping:
                raise StremnError("the node is being cleaned up")
            if overtake is not None:
                overtake()
            queue.append((steps, future))
            self._condition.notify_all()
        try:
            return future.result(COMMAND_TIMEOUT)
        except FutureTimeoutError:
            if future.cancel():
                raise StremnError(
                    f"the network was busy for {COMMAND_TIMEOUT:g} s, so nothing was done: it is "
                    "stuck or far too slow on this machine (/diagnostics shows the latency)"
                ) from None
            return future.result()  # it began at the last moment

    def _refused(self, error: Exception) -> Answer:
        if isinstance(error, StremnError):
            return self.failure(str(error))
        text = describe_error(error)
        self._complain(f"a service call failed inside: {text}")
        return self.failure(f"failed inside, nothing is known to be wrong with the call: {text}")

    def failure(self, message: str) -> Answer:
        """An answer that says why nothing was done."""
        return Answer(False, message, tracked_ids=self.tracked())

    def tracked(self) -> list[int]:
        """Ids of the objects that are followed."""
        with self._condition:
            return list(self._state.ids)

    # ------------------------------------------------------------------ the worker

    def has_work(self) -> bool:
        """For the worker, which holds the condition."""
        return bool(self._urgent or self._adding) or super().has_work()

    def has_urgent(self) -> bool:
        """For the worker, which holds the condition."""
        return bool(self._urgent)

    def take_work(self) -> Job:
        """For the worker, which holds the condition: a command's next step, or the frame."""
        waits = self._frames.waiting is not None
        if self._urgent and not (self._frame_next and waits):
            self._frame_next = True
            job = partial(self._execute, *self._urgent.popleft(), self._urgent)
        elif self._adding and not (waits and self._owed > 0):
            job = partial(self._execute, *self._adding.popleft(), self._adding)
        else:
            self._frame_next = False
            self._busy = True
            job = partial(self._process, self._frames.take())
        if not self._frames.reset_wanted:
            return job
        self._frames.reset_wanted = False
        return partial(self._forget_and, job)

    def _forget(self) -> None:
        """In the worker: forgets all objects."""
        self._segmenter.reset()
        self._names.clear()
        self._free_ids.clear()
        self._latest = None
        self._changes += 1

    def _forget_and(self, job: Job) -> None:
        try:
            self._forget()
        except Exception as error:  # the frame is segmented all the same
            self._complain(f"reset failed: {describe_error(error)}")
        self._note_state()
        job()

    def _execute(
        self, steps: Steps, future: Future[Any], queue: deque[tuple[Steps, Future[Any]]]
    ) -> None:
        if not future.running() and not future.set_running_or_notify_cancel():
            return  # given up by its caller
        begin = self._clock()
        try:
            next(steps)
        except StopIteration as end:
            try:
                self._note_state()  # before the answer, which tells the ids
            finally:
                future.set_result(end.value)
        except Exception as error:
            try:
                self._note_state()
            finally:
                future.set_exception(error)
        else:  # there is more to do, after the frame that waits
            with self._condition:
                if not self._stopping:
                    queue.appendleft((steps, future))
                    future = None  # type: ignore[assignment]
            if future is not None:
                future.set_exception(StremnError("the node is being cleaned up"))
        if queue is self._adding:
            share = self.settings.seed_share
            self._owed = (self._clock() - begin) * (1.0 - share) / share

    def _process(self, frame: Frame) -> None:
        result = None
        begin = self._clock()
        try:
            result = self._segment(frame)
            if result is not None:
                self._latest = frame.number, result.labels
                self._remember()
            self._note_state(result)
            self._owed -= self._clock() - begin
        finally:  # whatever happens, nobody waits for this frame any more
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def _segment(self, frame: Frame) -> SegmentResult | None:
        """Masks of a frame, published and counted; None when that failed."""
        free_since = self._worker.free_since
        problem, result, done = "", None, None
        try:
            rgb = decode(frame.message)
            self._apply_settings()
            begin = self._clock()
            result = self._segmenter.segment(rgb)
            inside = self._clock() - begin
            self._frame_time = inside, len(result.objects)
            # Publish first, remember after: the mask need not wait for the memory.
            self._publish(Segmented(frame, rgb, result, dict(self._names)))
            done = self._timing_of(frame, free_since, inside)
        except Exception as error:
            problem = f"image not segmented: {describe_error(error)}"
        self._count(done, problem)
        return None if done is None else result

    def _remember(self) -> None:
        try:
            self._segmenter.remember()
            if self._segmenter.ids:
                self._changes += 1
        except Exception as error:
            with self._condition:
                self._note_error(
                    f"the memory was not updated: {describe_error(error)}", key="memory"
                )

    def _apply_settings(self) -> None:
        """Run-time changes reach the segmenter here, between two frames."""
        options = self._segmenter.options
        own = {name: getattr(self._segmenter.defaults, name) for name in RUN_TIME}
        for name, value in {**own, **self.settings.options()}.items():
            if getattr(options, name) != value:
                try:
                    self._segmenter.change(**{name: value})
                except StremnError as error:  # a rule that this model cannot follow
                    with self._condition:
                        self._note_error(f"{name} stays as it was: {error}", key=name)

    def _note_state(self, result: SegmentResult | None = None) -> None:
        state = self._look(self._state.objects if result is None else result.objects)
        with self._condition:
            self._state = state

    def _look(self, objects: Sequence[TrackedObject]) -> SegmenterState:
        """Called where the segmenter may be asked: in the worker, or before it starts."""
        segmenter = self._segmenter
        ids = segmenter.ids
        self._free_ids.note(ids)
        return SegmenterState(
            ids=ids,
            objects=[item for item in objects if item.id in ids],
            names=dict(self._names),
            max_objects=segmenter.max_objects,
            memory_bytes=segmenter.memory_bytes,
            slots_used=segmenter.slots_used,
            memory=self._look_inside(),
            runtime=segmenter.runtime_name,
        )

    def _look_inside(self) -> dict[int, str]:
        """What the memory of each object holds, in words; anew once a second, for it takes time."""
        now, ids = self._clock(), set(self._segmenter.ids)
        if now - self._looked_at >= LOOK_PERIOD or ids != self._inside.keys():
            self._looked_at = now
            seen = self._segmenter.look_inside(cells=LOOK_CELLS)
            self._inside = {memory.id: memory.text() for memory in seen}
        return self._inside

    # ------------------------------------------------------------------ diagnostics

    def report(
        self,
        hint: str = "",
        snapshot: str = "",
        problems: Sequence[str] = (),
        no_clock: bool = False,
    ) -> Report:
        """The diagnostics.

        hint: why no frames may come, if the caller knows (a QoS mismatch); snapshot: the last one;
        problems: what else is wrong; no_clock: a simulated clock has not been told the time.
        """
        with self._condition:
            recent = self._frames.recent
            facts = CoreStatus(
                images=self._input_status(hint, no_clock),
                state=self._state,
                settings=self.settings,
                enabled=self._enabled,
                kept_frames=len(recent),
                kept_most=recent.maxlen or 0,
                kept_bytes=sum(len(frame.message.data) for frame in recent),
                snapshot=snapshot,
                last_seed=self._seed_text(),
                seeds_by_topic=self._topic_text(),
                problems=tuple(text for text in problems if text),
            )
        return diagnose(facts)

    def _noted(self, answer: Answer, ticket: int) -> Answer:
        with self._condition:
            self._tickets.done(ticket)
            self._last_seed = self._clock(), answer.message
        return answer

    def _topic_text(self) -> str:
        seeded, refused = self._by_topic[True], self._by_topic[False]
        return f"{seeded} seeded, {refused} refused, {self._inbox.replaced} replaced by newer ones"

    def _seed_text(self) -> str:
        if self._last_seed is None:
            return "never"
        return f"{self._last_seed[1]}, {self._clock() - self._last_seed[0]:.1f} s ago"


def _at_once(work: Callable[[], Any]) -> Steps:
    yield from ()
    return work()


def _seconds(stamp: int) -> str:
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d}"


def _objects(ids: Sequence[int]) -> str:
    if not ids:
        return "a memory without objects"
    return f"object{'s' if len(ids) != 1 else ''} {listed_ids(sorted(ids))}"
