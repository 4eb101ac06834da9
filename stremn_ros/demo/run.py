"""`stremn demo`: the main job from end to end, with real nodes as separate processes.

A video source node plays a video as a camera, the segmentation node is configured, activated and
seeded through its services, its masks come back over DDS into this process. Written into the
folder of the results: overlay.mp4, contact_sheet.png, summary.json and the logs of the nodes.
The exit code is 0 only when every check of the summary holds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stremn_ros.demo.assets import RATE, START_FRAME, WIDTH, demo_video
from stremn_ros.demo.summary import Followed
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging import visualization
from stremn_ros.imaging.video import WhatComes, open_frames
from stremn_ros.messages.reading import NANOSECONDS, nanoseconds, stamp_of
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

IMAGE_TOPIC = "/demo/image"
NODE = "/stremn"
DEPTH = 1000  # of the queues of masks and objects: none is lost on a machine that is busy

Result = TypeVar("Result")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stremn demo",
        description="Plays a video as a camera, follows an object in it through real ROS 2 nodes, "
        "and writes overlay.mp4, contact_sheet.png and summary.json.",
    )
    parser.add_argument("--video", type=Path, help="your own video file or folder of images")
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
        start = options.start if options.start is not None else (0 if own else START_FRAME)
        self.start, self.end = start, options.end
        if not own and options.mask is None and start != START_FRAME:
            raise InputError(f"the demo's mask is of frame {START_FRAME}; give --mask with --start")
        self.options = options
        self.status: dict[str, str] = {}
        self.status_number = 0
        self.first_header: Any = None
        self.seen = Followed(
            video=self.video.name,
            start=start,
            rate=options.rate,
            model=str(options.model),
            labels=visualization.read_label_png(options.mask or shared_file("demo_seed.png")),
            check_path=None if own or options.end else shared_file("demo_last.png"),
            out=options.out,
        )

    # ------------------------------------------------------------------ the run

    def run(self) -> int:
        from stremn_ros.client.segment_client import SegmentClient

        self.seen.out.mkdir(parents=True, exist_ok=True)
        for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
            (self.seen.out / name).unlink(missing_ok=True)  # nothing old is taken for a result
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
                {
                    "model": str(self.options.model),
                    "image_reliability": "reliable",
                    # a mask that this process is slow to take is not replaced by the next one
                    f"qos_overrides.{NODE}/mask.publisher.depth": DEPTH,
                    f"qos_overrides.{NODE}/objects.publisher.depth": DEPTH,
                },
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
        self.seen.runtime = self.status.get("runtime", "")
        return self.seen.report(expected, counters)

    def _subscribe(self, peer: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from stremn_interfaces.msg import ObjectArray

        everything = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        node = peer.node
        node.create_subscription(Image, IMAGE_TOPIC, self._on_image, everything)
        node.create_subscription(Image, f"{NODE}/mask", self._on_mask, everything)
        node.create_subscription(ObjectArray, f"{NODE}/objects", self._on_objects, everything)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_image(self, message: Any) -> None:
        from stremn_ros.messages import image_read

        self.seen.frames[stamp_of(message)] = image_read.decode_rgb(message)
        if self.first_header is None:
            self.first_header = message.header

    def _on_mask(self, message: Any) -> None:
        from stremn_ros.messages import image_read

        self.seen.mask_times.append(time.monotonic())
        self.seen.delays.append((time.time_ns() - stamp_of(message)) / NANOSECONDS)
        self.seen.masks[stamp_of(message)] = image_read.decode_labels(message)

    def _on_objects(self, message: Any) -> None:
        self.seen.objects[stamp_of(message)] = message

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
        node = NodeProcess(module, self.seen.out / f"{module}.log", parameters, remaps)
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
        frame = self.seen.frames[nanoseconds(header.stamp)]
        labels = fit_mask(self.seen.labels, frame.shape[:2])
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
                    f"stremn demo: {len(self.seen.masks)} masks of {len(self.seen.frames)} frames",
                    flush=True,
                )
            time.sleep(0.05)
        code = source.wait()
        if code != 0:  # what was published is reported all the same
            self.seen.problem = f"video_source_node ended with exit code {code}"
            print(f"stremn demo: {self.seen.problem}:\n{source.tail}", flush=True)

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
                and len(self.seen.masks) >= int(status["segmented"])
                and len(self.seen.objects) >= int(status["segmented"])
            )

        with contextlib.suppress(StremnError):  # what is missing then shows in the summary
            wait_for(settled, "the segmentation node to finish", 30.0)
        return {name: int(self.status.get(name, 0)) for name in names}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StremnError as error:
        sys.exit(f"stremn demo: {error}")
