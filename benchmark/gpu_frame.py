"""Times a frame on a GPU: PyTorch eager, PyTorch with CUDA graphs, and TensorRT.

    python benchmark/gpu_frame.py --size 480 864 --json OUT.json
    python benchmark/gpu_frame.py --json OUT.json --tensorrt   # after `stremn export ... tensorrt`

One object, five full slots; the runs take turns frame by frame. A frame is all from the image in
host memory to the label mask in host memory, and ``remember`` is the memory's update. What a
runtime cannot do here is written into the result with its error. It was never run: there was no
GPU on the machine it was written on; ``--device cpu`` runs it with what a CPU can do.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frames import demo_frames, machine

from stremn_ros.errors import StremnError
from stremn_ros.files import write_json
from stremn_ros.model_folder import find_model, load_network
from stremn_ros.runtime.choose import make_stages
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.segmenter import Segmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 864), metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--warm", type=int, default=30)
    parser.add_argument("--update-every", type=int, default=1)
    parser.add_argument("--video", type=Path, help="default: the demo's")
    parser.add_argument("--mask", type=Path, help="of the video's first frame")
    parser.add_argument("--tensorrt", action="store_true", help="also TensorRT, whose plans exist")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here; --device cpu tries what a CPU can do")
    folder = find_model(options.model)
    frames, mask = demo_frames(options.video, options.mask, options.size)
    makers = {
        "eager fp32": lambda network: make_stages(network, "torch", options.device),
        "CUDA graphs fp32": lambda network: CudaStages(network, device, torch.float32),
        "CUDA graphs fp16": lambda network: CudaStages(network, device, torch.float16),
    }
    if options.tensorrt:
        makers["TensorRT fp16"] = lambda network: make_stages(
            network, "tensorrt", options.device, folder
        )
    running: dict[str, Segmenter] = {}
    result: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            segmenter = Segmenter(
                make(load_network(folder)[0]),
                processing_size=tuple(options.size),
                update_every=options.update_every,
            )
            segmenter.seed(frames[0], mask)
            running[name] = segmenter
        except (StremnError, RuntimeError) as error:
            result[name] = {"error": str(error)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    agree: dict[str, list[float]] = {name: [] for name in running}
    for number in range(1, options.warm + options.frames + 1):
        frame = frames[number % len(frames)]
        labels = {}
        for name, segmenter in running.items():
            wait(device)
            begin = time.perf_counter()
            labels[name] = segmenter.segment(frame).labels
            wait(device)
            middle = time.perf_counter()
            segmenter.remember()
            wait(device)
            end = time.perf_counter()
            if number > options.warm:
                times[name].append((1000 * (middle - begin), 1000 * (end - middle)))
        first = next(iter(labels.values()))
        for name, found in labels.items():
            agree[name].append(float((found == first).mean()))
    for name, values in times.items():
        parts = np.array(values)
        whole = parts.sum(axis=1)
        result[name] = {
            "runtime": running[name].runtime_name,
            "frame_median_ms": round(float(np.median(whole)), 3),
            "frame_p99_ms": round(float(np.percentile(whole, 99)), 3),
            "segment_median_ms": round(float(np.median(parts[:, 0])), 3),
            "remember_median_ms": round(float(np.median(parts[:, 1])), 3),
            "agreement_percent": round(100 * float(np.mean(agree[name])), 4),
        }
    for name, values in result.items():
        print(name, json.dumps(values))
    found = {
        "size": list(options.size),
        "frames": options.frames,
        "update_every": options.update_every,
        "device": options.device,
        "machine": machine(),
        "runtimes": result,
    }
    if options.json:
        write_json(options.json, found)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
