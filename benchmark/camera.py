"""How many images reach the node, and how much time the node adds to the network's.

    python benchmark/camera.py --seconds 20 --json out/camera.json

VGA at 30 Hz, best effort, published by a process of its own to the real node, twice: with the
Fast DDS profile that the package ships for both processes, and without it (the default of Fast
DDS); what the diagnostics say of the missing images is part of the result. And, first, a run at a
rate that the node keeps up with, for the time that it adds to each image: from its arrival in the
callback to the publication of its mask, less the time inside the network.

The exit code is 0 when at least 99 % of the images arrive with the profile, and the median of what
the node adds is below 5 ms. The network is made small (--processing-size), as it is not what is
measured: the images and masks have their full size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import node_rig
import numpy as np
from node_rig import Camera, Rig, best_effort, wait_for

from stremn_ros.client.peer import Peer
from stremn_ros.errors import StremnError
from stremn_ros.evaluation.bench import scene
from stremn_ros.files import write_json
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

ARRIVES = 0.99
ADDS_MS = 5.0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run (default: 20)")
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--slow-rate", type=float, default=5.0, help="of the last run")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--columns", type=int, default=640)
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--processing-size", type=int, default=64, help="rows (default: 64)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def publish(options: argparse.Namespace) -> int:
    """The camera's process: begins when the node is there, and ends after its last image."""
    pictures, _ = scene(2, (options.rows, options.columns), 10)
    peer = Peer("camera")
    try:
        images = peer.node.create_publisher(node_rig.Image, node_rig.TOPIC, best_effort())
        wait_for(images.get_subscription_count, "the node to subscribe", node_rig.PATIENCE)
        time.sleep(1.0)  # the other way round as well

        def send(number: int) -> None:
            picture = pictures[number % len(pictures)]
            images.publish(node_rig.image_message(picture, time.time_ns()))

        camera = Camera(options.rate, send, round(options.seconds * options.rate))
        while camera.running:
            time.sleep(0.1)
        time.sleep(1.0)
    finally:
        peer.close()
    return 0


def transport(options: argparse.Namespace, folder: Path, profile: bool) -> dict[str, Any]:
    """Images from another process, with the shipped profile or with none."""
    sent = round(options.seconds * options.rate)
    for name in list(os.environ):
        if name.endswith("DEFAULT_PROFILES_FILE"):
            del os.environ[name]
    environment = profile_environment(shared_file("fastdds_shm.xml") if profile else "")
    # nothing is tracked: all of the node but the network is at work
    rig = Rig(folder, node_parameters(options), best_effort(), environment)
    said: set[str] = set()
    try:
        start = rig.settled()
        words = [sys.executable, __file__, "--publish", "--seconds", str(options.seconds)]
        words += ["--rate", str(options.rate), "--rows", str(options.rows)]
        words += ["--columns", str(options.columns)]
        camera = subprocess.Popen(words, env={**os.environ, **environment})
        while camera.poll() is None:
            said.add(_without_figures(rig.message))
            time.sleep(0.1)
        values = rig.settled()
        if camera.returncode:
            raise StremnError(f"the camera's process ended with {camera.returncode}")
    finally:
        rig.close()
    received = int(values["received"]) - int(start["received"])
    return {
        "profile": profile,
        "published": sent,
        "received": received,
        "arrived_percent": round(100 * received / sent, 2),
        "segmented": int(values["segmented"]) - int(start["segmented"]),
        "dropped": int(values["dropped"]) - int(start["dropped"]),
        "lost_in_transport": int(values["lost in transport"]),
        "diagnostics_said": sorted(said),
    }


def _without_figures(message: str) -> str:
    return "".join("#" if letter.isdigit() else letter for letter in message)


def node_parameters(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": options.model,
        "runtime": options.runtime,
        "processing_size": options.processing_size,
    }


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the node adds, with two objects followed and somebody who takes masks and objects."""
    environment = profile_environment(shared_file("fastdds_shm.xml"))
    os.environ.update(environment)
    pictures, truths = scene(2, (options.rows, options.columns), 10)
    rig = Rig(folder, node_parameters(options), best_effort(), environment)
    latencies: list[float] = []
    masks = threading.Event()
    rig.on_objects = lambda stamp, message: latencies.append(float(message.latency))
    rig.on_mask = lambda stamp, message: masks.set()
    try:
        rig.connect(pictures[0])
        answer = rig.seed(truths[0])
        if not answer.success:
            raise StremnError(answer.message)
        rig.settled()
        camera = Camera(
            options.slow_rate,
            lambda number: rig.publish(pictures[number % 10], time.time_ns()),
            round(options.seconds * options.slow_rate),
        )
        while camera.running:
            rig.node.check()
            time.sleep(0.1)
        values = rig.values
        keys = [key for key in values if key.startswith(("latency p", "network p", "node p"))]
        figures = {key: float(values[key]) for key in keys if values[key]}
    finally:
        rig.close()
    if not masks.is_set() or "node p50 [ms]" not in figures:
        raise StremnError("no mask came back")
    return {
        "rate_hz": options.slow_rate,
        "objects": 2,
        **figures,
        "latency_median_ms": round(1000 * float(np.median(latencies)), 2),
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.publish:
        return publish(options)
    result: dict[str, Any] = {
        "image": [options.rows, options.columns],
        "rate_hz": options.rate,
        "cores": len(os.sched_getaffinity(0)),
        "model": options.model,
        "processing_size": options.processing_size,
    }
    try:
        with tempfile.TemporaryDirectory(prefix="stremn_camera_") as folder:
            # first, as Fast DDS reads the profile once in a process, and here this one publishes
            result["node_adds"] = overhead(options, Path(folder) / "overhead")
            print(f"node_adds: {result['node_adds']}", flush=True)
            for profile in (True, False):
                name = "with_profile" if profile else "without_profile"
                result[name] = transport(options, Path(folder) / name, profile)
                print(f"{name}: {result[name]}", flush=True)
    except StremnError as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    lossless = result["with_profile"]["lost_in_transport"] == 0
    without = result["without_profile"]
    result["checks"] = {
        "99_percent_arrive_with_the_profile": result["with_profile"]["arrived_percent"]
        >= 100 * ARRIVES,
        # where enough arrives without it as well, there is nothing to tell
        "losses_without_it_are_told": without["arrived_percent"] >= 80
        or any("were lost on the way" in text for text in without["diagnostics_said"]),
        "the_node_adds_less_than_5_ms": result["node_adds"]["node p50 [ms]"] < ADDS_MS,
    }
    print(f"none lost with the profile: {lossless}; checks: {result['checks']}")
    if options.json:
        write_json(options.json, result)
    return 0 if all(result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
