"""The segmentation node for a long time through real DDS, while objects come and go.

    python benchmark/soak.py --minutes 30 --rate 10 --json out/soak.json --plot out/soak.png
    python benchmark/soak.py --frames 36000 --rate 10 --json out/soak.json

A drawn video is published as a best-effort camera, with the Fast DDS profile that the package
ships. Every few seconds something happens to the objects: one is removed, seeded again in an image
of the past, made from a box, all are replaced, the memory is saved and loaded, the node is paused
and goes on. Sampled all the time: the resident memory, threads and open files of the node's
process, the latency of every mask, and the overlap of masks with the truth.

The exit code is 0 when every check of the result holds: the resident memory stays within 2 % of
what it was after a sixth of the time (5 minutes of 30) to the end, received = segmented + dropped +
failed, nothing failed, threads and open files are as many at the end, every call was answered as
it should be, and every object is followed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import node_rig
import numpy as np
from node_rig import Camera, Rig, best_effort, percentiles, wait_for
from sensor_msgs.msg import RegionOfInterest
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedObject
from stremn_ros.errors import StremnError
from stremn_ros.evaluation.bench import scene
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.files import write_json
from stremn_ros.messages.image_read import decode_labels
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

ALLOWED = 0.02  # of the resident memory
OBJECTS = 3
FRAMES = 60  # of the drawn video, which is played back and forth


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--frames", type=int, default=0, help="in the place of --minutes")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second (default: 10)")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--columns", type=int, default=320)
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--processing-size", type=int, default=96, help="rows (default: 96)")
    parser.add_argument("--event-every", type=float, default=5.0, help="seconds between events")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def process_figures(pid: int) -> dict[str, int]:
    """Resident bytes, threads and open files of a process."""
    found = {"open_files": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "VmRSS":
            found["resident_bytes"] = int(value.split()[0]) * 1024
        elif key == "Threads":
            found["threads"] = int(value)
    return found


class Soak:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.pictures, self.truths = scene(OBJECTS, (options.rows, options.columns), FRAMES)
        environment = profile_environment(shared_file("fastdds_shm.xml"))
        os.environ.update(environment)  # the camera needs it as well
        self.rig = Rig(
            folder,
            {
                "model": options.model,
                "runtime": options.runtime,
                "processing_size": options.processing_size,
                "snapshot_dir": str(folder / "snapshots"),
                "autosave_period": 60.0,
            },
            best_effort(),
            environment,
        )
        self.numbers: dict[int, int] = {}  # stamp -> frame number, of the last frames
        self.latencies: list[tuple[float, float]] = []  # (second of the run, seconds)
        self.overlaps: list[tuple[float, int, float]] = []  # (second, id, IoU)
        self.samples: list[dict[str, Any]] = []
        self.events: dict[str, int] = {}
        self.refused: list[str] = []
        self.masks = 0
        self.begin = 0.0

    # -- what is published and what comes back

    def frame(self, number: int) -> int:
        """Index into the video, which is played back and forth."""
        place = number % (2 * FRAMES - 2)
        return min(place, 2 * FRAMES - 2 - place)

    def send(self, number: int) -> None:
        stamp = time.time_ns()
        self.numbers[stamp] = number
        while len(self.numbers) > 200:
            self.numbers.pop(next(iter(self.numbers)))
        self.rig.publish(self.pictures[self.frame(number)], stamp)

    def on_mask(self, stamp: int, message: Any) -> None:
        self.masks += 1
        number = self.numbers.get(stamp)
        if number is None or self.masks % 10:
            return
        found, truth = decode_labels(message), self.truths[self.frame(number)]
        for object_id in np.unique(found[found > 0]):
            mine, right = found == object_id, truth == object_id
            overlap = (mine & right).sum() / max(1, (mine | right).sum())
            self.overlaps.append((self.now(), int(object_id), float(overlap)))

    def on_objects(self, stamp: int, message: Any) -> None:
        self.latencies.append((self.now(), float(message.latency)))

    def now(self) -> float:
        return time.monotonic() - self.begin

    # -- events

    def truth_of(self, stamp: int) -> np.ndarray:
        return self.truths[self.frame(self.numbers[stamp])]

    def stamp_ago(self, frames: int) -> int:
        return list(self.numbers)[-1 - frames]

    def expect(self, name: str, answer: Any) -> None:
        self.events[name] = self.events.get(name, 0) + 1
        if not answer.success:
            self.refused.append(f"{name} at {self.now():.0f} s: {answer.message}")

    def seed_past(self, ids: tuple[int, ...], replace: bool = False) -> None:
        """As a detector that answers half a second late."""
        stamp = self.stamp_ago(max(1, round(0.5 * self.options.rate)))
        truth = self.truth_of(stamp)
        labels = np.where(np.isin(truth, ids), truth, 0).astype(np.uint8)
        self.expect("seed_mask", self.rig.seed(labels, stamp, replace))

    def remove(self, object_id: int) -> None:
        request = RemoveObject.Request(id=object_id)
        self.expect("remove_object", self.rig.call(RemoveObject, "remove_object", request))

    def box(self, object_id: int) -> None:
        stamp = self.stamp_ago(1)
        rows, columns = np.nonzero(self.truth_of(stamp) == object_id)
        left, top = max(0, int(columns.min()) - 4), max(0, int(rows.min()) - 4)
        request = SeedObject.Request(id=object_id)
        request.box = RegionOfInterest(
            x_offset=left,
            y_offset=top,
            width=min(int(columns.max()) + 5, self.options.columns) - left,
            height=min(int(rows.max()) + 5, self.options.rows) - top,
        )
        request.stamp.sec, request.stamp.nanosec = divmod(stamp, node_rig.SECOND)
        self.expect("seed_object", self.rig.call(SeedObject, "seed_object", request))

    def pause(self) -> None:
        self.expect("enable", self.rig.call(SetBool, "enable", SetBool.Request(data=False)))
        time.sleep(0.5)
        self.expect("enable", self.rig.call(SetBool, "enable", SetBool.Request(data=True)))

    def save_and_load(self) -> None:
        self.expect("save_memory", self.rig.call(SaveMemory, "save_memory", SaveMemory.Request()))
        self.expect("load_memory", self.rig.call(LoadMemory, "load_memory", LoadMemory.Request()))

    def anew(self) -> None:
        self.expect("reset", self.rig.call(Trigger, "reset", Trigger.Request()))
        self.seed_past((1, 2, 3))

    def script(self) -> itertools.cycle:
        return itertools.cycle(
            (
                lambda: self.remove(2),
                lambda: self.seed_past((2,)),
                lambda: self.remove(3),
                lambda: self.box(3),
                lambda: self.seed_past((1, 2, 3), replace=True),
                self.save_and_load,
                self.pause,
                self.anew,
            )
        )

    # -- the run

    def sample(self) -> None:
        figures = process_figures(self.rig.node.process.pid)
        keys = ("memory [bytes]", "seed buffer [bytes]", "received", "segmented", "dropped")
        told = {key: int(self.rig.values[key]) for key in keys}
        self.samples.append({"second": round(self.now(), 1), **figures, **told})

    def run(self) -> dict[str, Any]:
        options, rig = self.options, self.rig
        connected = rig.connect(self.pictures[0])
        start = rig.settled()
        self.begin = time.monotonic()
        rig.on_mask, rig.on_objects = self.on_mask, self.on_objects
        frames = options.frames or round(options.minutes * 60 * options.rate)
        camera = Camera(options.rate, self.send, frames)
        try:
            wait_for(lambda: camera.sent > 10, "the first images", node_rig.PATIENCE)
            self.seed_past((1, 2, 3))
            events, next_event, next_sample = self.script(), options.event_every, 0.0
            while camera.running:
                rig.node.check()
                if self.now() >= next_sample:
                    self.sample()
                    next_sample += max(1.0, frames / options.rate / 180)
                    print(self.line(camera.sent, frames), flush=True)
                if self.now() >= next_event:
                    next(events)()
                    next_event += options.event_every
                time.sleep(0.05)
        finally:
            sent = camera.stop()
        seconds = self.now()
        values = rig.settled()
        self.sample()
        before = {key: int(start[key]) for key in ("received", "segmented", "dropped", "failed")}
        counts = {key: int(values[key]) - count for key, count in before.items()}
        counts |= {"published": sent, "masks_received": self.masks, "before": connected}
        counts["lost_in_transport"] = int(values["lost in transport"]) - int(
            start["lost in transport"]
        )
        return self.result(seconds, counts, values["runtime"])

    def line(self, sent: int, frames: int) -> str:
        last = self.samples[-1]
        recent = [value for _, value in self.latencies[-200:]]
        return (
            f"{self.now():6.0f} s  {sent}/{frames} images  resident "
            f"{last['resident_bytes'] / 2**20:.1f} MiB  segmented {last['segmented']}  dropped "
            f"{last['dropped']}  latency p50 {percentiles(recent).get('p50_ms', 0):.0f} ms"
        )

    def result(self, seconds: float, counts: dict[str, int], runtime: str) -> dict[str, Any]:
        options = self.options
        settled = [item for item in self.samples if item["second"] >= seconds / 6]
        first, last = settled[0], settled[-1]
        resident = [item["resident_bytes"] for item in settled]
        change = [value / first["resident_bytes"] - 1 for value in resident]

        def latency(begin: float, end: float) -> dict[str, float]:
            return percentiles([v for at, v in self.latencies if begin <= at < end])

        overlaps = {
            object_id: round(float(np.mean(values)), 3)
            for object_id in range(1, OBJECTS + 1)
            if (values := [v for _, i, v in self.overlaps if i == object_id])
        }
        checks = {
            "resident_within_2_percent": max(abs(value) for value in change) <= ALLOWED,
            "every_frame_accounted_for": counts["received"]
            == counts["segmented"] + counts["dropped"] + counts["failed"],
            "none_failed": counts["failed"] == 0,
            "every_call_done": not self.refused,
            "no_more_threads_or_files": last["threads"] <= first["threads"]
            and last["open_files"] <= first["open_files"],
            "every_object_followed": len(overlaps) == OBJECTS and min(overlaps.values()) > 0.5,
        }
        return {
            "seconds": round(seconds, 1),
            "rate_hz": options.rate,
            "image": [options.rows, options.columns],
            "model": options.model,
            "processing_size": options.processing_size,
            "runtime": runtime,
            "frames": counts,
            "resident_MiB": {
                "after_a_sixth": round(first["resident_bytes"] / 2**20, 2),
                "end": round(last["resident_bytes"] / 2**20, 2),
                "least": round(min(resident) / 2**20, 2),
                "most": round(max(resident) / 2**20, 2),
                "largest_change_percent": round(100 * max(change, key=abs), 3),
            },
            "memory_bytes": sorted({item["memory [bytes]"] for item in settled}),
            "threads": [first["threads"], last["threads"]],
            "open_files": [first["open_files"], last["open_files"]],
            "latency_start": latency(0, seconds / 6),
            "latency_end": latency(seconds * 5 / 6, seconds + 60),
            "iou_with_truth": overlaps,
            "events": self.events,
            "refused": self.refused[:20],
            "checks": checks,
            "samples": self.samples,
        }


def plot(result: dict[str, Any], soak: Soak, path: Path) -> None:
    """Resident memory, latency and overlap against time, as a PNG."""
    figure = new_figure(9, 8)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    minutes = [item["second"] / 60 for item in result["samples"]]
    mebi = [item["resident_bytes"] / 2**20 for item in result["samples"]]
    top.plot(minutes, mebi, label="resident memory of the node")
    level = result["resident_MiB"]["after_a_sixth"]
    top.axhspan(level * (1 - ALLOWED), level * (1 + ALLOWED), alpha=0.15, label="2 % either way")
    top.set_ylabel("MiB")
    top.set_ylim(bottom=0)
    width = max(result["seconds"] / 60, 1.0)
    for part, share in (("median", 50), ("99th percentile", 99)):
        at, values = [], []
        for begin in np.arange(0, result["seconds"], width):
            inside = [v for t, v in soak.latencies if begin <= t < begin + width]
            if inside:
                at.append((begin + width / 2) / 60)
                values.append(1000 * float(np.percentile(inside, share)))
        middle.plot(at, values, ".-", label=part)
    middle.set_ylabel("latency, ms")
    middle.set_ylim(bottom=0)
    for object_id in sorted({i for _, i, _ in soak.overlaps}):
        mine = [(t / 60, v) for t, i, v in soak.overlaps if i == object_id]
        bottom.plot(*zip(*mine), ".", markersize=2, label=f"object {object_id}")
    bottom.set_ylabel("IoU with the truth")
    bottom.set_ylim(0, 1)
    bottom.set_xlabel("minutes")
    for panel in (top, middle, bottom):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="stremn_soak_") as folder:
        soak = Soak(options, Path(folder))
        try:
            result = soak.run()
        except StremnError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
        finally:
            code = soak.rig.close()
    result["checks"]["node_ended_cleanly"] = code == 0
    if options.json:
        write_json(options.json, result)
    if options.plot:
        plot(result, soak, options.plot)
    for key in ("frames", "resident_MiB", "latency_start", "latency_end", "iou_with_truth"):
        print(f"{key}: {result[key]}")
    print(f"events: {result['events']}; refused: {result['refused'] or 'none'}")
    print(f"checks: {result['checks']}")
    return 0 if all(result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
