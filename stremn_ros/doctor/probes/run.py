"""The default model followed for some frames: which runtime is used, why, and how fast."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from stremn_ros.doctor.probes import DEFAULT_MODEL
from stremn_ros.runtime.table import RUNTIMES
from stremn_ros.segmenter import Segmenter


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def values() -> dict[str, Any]:
    keep = _Keep()
    log = logging.getLogger("stremn_ros")
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    segmenter = Segmenter.load(DEFAULT_MODEL)
    frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    mask[160:320, 200:400] = 1
    segmenter.seed(frame, mask)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        segmenter.step(frame)
        times.append(time.perf_counter() - begin)
    return {
        "runtimes": list(RUNTIMES),
        "why": keep.lines,
        "runtime": segmenter.runtime_name,
        "size": list(segmenter.processing_size or ()),
        "milliseconds": 1000 * sorted(times[1:])[2],
    }
