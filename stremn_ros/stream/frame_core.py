"""What the cores of the nodes share: frames in, one worker, counters, what goes wrong; no ROS."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from stremn_ros.errors import InputError, StremnError
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.stream.diagnosis import FrameTiming, InputStatus
from stremn_ros.stream.intake import (
    WINDOW_FRAMES,
    WINDOW_SECONDS,
    Counters,
    FoundFrame,
    Frame,
    Intake,
)
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.settings import IntakeSettings
from stremn_ros.stream.worker import Job, Worker


class FrameCore:
    """Frames of one camera, of which the newest waits for the worker.

    A subclass must call `self._worker.add(self)` at the end of `__init__`.

    Args:
        buffer: how many of the last frames are kept.
        log: see `Log`.
        settings: read at each use, so it may be changed at any time.
        topic: of the images; node: its full name; both for messages to people.
        now: the node's clock in nanoseconds (which may be simulated), for the age of frames.
        clock: monotonic seconds.
        worker: that several cores share; without one the core has its own.
        largest_gap: see `Intake`.
    """

    def __init__(
        self,
        buffer: int,
        log: Log,
        settings: IntakeSettings,
        topic: str,
        node: str,
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        worker: Worker | None = None,
        largest_gap: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._log, self._clock, self._node = log, clock, node
        self._intake_settings = settings
        self.topic = topic
        self._own_worker = worker is None
        self._worker = worker if worker is not None else Worker(self._complain, clock)
        # Everything below is guarded by the condition; the worker holds it only between two jobs.
        self._condition = self._worker.condition
        self._frames = Intake(buffer, settings, log, topic, now, clock, largest_gap)
        self._busy = False  # with a frame
        self._active = False
        self._enabled = True
        self._done: deque[FrameTiming] = deque(maxlen=WINDOW_FRAMES)
        self._last_error = ""
        self._last_error_time = -1e9

    # ------------------------------------------------------------------ life

    def activate(self) -> None:
        """Frames are taken from now on."""
        with self._condition:
            self._active = True
            self._frames.start()
            self._done.clear()

    def deactivate(self) -> None:
        """No frame is taken any more; returns when none is in work, so nothing gets published."""
        with self._condition:
            self._active = False
            self._frames.drop_waiting()
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._busy)
            self._frames.forget()  # else a seed after the pause would go to an image before it

    def close(self) -> None:
        """Ends the work of this core after its current job."""
        with self._condition:
            self._active = False
            self._frames.drop_waiting()
            self._condition.notify_all()
        self._worker.remove(self)
        if self._own_worker:
            self._worker.close()
        with self._condition:
            self._frames.forget()

    # ------------------------------------------------------------------ frames

    def on_frame(self, message: Any, publisher: Any = None, sequence: int | None = None) -> None:
        """Takes a message from the image topic; costs no more than a look at its header.

        publisher, sequence: who sent it and that sender's running number, where known: gaps are
        frames that were lost on the way.
        """
        arrival = self._clock()
        with self._condition:
            if not self._active:
                return
            problem = self._frames.put(message, publisher, sequence, self._enabled, arrival)
            if problem:
                self._note_error(f"image refused: {problem}", key="image")
            self._condition.notify_all()

    def age(self, frame: Frame) -> float:
        """Seconds since the frame arrived."""
        return self._clock() - frame.arrival

    def frame_for(
        self, stamp: int, strict: bool, wait: float, give_up: Callable[[], None]
    ) -> FoundFrame:
        """The frame that a seed is for.

        A stamp that no kept frame has may be that of a frame on its way, or of none.

        Args:
            stamp: 0: the newest. strict: only the frame of this stamp; else the next one may do.
            wait: seconds. give_up: raises an error where it is no longer wanted.
        """

        def first() -> bool:
            give_up()
            return not self._active or bool(recent)

        with self._condition:
            recent = self._frames.recent
            if not self._active:
                raise StremnError(
                    f"the node is not active: `ros2 lifecycle set {self._node} activate` first"
                )
            if not recent:  # a camera that has just been connected
                self._condition.wait_for(first, wait)
                if not self._active:
                    raise StremnError("the node was deactivated before the first frame came")
            if not recent:
                raise StremnError(
                    f"no frame received yet on {self.topic}: check that something publishes "
                    f"there (ros2 topic info -v {self.topic}) and that its images are readable "
                    f"(/diagnostics){': ' + self._last_error if self._last_error else ''}"
                )
            if not stamp:
                return FoundFrame(recent[-1])
            if over := self._frames.over_age(stamp):
                raise InputError(
                    f"the seed is for an image of {over:.1f} s ago, and max_age is "
                    f"{self._intake_settings.max_age:g} s: send it sooner, or raise max_age"
                )
            if (frame := self._frames.of_stamp(stamp)) is not None:
                if frame is recent[-1]:
                    return FoundFrame(frame)
                late = (recent[-1].stamp - stamp) / NANOSECONDS
                return FoundFrame(frame, f" in the frame of {late:.3f} s before the newest")
            kept = (
                f"no kept frame has the stamp {_seconds(stamp)} (the {len(recent)} kept: "
                f"{_seconds(recent[0].stamp)} to {_seconds(recent[-1].stamp)})"
            )
            remedy = "send the stamp of a frame that the node received, or zero for the newest"
            known = self._frames.last_number

            def come() -> bool:
                give_up()
                if not self._active:
                    return True
                if strict:
                    return self._frames.of_stamp(stamp) is not None
                return self._frames.last_number > known

            if strict and not 0 < stamp - recent[-1].stamp <= wait * NANOSECONDS:
                raise InputError(f"{kept}, and the seed is strict, so nothing was seeded: {remedy}")
            if not self._condition.wait_for(come, wait):
                other = "it did not come" if strict else "no other frame came"
                raise StremnError(f"{kept} and {other} within {wait:g} s: {remedy}")
            if not self._active or not recent:
                raise StremnError("the node was deactivated before the next frame came")
            if (frame := self._frames.of_stamp(stamp)) is not None:
                return FoundFrame(frame)
            return FoundFrame(recent[-1], f"; {kept}, so the next frame was taken", False)

    def frames_since(self, number: int) -> list[Frame]:
        """As `Intake.since`."""
        with self._condition:
            return self._frames.since(number, paused=not self._enabled)

    def frame_period(self) -> float:
        """As `Intake.period`."""
        with self._condition:
            return self._frames.period()

    def is_before_jump(self, frame: Frame) -> bool:
        """Time has jumped back since this frame came."""
        return frame.number < self._frames.first_number

    # ------------------------------------------------------------------ for the worker

    def has_work(self) -> bool:
        """For the worker, which holds the condition."""
        return self._frames.waiting is not None

    def has_urgent(self) -> bool:
        """For the worker, which holds the condition."""
        return False

    def take_work(self) -> Job:
        """For the worker, which holds the condition."""
        raise NotImplementedError

    def _count(self, done: FrameTiming | None, problem: str) -> None:
        """Of a frame that was taken: done, or why not; problem: of which kind, and the reason."""
        with self._condition:
            if done is None:
                self._frames.failed()
                self._note_error(problem, key="frame")
            else:
                self._frames.done()
                self._done.append(done)

    def _timing_of(self, frame: Frame, free_since: float, network: float) -> FrameTiming:
        """Of a frame just published. free_since: when the worker could have begun with it;
        network: seconds in there."""
        now = self._clock()
        own = now - max(frame.arrival, free_since) - network
        return FrameTiming(now, now - frame.arrival, network, own)

    # ------------------------------------------------------------------ diagnostics

    def counters(self) -> Counters:
        """A copy, consistent in itself."""
        with self._condition:
            return Counters(**vars(self._frames.counters))

    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        with self._condition:
            return not (self.has_work() or self._busy)

    def _input_status(self, hint: str, no_clock: bool) -> InputStatus:
        """The condition is held."""
        now, frames = self._clock(), self._frames
        recent = max(now - WINDOW_SECONDS, self._records_begin())
        last = frames.arrivals[-1] if frames.arrivals else frames.started
        return InputStatus(
            topic=self.topic,
            node=self._node,
            settings=self._intake_settings,
            counters=Counters(**vars(frames.counters)),
            active=self._active,
            window=max(now - max(recent, frames.started), 1e-3),
            since=now - last,
            arrivals=sum(when > recent for when in frames.arrivals),
            drops=sum(when > recent for when in frames.drops),
            lost=sum(gap for when, gap in frames.losses if when > recent),
            late=[age for when, age in frames.late if when > recent],
            outdated=sum(when > recent for when in frames.outdated),
            done=[entry for entry in self._done if entry.when > recent],
            error=self._last_error,
            error_age=now - self._last_error_time,
            no_clock=no_clock,
            hint=hint,
        )

    def _records_begin(self) -> float:
        """The time since which nothing is missing: many images a second fill a record sooner."""
        frames = self._frames
        full = [
            records[0]
            for records in (frames.arrivals, frames.drops, frames.outdated)
            if len(records) == records.maxlen
        ]
        full += [
            pairs[0][0] for pairs in (frames.late, frames.losses) if len(pairs) == pairs.maxlen
        ]
        if len(self._done) == self._done.maxlen:
            full.append(self._done[0].when)
        return max(full, default=-math.inf)

    def _note_error(self, text: str, key: str) -> None:
        self._last_error = text
        self._last_error_time = self._clock()
        self._log("error", key, text)

    def _complain(self, text: str) -> None:
        with self._condition:
            self._note_error(text, key="")


def describe_error(error: Exception) -> str:
    """What happened, with the remedy where there is one that always holds."""
    if isinstance(error, StremnError):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate" in said:
        text += (
            "; the machine or its GPU has no memory left: lower processing_size, max_objects or "
            "seed_buffer, or end what else runs there"
        )
    return text


def _seconds(stamp: int) -> str:
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d}"
