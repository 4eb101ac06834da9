"""How many training clips a second one process makes: whether the data would starve a GPU.

    python benchmark/clip_rate.py --config config/train_segment_lite0.yaml --batches 30

Each phase of the training file is timed on its own, with one thread, as a data worker has. Printed
is the rate of one worker; workers do not share anything, so N cores make N times as many.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2

from stremn_ros.data.mixture import Mixture
from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.videos import VideoClips
from stremn_ros.files import write_json
from stremn_ros.training.segment import SegmentTraining


def main() -> None:
    """Times the batches of every phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=30, help="of each phase")
    parser.add_argument("--photos", type=Path, help="instead of the file's")
    parser.add_argument("--videos", type=Path, help="instead of the file's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    config = SegmentTraining.read(options.config)
    photos, videos = options.photos or config.photos, options.videos or config.videos
    mixture = Mixture(
        config.phases,
        config.seed,
        PhotoClips(Path(photos)) if photos else None,
        VideoClips(Path(videos), config.exclude) if videos else None,
    )
    rows, first = [], 0
    for phase in config.phases:
        count = min(options.batches, phase.iterations)
        wall, cpu = time.perf_counter(), time.process_time()
        for iteration in range(first, first + count):
            mixture[iteration]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        clips = count * phase.batch
        rows.append(
            {
                "frames": phase.frames,
                "size": phase.size,
                "clips_per_second": round(clips / wall, 1),
                "frames_per_second": round(clips * phase.frames / wall, 1),
                # of a core that has nothing else to do
                "clips_per_cpu_second": round(clips / cpu, 1),
            }
        )
        first += phase.iterations
    print(json.dumps(rows, indent=2))
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
