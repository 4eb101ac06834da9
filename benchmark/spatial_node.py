"""What a depth camera adds to an image in the segmentation node: nothing while nobody wants it.

    python benchmark/spatial_node.py --json OUT.json
    python benchmark/spatial_node.py --model test/data/tiny_model   # with little noise of a network

Three objects in images of 640x480 with depth and camera_info over DDS. What subscribes changes in
turns, all with one node, so that a busy machine is busy for each. `latency` is from an image sent
to its mask received, `node` the part from its arrival in the node to the publication of the mask
(over the last 10 s, so give each turn more images than that), `cpu` the processor time of the whole
process for an image, `3D` the time from a pair of mask and depth to its last message, in a thread
of its own; medians.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from frames import machine
from node_rig import NODE, PATIENCE, SECOND, Rig, image_message, reliable
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from spatial import CAMERA, COLUMNS, ROWS, picture
from visualization_msgs.msg import MarkerArray

from stremn_interfaces.msg import ObjectArray
from stremn_ros.client.peer import wait_for

DEPTH, INFO = "/camera/depth/image", "/camera/depth/camera_info"
# what subscribes, beside the mask
PHASES: dict[str, tuple[tuple[Any, str], ...]] = {
    "nobody": (),
    "objects_3d": ((ObjectArray, "objects_3d"),),
    "points": ((PointCloud2, "points"),),
    "markers": ((MarkerArray, "markers"),),
}


class DepthRig(Rig):
    """A node with three objects and a depth camera, and nobody but for the masks."""

    def __init__(self, folder: Path, model: str) -> None:
        parameters = {
            "model": model,
            "diagnostics_period": 0.1,
            "image_reliability": "reliable",
            "depth_topic": DEPTH,
        }
        super().__init__(folder, parameters, reliable(), {"OMP_NUM_THREADS": "1"})
        node = self.peer.node
        for subscription in list(node.subscriptions):
            if subscription.topic_name.endswith("/objects"):
                node.destroy_subscription(subscription)
        self.depths = node.create_publisher(Image, DEPTH, reliable())
        self.infos = node.create_publisher(CameraInfo, INFO, reliable())
        self.labels, self.depth = picture(3)
        colors = np.array([(90, 90, 90), (220, 40, 30), (30, 60, 220), (40, 200, 60)], np.uint8)
        self.frame = colors[self.labels]
        self.masks: set[int] = set()
        self.on_mask = lambda stamp, message: self.masks.add(stamp)

    def image(self) -> None:
        """Image, depth and camera_info of one stamp; returns when its mask is there."""
        stamp = time.time_ns()
        info = CameraInfo(width=COLUMNS, height=ROWS, k=CAMERA.k)
        info.header.stamp.sec, info.header.stamp.nanosec = divmod(stamp, SECOND)
        self.infos.publish(info)
        self.depths.publish(image_message(self.depth, stamp, "16UC1"))
        self.publish(self.frame, stamp)
        wait_for(lambda: stamp in self.masks, "the mask", PATIENCE, every=0.001)

    def begin(self) -> None:
        self.connect(self.frame)
        self.image()
        answer = self.seed(self.labels)
        if not answer.success:
            raise SystemExit(answer.message)

    def cpu(self) -> float:
        """Processor seconds of the node so far, all its threads together."""
        # Linux's clock of another process (clock_getcpuclockid), which does not count in ticks
        return time.clock_gettime((~self.node.process.pid << 3) | 2)

    def listens(self) -> bool:
        """Whether the node listens to depth; an image gives it the occasion to change that."""
        self.image()
        return self.depths.get_subscription_count() > 0

    def turn(self, phase: str, images: int) -> dict[str, float]:
        """Milliseconds of an image while so much is wanted."""
        wants = [
            self.peer.node.create_subscription(kind, f"{NODE}/{topic}", lambda _: None, reliable())
            for kind, topic in PHASES[phase]
        ]
        wait_for(lambda: self.listens() == bool(wants), f"{phase}: depth or none", PATIENCE, 0.1)
        for _ in range(10):
            self.image()
        before, taken = self.cpu(), []
        for _ in range(images):
            begin = time.perf_counter()
            self.image()
            taken.append(time.perf_counter() - begin)
            time.sleep(0.02)  # what follows the mask is done, too
        found = {
            "latency": 1000 * float(np.median(taken)),
            "cpu": 1000 * (self.cpu() - before) / images,
        }
        values = self.fresh()
        found["node"] = float(values["latency p50 [ms]"] or "nan")
        if took := re.search(r"([\d.]+) ms each", values.get("depth", "")):
            found["3D"] = float(took[1])
        for subscription in wants:
            self.peer.node.destroy_subscription(subscription)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--images", type=int, default=300, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = str(Path(options.model).resolve()) if "/" in options.model else options.model
    found: dict[str, dict[str, list[float]]] = {phase: {} for phase in options.phases}
    with tempfile.TemporaryDirectory(prefix="stremn_spatial_") as folder:
        rig = DepthRig(Path(folder), model)
        try:
            rig.begin()
            for _ in range(options.turns):
                for phase in options.phases:
                    for name, value in rig.turn(phase, options.images).items():
                        found[phase].setdefault(name, []).append(value)
        finally:
            rig.close()
    middle = {
        phase: {name: round(float(np.median(values)), 2) for name, values in times.items()}
        for phase, times in found.items()
    }
    for phase, times in middle.items():
        print(f"{phase:12}" + "".join(f"  {key} {value:.2f} ms" for key, value in times.items()))
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "model": options.model, "ms": middle}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
