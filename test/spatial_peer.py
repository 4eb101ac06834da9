"""A peer with an RGB-D camera: it draws the scene with depth, and collects what is in space."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
from ros_helpers import SegmentPeer, image_message, to_stamp, to_time, wait_for
from sensor_msgs.msg import CameraInfo, Image
from shapes import DISC, SQUARE, scene

from stremn_ros.spatial import Intrinsics, SpatialTracker

DEPTH, INFO = "/camera/depth/image", "/camera/depth/camera_info"
FRAME = "camera_optical"
FOCAL = 150.0
K = (FOCAL, 0.0, 79.5, 0.0, FOCAL, 59.5, 0.0, 0.0, 1.0)
CAMERA = Intrinsics(160, 120, K)
AWAY = {DISC: 1.0, SQUARE: 1.5}  # meters
WALL = 3.0


def scene_depth(truth):
    """Depth in millimeters, uint16 [H, W], of a truth from `scene`."""
    depth = np.full(truth.shape, 1000 * WALL, np.uint16)
    for object_id, away in AWAY.items():
        depth[truth == object_id] = round(1000 * away)
    return depth


def measured(labels, depth, stamp, **options):
    """What a tracker that has seen nothing before makes of a mask and its depth, by id."""
    state = SimpleNamespace(name="TRACKED")
    objects = [SimpleNamespace(id=n, state=state, score=1.0) for n in (DISC, SQUARE)]
    tracker = SpatialTracker()
    found = tracker.update(labels, objects, depth, CAMERA, stamp, **options)
    return {item.id: item for item in found}, tracker


class SpatialPeer(SegmentPeer):
    """Sends images with depth and camera_info; `got[name][stamp]` is what came on a topic."""

    def __init__(self, node="/stremn", camera="", topic="/image", depth=DEPTH, info=INFO):
        super().__init__(topic, node, camera)
        self.got = defaultdict(dict)
        self._watched = {}
        self.depths = self.node.create_publisher(Image, depth, 10)
        self.infos = self.node.create_publisher(CameraInfo, info, 10)

    def watch(self, kind, name):
        """Subscribes to an output of the node."""

        def take(message):
            first = message
            if not hasattr(message, "header"):  # an array of messages that have one each
                (field,) = message.get_fields_and_field_types()
                parts = getattr(message, field)
                if not parts:
                    return
                first = parts[0]
            self.got[name][to_stamp(first.header.stamp)] = message

        full = name if name.startswith("/") else f"{self.private}/{name}"
        self._watched[name] = self.node.create_subscription(kind, full, take, self.queue)

    def unwatch(self, name):
        self.node.destroy_subscription(self._watched.pop(name))

    def send_info(self, stamp, **changes):
        message = CameraInfo(width=160, height=120, k=K)
        message.header.stamp, message.header.frame_id = to_time(stamp), FRAME
        for name, value in changes.items():
            setattr(message, name, value)
        self.infos.publish(message)

    def send_depth(self, depth, stamp, encoding=None, **options):
        encoding = encoding or ("16UC1" if depth.dtype == np.uint16 else "32FC1")
        options.setdefault("frame_id", FRAME)
        self.depths.publish(image_message(depth, stamp, encoding, **options))

    def listens(self):
        """Waits until the node listens to the depth camera; images must go on meanwhile."""

        def heard():
            self.segment(scene(0)[0], frame_id=FRAME)
            return self.depths.get_subscription_count() and self.infos.get_subscription_count()

        wait_for(heard, "the node to subscribe to depth and camera_info", every=0.05)

    def show(self, step, depth=None, depth_stamp=None, info=True, **options):
        """Sends image, depth and camera_info of a step, with one stamp; waits for the mask.

        Returns:
            The stamp, the mask's labels and the ObjectArray.
        """
        frame, truth = scene(step)
        stamp = self.next_stamp()
        if info:
            self.send_info(stamp)
        depth = scene_depth(truth) if depth is None else depth
        self.send_depth(depth, stamp if depth_stamp is None else depth_stamp, **options)
        labels, objects = self.segment(frame, stamp, frame_id=FRAME)
        return stamp, labels, objects

    def shown(self, name, step=0, attempts=40, **options):
        """As `show`, until an output of one of these images has come: that stamp, labels, message.

        The first depth may be sent before the node hears it.
        """
        labels = {}

        def come():
            stamp, found, _ = self.show(step, **options)
            labels[stamp] = found
            end = len(labels) >= attempts
            assert not end, f"no {name} after {attempts} images: {self.describe_status()}"
            try:
                return wait_for(lambda: self.got[name].keys() & labels.keys(), name, 0.5)
            except Exception:
                return None

        stamp = max(wait_for(come, name))
        return stamp, labels[stamp], self.got[name][stamp]
