"""The subscriptions to a camera's depth images and to the camera_info beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from stremn_ros.nodes.image_input import (
    ImageInput,
    SubscriptionEventCallbacks,
    policy_name,
)
from stremn_ros.stream.limited_log import Log

COMPRESSED = ("compressedDepth", "compressed")  # last parts of topics that have CompressedImages


def info_topic_of(depth_topic: str) -> str:
    """The camera_info beside a topic of depth images, as cameras name it."""
    parts = depth_topic.split("/")
    if parts[-1] in COMPRESSED and len(parts) > 1:
        parts.pop()
    return "/".join([*parts[:-1], "camera_info"])


class DepthInput(ImageInput):
    """Depth images and their camera_info, for as long as it is started; see `ImageInput`.

    The depth is raw, or compressed where the topic's name ends in compressedDepth.

    Args:
        topic: of the depth images. info_topic: of their camera_info; empty for the one beside it.
        take, take_info: called with each message.
        node, values, log: as `ImageInput`; values: image_reliability holds for depth as well.
    """

    def __init__(
        self,
        node: LifecycleNode,
        topic: str,
        info_topic: str,
        values: Mapping[str, Any],
        take: Callable[[Any], None],
        take_info: Callable[[Any], None],
        log: Log,
    ) -> None:
        super().__init__(node, topic, values, lambda message, *_: take(message), log)
        self._info_topic = info_topic or info_topic_of(topic)
        self._take_info = take_info
        self._info: Any = None

    _type_remedy = (
        "set depth_topic to one of depth images; the name of one with compressed images ends in "
        "/compressedDepth"
    )
    _queue = 5  # each may be that of an image, also where several come at once

    @property
    def _compressed(self) -> bool:
        return self._name.rpartition("/")[2] in COMPRESSED

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return str(self._node.resolve_topic_name(self._name))

    def start(self) -> str:
        """Subscribes to both; the full name of the depth's topic."""
        with self._lock:
            if self._info is None:
                self._info = self._node.create_subscription(
                    CameraInfo,
                    self._info_topic,
                    self._take_info,
                    # best effort fits every publisher
                    QoSProfile(
                        depth=1,
                        reliability=ReliabilityPolicy.BEST_EFFORT,
                        durability=self._info_durability(),
                    ),
                    callback_group=self._group,
                    event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_deaf),
                )
        return super().start()

    def stop(self) -> None:
        """Ends both subscriptions; more than once if need be."""
        super().stop()
        with self._lock:
            info, self._info = self._info, None
            if info is not None:
                self._node.destroy_subscription(info)

    def _info_durability(self) -> DurabilityPolicy:
        """Also what was published before, where every publisher keeps it: some publish it once."""
        topic = self._node.resolve_topic_name(self._info_topic)
        offers = [
            info.qos_profile.durability for info in self._node.get_publishers_info_by_topic(topic)
        ]
        latched = offers and all(offer == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        return DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE

    def _on_deaf(self, info: Any) -> None:
        topic = self._node.resolve_topic_name(self._info_topic)
        self.hint = (
            f"QoS mismatch with a publisher of {topic}: its {policy_name(info)} does not fit; "
            "start the depth camera before this node, or let all publishers of the topic offer the "
            "same"
        )
        self._log("error", "", self.hint)
