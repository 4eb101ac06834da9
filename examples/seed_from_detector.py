"""Seed the node from a detector that is slow.

ros2 run stremn_ros segment_node ...             # or segment.launch.py
python examples/seed_from_detector.py --ros-args -r image:=/camera/image_raw

A detector needs time, and its object moves meanwhile. The trick is one line: the mask gets the
header of the image that the detector processed. The node keeps its last images. It seeds the object
in that image and carries it forward to now (docs/seeding.md).

The detector here finds the largest red thing. Put yours into `detect`.
"""

from __future__ import annotations

import argparse
import contextlib
import time

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_ros.errors import StremnError
from stremn_ros.messages import image_write
from stremn_ros.messages.reading import decode

OBJECT = 1  # its id, which is its value in the mask
SMALLEST = 100  # pixels


def detect(rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """RGB uint8 [H, W, 3] to a label mask uint8 [H, W]; None if nothing was found."""
    red, green, blue = (rgb[..., channel].astype(np.int16) for channel in range(3))
    is_red = (red > 120) & (red - np.maximum(green, blue) > 60)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(is_red.astype(np.uint8))
    if count < 2:  # part 0 is everything else
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < SMALLEST:
        return None
    return np.where(parts == largest, OBJECT, 0).astype(np.uint8)


class SeedFromDetector(Node):
    """Detects while the object is not followed, and publishes masks on the node's seed topic.

    Args:
        segmenter: full name of the segmentation node. delay: seconds that are added to each
            detection, to act as a slow network.
    """

    def __init__(self, segmenter: str, delay: float) -> None:
        super().__init__("seed_from_detector")
        self._delay = delay
        self._followed = False
        self._masks = self.create_publisher(Image, f"{segmenter}/seed", 5)  # reliable
        # Depth 1: after a slow detection the next image is the newest one, not an old one.
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Image, "image", self._on_image, newest)
        self.create_subscription(ObjectArray, f"{segmenter}/objects", self._on_objects, 1)

    def _on_objects(self, message: ObjectArray) -> None:
        self._followed = any(
            item.id == OBJECT and item.state == TrackedObject.TRACKED for item in message.objects
        )

    def _on_image(self, image: Image) -> None:
        if self._followed:
            return
        try:
            labels = detect(decode(image))
        except StremnError as error:  # an encoding that cannot be read
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        time.sleep(self._delay)
        if labels is None:
            return
        mask = image_write.encode(Image(), labels, "mono8")
        mask.header = image.header  # says in which image the mask is right
        self._masks.publish(mask)
        self.get_logger().info(f"detected {int((labels > 0).sum())} pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description="Seed the node from a slow detector.")
    parser.add_argument("--segmenter", default="/stremn", help="full name of the node")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds added to a detection")
    options = parser.parse_args(remove_ros_args()[1:])
    # Without rclpy's handlers a signal ends this as any Python program. With them the context goes
    # away in the middle of a detection, and publishing its mask raises an error.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    executor.add_node(SeedFromDetector(options.segmenter, options.delay))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            executor.spin_once(timeout_sec=0.2)


if __name__ == "__main__":
    main()
