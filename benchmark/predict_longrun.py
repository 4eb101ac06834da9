"""How fast the predictor is, and whether its memory stays as it is, over many frames.

python benchmark/predict_longrun.py --frames 10000 --size 64 --json OUT.json   # memory
python benchmark/predict_longrun.py --frames 200 --size 256 --json OUT.json    # rate
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from tqdm import tqdm

from stremn_ros.evaluation.machine import resident_bytes
from stremn_ros.files import write_json
from stremn_ros.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="predict_rgb")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=128, help="pixels squared of the frames")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto", help="auto, torch or onnxruntime")
    parser.add_argument(
        "--only-last", action="store_true", help="the last frame alone, as the node asks for it"
    )
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = Predictor.load(options.model, runtime=options.runtime, processing_size=options.size)
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (options.size, 2 * options.size, 3), np.uint8)
    times, used, memory, process = [], [], [], []
    for n in tqdm(range(options.frames), unit="frame"):
        left = n % options.size
        frame = np.ascontiguousarray(ground[:, left : left + options.size])
        begin, worked = time.perf_counter(), time.process_time()
        predictor.step(frame, only_last=options.only_last)
        times.append(time.perf_counter() - begin)
        used.append(time.process_time() - worked)
        if n >= 50 and n % max(1, options.frames // 100) == 0:
            memory.append(predictor.memory_bytes)
            process.append(resident_bytes())
    later = np.array(times[50:]) * 1000.0
    result = {
        "model": options.model,
        "runtime": predictor.runtime_name,
        "only_last": options.only_last,
        "frames": options.frames,
        "size": options.size,
        "threads": options.threads,
        "median_ms": round(float(np.median(later)), 2),
        "p95_ms": round(float(np.percentile(later, 95)), 2),
        "median_cpu_ms": round(float(np.median(used[50:])) * 1000.0, 2),
        "frames_per_second": round(1000.0 / float(np.median(later)), 1),
        "memory_bytes": sorted(set(memory)),
        "process_bytes_first_and_last": [process[0], process[-1]],
        "process_bytes_least_and_most": [min(process), max(process)],
    }
    print(json.dumps(result, indent=2))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
