"""What objects in space cost a frame: positions and boxes of three, and the points of a mask.

    python benchmark/spatial.py --json OUT.json

One thread, a 640x480 depth image with holes and noise, milliseconds. `cpu` is the time that the
thread computed and `wall` the time that passed, medians of all rounds; `quiet` is the fifth
percentile of `cpu`: what it takes while other processes leave the caches alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from frames import machine

from stremn_ros.messages import spatial as messages
from stremn_ros.spatial import (
    DepthPairing,
    Intrinsics,
    SpatialTracker,
    depth_without_objects,
    masked_depth,
)

ROWS, COLUMNS, FOCAL = 480, 640, 525.0
TRACKED = SimpleNamespace(name="TRACKED")


def picture(objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Balls of 20 cm about 1 m away before a wall: labels uint8, depth uint16, [480, 640]."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:ROWS, :COLUMNS]
    depth, labels = np.full((ROWS, COLUMNS), 2.5), np.zeros((ROWS, COLUMNS), np.uint8)
    for number in range(1, objects + 1):
        column = COLUMNS * (2 * number - 1) / (2 * objects)
        away = 1.0 + 0.05 * number
        square = (0.1 * FOCAL / away) ** 2 - (u - column) ** 2 - (v - ROWS / 2) ** 2
        inside = square > 0
        depth[inside] = away - np.sqrt(square[inside]) * away / FOCAL
        labels[inside] = number
    depth += rng.normal(0, 0.0015, depth.shape) * depth**2
    depth[rng.random(depth.shape) < 0.02] = 0
    return labels, np.round(depth * 1000).astype(np.uint16)


def timed(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    for _ in range(3):
        call()
    wall, cpu = [], []
    for _ in range(rounds):
        before, began = time.thread_time(), time.perf_counter()
        call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - before)
    times = {"cpu": np.median(cpu), "wall": np.median(wall), "quiet": np.percentile(cpu, 5)}
    return {name: round(1e3 * float(value), 3) for name, value in times.items()}


def tracked(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=number, state=TRACKED, score=1.0) for number in range(1, count + 1)]


def stand_ins() -> messages.CloudTypes:
    """Messages that take any field: what ROS adds is not measured here."""
    made = SimpleNamespace

    def cloud(**fields: Any) -> SimpleNamespace:
        return made(fields=[], **fields)

    return messages.CloudTypes(cloud, made)


CAMERA = Intrinsics(COLUMNS, ROWS, (FOCAL, 0, 319.5, 0, FOCAL, 239.5, 0, 0, 1))
LENS = (-0.28, 0.07, 0.0002, -0.0003, 0.0)


def of_objects(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Positions, velocities and boxes of that many objects."""
    labels, depth = picture(count)
    tracker, objects, stamps = SpatialTracker(), tracked(count), itertools.count(0, 33_000_000)

    def update(oriented: bool) -> None:
        tracker.update(labels, objects, depth, CAMERA, next(stamps), oriented=oriented)

    return {
        f"{count} objects": timed(lambda: update(False), rounds),
        f"{count} objects, oriented boxes": timed(lambda: update(True), rounds),
    }


def of_points(rounds: int) -> dict[str, dict[str, float]]:
    """PointCloud2 messages and depth images of three objects and of the whole image."""
    image = np.random.default_rng(1).integers(0, 256, (ROWS, COLUMNS, 3)).astype(np.uint8)
    types, tracker = stand_ins(), SpatialTracker()
    labels, depth = picture(3)
    out = np.empty_like(depth)

    def cloud(voxel: float = 0.0) -> None:
        messages.to_point_cloud(types, None, tracker.cloud(image, voxel=voxel))

    tracker.update(labels, tracked(3), depth, CAMERA, 0)
    found = {
        "points of 3 objects": timed(cloud, rounds),
        "the same in voxels of 1 cm": timed(lambda: cloud(0.01), rounds),
        "masked_depth": timed(lambda: masked_depth(labels, depth, out=out), rounds),
        "depth_without_objects": timed(
            lambda: depth_without_objects(labels, depth, out=out), rounds
        ),
    }
    wall = np.where(depth > 0, np.uint16(1500), np.uint16(0))
    tracker.update(np.ones((ROWS, COLUMNS), np.uint8), tracked(1), wall, CAMERA, 0)
    found["points of a mask of the whole image"] = timed(cloud, rounds)
    found["that in voxels of 1 cm"] = timed(lambda: cloud(0.01), rounds)
    return found


def of_stream(rounds: int) -> dict[str, dict[str, float]]:
    """Pairing a depth image with an image, and what a camera costs once."""
    _, depth = picture(3)
    pairing, stamps = DepthPairing(), itertools.count(0, 33_000_000)
    pairing.add_camera_info(CAMERA)

    def pair() -> None:
        now = next(stamps)
        pairing.add_image(now, None, (ROWS, COLUMNS))
        pairing.add_depth(now, depth)

    def rays() -> None:
        _ = Intrinsics(COLUMNS, ROWS, CAMERA.k, LENS, "plumb_bob").rays

    return {
        "pairing": timed(pair, rounds),
        "a new camera_info with distortion, once": timed(rays, min(rounds, 5)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="of each (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    found: dict[str, dict[str, float]] = {}
    for count in (1, 3, 20):
        found |= of_objects(count, options.rounds)
    found |= of_points(options.rounds) | of_stream(options.rounds)
    print(f"{'ms':40} {'cpu':>8} {'wall':>8} {'quiet':>8}")
    for name, times in found.items():
        print(f"{name:40} {times['cpu']:8.2f} {times['wall']:8.2f} {times['quiet']:8.2f}")
    if options.json:
        result = {"machine": machine(), "milliseconds": found}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
