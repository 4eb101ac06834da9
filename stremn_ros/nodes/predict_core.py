"""What the prediction node does with frames, without rclpy: a predictor, its worker, the reasons.

Threads: `on_frame` is called by the executor and returns at once; the worker owns the predictor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import StremnError
from stremn_ros.nodes.frames import (
    NANOSECONDS,
    WINDOW_FRAMES,
    WINDOW_SECONDS,
    Counters,
    Frame,
    Intake,
    decode,
)
from stremn_ros.nodes.limited_log import Log
from stremn_ros.nodes.report import ERROR, MUCH_DROPPED, OK, WARN, Report
from stremn_ros.nodes.settings import Settings
from stremn_ros.nodes.worker import Job, Worker

PACE_FRAMES = 10  # the time between frames is the median over this many


@dataclass
class PredictSettings(Settings):
    """What may change while the node runs; the names are those of the parameters."""

    horizon: int = 0  # 0: as far as the network sees
    max_gap: float = 1.0


@dataclass(frozen=True, eq=False)
class Predicted:
    """What came of a frame.

    Attributes:
        frame: as it came.
        image: uint8 [H, W, 3], or None while there is no prediction.
        stamp: nanoseconds that it is predicted for; 0 where frames have no stamps.
        error, change: mean absolute difference, 0..1, of this frame from what was predicted for it
            and from the frame before it; None where nothing was predicted.
        source: stamp of the frame that this one was predicted from.
    """

    frame: Frame
    image: NDArray[np.uint8] | None
    stamp: int
    error: float | None
    change: float | None
    source: int


@dataclass(frozen=True)
class _Done:
    when: float
    latency: float
    predicted: bool


class PredictCore:
    """Frames and counters around one predictor.

    Args:
        predictor: only the worker touches it.
        publish: called in the worker for each frame.
        log, settings, topic, node, now, clock: as in SegmentCore.
    """

    def __init__(
        self,
        predictor: Any,
        *,
        publish: Callable[[Predicted], None],
        log: Log,
        settings: PredictSettings | None = None,
        topic: str = "image",
        node: str = "/stremn_predict",
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictor = predictor
        self._publish = publish
        self._log = log
        self.settings = settings if settings is not None else PredictSettings()
        self.topic, self._node, self._clock = topic, node, clock
        self._worker = Worker(self._complain, clock)
        self._condition = self._worker.condition
        self._frames = Intake(1, self.settings, log, topic, now, clock)
        self._active = self._busy = False
        self._reset_reason = ""  # why the predictor is to forget before the next frame
        self._since = ""  # why it began anew the last time
        self._last_stamp = 0
        self._steps: deque[int] = deque(maxlen=PACE_FRAMES)  # nanoseconds between frames
        self._done: deque[_Done] = deque(maxlen=WINDOW_FRAMES)
        self._error, self._error_time = "", -1e9
        self._state = self._look()
        self._worker.add(self)

    # ------------------------------------------------------------------ life

    def activate(self) -> None:
        """Frames are taken from now on; what was seen before a pause is forgotten."""
        with self._condition:
            if self._state["seen"]:
                self._reset_reason = "the node was inactive"
            self._active = True
            self._frames.start()
            self._done.clear()

    def deactivate(self) -> None:
        """No frame is taken any more; returns when none is in work."""
        with self._condition:
            self._active = False
            self._frames.drop_waiting()
            self._condition.wait_for(lambda: not self._busy)

    def close(self) -> None:
        """Ends the worker and lets go of the predictor."""
        self.deactivate()
        self._worker.remove(self)
        self._worker.close()
        self._frames.forget()
        self._predictor = None

    def on_frame(self, message: Any, publisher: Any = None, sequence: int | None = None) -> None:
        """Takes a message from the image topic; costs no more than a look at its header."""
        arrival = self._clock()
        with self._condition:
            if not self._active:
                return
            problem = self._frames.put(message, publisher, sequence, True, arrival)
            if self._frames.reset_wanted:
                self._frames.reset_wanted = False
                self._reset_reason = "time jumped back"
            if problem:
                self._note_error(f"image refused: {problem}", "image")
            self._condition.notify_all()

    def reset(self) -> str:
        """Forgets the frames seen, before the next one; says so."""
        with self._condition:
            self._reset_reason = "it was reset"
            needed = self._state["observe"]
        return f"forgotten; predictions go on after {needed} images"

    # ------------------------------------------------------------------ the worker

    def has_work(self) -> bool:
        """For the worker, which holds the condition."""
        return self._frames.waiting is not None

    def take_work(self) -> Job:
        """For the worker, which holds the condition."""
        self._busy = True
        return partial(self._process, self._frames.take())

    def _process(self, frame: Frame) -> None:
        problem, done = "", None
        try:
            done = self._predict(frame)
        except Exception as error:
            known = isinstance(error, StremnError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
        with self._condition:
            self._frames.counters.in_work = 0
            if done is None:
                self._frames.counters.failed += 1
                self._note_error(f"image not used: {problem}", "predict")
            else:
                self._frames.counters.segmented += 1  # the intake's word for done
                self._done.append(done)
            self._state = self._look()
            self._busy = False
            self._condition.notify_all()

    def _predict(self, frame: Frame) -> _Done:
        rgb = decode(frame.message)
        predictor = self._predictor
        with self._condition:
            reason, self._reset_reason = self._reset_reason, ""
        reason = reason or self._break_in_time(frame) or self._other_size(rgb)
        if reason:
            predictor.reset()
            self._steps.clear()
            self._since = reason
            self._log("warning", "", f"begins anew: {reason}")
        source = 0 if reason else self._last_stamp
        if source and frame.stamp > source:
            self._steps.append(frame.stamp - source)
        self._last_stamp = frame.stamp
        horizon = self.settings.horizon or predictor.horizon
        future = predictor.step(rgb, horizon)
        stamp = 0
        if frame.stamp and self._steps:
            stamp = frame.stamp + horizon * int(np.median(self._steps))
        image = None if future is None else future[-1]
        self._publish(Predicted(frame, image, stamp, predictor.error, predictor.change, source))
        now = self._clock()
        return _Done(now, now - frame.arrival, image is not None)

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

    def _other_size(self, rgb: NDArray[np.uint8]) -> str:
        before = self._predictor.frame_size
        if before is None or before == rgb.shape[:2]:
            return ""
        return f"the images were {before[1]}x{before[0]} and are now {rgb.shape[1]}x{rgb.shape[0]}"

    def _look(self) -> dict[str, Any]:
        """Of the predictor, for the diagnostics; called where it may be asked."""
        predictor = self._predictor
        return {
            "seen": predictor.frames_seen,
            "observe": predictor.observe,
            "horizon": predictor.horizon,
            "memory_bytes": predictor.memory_bytes,
            "processing_size": predictor.processing_size,
            "error": predictor.error,
            "change": predictor.change,
            "period": float(np.median(self._steps)) / NANOSECONDS if self._steps else 0.0,
        }

    def _note_error(self, text: str, key: str) -> None:
        self._error, self._error_time = text, self._clock()
        self._log("error", key, text)

    def _complain(self, text: str) -> None:
        with self._condition:
            self._note_error(f"the worker: {text}", "")

    # ------------------------------------------------------------------ diagnostics

    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        with self._condition:
            return self._frames.waiting is None and not self._busy

    def report(self, hint: str = "") -> Report:
        """Figures, and why there is no prediction where there is none; hint: a QoS mismatch."""
        with self._condition:
            now = self._clock()
            frames, state = self._frames, self._state
            recent = now - WINDOW_SECONDS
            done = [entry for entry in self._done if entry.when > recent]
            arrivals = sum(when > recent for when in frames.arrivals)
            drops = sum(when > recent for when in frames.drops)
            last = frames.arrivals[-1] if frames.arrivals else frames.started
            level, message = self._judge(hint, now - last, done, arrivals, drops, now)
            window = min(WINDOW_SECONDS, max(now - frames.started, 1e-3))
            counters = Counters(**vars(frames.counters))
        latency = [entry.latency * 1000.0 for entry in done]
        horizon = self.settings.horizon or state["horizon"]
        values = {
            "rate_in": f"{arrivals / window:.2f} Hz",
            "rate_out": f"{sum(entry.predicted for entry in done) / window:.2f} Hz",
            "latency_median": f"{np.median(latency):.1f} ms" if latency else "",
            "latency_95": f"{np.percentile(latency, 95):.1f} ms" if latency else "",
            "received": str(counters.received),
            "used": str(counters.segmented),
            "dropped": str(counters.dropped),
            "failed": str(counters.failed),
            "frames_seen": str(state["seen"]),
            "horizon": f"{horizon} frames, {horizon * state['period']:.3f} s",
            "prediction_error": _figure(state["error"]),
            "change": _figure(state["change"]),
            "memory_bytes": str(state["memory_bytes"]),
            "processing_size": "x".join(str(side) for side in state["processing_size"] or ()),
            "last_error": self._error,
        }
        return Report(level, message, values)

    def _judge(
        self,
        hint: str,
        silence: float,
        done: list[_Done],
        arrivals: int,
        drops: int,
        now: float,
    ) -> tuple[int, str]:
        settings, state = self.settings, self._state
        if not self._active:
            return OK, f"inactive: `ros2 lifecycle set {self._node} activate` starts it"
        if silence > settings.frame_timeout:
            return WARN, hint or (
                f"no image on {self.topic} for {silence:.1f} s: check that something publishes "
                f"there (ros2 topic info -v {self.topic}) and that its reliability fits"
            )
        if self._error and now - self._error_time < max(5.0, settings.frame_timeout):
            return (WARN if done else ERROR), self._error
        if state["seen"] < state["observe"]:
            why = f" (began anew: {self._since})" if self._since else ""
            return WARN, (
                f"no prediction yet: {state['seen']} of the {state['observe']} images seen that "
                f"one needs{why}"
            )
        if drops > MUCH_DROPPED * arrivals and arrivals >= 5:
            return WARN, (
                f"backlog: {drops} of the last {arrivals} images were dropped; lower "
                "processing_size or the camera's rate"
            )
        return OK, "predicting"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
