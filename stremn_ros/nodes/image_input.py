"""The subscription to a camera's images, raw or compressed, and why one may hear nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from stremn_ros.nodes.limited_log import Log

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Later than Humble: the number that each publisher gives its messages, which shows what was lost.
WITH_MESSAGE_INFO = hasattr(Subscription, "CallbackType")

Take = Callable[[Any, Any, "int | None"], None]
"""take(message, publisher, sequence): the last two as in `FrameCore.on_frame`."""


class ImageInput:
    """Images of one topic for as long as it is started, in a callback group of its own.

    Args:
        node: that subscribes. name: of the topic, before remapping.
        values: of the node's parameters; image_transport and image_reliability are read at `start`.
        take: called with each message. log: see `Log`.

    Attributes:
        hint: why a publisher cannot be heard, once one was met; else empty.
    """

    def __init__(
        self, node: LifecycleNode, name: str, values: Mapping[str, Any], take: Take, log: Log
    ) -> None:
        self._node, self._name, self._values = node, name, values
        self._take, self._log = take, log
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscription: Any = None
        self.hint = ""

    @property
    def _compressed(self) -> bool:
        return self._values["image_transport"] == "compressed"

    @property
    def topic(self) -> str:
        """Full name of the topic; that of compressed images follows a remapping of `image`."""
        topic = self._node.resolve_topic_name(self._name)
        return f"{topic}/compressed" if self._compressed else topic

    def start(self) -> str:
        """Subscribes; the full name of the topic."""
        self.hint = ""
        reliable = self._values["image_reliability"] == "reliable"
        self._subscription = self._node.create_subscription(
            CompressedImage if self._compressed else Image,
            self.topic if self._compressed else self._name,
            self._on_image_with_info if WITH_MESSAGE_INFO else self._on_image,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=(
                    ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
                ),
                durability=DurabilityPolicy.VOLATILE,
            ),
            callback_group=self._group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        return str(self._subscription.topic_name)

    def stop(self) -> None:
        """Ends the subscription; more than once if need be."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._take(message, None, None)

    def _on_image_with_info(self, message: Image | CompressedImage, info: Any) -> None:
        publisher = info.get("publisher_gid")
        sequence = info.get("publication_sequence_number") if publisher is not None else None
        self._take(message, str(publisher), sequence)

    def _on_incompatible(self, info: Any) -> None:
        policy = policy_name(info)
        remedy = (
            "set image_reliability to best_effort, or let the camera publish reliably"
            if policy == "reliability"
            else "make its QoS fit, or set qos_overrides for the subscription"
        )
        self.hint = (
            f"a publisher of {self.topic} cannot be heard: its {policy} does not fit what this "
            f"node asks for; {remedy} (ros2 topic info -v shows both)"
        )
        self._log("error", "", self.hint)


def policy_name(info: Any) -> str:
    """The QoS policy that an incompatible-QoS event is about, in words."""
    return str(qos_policy_name_from_kind(info.last_policy_kind)).lower()


def no_time_yet(node: LifecycleNode) -> bool:
    """The node's clock is simulated and has not been told the time."""
    clock = node.get_clock()
    simulated = getattr(clock, "ros_time_is_active", False)
    return bool(simulated and not clock.now().nanoseconds)
