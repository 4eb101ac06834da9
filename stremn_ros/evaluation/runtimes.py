"""Runtimes in turns on the same frames: what each stage takes, and whether their masks agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.evaluation.bench import STAGES, time_stages
from stremn_ros.segmenter import Segmenter

Result = dict[str, Any]


def compare_runtimes(
    load: Callable[[str], Segmenter],
    names: Sequence[str],
    frames: Sequence[np.ndarray],
    mask: np.ndarray,
    count: int,
    *,
    pause: float = 0.01,
    on_frame: Callable[[int], object] | None = None,
) -> Result:
    """Steps segmenters frame by frame, one after the other: what else runs here hits all alike.

    Args:
        load: a fresh segmenter on a runtime; names: of the runtimes, the first is what the others
            are compared with.
        frames: RGB uint8 [H, W, 3], played again from the start where ``count`` wants more; mask:
            of the first one.
        count: steps; those until the memory is full (half of them at most) are not timed.
        pause: seconds between two turns, in which threads that wait busily go to sleep.

    Returns:
        ``update_every``, ``frames`` and ``not_timed``; and for each runtime the median, mean and
        95th percentile of a frame, the median of the frames that the memory was updated with, of
        each stage over the calls it had, and of the rest, all in milliseconds; the frame rate as
        a multiple of the first runtime's; and the share of pixels that have the first one's label.

    Raises:
        InputError: too few frames.
    """
    if count < 4 or not len(frames):
        raise InputError(f"{count} steps over {len(frames)} frames: 4 steps at least are needed")
    segmenters, clocks = {}, {}
    for name in names:
        segmenter = load(name)
        clocks[name] = time_stages(segmenter)
        segmenter.seed(frames[0], mask)
        clocks[name].take()
        segmenters[name] = segmenter
    whole: dict[str, list[float]] = {name: [] for name in segmenters}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in segmenters}
    agree: dict[str, list[float]] = {name: [] for name in segmenters}
    for number in range(1, count + 1):
        frame = frames[number % len(frames)]
        labels = {}
        for name, segmenter in segmenters.items():
            time.sleep(pause)
            begin = time.perf_counter()
            labels[name] = segmenter.step(frame).labels
            clocks[name].wait()
            whole[name].append(1000 * (time.perf_counter() - begin))
            parts[name].append(1000 * clocks[name].take()[0])
        for name, found in labels.items():
            agree[name].append(float((found == labels[names[0]]).mean()))
        if on_frame is not None:
            on_frame(number)
    first = segmenters[names[0]]
    full = min(count // 2, first.memory.slots * first.update_every)
    result: Result = {"update_every": first.update_every, "frames": count, "not_timed": full}
    for name, segmenter in segmenters.items():
        taken, stages = np.array(whole[name][full:]), np.array(parts[name][full:])
        updated = taken[stages[:, STAGES.index("encode_memory")] > 0]
        result[name] = {
            "name": segmenter.runtime_name,
            "median_ms": _median(taken),
            "mean_ms": round(float(taken.mean()), 2),
            "p95_ms": round(float(np.percentile(taken, 95)), 2),
            "updated_median_ms": _median(updated) if len(updated) else None,
            "stages_median_ms": {
                stage: _median(column[column > 0])
                for stage, column in zip(STAGES, stages.T)
                if column.any()
            },
            "rest_median_ms": _median(taken - stages.sum(1)),
            "agreement_percent": round(100 * float(np.mean(agree[name])), 4),
            "agreement_worst_percent": round(100 * min(agree[name]), 4),
        }
        for kind in ("median", "mean", "updated_median"):
            mine, other = (result[key][f"{kind}_ms"] for key in (name, names[0]))
            result[name][f"rate_{kind}"] = round(other / mine, 3) if mine and other else None
    return result


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 2)


_LINES = {
    "median_ms": "frame, median",
    "mean_ms": "frame, mean",
    "p95_ms": "frame, 95th percentile",
    "updated_median_ms": "frame with an update, median",
    "rest_median_ms": "  before, between and after the stages",
    "rate_median": "frame rate against the first, by the median",
    "rate_mean": "  by the mean",
    "rate_updated_median": "  of frames with an update",
    "agreement_percent": "pixels that agree, percent",
    "agreement_worst_percent": "  in the worst frame",
}


def table(result: Result) -> str:
    """The result as text."""
    names = [name for name, part in result.items() if isinstance(part, dict)]
    every = result["update_every"]
    lines = [
        f"{result['frames']} frames, the memory updated with "
        + ("every one" if every == 1 else f"one in {every}")
        + f"; the first {result['not_timed']} are not timed. Milliseconds:",
        f"{'':46}" + "".join(f"{name:>18}" for name in names),
    ]

    def line(title: str, values: list[float | None], digits: int) -> str:
        shown = ("-" if value is None else f"{value:.{digits}f}" for value in values)
        return f"{title:46}" + "".join(f"{text:>18}" for text in shown)

    for key, title in _LINES.items():
        values = [result[name][key] for name in names]
        if key == "rest_median_ms":
            lines += [
                line(
                    f"  {stage}", [result[name]["stages_median_ms"].get(stage) for name in names], 2
                )
                for stage in STAGES
            ]
        lines.append(line(title, values, 2 if key.endswith("_ms") or "rate" in key else 4))
    return "\n".join(lines)
