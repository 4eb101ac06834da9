"""What the prediction node does with frames, without rclpy: a predictor, its worker, the reasons.

Threads: `on_frame` is called by the executor and returns at once; the worker owns the predictor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stremn_ros.messages.reading import NANOSECONDS, decode
from stremn_ros.predictor import Predictor, confidence
from stremn_ros.stream.diagnosis import (
    WARN,
    InputStatus,
    Reason,
    Report,
    backlog,
    input_reasons,
    input_values,
    worst_first,
)
from stremn_ros.stream.frame_core import FrameCore, describe_error
from stremn_ros.stream.intake import Frame
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.settings import IntakeSettings
from stremn_ros.stream.worker import Job

PACE_FRAMES = 10  # the time between frames is the median over this many


@dataclass
class PredictSettings(IntakeSettings):
    """What may change while the node runs; the names are those of the parameters."""

    stale_after: float = 0.0  # not checked: a prediction has its own stamp
    horizon: int = 0  # 0: as far as the network sees
    max_gap: float = 1.0


@dataclass(frozen=True, eq=False)
class Predicted:
    """What came of a frame.

    Attributes:
        frame: as it came.
        image: uint8 [H, W, 3], or None while there is no prediction.
        confidence: uint8 [H, W] of the image, see `predictor.confidence`; None without an image,
            from a network that does not say it, or where nobody wants it.
        stamp: nanoseconds that it is predicted for; 0 where frames have no stamps.
        error, change: mean absolute difference, 0..1, of this frame from what was predicted for it
            and from the frame before it; None where nothing was predicted.
        source: stamp of the frame that this one was predicted from.
    """

    frame: Frame
    image: NDArray[np.uint8] | None
    confidence: NDArray[np.uint8] | None
    stamp: int
    error: float | None
    change: float | None
    source: int


@dataclass(frozen=True)
class PredictorState:
    """A predictor at one moment, for the diagnostics; period: seconds between frames."""

    seen: int
    observe: int
    horizon: int
    memory_bytes: int
    processing_size: tuple[int, int] | None
    error: float | None
    change: float | None
    runtime: str
    period: float


class PredictCore(FrameCore):
    """Frames and counters around one predictor.

    Args:
        predictor: only the worker touches it.
        publish: called in the worker for each frame.
        wants_confidence: whether somebody would see the confidence; asked for each frame.
        log, settings, topic, node, now, clock: as in FrameCore.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        publish: Callable[[Predicted], None],
        wants_confidence: Callable[[], bool] = lambda: True,
        log: Log,
        settings: PredictSettings | None = None,
        topic: str = "image",
        node: str = "/stremn_predict",
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings if settings is not None else PredictSettings()
        super().__init__(
            1,
            log,
            self.settings,
            topic,
            node,
            now,
            clock,
            largest_gap=lambda: self.settings.max_gap,
        )
        self._predictor = predictor
        self._publish, self._wants_confidence = publish, wants_confidence
        self._reset_reason = ""  # why the predictor is to forget before the next frame
        self._since = ""  # why it started again the last time
        self._last_stamp = 0
        self._camera = ""  # frame_id of the last frame
        self._steps: deque[int] = deque(maxlen=PACE_FRAMES)  # nanoseconds between frames
        self._state = self._look()
        self._worker.add(self)

    def activate(self) -> None:
        """Frames are taken from now on; what was seen before a pause is forgotten."""
        with self._condition:
            if self._state.seen:
                self._reset_reason = "the node was inactive"
            super().activate()

    def close(self) -> None:
        """Ends the worker and lets go of the predictor."""
        super().close()
        del self._predictor

    def reset(self) -> str:
        """Forgets the frames seen, before the next one; says so."""
        with self._condition:
            self._reset_reason = "it was reset"
            needed = self._state.observe
        return f"forgotten; predictions go on after {needed} images"

    # ------------------------------------------------------------------ the worker

    def take_work(self) -> Job:
        """For the worker, which holds the condition."""
        self._busy = True
        if self._frames.take_reset():
            self._reset_reason = "time jumped back"
        return partial(self._process, self._frames.take())

    def _process(self, frame: Frame) -> None:
        free_since = self._worker.free_since
        problem, done = "", None
        try:
            inside = self._predict(frame)
            done = self._timing_of(frame, free_since, inside)
        except Exception as error:
            problem = f"image not used: {describe_error(error)}"
        with self._condition:
            self._count(done, problem)
            self._state = self._look()
            self._busy = False
            self._condition.notify_all()

    def _predict(self, frame: Frame) -> float:
        """Publishes what comes of a frame; seconds in the network."""
        rgb = decode(frame.message)
        predictor = self._predictor
        with self._condition:
            reason, self._reset_reason = self._reset_reason, ""
        reason = reason or self._break_in_time(frame) or self._other_view(frame, rgb)
        if reason:
            predictor.reset()
            self._steps.clear()
            self._since = reason
            self._log("warning", "again", f"starts again: {reason}")
        source = 0 if reason else self._last_stamp
        if source and frame.stamp > source:
            self._steps.append(frame.stamp - source)
        self._last_stamp = frame.stamp
        horizon = self.settings.horizon or predictor.horizon
        begin = self._clock()
        future = predictor.step(rgb, horizon, only_last=True)
        inside = self._clock() - begin
        stamp = 0
        if frame.stamp and self._steps:
            stamp = frame.stamp + horizon * int(np.median(self._steps))
        image = None if future is None else future[-1]
        sure = None
        if image is not None and predictor.spread is not None and self._wants_confidence():
            sure = confidence(predictor.spread[-1], rgb.shape[:2])
        self._publish(
            Predicted(
                frame,
                image,
                sure,
                stamp,
                predictor.error,
                predictor.change,
                source,
            )
        )
        return inside

    def _break_in_time(self, frame: Frame) -> str:
        if not (frame.stamp and self._last_stamp):
            return ""
        gap = (frame.stamp - self._last_stamp) / NANOSECONDS
        if gap < -self.settings.time_jump_tolerance and self.settings.reset_on_time_jump:
            return f"time jumped back by {-gap:.3f} s"
        if gap > self.settings.max_gap:
            return (
                f"{gap:.2f} s between two images, more than max_gap ({self.settings.max_gap:g} s)"
            )
        return ""

    def _other_view(self, frame: Frame, rgb: NDArray[np.uint8]) -> str:
        """Where the frame is of another camera than those before, or of another size."""
        before, camera = self._predictor.frame_size, self._camera
        self._camera = str(frame.message.header.frame_id)
        if before is None:
            return ""
        if camera != self._camera:
            return f"the images were of the frame {camera!r} and are now of {self._camera!r}"
        if before == rgb.shape[:2]:
            return ""
        return f"the images were {before[1]}x{before[0]} and are now {rgb.shape[1]}x{rgb.shape[0]}"

    def _look(self) -> PredictorState:
        """Called where the predictor may be asked."""
        predictor = self._predictor
        return PredictorState(
            predictor.frames_seen,
            predictor.observe,
            predictor.horizon,
            predictor.memory_bytes,
            predictor.processing_size,
            predictor.error,
            predictor.change,
            predictor.runtime_name,
            float(np.median(self._steps)) / NANOSECONDS if self._steps else 0.0,
        )

    # ------------------------------------------------------------------ diagnostics

    def report(self, hint: str = "", no_clock: bool = False) -> Report:
        """Figures, and why there is no prediction where there is none.

        hint: why no frames may come, if the caller knows (a QoS mismatch); no_clock: a simulated
        clock has not received the time.
        """
        with self._condition:
            facts = self._input_status(hint, no_clock)
            state, since = self._state, self._since
        horizon = self.settings.horizon or state.horizon
        values = {
            **input_values(facts, "used"),
            "images seen": state.seen,
            "horizon": f"{horizon} frames, {horizon * state.period:.3f} s",
            "prediction error": _figure(state.error),
            "change": _figure(state.change),
            "runtime": state.runtime,
            "memory [bytes]": state.memory_bytes,
            "processing size": "x".join(str(side) for side in state.processing_size or ()),
        }
        return worst_first(_reasons(facts, state, since), "predicting", values)


def _reasons(facts: InputStatus, state: PredictorState, since: str) -> Iterable[Reason]:
    yield from input_reasons(facts)
    if not facts.active:
        return
    if state.seen < state.observe:
        why = f" (started again: {since})" if since else ""
        yield (
            WARN,
            f"no prediction yet: {state.seen} of the {state.observe} images seen that one "
            f"needs{why}",
        )
    yield from backlog(facts)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
