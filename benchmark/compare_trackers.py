"""Times a frame of this package against public trackers whose checkouts are given by path.

    python benchmark/compare_trackers.py --xmem XMem --cutie Cutie --stm STM --json OUT.json

Every tracker runs in a process of its own, on the same frames at the same size with the same first
mask, and they take turns frame by frame, so that whatever else the machine does hits all alike.
XMem, Cutie and STM have random weights: their time does not depend on them. Each is used as its own
evaluation script does: a template every 5 frames, single precision. Where a checkout wants
torchvision or omegaconf only for names, a small stand-in of this file takes their place.

Measured are medians and means of a frame: query, read, decode, and the memory's update when its
turn comes. The memory of the others grows during the run and would go on growing; ours is full
before the first frame that counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from frames import demo_frames, machine

Step = Callable[[np.ndarray], None]
START = "stremn_ros"  # ours; the others are the keys of TRACKERS


# ---------------------------------------------------------------- the trackers, one a process


def ours(_: Path, first: np.ndarray, mask: np.ndarray, options: dict[str, Any]) -> Step:
    from stremn_ros.segmenter import Segmenter

    segmenter = Segmenter.load(
        options["model"],
        device="cpu",
        runtime=options["runtime"],
        processing_size=first.shape[:2],
        update_every=options["update_every"],
    )
    segmenter.seed(first, mask)
    say(f"{segmenter.runtime_name}, memory updated every {segmenter.update_every} frames")
    return lambda frame: segmenter.step(frame) and None


def xmem(checkout: Path, first: np.ndarray, mask: np.ndarray, _: dict[str, Any]) -> Step:
    sys.path.insert(0, str(checkout))
    import torch
    from inference.inference_core import InferenceCore
    from model import resnet
    from model.network import XMem

    without_downloads(resnet)
    config = {  # the defaults of its eval.py
        "top_k": 30,
        "mem_every": 5,
        "deep_update_every": -1,
        "enable_long_term": True,
        "enable_long_term_count_usage": False,
        "max_mid_term_frames": 10,
        "min_mid_term_frames": 5,
        "max_long_term_elements": 10000,
        "num_prototypes": 128,
    }
    network = XMem(config).eval()
    core = InferenceCore(network, config)
    core.set_all_labels([1])
    with torch.inference_mode():
        core.step(image(first, normalise=True), torch.from_numpy(mask)[None].float(), [1])

    def step(frame: np.ndarray) -> None:
        probability = core.step(image(frame, normalise=True))
        torch.argmax(probability, dim=0).to(torch.uint8).numpy()

    return in_inference_mode(step)


def cutie(
    checkout: Path, first: np.ndarray, mask: np.ndarray, _: dict[str, Any], model: str = "base"
) -> Step:
    sys.path.insert(0, str(checkout))
    stand_in("omegaconf", DictConfig=Settings)
    import torch
    import yaml
    from cutie.inference.inference_core import InferenceCore
    from cutie.model.cutie import CUTIE
    from cutie.model.utils import resnet

    without_downloads(resnet)
    folder = checkout / "cutie" / "config"
    values = yaml.safe_load((folder / "eval_config.yaml").read_text())
    values.update(values["datasets"]["d17-val"])
    network = yaml.safe_load((folder / "model" / "base.yaml").read_text())
    if model != "base":
        other = yaml.safe_load((folder / "model" / f"{model}.yaml").read_text())
        for key, value in other.items():
            if key != "defaults":
                network[key].update(value)
    values["model"] = network
    config = Settings(resolved(values, values))
    core = InferenceCore(CUTIE(config).eval(), cfg=config)
    with torch.inference_mode():
        core.step(image(first), torch.from_numpy(mask), objects=[1])

    def step(frame: np.ndarray) -> None:
        core.output_prob_to_mask(core.step(image(frame))).to(torch.uint8).numpy()

    return in_inference_mode(step)


def cutie_small(
    checkout: Path, first: np.ndarray, mask: np.ndarray, options: dict[str, Any]
) -> Step:
    return cutie(checkout, first, mask, options, "small")


def stm(checkout: Path, first: np.ndarray, mask: np.ndarray, _: dict[str, Any]) -> Step:
    sys.path.insert(0, str(checkout))
    import torch
    from torch.nn import functional as F

    torchvision = stand_in("torchvision")
    torchvision.models = stand_in("torchvision.models", resnet50=lambda **_: resnet50())
    from model import STM

    network = STM().eval()
    count = torch.tensor([1])
    label = torch.from_numpy(mask).float()
    # what Run_video of its eval_DAVIS.py keeps: the previous frame, and every fifth
    state: dict[str, Any] = {
        "frame": image(first)[None],
        "mask": torch.stack([1.0 - label, label])[None],
        "keys": None,
        "values": None,
        "number": 0,
    }

    def step(frame: np.ndarray) -> None:
        key, value = network(state["frame"], state["mask"], count)
        if state["keys"] is not None:
            key = torch.cat([state["keys"], key], dim=3)
            value = torch.cat([state["values"], value], dim=3)
        if state["number"] % 5 == 0:
            state["keys"], state["values"] = key, value
        state["number"] += 1
        state["frame"] = image(frame)[None]
        state["mask"] = F.softmax(network(state["frame"], key, value, count), dim=1)
        np.argmax(state["mask"][0].numpy(), axis=0).astype(np.uint8)

    return in_inference_mode(step)


TRACKERS: dict[str, Callable[..., Step]] = {
    START: ours,
    "XMem": xmem,
    "Cutie base": cutie,
    "Cutie small": cutie_small,
    "STM": stm,
}


# ---------------------------------------------------------------- what their checkouts want


class Settings(dict[str, Any]):
    """A mapping whose entries are attributes, too, as omegaconf's."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(name) from None
        return Settings(value) if isinstance(value, dict) else value


def resolved(value: Any, root: dict[str, Any]) -> Any:
    """A copy in which ``${a.b}`` is the value that it points to."""
    if isinstance(value, dict):
        return {key: resolved(part, root) for key, part in value.items() if key != "hydra"}
    if isinstance(value, list):
        return [resolved(part, root) for part in value]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        found: Any = root
        for name in value[2:-1].split("."):
            found = found[name]
        return resolved(found, root)
    return value


def stand_in(name: str, **contents: Any) -> Any:
    """A module of that name, for this process only."""
    module = types.ModuleType(name)
    for key, value in contents.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module


def without_downloads(resnet: Any) -> None:
    """The checkouts' ResNets keep their random start instead of fetching weights."""
    resnet.model_zoo.load_url = lambda *_, **__: {}
    resnet.load_weights_add_extra_dim = lambda *_, **__: None


def resnet50() -> Any:
    """The layers of torchvision's ResNet-50 that STM takes, batch norm included."""
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.BatchNorm2d(4 * width),
            )
            self.relu = nn.ReLU(inplace=True)
            self.skip = nn.Sequential()
            if stride != 1 or inputs != 4 * width:
                self.skip = nn.Sequential(
                    nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
                )

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.skip(x))

    def layer(inputs: int, width: int, blocks: int, stride: int) -> Any:
        rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(inputs, width, stride), *rest)

    return types.SimpleNamespace(
        conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, 2, 1),
        layer1=layer(64, 64, 3, 1),
        layer2=layer(256, 128, 4, 2),
        layer3=layer(512, 256, 6, 2),
    )


def image(frame: np.ndarray, normalise: bool = False) -> Any:
    """uint8 [H, W, 3] -> float [3, H, W] in 0..1, or ImageNet's normalisation of it."""
    import torch

    result = torch.from_numpy(frame).permute(2, 0, 1).float() / 255.0
    if normalise:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        result = (result - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return result.contiguous()


def in_inference_mode(step: Step) -> Step:
    import torch

    def run(frame: np.ndarray) -> None:
        with torch.inference_mode():
            step(frame)

    return run


# ---------------------------------------------------------------- taking turns


def say(text: str) -> None:
    print(f"note {text}", flush=True)


def work(name: str, options: dict[str, Any]) -> None:
    """A tracker's process: a frame's number comes in, its milliseconds go out."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the checkouts print, too
        import torch

        torch.set_num_threads(options["threads"])
        torch.manual_seed(0)
        frames, mask = demo_frames(options["video"], options["mask"], options["size"])
        with contextlib.redirect_stdout(answers):
            say("starting")
        step = TRACKERS[name](Path(options["checkout"]), frames[0], mask, options)
        answers.write("ready\n")
        answers.flush()
        for line in sys.stdin:
            frame = frames[int(line) % len(frames)]
            begin = time.perf_counter()
            step(frame)
            answers.write(f"{1000 * (time.perf_counter() - begin):.3f}\n")
            answers.flush()


def start(name: str, options: dict[str, Any]) -> subprocess.Popen[str]:
    threads = str(options["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--worker",
            name,
            "--worker-options",
            json.dumps(options),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while (line := answer(name, process)) != "ready":
        print(f"{name}: {line}", file=sys.stderr)
    return process


def answer(name: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if not line.startswith("note "):
            return line.strip()
        print(f"{name}: {line[5:].strip()}", file=sys.stderr)
    raise SystemExit(f"{name} ended with exit code {process.wait()}; its error is above")


def ask(name: str, process: subprocess.Popen[str], number: int) -> float:
    assert process.stdin is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    return float(answer(name, process))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--xmem", type=Path, help="checkout of hkchengrex/XMem")
    parser.add_argument("--cutie", type=Path, help="checkout of hkchengrex/Cutie")
    parser.add_argument("--stm", type=Path, help="checkout of seoungwugoh/STM")
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument(
        "--update-every", type=int, default=5, help="ours; the others' is 5 (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(240, 432), metavar=("H", "W"))
    parser.add_argument("--video", type=Path, help="default: the demo's")
    parser.add_argument("--mask", type=Path, help="of the video's first frame")
    parser.add_argument("--frames", type=int, default=30, help="that count (default: %(default)s)")
    parser.add_argument("--warm", type=int, default=10, help="before; ours has 25 of them at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--worker-options", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, json.loads(options.worker_options))
        return
    common = {
        "model": options.model,
        "runtime": options.runtime,
        "update_every": options.update_every,
        "size": list(options.size),
        "video": str(options.video) if options.video else None,
        "mask": str(options.mask) if options.mask else None,
        "threads": options.threads,
    }
    checkouts = {
        START: Path(),
        "XMem": options.xmem,
        "Cutie base": options.cutie,
        "Cutie small": options.cutie,
        "STM": options.stm,
    }
    given = {name: path for name, path in checkouts.items() if path is not None}
    running: dict[str, subprocess.Popen[str]] = {}
    times: dict[str, list[float]] = {name: [] for name in given}
    try:
        for name, path in given.items():
            running[name] = start(name, {**common, "checkout": str(path.resolve())})
        for number in range(1, max(26, options.warm + 1)):
            ask(START, running[START], number)
        for number in range(1, options.warm + options.frames + 1):
            for name, process in running.items():
                taken = ask(name, process, number)
                if number > options.warm:
                    times[name].append(taken)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    figures = {
        name: {
            "median_ms": round(float(np.median(values)), 1),
            "mean_ms": round(float(np.mean(values)), 1),
            "p95_ms": round(float(np.percentile(values, 95)), 1),
        }
        for name, values in times.items()
    }
    for values in figures.values():
        for kind in ("median", "mean"):
            ratio = values[f"{kind}_ms"] / figures[START][f"{kind}_ms"]
            values[f"times_ours_{kind}"] = round(ratio, 2)
    width = max(len(name) for name in figures)
    print(f"{'':{width}}  median ms  mean ms   p95 ms   ours is faster by (median, mean)")
    for name, values in figures.items():
        print(
            f"{name:{width}}  {values['median_ms']:9.1f}  {values['mean_ms']:7.1f}  "
            f"{values['p95_ms']:7.1f}   {values['times_ours_median']:.1f} x  "
            f"{values['times_ours_mean']:.1f} x"
        )
    result = {**common, "frames": options.frames, "machine": machine(), "trackers": figures}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
