"""Times a frame on two runtimes in turns, and counts the pixels in which their masks agree.

    python benchmark/compare_runtimes.py --frames 100 --json OUT.json

Both segmenters get the same real video and run frame by frame one after the other, so that
whatever else the machine does hits both alike. For each stage: the median of the frames in which
it ran. ``agreement``: the share of pixels with the same label, over all frames and in the worst.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frames import demo_frames, machine

from stremn_ros.evaluation.bench import STAGES, time_stages
from stremn_ros.segmenter import Segmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnxruntime"])
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 432), metavar=("H", "W"))
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument(
        "--update-every", type=int, nargs="+", default=[1, 5], help="one run each (default: 1 5)"
    )
    parser.add_argument("--video", type=Path, help="default: the demo's")
    parser.add_argument("--mask", type=Path, help="of the video's first frame")
    parser.add_argument("--native", action="store_true", help="frames of the video's own size")
    parser.add_argument("--frames", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument(
        "--warm", type=int, default=0, help="frames whose times do not count (default: until full)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two turns")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = None if options.native else options.size
    frames, mask = demo_frames(options.video, options.mask, size)
    runs = [run(options, every, frames, mask) for every in options.update_every]
    for values in runs:
        show(values)
    result = {
        "model": options.model,
        "processing_size": list(options.size),
        "frame_size": list(frames[0].shape[:2]),
        "slots": options.slots,
        "objects": 1,
        "threads": options.threads,
        "machine": machine(),
        "runs": runs,
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def run(
    options: argparse.Namespace, every: int, frames: list[np.ndarray], mask: np.ndarray
) -> dict[str, Any]:
    """One run in turns; the first runtime is what the others are compared with."""
    segmenters, clocks = {}, {}
    for name in options.runtimes:
        segmenter = Segmenter.load(
            options.model,
            device="cpu",
            runtime=name,
            slots=options.slots,
            update_every=every,
            processing_size=tuple(options.size),
        )
        clocks[name] = time_stages(segmenter)
        segmenter.seed(frames[0], mask)
        clocks[name].take()
        segmenters[name] = segmenter
    whole: dict[str, list[float]] = {name: [] for name in segmenters}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in segmenters}
    agree: dict[str, list[float]] = {name: [] for name in segmenters}
    for number in range(1, options.frames + 1):
        frame = frames[number % len(frames)]
        labels = {}
        for name, segmenter in segmenters.items():
            time.sleep(options.pause)  # threads of the other that still wait busily go to sleep
            begin = time.perf_counter()
            labels[name] = segmenter.step(frame).labels
            whole[name].append(1000 * (time.perf_counter() - begin))
            parts[name].append(1000 * clocks[name].take()[0])
        first = labels[options.runtimes[0]]
        for name, found in labels.items():
            agree[name].append(float((found == first).mean()))
    full = options.warm or min(options.frames // 2, options.slots * every)
    result: dict[str, Any] = {"update_every": every, "frames": options.frames, "warm": full}
    for name, segmenter in segmenters.items():
        taken, stages = np.array(whole[name][full:]), np.array(parts[name][full:])
        ran = {stage: column[column > 0] for stage, column in zip(STAGES, stages.T) if column.any()}
        updated = stages[:, STAGES.index("encode_memory")] > 0
        result[name] = {
            "name": segmenter.runtime_name,
            "median_ms": round(float(np.median(taken)), 2),
            "mean_ms": round(float(taken.mean()), 2),
            "p95_ms": round(float(np.percentile(taken, 95)), 2),
            "median_ms_of_frames_that_are_remembered": round(float(np.median(taken[updated])), 2),
            "stages_median_ms": {
                stage: round(float(np.median(column)), 2) for stage, column in ran.items()
            },
            "rest_median_ms": round(float(np.median(taken - stages.sum(1))), 2),
            "agreement_percent": round(100 * float(np.mean(agree[name])), 4),
            "agreement_percent_worst_frame": round(100 * min(agree[name]), 4),
        }
        first = result[options.runtimes[0]]
        result[name]["frame_rate_ratio_median"] = round(
            first["median_ms"] / result[name]["median_ms"], 3
        )
        result[name]["frame_rate_ratio_mean"] = round(first["mean_ms"] / result[name]["mean_ms"], 3)
    return result


def show(values: dict[str, Any]) -> None:
    names = [name for name, part in values.items() if isinstance(part, dict)]
    print(f"memory updated every {values['update_every']} frames; {values['frames']} frames")
    print(f"{'ms':44}" + "".join(f"{name:>14}" for name in names))
    for key in ("median_ms", "mean_ms", "p95_ms", "median_ms_of_frames_that_are_remembered"):
        print(f"  {key:42}" + "".join(f"{values[name][key]:14.2f}" for name in names))
    for stage in STAGES:
        found = [values[name]["stages_median_ms"].get(stage, 0.0) for name in names]
        print(f"    {stage:40}" + "".join(f"{value:14.2f}" for value in found))
    for key in (
        "rest_median_ms",
        "frame_rate_ratio_median",
        "frame_rate_ratio_mean",
        "agreement_percent",
        "agreement_percent_worst_frame",
    ):
        print(f"  {key:42}" + "".join(f"{values[name][key]:14.3f}" for name in names))


if __name__ == "__main__":
    main()
