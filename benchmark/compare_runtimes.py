"""Times a frame of a real video on two runtimes in turns, and counts the pixels that agree.

    python benchmark/compare_runtimes.py --frames 100 --json OUT.json

`stremn bench --against torch` does the same with drawn frames. With --noise 1 it says, too, how
many pixels of the first runtime keep their label where values of the frames are off by 1 at
most: what a runtime's rounding is to be seen beside.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from frames import demo_frames, machine

from stremn_ros.evaluation.runtimes import compare_runtimes, table
from stremn_ros.files import write_json
from stremn_ros.segmenter import Segmenter

NOISY = "with noise"  # the first runtime's column


def noisy(segmenter: Segmenter, frames: list[np.ndarray], gray: int) -> Segmenter:
    """It sees each of these frames (the seed's first time excepted) with whole numbers of at most
    ``gray`` added to or taken from every value."""
    generator = np.random.default_rng(0)
    changed = {}
    for frame in [*frames[1:], frames[0]]:
        noise = generator.integers(-gray, gray, frame.shape, np.int16, endpoint=True)
        changed[id(frame)] = np.clip(frame + noise, 0, 255).astype(np.uint8)
    step = segmenter.step
    segmenter.step = lambda frame: step(changed[id(frame)])  # type: ignore[method-assign]
    return segmenter


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
    parser.add_argument(
        "--native", action="store_true", help="frames of the video's own size, resized in each step"
    )
    parser.add_argument("--frames", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--noise", type=int, default=0, metavar="GREY", help="see above")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two turns")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frames, mask = demo_frames(
        options.video, options.mask, None if options.native else options.size
    )
    names = [*options.runtimes, NOISY] if options.noise else options.runtimes
    runs = []
    for every in options.update_every:

        def load(name: str, every: int = every) -> Segmenter:
            segmenter = Segmenter.load(
                options.model,
                device="cpu",
                runtime=options.runtimes[0] if name == NOISY else name,
                slots=options.slots,
                update_every=every,
                processing_size=tuple(options.size),
            )
            return noisy(segmenter, frames, options.noise) if name == NOISY else segmenter

        runs.append(
            compare_runtimes(load, names, frames, mask, options.frames, pause=options.pause)
        )
        print(table(runs[-1]) + "\n", flush=True)
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
        write_json(options.json, result)


if __name__ == "__main__":
    main()
