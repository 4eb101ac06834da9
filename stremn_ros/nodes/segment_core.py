"""What the segmentation node does for one camera, without ROS: frames in, masks out, objects seeded
meanwhile.

Threads: the worker (`worker.Worker`, one for all cameras) owns the segmenters, so no two calls of
the network ever run at the same time. A core keeps a small mailbox for it: a queue of commands
(seed, remove, reset) and one place for a frame, which always holds the newest. Callers (the node's
service and image callbacks) only put something into the mailbox and, for commands, wait for the
answer. A command therefore waits for one frame at most, a frame never waits for more than one
command, and a slow network makes frames drop (and be counted) instead of pile up. A command that
takes long (a seed for the past, which is carried forward to now) is a generator: it yields after
each step, and a frame that waits goes first.
"""

from __future__ import annotations

import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, StremnError
from stremn_ros.mask_reading import VOID, clean
from stremn_ros.memory.snapshot import Snapshot
from stremn_ros.nodes import image_codec
from stremn_ros.nodes.core import FrameCore, in_words
from stremn_ros.nodes.frames import NANOSECONDS, Frame, decode, frame_size, stamp_of
from stremn_ros.nodes.limited_log import Log
from stremn_ros.nodes.report import Facts, Report, diagnose, listed_ids
from stremn_ros.nodes.settings import Settings
from stremn_ros.nodes.worker import Job, Worker
from stremn_ros.seeding import make_mask
from stremn_ros.sizes import too_small

# A command waits for the frame in work; a worker that takes longer than this is stuck.
COMMAND_TIMEOUT = 60.0

# Seconds between two looks inside the memory for the diagnostics, and how many of the frame's cells
# are asked for their attention: about a millisecond for an object
LOOK_PERIOD = 1.0
LOOK_CELLS = 64

Steps = Generator[None, None, Any]
"""A command in the worker: it yields where a frame may go first, and returns the answer."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame and what was found in it, for publishing."""

    frame: Frame
    rgb: NDArray[np.uint8]
    result: Any  # stremn_ros.segmenter.SegmentResult
    names: dict[int, str]


@dataclass
class Answer:
    """Of a service: what happened, in words, and the state after it."""

    success: bool
    message: str
    ids: list[int] = field(default_factory=list)
    tracked_ids: list[int] = field(default_factory=list)
    frame: Frame | None = None  # that the seed was applied to
    mask: NDArray[np.uint8] | None = None


class SegmentCore(FrameCore):
    """Frames, commands and counters around one segmenter; see the module's text for the threads.

    Args:
        segmenter: the loaded `Segmenter`; from now on only the worker touches it.
        publish: called in the worker for each segmented frame, before the memory is updated.
        seed_buffer: how many of the last frames are kept for seeds.
        log, settings, topic, node, now, clock, worker: as in FrameCore.
    """

    def __init__(
        self,
        segmenter: Any,
        *,
        publish: Callable[[Segmented], None],
        log: Log,
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
        self._publish = publish
        own = ("update_rule", "update_every", "lost_after", "return_score")
        self._own = {name: getattr(segmenter, name) for name in own}  # the model's
        # guarded by the condition, as all that FrameCore has
        self._commands: deque[tuple[Steps, Future[Any]]] = deque()
        self._frame_next = False  # so that a stream of commands does not keep frames out
        self._stopping = False
        self._last_seed: tuple[float, str] | None = None
        self._changes = 0  # of the memory; written by the worker
        self._saved_changes = 0  # what that was when it was last saved or loaded
        self._names: dict[int, str] = {}
        # A picture of the segmenter's state for diagnostics, made by the worker after each job:
        # the segmenter itself must not be asked while it works.
        self._state: dict[str, Any] = {}
        self._inside: dict[int, str] = {}
        self._looked_at = -LOOK_PERIOD
        self._note_state()
        self._worker.add(self)

    def close(self) -> None:
        """Ends the work of this core after its current job; commands that wait are answered with a
        failure."""
        with self._condition:
            self._stopping = True
            pending = list(self._commands)
            self._commands.clear()
            self._condition.notify_all()
        for _, future in pending:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(StremnError("the node is being cleaned up"))
        super().close()
        self._segmenter = None

    # ------------------------------------------------------------------ commands

    def seed_mask(self, mask: Any, names: Sequence[str] = (), replace: bool = False) -> Answer:
        """~/seed_mask. mask: an image message whose stamp chooses the frame (0: the newest)."""
        return self._noted(self._seed_mask(mask, names, replace))

    def _seed_mask(self, mask: Any, names: Sequence[str], replace: bool) -> Answer:
        try:
            labels, notes = clean(image_codec.decode_labels(mask)).labels(alone=VOID)
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
            stamp = stamp_of(mask)
        except InputError as error:
            return self.failure(str(error))

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            height, width = frame_size(frame.message)
            if labels.shape != (height, width):
                raise InputError(
                    f"the mask is {labels.shape[1]} x {labels.shape[0]} pixels, the frame is "
                    f"{width} x {height}: send the mask at the frame's size"
                )
            return decode(frame.message), labels

        answer = self._seed(stamp, make, lambda _: dict(zip(wanted, names)), replace)
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
    ) -> Answer:
        """~/seed_object. GrabCut runs in the caller's thread, so frames go on meanwhile."""
        if not 0 <= object_id <= image_codec.MAX_LABEL:
            text = (
                f"the id {object_id} cannot be used: give 1 to {image_codec.MAX_LABEL}, or 0 for "
                "a free one"
            )
            return self._noted(self.failure(text))

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            rgb = decode(frame.message)
            return rgb, make_mask(rgb, box=box, polygon=polygon, inside=inside, outside=outside)

        def number(mask: NDArray[np.uint8]) -> dict[int, str]:
            chosen = object_id or self._free_id()
            mask *= np.uint8(chosen)  # in place: the answer shows the mask with the id
            return {chosen: name} if name else {}

        return self._noted(self._seed(stamp, make, number))

    def remove(self, object_id: int) -> Answer:
        """~/remove_object."""

        def work() -> str:
            self._segmenter.remove(object_id)
            self._names.pop(object_id, None)
            self._changes += 1
            return f"object {object_id} is removed"

        return self._simple(work)

    def reset(self) -> Answer:
        """~/reset: forgets all objects and goes on."""

        def work() -> str:
            count = len(self._segmenter.ids)
            self._segmenter.reset()
            self._names.clear()
            self._changes += 1
            return f"{count} objects forgotten" if count != 1 else "1 object forgotten"

        return self._simple(work)

    def save(self, path: Path, mark: bool = True) -> Answer:
        """Writes a snapshot; frames go on while the disk works. ids: of the objects saved.

        mark: it is the one that `unsaved` speaks of.
        """

        def copy() -> tuple[Snapshot, int]:
            return self._segmenter.snapshot(self._names), self._changes

        try:
            snapshot, changes = self._call(copy)
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

    def _simple(self, work: Callable[[], str]) -> Answer:
        try:
            message = self._call(work)
        except Exception as error:  # whatever a runtime may raise must not end the service
            return self._refused(error)
        return Answer(True, message, tracked_ids=self.tracked())

    def _seed(
        self,
        stamp: int,
        make: Callable[[Frame], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
        number: Callable[[NDArray[np.uint8]], dict[int, str]],
        replace: bool = False,
    ) -> Answer:
        """make: picture and mask, in the caller's thread; number: gives a mask its ids where it
        has none yet, and returns the names, in the worker."""
        try:
            frame, note = self._frame_for(stamp)
            rgb, mask = make(frame)

            def steps() -> Steps:
                self._check_time(frame)
                names = number(mask)
                carried = ""
                if self._frames_since(frame.number):
                    ids, carried = yield from self._carry(frame, rgb, mask, replace)
                else:
                    ids = self._segmenter.seed(rgb, mask, replace=replace)
                if replace:
                    self._names.clear()
                self._names.update(names)
                self._changes += 1
                size = getattr(self._segmenter, "processing_size", None)
                if size is not None and (small := too_small(mask, size)):
                    carried += f"; {small}"
                return sorted(int(value) for value in ids), carried

            ids, carried = self._call(steps)
        except Exception as error:
            return self._refused(error)
        listed = ", ".join(str(number) for number in ids)
        message = f"seeded object{'s' if len(ids) != 1 else ''} {listed}{note}{carried}"
        return Answer(True, message, ids, self.tracked(), frame, mask)

    def _carry(
        self, frame: Frame, rgb: NDArray[np.uint8], mask: NDArray[np.uint8], replace: bool
    ) -> Generator[None, None, tuple[list[int], str]]:
        """Seeds objects in a frame of the past and follows them from there to now, in a memory of
        their own; the ids, and what to say of it. Until the end nothing else is changed.

        The frames since are those of the buffer. Each step costs about as much as a frame, and
        between two steps the stream goes on, so new frames come meanwhile; to be done in
        `catch_up_time`, steps get longer as that runs out, and the last is the newest frame.
        """
        begin = self._clock()
        self._apply_settings()
        wanted = [int(value) for value in np.unique(mask) if value]
        fork = self._segmenter.fork(wanted, replace=replace)
        fork.seed(rgb, mask)
        at, stepped, result = frame.number, 0, None
        while self._frames_since(at):
            yield
            self._check_time(frame)
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
        self._check_time(frame)
        ids = self._segmenter.adopt(fork, replace=replace)
        unseen = [
            item.id for item in (result.objects if result else ()) if item.state.name != "TRACKED"
        ]
        text = (
            f"; carried forward through {stepped} of the {at - frame.number} frames since then in "
            f"{self._clock() - begin:.2f} s"
        )
        if unseen:
            text += f"; not seen in the newest: object {listed_ids(unseen)}"
        return ids, text

    def _frames_since(self, number: int) -> list[Frame]:
        with self._condition:
            return self._frames.since(number, paused=not self._enabled)

    def _check_time(self, frame: Frame) -> None:
        if frame.number < self._frames.first_number:
            raise StremnError(
                "time jumped back after the frame of this seed, so nothing was seeded: seed a "
                "frame of the new time"
            )

    def _frame_for(self, stamp: int) -> tuple[Frame, str]:
        """The frame that a seed is for, and what to say about it."""
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
                return recent[-1], ""
            for frame in reversed(recent):
                if frame.stamp == stamp:
                    if frame is recent[-1]:
                        return frame, ""
                    newest = recent[-1].stamp
                    late = (newest - stamp) / NANOSECONDS
                    return frame, f" in the frame of {late:.3f} s before the newest"
            kept = len(recent)
            span = (recent[0].stamp, recent[-1].stamp)
            known = self._frames.last_number
            if not self._condition.wait_for(
                lambda: self._frames.last_number > known or not self._active,
                self.settings.seed_wait,
            ):
                raise StremnError(
                    f"no kept frame has the stamp {_seconds(stamp)} (the {kept} kept are of "
                    f"{_seconds(span[0])} to {_seconds(span[1])}) and no other frame came within "
                    f"{self.settings.seed_wait:g} s: send the stamp of a frame that the node "
                    "received, or zero for the newest"
                )
            if not self._active or not recent:
                raise StremnError("the node was deactivated before the next frame came")
            return recent[-1], (
                f"; no kept frame has the stamp {_seconds(stamp)} (the {kept} kept were of "
                f"{_seconds(span[0])} to {_seconds(span[1])}), so the next frame was taken"
            )

    def _free_id(self) -> int:
        used = set(self._segmenter.ids)
        for number in range(1, image_codec.MAX_LABEL + 1):
            if number not in used:
                return number
        raise InputError(f"all {image_codec.MAX_LABEL} ids are in use: remove an object first")

    def _call(self, work: Callable[[], Any]) -> Any:
        """Runs `work` in the worker and returns what it returns or raises what it raises.

        work: a function, or a generator function (see `Steps`).
        """
        future: Future[Any] = Future()
        steps = work() if inspect.isgeneratorfunction(work) else _at_once(work)
        with self._condition:
            if self._stopping:
                raise StremnError("the node is being cleaned up")
            self._commands.append((steps, future))
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
        text = in_words(error)
        self._complain(f"a service call failed inside: {text}")
        return self.failure(f"failed inside, nothing is known to be wrong with the call: {text}")

    def failure(self, message: str) -> Answer:
        """An answer that says why nothing was done."""
        return Answer(False, message, tracked_ids=self.tracked())

    def tracked(self) -> list[int]:
        """Ids of the objects that are followed."""
        with self._condition:
            return list(self._state.get("ids", ()))

    # ------------------------------------------------------------------ the worker

    def has_work(self) -> bool:
        """For the worker, which holds the condition."""
        return bool(self._commands) or super().has_work()

    def take_work(self) -> Job:
        """For the worker, which holds the condition: the next command's step, or the frame."""
        if self._commands and not (self._frame_next and self._frames.waiting is not None):
            self._frame_next = True
            job = partial(self._execute, *self._commands.popleft())
        else:
            self._frame_next = False
            self._busy = True
            job = partial(self._process, self._frames.take())
        if not self._frames.reset_wanted:
            return job
        self._frames.reset_wanted = False
        return partial(self._forget_and, job)

    def _forget_and(self, job: Job) -> None:
        try:
            self._segmenter.reset()
        except Exception as error:  # the frame is segmented all the same
            self._complain(f"reset failed: {in_words(error)}")
        self._names.clear()
        self._changes += 1
        self._note_state()
        job()

    def _execute(self, steps: Steps, future: Future[Any]) -> None:
        if not future.running() and not future.set_running_or_notify_cancel():
            return  # given up by its caller
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
                    self._commands.appendleft((steps, future))
                    return
            future.set_exception(StremnError("the node is being cleaned up"))

    def _process(self, frame: Frame) -> None:
        result = None
        try:
            result = self._segment(frame)
            if result is not None:
                self._remember()
            self._note_state(result)
        finally:  # whatever happens, nobody waits for this frame any more
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def _segment(self, frame: Frame) -> Any:
        """Masks of a frame, published and counted; None when that failed."""
        free_since = self._worker.free_since
        problem, result, done = "", None, None
        try:
            rgb = decode(frame.message)
            self._apply_settings()
            begin = self._clock()
            result = self._segmenter.segment(rgb)
            inside = self._clock() - begin
            # Publish first, remember after: the mask need not wait for the memory.
            self._publish(Segmented(frame, rgb, result, dict(self._names)))
            done = self._took(frame, free_since, inside)
        except Exception as error:
            problem = f"image not segmented: {in_words(error)}"
        self._count(done, problem)
        return None if done is None else result

    def _remember(self) -> None:
        try:
            self._segmenter.remember()
            if self._segmenter.ids:
                self._changes += 1
        except Exception as error:
            with self._condition:
                self._note_error(f"the memory was not updated: {in_words(error)}", key="memory")

    def _apply_settings(self) -> None:
        """Run-time changes reach the segmenter here, between two frames."""
        settings, own = self.settings, self._own
        for name, value in (
            ("min_score", settings.min_score),
            ("smallest_part", settings.smallest_part),
            ("update_rule", settings.update_rule or own["update_rule"]),
            ("update_every", settings.update_every or own["update_every"]),
            ("lost_after", settings.lost_after or own["lost_after"]),
            (
                "return_score",
                settings.return_score if settings.return_score >= 0 else own["return_score"],
            ),
        ):
            if getattr(self._segmenter, name) != value:
                try:
                    setattr(self._segmenter, name, value)
                except StremnError as error:  # a rule that this model cannot follow
                    with self._condition:
                        self._note_error(f"{name} stays as it was: {error}", key=name)

    def _note_state(self, result: Any = None) -> None:
        """Called where the segmenter may be asked: in the worker, or before it starts."""
        segmenter = self._segmenter
        state: dict[str, Any] = {
            "ids": list(segmenter.ids),
            "memory_bytes": int(segmenter.memory_bytes),
            "slots_used": dict(segmenter.slots_used),
            "runtime": str(segmenter.runtime_name),
            "max_objects": int(segmenter.max_objects),
            "names": dict(self._names),
            "memory": self._look_inside(),
        }
        with self._condition:
            if result is not None:
                state["objects"] = list(result.objects)
            else:
                kept = self._state.get("objects", ())
                state["objects"] = [item for item in kept if item.id in state["ids"]]
            self._state = state

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
            frames, state = self._frames, self._state
            facts = Facts(
                **self._input_facts(hint, no_clock),
                settings=self.settings,
                enabled=self._enabled,
                kept_frames=len(frames.recent),
                kept_most=frames.recent.maxlen or 0,
                kept_bytes=sum(len(frame.message.data) for frame in frames.recent),
                ids=state["ids"],
                objects=state["objects"],
                names=state["names"],
                max_objects=state["max_objects"],
                memory_bytes=state["memory_bytes"],
                slots_used=state["slots_used"],
                memory=state["memory"],
                runtime=state["runtime"],
                snapshot=snapshot,
                last_seed=self._seed_text(),
                problems=tuple(text for text in problems if text),
            )
        return diagnose(facts)

    def _noted(self, answer: Answer) -> Answer:
        with self._condition:
            self._last_seed = self._clock(), answer.message
        return answer

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
