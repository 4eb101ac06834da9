"""What a camera of the segmentation node publishes of each frame: one row for each topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import Point32
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, RegionOfInterest

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_ros import results
from stremn_ros.imaging import visualization
from stremn_ros.messages import image_write
from stremn_ros.messages.detections import VisionTypes, to_detections, to_label_info, vision_types
from stremn_ros.stream.answers import Segmented
from stremn_ros.stream.settings import Settings

# the newest mask is the one that counts, so nothing is queued for slow subscribers
RESULTS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(  # for those who come later as well
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True)
class Output:
    """One topic.

    Attributes:
        name: below that of the node. kind: of message. make: the message of a frame, whose header
            is the frame's: stamps are copied, never made. on_demand: only while somebody
            subscribes, and while the parameter `overlay` allows it.
    """

    name: str
    kind: Any
    make: Callable[[Segmented, Settings], Any]
    on_demand: bool = False


def _mask(segmented: Segmented, _: Settings) -> Image:
    message = Image(header=segmented.frame.message.header)
    return image_write.encode(message, segmented.result.labels, "mono8")


def _objects(segmented: Segmented, _: Settings) -> ObjectArray:
    message = ObjectArray(header=segmented.frame.message.header)
    message.objects = [
        _tracked_object(found, segmented.names.get(found.id, ""))
        for found in segmented.result.objects
    ]
    message.latency = time.monotonic() - segmented.frame.arrival
    return message


def _overlay(segmented: Segmented, settings: Settings) -> Image:
    picture = visualization.overlay(segmented.rgb, segmented.result.labels, settings.overlay_alpha)
    message = Image(header=segmented.frame.message.header)
    return image_write.encode(message, picture, "rgb8")


# in the order in which they go out
OUTPUTS = (
    Output("mask", Image, _mask),
    Output("objects", ObjectArray, _objects),
    Output("overlay", Image, _overlay, on_demand=True),
)


class Outputs:
    """The publishers of one camera.

    Args:
        node: that they are made on. private: what their names begin with. settings, values: of the
            node's parameters, which may change while it runs.
    """

    def __init__(
        self, node: LifecycleNode, private: str, settings: Settings, values: Mapping[str, Any]
    ) -> None:
        self._node, self._private = node, private
        self._settings, self._values = settings, values
        self._made: list[Any] = []
        self._publishers = [(output, self._make(output.kind, output.name)) for output in OUTPUTS]
        self._labels_told: Any = None  # what the last label_info said
        self._vision = vision_types()  # where vision_msgs is installed
        self._label_info: Any = None
        if self._vision is not None:
            self._detections = self._make(self._vision.detection_array, "detections")
            if self._vision.label_info is not None:
                self._label_info = self._make(self._vision.label_info, "label_info", LATCHED)

    def _make(self, kind: Any, name: str, quality: QoSProfile = RESULTS) -> Any:
        made = self._node.create_lifecycle_publisher(kind, self._private + name, quality)
        self._made.append(made)
        return made

    def tell_again(self) -> None:
        """The label info goes out with the next frame, whatever was told before."""
        self._labels_told = None

    def publish(self, segmented: Segmented) -> None:
        """All of a frame; in the worker."""
        for output, publisher in self._publishers:
            wanted = self._settings.overlay and publisher.get_subscription_count()
            if not output.on_demand or wanted:
                publisher.publish(output.make(segmented, self._settings))
            if output.name == "objects" and self._vision is not None:
                self._publish_vision(self._vision, segmented)

    def _publish_vision(self, types: VisionTypes, segmented: Segmented) -> None:
        header, found = segmented.frame.message.header, segmented.result.objects
        if self._label_info is not None:
            ids, score = [item.id for item in found], self._values["min_score"]
            told = ids, dict(segmented.names), score
            if told != self._labels_told:  # before the first detection that needs it
                info = to_label_info(types, header, ids, segmented.names, score)
                self._label_info.publish(info)
                self._labels_told = told
        self._detections.publish(to_detections(types, header, found))

    def close(self) -> None:
        for publisher in self._made:
            self._node.destroy_lifecycle_publisher(publisher)


def _tracked_object(found: results.TrackedObject, name: str) -> TrackedObject:
    x, y, width, height = found.box
    return TrackedObject(
        id=found.id,
        name=name,
        state=int(found.state),
        score=found.score,
        area=found.area,
        box=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        centroid=Point32(x=found.centroid[0], y=found.centroid[1]),
    )
