"""What a frame costs, stage by stage, and whether that or the memory grows with the frames."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.evaluation.machine import machine, resident_bytes
from stremn_ros.evaluation.metrics import region_similarity
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.segmenter import Segmenter

# segment: the first three in one, where a runtime has that; compare: the similarity of the newest
# template to every slot
STAGES = (
    "encode_query",
    "read",
    "decode",
    "segment",
    "encode_memory",
    "project",
    "compare",
    "fuse",
)
# What remembering costs beside its stages: choice of the pair, copies
UPKEEP = "memory_upkeep"
# The rest of a frame: resizing, label mask, states, boxes
OTHER = "pre_and_post"


class TimedStages:
    """A runtime's stages, with the time and the number of the calls of each; see runtime.base."""

    def __init__(self, stages: Any) -> None:
        self._inner = stages
        self.seconds = np.zeros(len(STAGES))
        self.calls = np.zeros(len(STAGES), np.int64)
        for index, name in enumerate(STAGES):
            setattr(self, name, self._timed(index, getattr(stages, name)))

    def _timed(self, index: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self.wait()
            begin = time.perf_counter()
            result = function(*arguments)
            if result is None:  # the runtime has no such stage
                return None
            self.wait()
            self.seconds[index] += time.perf_counter() - begin
            self.calls[index] += 1
            return result

        return run

    def wait(self) -> None:
        """On a GPU, waits for what was started: only then a time says anything."""
        if self._inner.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._inner.device)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and calls of each stage since the last take, which start again at zero."""
        taken = self.seconds.copy(), self.calls.copy()
        self.seconds[:] = 0
        self.calls[:] = 0
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def time_stages(segmenter: Segmenter) -> TimedStages:
    """Puts a clock around the stages of a segmenter that has not seen a frame yet."""
    return segmenter.wrap_stages(TimedStages)


def scene(
    objects: int, size: tuple[int, int] = (480, 640), frames: int = 60, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A drawn video of textured things that drift: RGB uint8 [T, H, W, 3], labels [T, H, W].

    The motion is smooth and ends where no object has left the picture, so the video can be played
    back and forth for ever.
    """
    if not 1 <= objects <= 40:
        raise InputError(f"objects {objects}: 1 to 40 is needed")
    if frames < 2 or min(size) < 32:
        raise InputError(f"a scene of {frames} frames at {size}: 2 frames, 32 pixels are needed")
    rng = np.random.default_rng(seed)
    height, width = size
    background = _texture(rng, height + 64, width + 64, 90, 35)
    columns = int(np.ceil(np.sqrt(objects * width / height)))
    rows = -(-objects // columns)
    room = min(height / rows, width / columns)
    things = []
    for index in range(objects):
        side = 2 * int(0.28 * room) + 1
        texture = _texture(rng, side, side, rng.uniform(60, 200, 3), 40)
        mask = np.zeros((side, side), np.uint8)
        center = (side // 2, side // 2)
        axes = (int(side * rng.uniform(0.32, 0.48)), int(side * rng.uniform(0.32, 0.48)))
        cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        y = (index // columns + 0.5) * height / rows
        x = (index % columns + 0.5) * width / columns
        things.append((texture, mask, y, x, rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.6, 1, 2)))
    shown = np.empty((frames, height, width, 3), np.uint8)
    labels = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        turn = np.pi * t / (frames - 1)
        dy, dx = round(32 + 20 * np.sin(turn)), round(32 - 24 * np.cos(turn))
        shown[t] = background[dy : dy + height, dx : dx + width]
        for label, (texture, mask, y, x, phase, reach) in enumerate(things, 1):
            offset = 0.3 * room * reach * np.sin(turn + phase)
            side = len(mask)
            top, left = (int(v) - side // 2 for v in (y + offset[0], x + offset[1]))
            y0, x0 = max(top, 0), max(left, 0)
            y1, x1 = min(top + side, height), min(left + side, width)
            part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            inside = mask[part] > 0
            shown[t, y0:y1, x0:x1][inside] = texture[part][inside]
            labels[t, y0:y1, x0:x1][inside] = label
    return shown, labels


def _texture(rng: Any, height: int, width: int, level: Any, contrast: float) -> np.ndarray:
    coarse = rng.normal(0, contrast, (max(2, height // 24), max(2, width // 24), 3))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 6, (height, width, 3))
    return np.clip(level + smooth + fine, 0, 255).astype(np.uint8)


def back_and_forth(count: int) -> Iterator[int]:
    """0, 1, ... count-1, count-2, ... 1, 0, 1, ... for ever."""
    index, step = 0, 1
    while True:
        yield index
        if count > 1:
            if not 0 <= index + step < count:
                step = -step
            index += step


@dataclass(frozen=True)
class Window:
    """A stretch of frames. Times in milliseconds; j is None where nothing was scored.

    median_cpu_ms: CPU time of the process, all threads, which other work on the machine disturbs
    less. calls: of every stage over the whole stretch.
    """

    first: int
    last: int
    median_ms: float
    p95_ms: float
    resident_bytes: int
    memory_bytes: int
    calls_per_frame: dict[str, float]
    objects_per_frame: float
    j: float | None
    median_cpu_ms: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run over many frames: the stages over all of it, and windows along it.

    stages: name -> median, p95 and mean milliseconds of a frame, and calls per frame.
    """

    frames: int
    windows: list[Window]
    stages: dict[str, dict[str, float]]
    memory_bytes: tuple[int, int]  # after the first frame and at the end
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "memory_bytes_first": self.memory_bytes[0],
            "memory_bytes_last": self.memory_bytes[1],
            "stages_ms": self.stages,
            "windows": [vars(window) for window in self.windows],
            "settings": self.settings,
        }

    def table(self) -> str:
        """Stages, then windows, as text."""
        lines = ["stage            calls/frame   median ms   p95 ms   share of the mean"]
        total = self.stages["frame"]["mean"]
        for name, values in self.stages.items():
            lines.append(
                f"{name:15}  {values['calls']:11.2f}  {values['median']:10.2f}  "
                f"{values['p95']:7.2f}  {100 * values['mean'] / total:7.1f} %"
            )
        lines.append("")
        lines.append(
            "frames            median ms   p95 ms   CPU ms   memory MiB   process MiB   objects"
            "    J"
        )
        for window in self.windows:
            j = "-" if window.j is None else f"{100 * window.j:.1f}"
            lines.append(
                f"{window.first:7d}-{window.last:<8d}  {window.median_ms:9.2f}  "
                f"{window.p95_ms:7.2f}  {window.median_cpu_ms:7.2f}  "
                f"{window.memory_bytes / 2**20:11.2f}  "
                f"{window.resident_bytes / 2**20:12.1f}  {window.objects_per_frame:8.2f}  {j:>5}"
            )
        return "\n".join(lines)


def measure(
    segmenter: Segmenter,
    video: np.ndarray,
    labels: np.ndarray,
    frames: int,
    *,
    windows: int = 10,
    change_every: int = 0,
    score_every: int = 0,
    on_frame: Callable[[int], object] | None = None,
    settings: dict[str, Any] | None = None,
) -> Run:
    """Plays a video with known masks back and forth for many frames and times every step.

    video: RGB uint8 [T, H, W, 3]; labels: uint8 [T, H, W], the true masks of every frame.
    change_every: n > 0 takes an object out after n frames and seeds it again, with its true mask
    of that frame, after n more; then the next object has its turn. score_every: n > 0 scores J
    of the tracked objects every n frames. The segmenter must be fresh. Raises InputError for
    fewer than two frames per window, or labels without objects.
    """
    if windows < 1 or frames < 2 * windows:
        raise InputError(f"{frames} frames for {windows} windows: at least 2 frames each is needed")
    ids = [int(label) for label in np.unique(labels[0]) if label]
    if not ids:
        raise InputError("the first mask is empty: nothing to follow")
    timed = time_stages(segmenter)
    # Written once before the run, so that the pages lie in RAM from the start and the process
    # does not seem to grow
    times = np.full((frames, len(STAGES) + 3), np.nan)
    calls = np.full((frames, len(STAGES)), -1, np.int32)
    scores = np.full(frames, np.nan)
    busy = np.full(frames, np.nan)  # seconds of CPU time
    counts = np.full(frames, -1, np.int32)
    order = back_and_forth(len(video))
    index = next(order)
    segmenter.seed(video[index], labels[index])
    timed.take()
    first_bytes = segmenter.memory_bytes
    absent: int | None = None
    leaving = itertools.cycle(ids)
    bounds = np.linspace(0, frames, windows + 1).round().astype(int)
    done: list[Window] = []
    for number in range(frames):
        index = next(order)
        frame = video[index]
        if change_every and number and number % change_every == 0:
            if absent is None:
                absent = next(leaving)
                segmenter.remove(absent)
            elif (labels[index] == absent).any():  # a hidden one stays out until the next time
                segmenter.seed(frame, labels[index], ids=[absent])
                absent = None
            timed.take()
        begin, begin_busy = time.perf_counter(), time.process_time()
        result = segmenter.segment(frame)
        timed.wait()
        middle = time.perf_counter()
        segmented = timed.seconds.sum()
        segmenter.remember()
        timed.wait()
        end = time.perf_counter()
        busy[number] = time.process_time() - begin_busy
        seconds, calls[number] = timed.take()
        times[number, : len(STAGES)] = seconds
        times[number, -3] = max(0.0, (end - middle) - (seconds.sum() - segmented))
        times[number, -2] = max(0.0, (middle - begin) - segmented)
        times[number, -1] = end - begin
        counts[number] = len(segmenter.ids)
        if score_every and number % score_every == 0:
            truth = labels[index]
            present = [label for label in segmenter.ids if (truth == label).any()]
            if present:
                scores[number] = np.mean(
                    [region_similarity(result.labels == x, truth == x) for x in present]
                )
        if number + 1 == bounds[len(done) + 1]:
            part = slice(bounds[len(done)], number + 1)
            scored = scores[part][~np.isnan(scores[part])]
            per_frame = calls[part].mean(0)
            done.append(
                Window(
                    int(part.start),
                    number,
                    round(float(np.median(times[part, -1])) * 1000, 3),
                    round(float(np.percentile(times[part, -1], 95)) * 1000, 3),
                    resident_bytes(),
                    segmenter.memory_bytes,
                    {name: round(float(x), 4) for name, x in zip(STAGES, per_frame)},
                    round(float(counts[part].mean()), 4),
                    round(float(scored.mean()), 5) if scored.size else None,
                    round(float(np.median(busy[part])) * 1000, 3),
                    {name: int(x) for name, x in zip(STAGES, calls[part].sum(0))},
                )
            )
        if on_frame is not None:
            on_frame(number)
    names = (*STAGES, UPKEEP, OTHER, "frame")
    per_frame = [*calls.mean(0), 1.0, 1.0, 1.0]
    stages = {
        name: {
            "median": round(float(np.median(times[:, column])) * 1000, 3),
            "p95": round(float(np.percentile(times[:, column], 95)) * 1000, 3),
            "mean": round(float(times[:, column].mean()) * 1000, 3),
            "calls": round(float(per_frame[column]), 4),
        }
        for column, name in enumerate(names)
    }
    size = segmenter.processing_size
    return Run(
        frames,
        done,
        stages,
        (first_bytes, segmenter.memory_bytes),
        {
            "objects": len(ids),
            "frame_size": list(video[0].shape[:2]),
            "processing_size": list(size) if size is not None else None,
            "slots": segmenter.memory.slots,
            "update_rule": segmenter.update_rule,
            "runtime": segmenter.runtime_name,
            "change_every": change_every,
            "machine": machine(),
            **(settings or {}),
        },
    )


def plot(run: Run, path: str | os.PathLike[str], title: str) -> None:
    """Draws frame time, memory and J against the frame number, and the stages, as a PNG."""
    scored = any(window.j is not None for window in run.windows)
    figure = new_figure(9, 9.5 if scored else 7.5)
    panels = figure.subplots(4 if scored else 3, 1)
    at = [(window.first + window.last) / 2 for window in run.windows]
    panels[0].plot(at, [window.median_ms for window in run.windows], "o-", label="median")
    panels[0].plot(at, [window.p95_ms for window in run.windows], ".--", label="95th percentile")
    panels[0].plot(
        at, [window.median_cpu_ms for window in run.windows], ".-", label="median of CPU time"
    )
    panels[0].set_ylabel("ms a frame")
    panels[1].plot(
        at, [x.resident_bytes / 2**20 for x in run.windows], "o-", label="process (resident)"
    )
    panels[1].plot(at, [x.memory_bytes / 2**20 for x in run.windows], "s-", label="slot memory")
    panels[1].set_ylabel("MiB")
    if scored:
        values = [np.nan if x.j is None else 100 * x.j for x in run.windows]
        panels[2].plot(at, values, "o-", label="J against the true masks")
        panels[2].set_ylabel("percent")
        panels[2].set_ylim(0, 100)
    for panel in panels[:-1]:
        panel.set_xlabel("frame")
        panel.set_xlim(0, run.frames)
        panel.legend(frameon=False, fontsize=9)
        panel.grid(alpha=0.3)
    for panel in panels[:2]:
        panel.set_ylim(bottom=0)
    names = [name for name in run.stages if name != "frame"]
    bars = panels[-1].barh(names[::-1], [run.stages[name]["mean"] for name in names[::-1]])
    panels[-1].bar_label(bars, fmt="%.2f", padding=3)
    panels[-1].set_xlabel("mean ms a frame")
    panels[-1].margins(x=0.1)
    figure.suptitle(title)
    save_figure(figure, path)
