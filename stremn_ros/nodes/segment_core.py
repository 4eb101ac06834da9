"""What the segmentation node does, without ROS: frames in, masks out, objects seeded meanwhile.

Threads: one worker owns the segmenter, so no two calls of it ever run at the same time and the
network needs no lock. It takes its work from a small mailbox: a queue of commands (seed, remove,
reset) and one place for a frame, which always holds the newest. Callers (the node's service and
image callbacks) only put something into the mailbox and, for commands, wait for the answer. A
command therefore waits for one frame at most, a frame never waits for more than one command, and
a slow network makes frames drop (and be counted) instead of pile up. A command that takes long (a
seed for the past, which is carried forward to now) is a generator: it yields after each step, and
a frame that waits goes first.

Messages are any objects with the attributes of sensor_msgs/Image or CompressedImage.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, StremnError
from stremn_ros.memory.snapshot import Snapshot
from stremn_ros.nodes import compressed_codec, image_codec
from stremn_ros.seeding import make_mask

NANOSECONDS = 1_000_000_000
# A command waits for the frame in work; a worker that takes longer than this is stuck.
COMMAND_TIMEOUT = 60.0
# Rates and percentiles are over this much of the past.
WINDOW_SECONDS = 10.0
WINDOW_FRAMES = 600
# More lost than this part of what was sent is worth a warning.
MUCH_LOST = 0.2

# levels of diagnostic_msgs/DiagnosticStatus
OK, WARN, ERROR, STALE = 0, 1, 2, 3

Steps = Generator[None, None, Any]
"""A command in the worker: it yields where a frame may go first, and returns the answer."""

Log = Callable[[str, str, str], None]
"""log(severity, key, text): severity is debug, info, warning or error; repeated texts of one key
may be held back; an empty key never is."""


@dataclass
class Settings:
    """What may change while the node runs; the names are those of the parameters."""

    min_score: float = 0.5
    update_rule: str = ""  # empty: the model's own
    update_every: int = 0  # 0: the model's own
    overlay_alpha: float = 0.5
    seed_wait: float = 2.0
    catch_up_time: float = 1.0
    reset_on_time_jump: bool = True
    time_jump_tolerance: float = 0.1
    frame_timeout: float = 2.0
    stale_after: float = 1.0
    autosave_period: float = 0.0
    autosave_at_stop: bool = False
    autoload: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """A message as it came."""

    message: Any
    number: int  # of the readable frames since the start, from 1
    stamp: int  # nanoseconds; 0 when the sender gives none
    arrival: float  # of the monotonic clock, seconds


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


@dataclass
class Counters:
    """received = segmented + dropped + failed + waiting + in_work, at every moment."""

    received: int = 0
    segmented: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    in_work: int = 0
    stale: int = 0  # late, repeated or out of order; these are among the others as well
    lost: int = 0  # sent but never received, where the middleware numbers its messages


@dataclass
class Report:
    """For the diagnostics."""

    level: int
    message: str
    values: dict[str, str]


class SegmentCore:
    """Frames, commands and counters around one segmenter; see the module's text for the threads.

    Args:
        segmenter: the loaded `Segmenter`; from `start` on only the worker touches it.
        publish: called in the worker for each segmented frame, before the memory is updated.
        log: see `Log`.
        settings: read at each use, so it may be changed at any time.
        seed_buffer: how many of the last frames are kept for seeds.
        topic: of the images, for messages to people.
        now: the node's clock in nanoseconds (which may be simulated), for the age of frames.
        clock: monotonic seconds.
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
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._segmenter = segmenter
        self._publish = publish
        self._log = log
        self.settings = settings if settings is not None else Settings()
        self.topic = topic
        self._now = now
        self._clock = clock
        # Everything below is guarded by the condition; the worker holds it only between two jobs.
        self._condition = threading.Condition()
        self._commands: deque[tuple[Steps, Future[Any]]] = deque()
        self._waiting: Frame | None = None
        self._taken: Frame | None = None  # the last one that the worker began with
        self._first_number = 1  # of the frames since the last jump of time
        self._recent: deque[Frame] = deque(maxlen=seed_buffer)
        self._newest_stamp = 0
        self._last_number = 0
        self._reset_wanted = False
        self._busy = False  # with a frame, its memory update included
        self._free_since = 0.0  # when the worker last ended a job
        self._own_rule = str(segmenter.update_rule)
        self._own_update_every = int(segmenter.update_every)
        self._active = False
        self._enabled = True
        self._stopping = False
        self._counters = Counters()
        self._arrivals: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self._losses: deque[tuple[float, int]] = deque(maxlen=WINDOW_FRAMES)
        self._sequences: dict[Any, int] = {}  # last number by publisher
        # per segmented frame: (time of publishing, latency, seconds inside the network, seconds
        # that this node itself added: neither in the network nor waiting for it)
        self._done: deque[tuple[float, float, float, float]] = deque(maxlen=WINDOW_FRAMES)
        self._last_error = ""
        self._last_error_time = -1e9
        self._started = clock()
        self._changes = 0  # of the memory; written by the worker
        self._saved_changes = 0  # what that was when it was last saved or loaded
        self._names: dict[int, str] = {}
        # A picture of the segmenter's state for diagnostics, made by the worker after each job:
        # the segmenter itself must not be asked while it works.
        self._state: dict[str, Any] = {}
        self._note_state()
        self._worker = threading.Thread(target=self._run, name="segmenter", daemon=True)
        self._worker.start()

    # ------------------------------------------------------------------ life

    def activate(self) -> None:
        """Frames are taken from now on."""
        with self._condition:
            self._active = True
            self._started = self._clock()
            self._arrivals.clear()
            self._losses.clear()
            self._sequences.clear()
            self._done.clear()

    def deactivate(self) -> None:
        """No frame is taken any more; returns when none is in work, so nothing gets published."""
        with self._condition:
            self._active = False
            self._drop_waiting()
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._busy)

    def close(self) -> None:
        """Ends the worker after its current job; commands that wait are answered with a failure."""
        with self._condition:
            self._active = False
            self._stopping = True
            self._drop_waiting()
            pending = list(self._commands)
            self._commands.clear()
            self._condition.notify_all()
        for _, future in pending:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(StremnError("the node is being cleaned up"))
        self._worker.join()
        self._recent.clear()
        self._taken = None
        self._segmenter = None

    # ------------------------------------------------------------------ frames

    def on_frame(self, message: Any, publisher: Any = None, sequence: int | None = None) -> None:
        """Takes a message from the image topic; costs no more than a look at its header.

        publisher, sequence: who sent it and that sender's running number, where known: gaps are
        frames that were lost on the way.
        """
        arrival = self._clock()
        problem = ""
        try:
            _size(message)
            stamp = _stamp_of(message)
        except InputError as error:
            problem = str(error)
        with self._condition:
            if not self._active:
                return
            self._counters.received += 1
            self._arrivals.append(arrival)
            if sequence is not None:
                self._note_sequence(publisher, sequence, arrival)
            if problem:
                self._counters.failed += 1
                self._note_error(f"image refused: {problem}", key="image")
                return
            if not self._in_time(stamp):
                return
            self._last_number += 1
            frame = Frame(message, self._last_number, stamp, arrival)
            self._recent.append(frame)
            if not self._enabled:
                self._counters.dropped += 1
            else:
                self._drop_waiting()
                self._waiting = frame
                self._counters.waiting = 1
            self._condition.notify_all()

    def _note_sequence(self, publisher: Any, sequence: int, arrival: float) -> None:
        before = self._sequences.get(publisher)
        if before is None and len(self._sequences) >= 64:  # publishers come and go for days
            self._sequences.clear()
        self._sequences[publisher] = sequence
        if before is not None and sequence > before + 1:
            gap = sequence - before - 1
            self._counters.lost += gap
            self._losses.append((arrival, gap))

    def _in_time(self, stamp: int) -> bool:
        """Looks at the order of stamps; False when the frame was dropped as out of order."""
        if not stamp:  # a sender without stamps: nothing can be said
            return True
        newest, self._newest_stamp = self._newest_stamp, stamp
        age = (self._now() - stamp) / NANOSECONDS
        if newest and stamp < newest:
            back = (newest - stamp) / NANOSECONDS
            if back <= self.settings.time_jump_tolerance:
                self._newest_stamp = newest
                self._counters.stale += 1
                self._counters.dropped += 1
                self._log(
                    "warning",
                    "order",
                    f"dropped an image on {self.topic} that is {back:.3f} s older than the one "
                    "before it: images come out of order, or two publishers share the topic",
                )
                return False
            # Frames from before the jump are of another time: no seed may find them any more.
            self._drop_waiting()
            self._recent.clear()
            self._taken = None
            self._first_number = self._last_number + 1
            if self.settings.reset_on_time_jump:
                self._reset_wanted = True
                self._log(
                    "warning",
                    "",
                    f"time jumped back by {back:.3f} s on {self.topic} (a bag that loops?): all "
                    "objects are forgotten; set reset_on_time_jump to false to keep them",
                )
            else:
                self._log(
                    "warning",
                    "jump",
                    f"time jumped back by {back:.3f} s on {self.topic}; objects are kept "
                    "(reset_on_time_jump is false)",
                )
        elif stamp == newest or 0 < self.settings.stale_after < age:
            self._counters.stale += 1
        return True

    def _drop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting = None
            self._counters.waiting = 0
            self._counters.dropped += 1

    # ------------------------------------------------------------------ commands

    def seed_mask(self, mask: Any, names: Sequence[str] = (), replace: bool = False) -> Answer:
        """~/seed_mask. mask: an image message whose stamp chooses the frame (0: the newest)."""

        try:
            labels = image_codec.decode_labels(mask)
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
            stamp = _stamp_of(mask)
        except InputError as error:
            return self.failure(str(error))

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            height, width = _size(frame.message)
            if labels.shape != (height, width):
                raise InputError(
                    f"the mask is {labels.shape[1]} x {labels.shape[0]} pixels, the frame is "
                    f"{width} x {height}: send the mask at the frame's size"
                )
            return _rgb(frame.message), labels

        return self._seed(stamp, make, lambda _: dict(zip(wanted, names)), replace)

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
            return self.failure(
                f"the id {object_id} cannot be used: give 1 to {image_codec.MAX_LABEL}, or 0 for "
                "a free one"
            )

        def make(frame: Frame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            rgb = _rgb(frame.message)
            return rgb, make_mask(rgb, box=box, polygon=polygon, inside=inside, outside=outside)

        def number(mask: NDArray[np.uint8]) -> dict[int, str]:
            chosen = object_id or self._free_id()
            mask *= np.uint8(chosen)  # in place: the answer shows the mask with the id
            return {chosen: name} if name else {}

        return self._seed(stamp, make, number)

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
                self._drop_waiting()
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
                picture = _rgb(chosen.message)
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
            text += f"; not seen in the newest: object {_listed_ids(unseen)}"
        return ids, text

    def _frames_since(self, number: int) -> list[Frame]:
        """Frames after this one up to the last that was segmented (received, while paused)."""
        with self._condition:
            newest = self._taken
            if not self._enabled and self._recent:
                newest = self._recent[-1]
            if newest is None or newest.number <= number:
                return []
            kept = [frame for frame in self._recent if number < frame.number < newest.number]
        return [*kept, newest]

    def _check_time(self, frame: Frame) -> None:
        if frame.number < self._first_number:
            raise StremnError(
                "time jumped back after the frame of this seed, so nothing was seeded: seed a "
                "frame of the new time"
            )

    def _frame_for(self, stamp: int) -> tuple[Frame, str]:
        """The frame that a seed is for, and what to say about it."""
        with self._condition:
            if not self._active:
                raise StremnError(
                    "the node is not active: `ros2 lifecycle set /stremn activate` first"
                )
            if not self._recent:
                raise StremnError(
                    f"no frame received yet on {self.topic}: check that something publishes "
                    f"there (ros2 topic info -v {self.topic}) and that its images are readable "
                    f"(/diagnostics){': ' + self._last_error if self._last_error else ''}"
                )
            if not stamp:
                return self._recent[-1], ""
            for frame in reversed(self._recent):
                if frame.stamp == stamp:
                    if frame is self._recent[-1]:
                        return frame, ""
                    newest = self._recent[-1].stamp
                    late = (newest - stamp) / NANOSECONDS
                    return frame, f" in the frame of {late:.3f} s before the newest"
            kept = len(self._recent)
            span = (self._recent[0].stamp, self._recent[-1].stamp)
            known = self._last_number
            if not self._condition.wait_for(
                lambda: self._last_number > known or not self._active, self.settings.seed_wait
            ):
                raise StremnError(
                    f"no kept frame has the stamp {_seconds(stamp)} (the {kept} kept are of "
                    f"{_seconds(span[0])} to {_seconds(span[1])}) and no other frame came within "
                    f"{self.settings.seed_wait:g} s: send the stamp of a frame that the node "
                    "received, or zero for the newest"
                )
            if not self._active or not self._recent:
                raise StremnError("the node was deactivated before the next frame came")
            return self._recent[-1], (
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
        text = f"{type(error).__name__}: {error}"
        with self._condition:
            self._note_error(f"a service call failed inside: {text}", key="")
        return self.failure(f"failed inside, nothing is known to be wrong with the call: {text}")

    def failure(self, message: str) -> Answer:
        """An answer that says why nothing was done."""
        return Answer(False, message, tracked_ids=self.tracked())

    def tracked(self) -> list[int]:
        """Ids of the objects that are followed."""
        with self._condition:
            return list(self._state.get("ids", ()))

    # ------------------------------------------------------------------ the worker

    def _run(self) -> None:
        frame_next = False  # so that a stream of commands does not keep frames out
        while True:
            command: tuple[Steps, Future[Any]] | None = None
            frame: Frame | None = None
            reset = False
            with self._condition:
                self._condition.wait_for(
                    lambda: self._stopping or self._commands or self._waiting is not None
                )
                if self._stopping:
                    return
                reset, self._reset_wanted = self._reset_wanted, False
                if self._commands and not (frame_next and self._waiting is not None):
                    command = self._commands.popleft()
                    frame_next = True
                else:
                    frame, self._waiting = self._waiting, None
                    self._taken = frame
                    self._counters.waiting = 0
                    self._counters.in_work = 1
                    self._busy = True
                    frame_next = False
            if reset:
                self._forget()
            if command is not None:
                self._execute(*command)
            elif frame is not None:
                self._process(frame)

    def _forget(self) -> None:
        try:
            self._segmenter.reset()
        except Exception as error:  # the worker must live on
            with self._condition:
                self._note_error(f"reset failed: {type(error).__name__}: {error}", key="")
        self._names.clear()
        self._changes += 1
        self._note_state()

    def _execute(self, steps: Steps, future: Future[Any]) -> None:
        if not future.running() and not future.set_running_or_notify_cancel():
            return  # given up by its caller
        try:
            next(steps)
        except StopIteration as end:
            self._note_state()  # before the answer, which tells the ids
            future.set_result(end.value)
        except Exception as error:
            self._note_state()
            future.set_exception(error)
        else:  # there is more to do, after the frame that waits
            with self._condition:
                if not self._stopping:
                    self._commands.appendleft((steps, future))
                    return
            future.set_exception(StremnError("the node is being cleaned up"))
        finally:
            self._free_since = self._clock()

    def _process(self, frame: Frame) -> None:
        problem = ""
        try:
            rgb = _rgb(frame.message)
            self._apply_settings()
            begin = self._clock()
            result = self._segmenter.segment(rgb)
            inside = self._clock() - begin
            # Publish first, remember after: the mask need not wait for the memory.
            self._publish(Segmented(frame, rgb, result, dict(self._names)))
            published = self._clock()
        except Exception as error:
            expected = isinstance(error, StremnError)
            problem = str(error) if expected else f"{type(error).__name__}: {error}"
        with self._condition:
            self._counters.in_work = 0
            if problem:
                self._counters.failed += 1
                self._note_error(f"image not segmented: {problem}", key="segment")
            else:
                self._counters.segmented += 1
                own = published - max(frame.arrival, self._free_since) - inside
                self._done.append((published, published - frame.arrival, inside, own))
        if not problem:
            try:
                self._segmenter.remember()
                if self._segmenter.ids:
                    self._changes += 1
            except Exception as error:
                with self._condition:
                    self._note_error(
                        f"the memory was not updated: {type(error).__name__}: {error}", key="memory"
                    )
        self._note_state(None if problem else result)
        with self._condition:
            self._busy = False
            self._free_since = self._clock()
            self._condition.notify_all()

    def _apply_settings(self) -> None:
        """Run-time changes reach the segmenter here, between two frames."""
        for name, value in (
            ("min_score", self.settings.min_score),
            ("update_rule", self.settings.update_rule or self._own_rule),
            ("update_every", self.settings.update_every or self._own_update_every),
        ):
            if getattr(self._segmenter, name) != value:
                setattr(self._segmenter, name, value)

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
        }
        with self._condition:
            if result is not None:
                state["objects"] = list(result.objects)
            else:
                kept = self._state.get("objects", ())
                state["objects"] = [item for item in kept if item.id in state["ids"]]
            self._state = state

    def _note_error(self, text: str, key: str) -> None:
        self._last_error = text
        self._last_error_time = self._clock()
        self._log("error", key, text)

    # ------------------------------------------------------------------ diagnostics

    def counters(self) -> Counters:
        """A copy, consistent in itself."""
        with self._condition:
            return Counters(**vars(self._counters))

    def age(self, frame: Frame) -> float:
        """Seconds since the frame arrived."""
        return self._clock() - frame.arrival

    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        with self._condition:
            return not (self._commands or self._counters.waiting or self._busy)

    def report(self, hint: str = "", snapshot: str = "", problem: str = "") -> Report:
        """The diagnostics.

        hint: why no frames may come, if the caller knows (a QoS mismatch); snapshot: of the last
        one; problem: what else is wrong.
        """
        with self._condition:
            now = self._clock()
            counters = Counters(**vars(self._counters))
            arrivals = [t for t in self._arrivals if now - t < WINDOW_SECONDS]
            done = [entry for entry in self._done if now - entry[0] < WINDOW_SECONDS]
            since = now - (self._arrivals[-1] if self._arrivals else self._started)
            losses = sum(gap for t, gap in self._losses if now - t < WINDOW_SECONDS)
            state = self._state
            active, enabled = self._active, self._enabled
            error, error_age = self._last_error, now - self._last_error_time
            started = self._started
            kept = list(self._recent)
        window = min(WINDOW_SECONDS, max(now - started, 1e-3))
        values = {
            "received": counters.received,
            "segmented": counters.segmented,
            "dropped": counters.dropped,
            "failed": counters.failed,
            "waiting": counters.waiting,
            "in work": counters.in_work,
            "stale": counters.stale,
            "lost in transport": counters.lost,
            "input rate [Hz]": f"{len(arrivals) / window:.2f}",
            "output rate [Hz]": f"{len(done) / window:.2f}",
            **_percentiles("latency", [entry[1] for entry in done]),
            **_percentiles("network", [entry[2] for entry in done]),
            **_percentiles("node", [entry[3] for entry in done]),
            "objects": f"{len(state['ids'])} of {state['max_objects']}",
            "memory [bytes]": state["memory_bytes"],
            "slots used": _listed(state["slots_used"].items()),
            "seed buffer [frames]": f"{len(kept)} of {self._recent.maxlen}",
            "seed buffer [bytes]": sum(len(frame.message.data) for frame in kept),
            "snapshot": snapshot,
            "runtime": state["runtime"],
            "enabled": str(enabled).lower(),
            "last error": error,
        }
        for item in state["objects"]:
            name = state["names"].get(item.id, "")
            values[f"object {item.id}"] = (
                f"{name + ': ' if name else ''}{item.state.name}, score {item.score:.3f}, "
                f"area {item.area}"
            )
        level, message = OK, "segmenting"
        lost = [item.id for item in state["objects"] if item.state.name == "LOST"]
        if not active:
            message = "inactive: `ros2 lifecycle set /stremn activate` starts it"
        elif since > self.settings.frame_timeout:
            level = WARN
            message = hint or (
                f"no image on {self.topic} for {since:.1f} s: check that something publishes "
                f"there (ros2 topic info -v {self.topic}) and that its reliability fits"
            )
        elif error and error_age < max(5.0, self.settings.frame_timeout):
            level, message = (WARN if done else ERROR), error
        elif losses > MUCH_LOST * (losses + len(arrivals)):
            level = WARN
            message = (
                f"{losses} of the last {losses + len(arrivals)} images on {self.topic} were lost "
                "on the way: give DDS enough shared memory (config/fastdds_shm.xml), or set "
                "image_reliability to reliable"
            )
        elif problem:
            level, message = WARN, problem
        elif not enabled:
            message = "paused (~/enable)"
        elif not state["ids"]:
            message = "no objects: seed one with ~/seed_mask or ~/seed_object"
        elif lost:
            level = WARN
            message = f"lost object {_listed_ids(lost)}: seed it again, or remove it"
        return Report(level, message, {key: str(value) for key, value in values.items()})


def _at_once(work: Callable[[], Any]) -> Steps:
    yield from ()
    return work()


def _rgb(message: Any) -> NDArray[np.uint8]:
    """Of an Image or a CompressedImage."""
    codec = compressed_codec if hasattr(message, "format") else image_codec
    return codec.decode_rgb(message)


def _size(message: Any) -> tuple[int, int]:
    codec = compressed_codec if hasattr(message, "format") else image_codec
    return codec.frame_size(message)


def _stamp_of(message: Any) -> int:
    """Nanoseconds; 0 for none. A negative time is none as well."""
    stamp = message.header.stamp
    return max(0, int(stamp.sec) * NANOSECONDS + int(stamp.nanosec))


def _seconds(stamp: int) -> str:
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d}"


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, str]:
    keys = [f"{name} p{part} [ms]" for part in (50, 95, 99)]
    if not seconds:
        return dict.fromkeys(keys, "")
    values = np.percentile(np.asarray(seconds) * 1000, (50, 95, 99))
    return {key: f"{value:.2f}" for key, value in zip(keys, values)}


def _listed(items: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in sorted(items))


def _objects(ids: Sequence[int]) -> str:
    if not ids:
        return "a memory without objects"
    return f"object{'s' if len(ids) != 1 else ''} {_listed_ids(sorted(ids))}"


def _listed_ids(ids: Sequence[int]) -> str:
    return ", ".join(str(number) for number in ids)


class LimitedLog:
    """Passes a text on once in `period` seconds for each key, and says how many it held back."""

    def __init__(
        self,
        write: Callable[[str, str], None],
        period: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.period = period
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, int]] = {}

    def __call__(self, severity: str, key: str, text: str) -> None:
        if key:
            with self._lock:
                now = self._clock()
                before, held = self._last.get(key, (-1e18, 0))
                if now - before < self.period:
                    self._last[key] = (before, held + 1)
                    return
                self._last[key] = (now, 0)
            if held:
                text += f" (and {held} more like it in the last {now - before:.0f} s)"
        self._write(severity, text)
