"""A storm of malformed images and calls against the real node, over real DDS.

    python test/faults/storm.py --inputs 20000 --json out/faults.json

Half of the inputs are images that cannot be read (of every encoding, cut short, with sizes, steps
and encodings that cannot be), half are calls of every service, and of the parameter and transition
services, that ask for what cannot be done. Beside them come depth images and camera_infos that
cannot be, while every output that is made of depth has a subscriber. All are made at random from
--seed. Between them whole images are segmented: the masks must be bit for bit those of a segmenter
in this process that was told of the whole images alone, and both objects must be followed to the
end.

The exit code is 0 when the node lives on and ends cleanly, every bad image was counted as failed,
every bad call was refused with a reason, no mask differed, and good depth gives positions again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from geometry_msgs.msg import Point32, Polygon, PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import NodeProcess, image_message, to_time, wait_for
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, RegionOfInterest
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene
from spatial_peer import DEPTH, K, SpatialPeer, scene_depth
from visualization_msgs.msg import MarkerArray

from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject
from stremn_ros.errors import InputError, StremnError
from stremn_ros.messages import image_read, image_write
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream import autosave

SIZE = (120, 160)
BURST = 25  # inputs between two whole images
HUGE = 2**32 - 1
STEP = 100_000_000  # nanoseconds from image to image
SERVICES = (
    "seed_mask",
    "seed_object",
    "remove_object",
    "load_memory",
    "save_memory",
    "set_parameters",
    "change_state",
)


class Maker:
    """Inputs that cannot be used, from a seed; each is (kind, what it is)."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)

    def number(self):
        """A size: small, near the right one, or absurd."""
        return self.random.choice(
            (0, 1, self.random.randint(0, 300), self.random.randint(0, HUGE), HUGE, 2**31)
        )

    def text(self):
        letters = "abcXYZ0189_-./\\~$% éß中\U0001f600'\"`;|<>\n\t\x7f"
        return "".join(self.random.choices(letters, k=self.random.randint(0, 24)))

    def whole(self, encoding):
        """An image of an encoding that can be read, of random pixels."""
        rows, columns = self.random.randint(1, 24) * 2, self.random.randint(1, 24) * 2
        if encoding == "32FC1":
            picture = self.numpy.random((rows, columns), np.float32)
        elif encoding in ("mono16", "16UC1"):
            picture = self.numpy.integers(0, 2**16, (rows, columns), np.uint16)
        elif encoding in ("mono8", "8UC1"):
            picture = self.numpy.integers(0, 256, (rows, columns), np.uint8)
        else:
            picture = self.numpy.integers(0, 256, (rows, columns, 3), np.uint8)
        made = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}.get(encoding, encoding)
        message = image_message(picture, 0, made, big_endian=self.random.random() < 0.5)
        message.encoding = encoding
        return message

    def spoil(self, message):
        """One to three things made wrong."""
        for _ in range(self.random.randint(1, 3)):
            what = self.random.randrange(8)
            if what == 0 and len(message.data):
                message.data = message.data[: self.random.randrange(len(message.data))]
            elif what == 1:
                message.step = self.number()
            elif what == 2:
                message.height = self.number()
            elif what == 3:
                message.width = self.number()
            elif what == 4:
                message.encoding = self.random.choice((self.text(), "jpeg", "", "RGB8", "bgr16"))
            elif what == 5:
                message.data = self.numpy.bytes(self.random.randint(0, 300))
            elif what == 6 and message.encoding == "32FC1":
                bad = np.full((4, 4), self.random.choice((math.nan, math.inf, -7.0, 1e9)))
                image_write.encode(message, bad.astype(np.float32), "32FC1")
            else:
                message.width, message.height = message.width | 1, message.height | 1
        return message

    def image(self):
        """An Image that no picture can be read from."""
        while True:
            kind = self.random.choice(image_read.ENCODINGS)
            message = self.spoil(self.whole(kind))
            try:
                image_read.decode_rgb(message)
            except InputError:
                return kind, message

    def mask(self):
        """An Image that is no mask of frames of SIZE with the two objects that are followed."""
        while True:
            if self.random.random() < 0.5:
                message = self.image()[1]
            else:  # a mask all right, but of another size, or of objects more than there is room
                rows, columns = self.random.choice((SIZE, (48, 64), (121, 160)))
                labels = self.numpy.integers(0, 256, (rows, columns), np.uint8)
                labels[labels < 3] = 0 if self.random.random() < 0.5 else 77
                encoding = self.random.choice(("mono8", "8UC1", "16UC1"))
                kind = np.uint16 if encoding == "16UC1" else np.uint8
                message = image_message(labels.astype(kind), 0, encoding)
            try:
                labels = image_read.decode_labels(message)
            except InputError:
                return message
            if labels.shape != SIZE or not labels.any() or len(np.unique(labels)) > 3:
                return message

    def stamp(self, newest):
        """Of a depth image: of the newest image, near it, far from it, or none."""
        return self.random.choice(
            (newest, newest, newest - 10**7, newest + 10**9, newest - 10**12, newest + 10**12, 0)
        )

    def depth(self):
        """A depth image that cannot be read, or has wild values, another size or another frame."""
        what = self.random.randrange(3)
        if what == 0:
            return self.image()[1]
        rows, columns = self.random.choice((SIZE, SIZE, (48, 64), (240, 320), (121, 160), (1, 1)))
        if what == 1:
            values = self.numpy.integers(0, 65536, (rows, columns)).astype(np.uint16)
            values *= self.random.choice((0, 1))
            encoding = self.random.choice(("16UC1", "mono16"))
        else:
            wild = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-30, 1.0, 1e30, 900.0)
            chosen = self.numpy.choice(wild, self.random.randint(1, 4))
            values = self.numpy.choice(chosen, (rows, columns)).astype(np.float32)
            encoding = "32FC1"
        message = image_message(values, 0, encoding, big_endian=self.random.random() < 0.5)
        message.header.frame_id = self.random.choice(("camera", "", "elsewhere", self.text()))
        return message

    def info(self):
        """A camera_info that describes no camera, or another one."""
        wild = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300, 150.0)
        message = CameraInfo(width=SIZE[1], height=SIZE[0], k=K)
        for _ in range(self.random.randint(1, 3)):
            what = self.random.randrange(7)
            if what == 0:
                message.k = self.numpy.choice(wild, 9)
            elif what == 1:
                k = list(message.k)
                k[self.random.randrange(9)] = self.random.choice(wild)
                message.k = k
            elif what == 2:
                message.width, message.height = self.number() & HUGE, self.number() & HUGE
            elif what == 3:
                message.d = self.numpy.choice(wild, self.random.randint(0, 15)).tolist()
            elif what == 4:
                models = ("plumb_bob", "rational_polynomial", "equidistant", "", self.text())
                message.distortion_model = self.random.choice(models)
                message.d = self.numpy.normal(0, 0.5, self.random.choice((4, 5, 8))).tolist()
            elif what == 5:
                message.binning_x, message.binning_y = self.number() & HUGE, self.number() & HUGE
            else:
                message.roi.x_offset, message.roi.width = self.number() & HUGE, self.number() & HUGE
                message.roi.height = self.number() & HUGE
        return message

    def floats(self):
        wild = (math.nan, math.inf, -math.inf, -1.0, -0.5, 160.0, 1e30, 161.5)
        return [Point32(x=self.random.choice(wild), y=self.random.uniform(-10, 300))]

    def call(self):
        """(service, kind, request) that must be refused."""
        what = self.random.choice(SERVICES)
        if what == "seed_mask":
            request = SeedMask.Request(mask=self.mask(), replace=self.random.random() < 0.3)
            request.names = [self.text() for _ in range(self.random.randint(0, 3))]
            request.mask.header.stamp = to_time(0)
            return what, SeedMask, request
        if what == "seed_object":
            request = SeedObject.Request(name=self.text())
            request.id = self.random.choice((0, 7, 255, 256, -1, 2**31 - 1, -(2**31)))
            way = self.random.randrange(4)
            if way == 0:
                request.box = RegionOfInterest(
                    x_offset=self.number(), y_offset=self.number(), width=HUGE, height=self.number()
                )
            elif way == 1:
                request.points_inside = self.floats()
            elif way == 2:
                request.polygon = Polygon(points=self.floats() * self.random.randint(1, 5))
            return what, SeedObject, request
        if what == "remove_object":
            number = self.random.choice((0, 3, 255, 256, -1, 2**31 - 1, -(2**31)))
            return what, RemoveObject, RemoveObject.Request(id=number)
        if what in ("save_memory", "load_memory"):
            kind = SaveMemory if what == "save_memory" else LoadMemory
            while True:
                path = self.random.choice(
                    (self.text(), "../" + self.text(), "/" + self.text(), "a/b", "~", "x" * 9999)
                )
                if not autosave.NAME.fullmatch(path) and path:
                    return what, kind, kind.Request(path=path)
        if what == "set_parameters":
            name, value = self.random.choice(
                (
                    ("min_score", self.random.choice((math.nan, -1.5, 2.0, 1e300))),
                    ("overlay_alpha", self.text()),
                    ("update_rule", self.text() + "?"),
                    ("model", self.text()),
                    ("max_objects", self.random.choice((0, -1, 256, 2**62))),
                    ("snapshot_dir", "/"),
                    ("cameras", ["left"]),
                    ("seed_buffer", self.random.choice((5, -5))),
                    (f"no_such_{self.random.randrange(99)}", True),
                )
            )
            parameter = Parameter(name, value=value).to_parameter_msg()
            return what, SetParameters, SetParameters.Request(parameters=[parameter])
        number = self.random.choice((Transition.TRANSITION_CONFIGURE, 1, 2, 99, 200, 255))
        return what, ChangeState, ChangeState.Request(transition=Transition(id=number))


class Storm:
    """The node under attack, its user, and the reference that knows of nothing bad."""

    def __init__(self, folder, seed=0):
        torch.set_num_threads(1)
        self.make = Maker(seed)
        self.folder = folder
        self.counts = collections.Counter()
        self.problems = []
        self.node = NodeProcess(
            "segment_node",
            folder,
            {
                "model": str(TINY_MODEL),
                "runtime": "torch",
                "image_reliability": "reliable",
                "max_objects": 2,
                "diagnostics_period": 0.1,
                "snapshot_dir": str(folder / "snapshots"),
                "depth_topic": DEPTH,
                "follow_id": DISC,
                # every image reaches the node, so that every one is accounted for
                "qos_overrides./image.subscription.depth": 1000,
            },
        )
        self.peer = SpatialPeer()
        for kind, name in (
            (PoseStamped, "follow_pose"),
            (ObjectArray, "objects_3d"),
            (MarkerArray, "markers"),
            (PointCloud2, "points"),
            (Image, "masked_depth"),
            (Image, "depth_without_objects"),
        ):
            self.peer.watch(kind, name)
        self.reference = Segmenter.load(str(TINY_MODEL), runtime="torch", max_objects=2)
        self.step = 0
        self.overlaps = {DISC: [], SQUARE: []}

    def start(self):
        peer = self.peer
        assert peer.transition("configure"), self.node.log
        assert peer.transition("activate"), self.node.log
        self.node.wait_for_log("waiting for images on /image")
        peer.images = peer.node.create_publisher(
            Image, "/image", QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        )
        peer.connect(scene(0)[0])
        answer = peer.call(
            SeedMask, "/stremn/seed_mask", mask=image_message(scene(0)[1], 0, "mono8")
        )
        assert answer.success, answer.message
        self.reference.seed(*scene(0))
        self.whole()
        wait_for(lambda: self.whole() or self.peer.depths.get_subscription_count(), "the node", 60)

    def whole(self):
        """A whole image, and its mask against the reference's."""
        self.step += 1
        frame, truth = scene(self.step % 60)
        found, objects = self.peer.segment(frame)
        self.counts["whole images"] += 1
        if [item.id for item in objects.objects] != [DISC, SQUARE]:
            self.problem(f"the objects are {[item.id for item in objects.objects]}")
            self.counts["lost tracks"] += 1
        if not np.array_equal(found, self.reference.step(frame).labels):
            self.problem(f"the mask of whole image {self.step} is not the reference's")
            self.counts["masks that differ"] += 1
        for object_id, values in self.overlaps.items():
            values.append(iou(found, truth, object_id))

    def problem(self, text):
        self.problems.append(text)

    def image(self):
        kind, message = self.make.image()
        self.peer.publish_message(message)
        self.counts["bad images"] += 1
        self.counts[f"bad images: {kind}"] += 1

    def depth(self):
        """A bad depth image or camera_info beside the images."""
        if self.make.random.random() < 0.5:
            message = self.make.depth()
            message.header.stamp = to_time(max(0, self.make.stamp(self.peer._stamp)))
            self.peer.depths.publish(message)
            self.counts["bad depth images"] += 1
        else:
            self.peer.infos.publish(self.make.info())
            self.counts["bad camera_infos"] += 1
        if self.make.random.random() < 0.3:  # a good one between them, so that depth is used
            self.peer.send_info(self.peer._stamp)

    def positions(self):
        """Good depth gives positions again; the images of it are whole ones, too."""
        for _ in range(60):
            self.peer.send_info(self.peer._stamp)
            self.peer.send_depth(
                scene_depth(scene((self.step + 1) % 60)[1]), self.peer._stamp + STEP
            )
            self.whole()
            with contextlib.suppress(StremnError):
                return wait_for(self.placed, "positions", 0.5)
        return self.problem(f"no positions after the storm: {self.peer.told}")

    def placed(self):
        found = self.peer.got["objects_3d"].get(self.peer._stamp)
        return found and all(math.isfinite(item.position.z) for item in found.objects)

    def call(self):
        name, kind, request = self.make.call()
        answer = self.peer.call(kind, f"/stremn/{name}", request)
        self.counts["bad calls"] += 1
        self.counts[f"bad calls: {name}"] += 1
        if name == "set_parameters":
            (result,) = answer.results
            answer = SimpleNamespace(success=result.successful, message=result.reason)
        elif name == "change_state":
            answer = SimpleNamespace(success=answer.success, message="refused")
        if answer.success or not answer.message:
            self.problem(f"{name} {str(request)[:300]} was answered {str(answer)[:300]}")
            self.counts["calls not refused"] += 1

    def run(self, inputs, progress=lambda text: None):
        """So many inputs; the result, in which "ok" is whether all held."""
        self.start()
        before = self.peer.settled_counters()
        begin = shown = time.monotonic()
        for number in range(inputs):
            (self.image if number % 2 else self.call)()
            if number % 3 == 0:
                self.depth()
            if number % BURST == BURST - 1:
                self.whole()
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                progress(f"{number + 1} of {inputs} inputs, {len(self.problems)} problems")
        self.whole()
        self.positions()
        wait_for(lambda: self.node.alive or self.problem("the node died"), "the node", 1)

        def through():
            counters = self.peer.settled_counters()
            return counters[3] - before[3] >= self.counts["bad images"] and counters

        received, segmented, dropped, failed = (
            new - old for new, old in zip(wait_for(through, "every image to be counted"), before)
        )
        seconds = time.monotonic() - begin
        followed = self.peer.objects[max(self.peer.objects)]
        files = sorted(path.name for path in (self.folder / "snapshots").glob("*"))
        code = self.node.stop()
        crashes = int(code != 0) + self.node.log.count("Traceback")
        result = {
            "inputs": inputs,
            "seconds": round(seconds, 1),
            "crashes": crashes,
            "node_exit_code": code,
            "lost_tracks": self.counts["lost tracks"],
            "masks_that_differ": self.counts["masks that differ"],
            "calls_not_refused": self.counts["calls not refused"],
            "counts": dict(sorted(self.counts.items())),
            "node": {
                "received": received,
                "segmented": segmented,
                "dropped": dropped,
                "failed": failed,
            },
            "objects_at_the_end": [item.id for item in followed.objects],
            "mean_iou": {
                str(key): round(float(np.mean(values)), 3) for key, values in self.overlaps.items()
            },
            "snapshot_files": files,
            "problems": self.problems[:20],
        }
        result["ok"] = (
            not self.problems
            and not crashes
            and failed == self.counts["bad images"]
            and received == segmented + dropped + failed
            and result["objects_at_the_end"] == [DISC, SQUARE]
            and not files
        )
        return result

    def close(self):
        self.node.stop()
        self.peer.close()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="stremn_faults_") as folder:
        storm = Storm(Path(folder), options.seed)
        try:
            result = storm.run(options.inputs, lambda text: print(text, flush=True))
        finally:
            storm.close()
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
