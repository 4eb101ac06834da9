"""Counts a frame's operations, stage by stage, and says what share of the machine's rate they make.

    python benchmark/operations.py --json OUT.json

The machine's rate is that of a product of two large matrices in single precision, by PyTorch on the
same threads. Operations are multiplications and additions of convolutions and matrix products.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frames import demo_frames, machine
from torch.utils.flop_counter import FlopCounterMode

from stremn_ros.evaluation.bench import STAGES, time_stages
from stremn_ros.files import write_json
from stremn_ros.segmenter import Segmenter

SIDE = 2048  # of the matrices


class Counting:
    """Stages that count what they compute while ``on``; everything else is the stages' own."""

    def __init__(self, stages: Any) -> None:
        self._stages = stages
        self.on = False
        self.operations = dict.fromkeys(STAGES, 0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stages, name)
        if name not in STAGES:
            return found

        def counted(*arguments: Any) -> Any:  # the memory holds on to some from its beginning
            if not self.on:
                return found(*arguments)
            with FlopCounterMode(display=False) as counter:
                result = found(*arguments)
            self.operations[name] += counter.get_total_flops()
            return result

        return counted


def machine_rate(repeats: int = 20) -> float:
    """Operations per second, in thousands of millions: the median of several products."""
    a, b = (torch.rand(SIDE, SIDE) for _ in range(2))
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - begin)
    return 2e-9 * SIDE**3 / float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 432), metavar=("H", "W"))
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--frames", type=int, default=40, help="timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frames, mask = demo_frames(None, None, options.size, options.slots + options.frames + 2)
    segmenter = Segmenter.load(
        options.model,
        device="cpu",
        runtime="torch",
        slots=options.slots,
        update_every=1,
        processing_size=tuple(options.size),
    )
    clock = time_stages(segmenter)
    counting = segmenter.wrap_stages(Counting)
    segmenter.seed(frames[0], mask)
    for frame in frames[1 : options.slots + 1]:  # until the memory is full
        segmenter.step(frame)
    clock.take()
    taken = []
    for frame in frames[options.slots + 1 :][: options.frames]:
        segmenter.step(frame)
        taken.append(clock.take()[0])
    seconds = dict(zip(STAGES, np.median(taken, axis=0), strict=True))
    counting.on = True
    segmenter.step(frames[options.slots + 1 + len(taken)])
    rate = machine_rate()
    total = sum(counting.operations.values())
    print(f"product of two {SIDE} x {SIDE} matrices: {rate:.0f} G operations per second")
    rows = [(name, count) for name, count in counting.operations.items() if count]
    for name, count in [*rows, ("together", total)]:
        time_taken = sum(seconds[n] for n, _ in rows) if name == "together" else seconds[name]
        made = 1e-9 * count / time_taken
        print(
            f"{name:16}{1e-9 * count:7.2f} G operations {1000 * time_taken:7.1f} ms "
            f"{made:6.0f} G per second, {100 * made / rate:4.0f} %"
        )
    if options.json:
        result = {
            "machine": machine(),
            "machine_rate_g": rate,
            "operations": counting.operations,
            "median_ms": {name: 1000 * value for name, value in seconds.items()},
        }
        write_json(options.json, result)


if __name__ == "__main__":
    main()
