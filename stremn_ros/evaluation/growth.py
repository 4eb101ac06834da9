"""The fixed memory beside one that grows: time and bytes against the frame number, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.evaluation.bench import STAGES, back_and_forth, scene, time_stages
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.memory import GrowingMemory
from stremn_ros.memory.growing import LINEAR_FRAMES
from stremn_ros.segmenter import Segmenter

FIXED, LINEAR = "fixed", "linear"
FIRST = 180  # frames of the paper's Table 8
SAMPLE = 2 * LINEAR_FRAMES  # frames timed at a point: whole cycles of the memory update


@dataclass(frozen=True)
class Point:
    """Means over the frames that end at ``frame``, in milliseconds; bytes at their end.

    played: the frames up to here were really played; otherwise the growing memory was filled to
    the length that it has there.
    """

    frame: int
    played: bool
    fixed_ms: float
    linear_ms: float
    fixed_cpu_ms: float
    linear_cpu_ms: float
    fixed_bytes: int
    linear_bytes: int
    templates: int  # of an object in the growing memory

    @property
    def ratio(self) -> float:
        return self.linear_ms / self.fixed_ms


@dataclass(frozen=True)
class Growth:
    """One number of objects. Times in milliseconds.

    first: mean frame time of the fixed and of the growing memory over the first frames, up to
    ``first_frames``; where they were not all played, by the trapezoid rule over the points.
    crossing: the frame from which on the growing memory is slower at every point, None for never.
    stages: fixed or linear -> stage -> mean milliseconds a frame at the last point.
    """

    objects: int
    points: list[Point]
    first_frames: int
    first: tuple[float, float]
    crossing: int | None
    stages: dict[str, dict[str, float]]

    @property
    def first_ratio(self) -> float:
        return self.first[1] / self.first[0]

    def as_dict(self) -> dict[str, Any]:
        return {
            "objects": self.objects,
            "first_frames": self.first_frames,
            "first_ms": {FIXED: self.first[0], LINEAR: self.first[1]},
            "first_ratio": round(self.first_ratio, 3),
            "crossing": self.crossing,
            "points": [{**asdict(point), "ratio": round(point.ratio, 3)} for point in self.points],
            "stages_ms": self.stages,
        }

    def table(self) -> str:
        """Text: the points, the summary, the stages."""
        lines = [
            f"{self.objects} object{'' if self.objects == 1 else 's'}",
            "  frame  templates  fixed ms  linear ms  ratio  fixed MiB  linear MiB",
        ]
        for point in self.points:
            lines.append(
                f"{point.frame:7d}  {point.templates:9d}  {point.fixed_ms:8.1f}  "
                f"{point.linear_ms:9.1f}  {point.ratio:5.2f}  {point.fixed_bytes / 2**20:9.1f}  "
                f"{point.linear_bytes / 2**20:10.1f}{'' if point.played else '  (filled)'}"
            )
        crossing = "never" if self.crossing is None else f"from frame {self.crossing} on"
        lines.append(
            f"first {self.first_frames} frames: {self.first[0]:.1f} and {self.first[1]:.1f} ms, "
            f"the fixed memory is {self.first_ratio:.2f} times as fast; linear is slower {crossing}"
        )
        last = self.points[-1].frame
        for name, stages in self.stages.items():
            shown = ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items())
            lines.append(f"{name} at frame {last}, ms a frame: {shown}")
        return "\n".join(lines)


def compare_growth(
    load: Callable[[str | None, int], Segmenter],
    objects: int,
    frames: int,
    *,
    points: Sequence[int] = (),
    size: tuple[int, int] = (480, 640),
    window: int = SAMPLE,
    on_frame: Callable[[int], object] | None = None,
) -> Growth:
    """Plays a drawn video to a fixed memory and to a growing one, frame by frame in turns.

    Args:
        load: (update rule or None for the model's, objects) -> a fresh segmenter.
        objects: in the video. frames: really played. points: frames beyond those, at which the
            growing memory is filled to its length there and both are timed.
        size: rows and columns of the video. window: frames averaged to a point.
        on_frame: called after every frame with its number.

    Raises:
        InputError: too few frames, or points that are not beyond them.
    """
    if frames < 2 * window:
        raise InputError(f"{frames} frames: at least {2 * window} are needed")
    if any(b <= a for a, b in zip([frames, *points], points)):
        raise InputError(f"points {list(points)} must rise, beyond the {frames} frames played")
    video, labels = scene(objects, size)
    pair = {FIXED: load(None, objects), LINEAR: load("linear", objects)}
    memories = {name: segmenter.update_rule for name, segmenter in pair.items()}
    if memories[FIXED] == LINEAR:
        raise InputError("the model's own rule is linear; name another one with --update-rule")
    clocks = {name: time_stages(segmenter) for name, segmenter in pair.items()}
    order = back_and_forth(len(video))
    index = next(order)
    for segmenter in pair.values():
        segmenter.seed(video[index], labels[index])
    wall: dict[str, list[float]] = {FIXED: [], LINEAR: []}
    cpu: dict[str, list[float]] = {FIXED: [], LINEAR: []}
    found: list[Point] = []

    def step() -> None:
        frame = video[next(order)]
        turn = (FIXED, LINEAR) if len(wall[FIXED]) % 2 else (LINEAR, FIXED)
        for name in turn:  # in turns, so that what else the machine does hits both alike
            clocks[name].wait()
            begin, busy = time.perf_counter(), time.process_time()
            pair[name].step(frame)
            clocks[name].wait()
            wall[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - busy)
        if on_frame is not None:
            on_frame(len(wall[FIXED]))

    def point(frame: int, played: bool) -> Point:
        def mean(times: list[float]) -> float:
            return round(1000 * float(np.mean(times[-window:])), 3)

        growing = pair[LINEAR].memory
        return Point(
            frame,
            played,
            mean(wall[FIXED]),
            mean(wall[LINEAR]),
            mean(cpu[FIXED]),
            mean(cpu[LINEAR]),
            pair[FIXED].memory_bytes,
            pair[LINEAR].memory_bytes,
            growing.used(growing.ids[0]),
        )

    for number in range(1, frames + 1):
        if number == frames - window + 1:
            for clock in clocks.values():
                clock.take()
        step()
        if number % window == 0:
            found.append(point(number, True))
    for target in points:
        growing = pair[LINEAR].memory
        assert isinstance(growing, GrowingMemory)
        growing.repeat(1 + (target - window) // LINEAR_FRAMES)
        for clock in clocks.values():
            clock.take()
        for _ in range(window):
            step()
        found.append(point(target, False))
    stages = {}
    for name, clock in clocks.items():
        seconds, _ = clock.take()
        stages[name] = {
            stage: round(1000 * float(value) / window, 3) for stage, value in zip(STAGES, seconds)
        }
    return Growth(objects, found, *_first(wall, frames, found), _crossing(found), stages)


def _first(
    wall: dict[str, list[float]], frames: int, found: list[Point]
) -> tuple[int, tuple[float, float]]:
    """The number of first frames, and the mean milliseconds of both over them."""
    if frames >= FIRST or found[-1].frame < FIRST:
        count = min(frames, FIRST)
        fixed, linear = (1000 * float(np.mean(wall[name][:count])) for name in (FIXED, LINEAR))
        return count, (round(fixed, 3), round(linear, 3))
    at = np.arange(1, FIRST + 1)
    frames_at = [point.frame for point in found]
    fixed, linear = (
        float(np.interp(at, frames_at, [getattr(point, f"{name}_ms") for point in found]).mean())
        for name in (FIXED, LINEAR)
    )
    return FIRST, (round(fixed, 3), round(linear, 3))


def _crossing(found: list[Point]) -> int | None:
    """The first point from which on the growing memory is always the slower."""
    crossing = None
    for point in reversed(found):
        if point.ratio <= 1.0:
            break
        crossing = point.frame
    return crossing


def plot(results: Sequence[Growth], path: str | os.PathLike[str], title: str) -> None:
    """Draws time, ratio and bytes against the frame number for each number of objects, a PNG."""
    figure = new_figure(9, 10.5)
    times, ratios, sizes = figure.subplots(3, 1, sharex=True)
    for n, result in enumerate(results):
        color = f"C{n}"
        frames = [point.frame for point in result.points]
        label = f"{result.objects} object{'' if result.objects == 1 else 's'}"
        times.plot(frames, [p.linear_ms for p in result.points], "-", color=color, label=label)
        times.plot(frames, [p.fixed_ms for p in result.points], "--", color=color)
        ratios.plot(frames, [p.ratio for p in result.points], ".-", color=color, label=label)
        sizes.plot(frames, [p.linear_bytes / 2**20 for p in result.points], "-", color=color)
        sizes.plot(frames, [p.fixed_bytes / 2**20 for p in result.points], "--", color=color)
    times.set_ylabel("ms a frame")
    times.set_title("solid: linear, a template every 5 frames; dashed: fixed", fontsize=10)
    ratios.set_ylabel("linear / fixed time")
    for level in (1.0, 1.3, 3.0):
        ratios.axhline(level, color="black", linewidth=0.8, linestyle=":")
    ratios.legend(frameon=False, fontsize=9)
    sizes.set_ylabel("MiB of memory")
    sizes.set_xlabel("frame")
    for panel in (times, ratios, sizes):
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
