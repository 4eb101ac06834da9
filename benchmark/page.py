"""What the live page costs the node: with no page, with one browser, with many.

    python benchmark/page.py --json out/page.json

VGA images go to the real node, and two objects are followed. `stremn view --node` runs as it does
for a user, and each browser is a WebSocket client that takes every picture and says so, as the page
does. The conditions come in turns, in one run: blocks of images without the page, with one browser,
and with `--browsers` of them. For each: the node's CPU time an image, the median time from an
image's stamp to its objects, and how many images were segmented.

The exit code is 0 when one browser adds at most 5 % to the node's CPU time and to the median, and
with many browsers all images are segmented that are without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import node_rig
import numpy as np
from node_rig import Camera, Rig, reliable

from stremn_ros.errors import StremnError
from stremn_ros.evaluation.bench import scene
from stremn_ros.files import write_json
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

MOST = 1.05
TICK = os.sysconf("SC_CLK_TCK")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each kind (default: 4)")
    parser.add_argument("--images", type=int, default=30, help="of a block (default: 30)")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second (default: 5)")
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--columns", type=int, default=640)
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--processing-size", type=int, default=0, help="rows (0: the model's)")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


class Browsers:
    """Clients of the page, in a thread, until it is closed.

    Attributes:
        pictures: how many each has got.
    """

    def __init__(self, link: str, count: int) -> None:
        self.pictures = [0] * count
        self._link = link
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(len(self.pictures))))

    async def _one(self, number: int) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"{self._link}live", origin=self._link.rstrip("/"), max_msg_size=0
            ) as live,
        ):
            while not self._stop.is_set():
                try:
                    message = await live.receive(0.5)
                except asyncio.TimeoutError:
                    continue
                if message.type is aiohttp.WSMsgType.BINARY:
                    (length,) = struct.unpack(">I", message.data[:4])
                    head = json.loads(message.data[4 : 4 + length])
                    self.pictures[number] += 1
                    await live.send_json({"id": 0, "do": "ack", "number": head["number"]})
                elif message.type is not aiohttp.WSMsgType.TEXT:
                    return

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def page(browsers: int) -> Iterator[list[int]]:
    """`stremn view --node` with so many browsers; how many pictures each of them has."""
    if not browsers:
        yield []
        return
    words = [sys.executable, "-m", "stremn_ros.cli", "view", "--node", node_rig.NODE, "--port", "0"]
    words += ["--image-topic", node_rig.TOPIC]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                raise StremnError("stremn view ended")
            found = re.search(r"http://\S+", line)
        clients = Browsers(found.group(), browsers)
        try:
            yield clients.pictures
        finally:
            clients.close()
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def block(rig: Rig, options: argparse.Namespace, pictures: Any, browsers: int) -> dict[str, Any]:
    """One block of images with so many browsers."""
    delays: list[float] = []
    rig.on_objects = lambda stamp, message: delays.append(time.time() - stamp / node_rig.SECOND)
    with page(browsers) as got:
        warm = Camera(options.rate, lambda n: rig.publish(pictures[n % 10], time.time_ns()))
        time.sleep(3.0)  # the page discovers the node, and the browsers have their first pictures
        end = time.monotonic() + node_rig.PATIENCE
        while got and not min(got):
            if time.monotonic() > end:
                raise StremnError("a browser got no picture")
            time.sleep(0.1)
        warm.stop()
        before = rig.settled()
        delays.clear()
        seen = list(got)
        pid = rig.node.process.pid
        used = cpu_seconds(pid)
        camera = Camera(
            options.rate, lambda n: rig.publish(pictures[n % 10], time.time_ns()), options.images
        )
        while camera.running:
            rig.node.check()
            time.sleep(0.1)
        time.sleep(2.0 / options.rate)
        used = cpu_seconds(pid) - used
        after = rig.settled()
    return {
        "cpu_ms": 1000.0 * used / options.images,
        "median_ms": 1000.0 * float(np.median(delays)),
        "segmented": int(after["segmented"]) - int(before["segmented"]),
        "pictures": [now - then for now, then in zip(got, seen)],
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    environment = profile_environment(shared_file("fastdds_shm.xml"))
    os.environ.update(environment)
    pictures, truths = scene(2, (options.rows, options.columns), 10)
    parameters: dict[str, Any] = {"model": options.model, "runtime": options.runtime}
    parameters["processing_size"] = options.processing_size
    kinds = {"no page": 0, "one browser": 1, f"{options.browsers} browsers": options.browsers}
    blocks: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    try:
        with tempfile.TemporaryDirectory(prefix="stremn_page_") as folder:
            rig = Rig(Path(folder), parameters, reliable(), environment)
            try:
                rig.connect(pictures[0])
                answer = rig.seed(truths[0])
                if not answer.success:
                    raise StremnError(answer.message)
                for _ in range(options.rounds):
                    for name, browsers in kinds.items():
                        blocks[name].append(block(rig, options, pictures, browsers))
                        print(f"{name}: {blocks[name][-1]}", flush=True)
            finally:
                rig.close()
    except StremnError as error:
        print(f"page: {error}", file=sys.stderr)
        return 1
    table = {
        name: {
            "cpu_ms": round(float(np.median([each["cpu_ms"] for each in rows])), 2),
            "median_ms": round(float(np.median([each["median_ms"] for each in rows])), 2),
            "segmented": sum(each["segmented"] for each in rows),
            "published": options.images * len(rows),
        }
        for name, rows in blocks.items()
    }
    bare, one, many = table.values()
    checks = {
        "one_browser_adds_at_most_5_percent_cpu": one["cpu_ms"] <= MOST * bare["cpu_ms"],
        "one_browser_adds_at_most_5_percent_time": one["median_ms"] <= MOST * bare["median_ms"],
        "many_browsers_cost_no_image": many["segmented"] >= bare["segmented"],
    }
    for name, row in table.items():
        print(f"{name:14} {row}")
    print(checks)
    if options.json:
        write_json(options.json, {"options": vars(options) | {"json": None}, **table, **checks})
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
