"""A segmentation node under measurement: the process, a camera, and what comes back.

For the scripts beside it. Everything runs over real DDS, in a domain of its own on this machine.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import SeedMask
from stremn_ros.client.bring_up import bring_up
from stremn_ros.client.node_process import NodeProcess
from stremn_ros.client.peer import Peer, wait_for
from stremn_ros.messages import image_write

NODE = "/stremn"
TOPIC = "/camera/image"
SECOND = 1_000_000_000
PATIENCE = 120.0


def best_effort(depth: int = 10) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def reliable(depth: int = 100) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def image_message(picture: np.ndarray, stamp: int, encoding: str = "rgb8") -> Image:
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
    message.header.frame_id = "camera"
    return image_write.encode(message, picture, encoding)


def stamp_of(header: Any) -> int:
    return header.stamp.sec * SECOND + header.stamp.nanosec


class Rig:
    """The node, configured and active, and this process as its camera and its user.

    `on_mask(stamp, message)` and `on_objects(stamp, message)` are called as they come.
    """

    def __init__(
        self,
        folder: Path,
        parameters: dict[str, Any],
        quality: QoSProfile,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.on_mask: Callable[[int, Image], None] = lambda stamp, message: None
        self.on_objects: Callable[[int, ObjectArray], None] = lambda stamp, message: None
        self.values: dict[str, str] = {}
        self.message = ""
        self.reports = 0
        self.node = NodeProcess(
            "segment_node",
            folder / "segment_node.log",
            {"diagnostics_period": 0.5, **parameters},
            [f"image:={TOPIC}"],
            environment,
        )
        self.peer = Peer("benchmark")
        node = self.peer.node
        self.images = node.create_publisher(Image, TOPIC, quality)
        node.create_subscription(
            Image, f"{NODE}/mask", lambda m: self.on_mask(stamp_of(m.header), m), reliable()
        )
        node.create_subscription(
            ObjectArray,
            f"{NODE}/objects",
            lambda m: self.on_objects(stamp_of(m.header), m),
            reliable(),
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        try:
            bring_up(self.peer, NODE, PATIENCE)
            wait_for(self.images.get_subscription_count, "the node to subscribe", PATIENCE)
        except BaseException:
            self.close()
            sys.stderr.write(self.node.log[-4000:])
            raise

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{NODE.lstrip('/')}: segmentation":
                self.values = {item.key: item.value for item in status.values}
                self.message = status.message
                self.reports += 1

    def publish(self, picture: np.ndarray, stamp: int) -> None:
        self.images.publish(image_message(picture, stamp))

    def connect(self, picture: np.ndarray) -> int:
        """Publishes until the node has an image; how many it took."""
        sent = 0
        end = time.monotonic() + PATIENCE
        while not int(self.values.get("received") or 0):
            if time.monotonic() > end:
                raise SystemExit(f"no image reached the node: {self.message}")
            self.publish(picture, time.time_ns())
            sent += 1
            time.sleep(0.2)
        return sent

    def call(self, kind: Any, name: str, request: Any) -> Any:
        return self.peer.call(kind, f"{NODE}/{name}", request, PATIENCE)

    def seed(self, labels: np.ndarray, stamp: int = 0, replace: bool = False) -> Any:
        request = SeedMask.Request(replace=replace)
        request.mask = image_message(labels, stamp, "mono8")
        return self.call(SeedMask, "seed_mask", request)

    def fresh(self) -> dict[str, str]:
        """Diagnostics whose making began after this call."""
        before = self.reports
        wait_for(lambda: self.reports >= before + 2, "diagnostics", PATIENCE)
        return self.values

    def settled(self) -> dict[str, str]:
        """Diagnostics of a node that has nothing to do."""
        while True:
            values = self.fresh()
            if values["waiting"] == values["in work"] == "0":
                return values

    def close(self) -> int:
        """The node's exit code."""
        code = self.node.stop()
        self.peer.close()
        return code


class Camera:
    """Publishes frames at a rate, in a thread, each by `send(number)`, until it is stopped."""

    def __init__(self, rate: float, send: Callable[[int], None], most: int = 0) -> None:
        self.rate, self.most = rate, most
        self.sent = 0
        self._send = send
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self.most or self.sent < self.most:
            if self._stop.wait(max(0.0, begin + self.sent / self.rate - time.monotonic())):
                return
            self._send(self.sent)
            self.sent += 1

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> int:
        """How many were sent."""
        self._stop.set()
        self._thread.join()
        return self.sent


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    if not seconds:
        return {}
    values = np.percentile(np.asarray(seconds) * 1000, (50, 95, 99))
    return {f"p{part}_ms": round(float(value), 2) for part, value in zip((50, 95, 99), values)}
