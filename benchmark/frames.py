"""What the benchmarks share: a real video at a given size with its first mask, and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stremn_ros.demo.assets import demo_video
from stremn_ros.imaging.video import open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.resources import shared_file


def demo_frames(
    video: str | Path | None,
    mask: str | Path | None,
    size: tuple[int, int] | list[int] | None,
    count: int = 100,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames RGB uint8 [H, W, 3] of a video and the first one's mask, one object with label 1.

    Without a video it is the demo's. size: rows and columns, or None for the video's own.
    """
    if (video is None) != (mask is None):
        raise SystemExit("--video and --mask belong together: give both or none")
    source = open_frames(
        demo_video() if video is None else video,
        0,
        count,
        None if size is None else (size[0], size[1]),
    )
    frames = list(source)
    label = read_label_png(shared_file("demo_seed.png") if mask is None else mask)
    label = (label > 0).astype(np.uint8)
    rows, columns = frames[0].shape[:2]
    if label.shape != (rows, columns):
        label = cv2.resize(label, (columns, rows), interpolation=cv2.INTER_NEAREST)
    return frames, label


def machine() -> dict[str, Any]:
    """What a reader of the figures wants to know of the machine."""
    import torch

    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: _said(words) for name, words in JETSON.items() if shutil.which(words[0])},
    }


# a Jetson's figures mean nothing without its power mode and whether its clocks are held
JETSON = {"nvpmodel": ("nvpmodel", "-q"), "jetson_clocks": ("jetson_clocks", "--show")}


def _said(words: tuple[str, ...]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split())
