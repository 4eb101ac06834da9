"""The subscription to a camera's images, raw or compressed, and why it may receive nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from stremn_ros.nodes.qos import given_overrides, overrides_named
from stremn_ros.stream.limited_log import Log

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Later than Humble: the number that each publisher gives its messages, which shows what was lost.
WITH_MESSAGE_INFO = hasattr(Subscription, "CallbackType")

Take = Callable[[Any, Any, "int | None"], None]
"""take(message, publisher, sequence): the last two as in `FrameCore.on_frame`."""

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def offered_reliability(node: Node, topic: str) -> ReliabilityPolicy | None:
    """What fits all publishers of a topic: reliable where each of them is; None without any."""
    offers = [info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)]
    if not offers:
        return None
    return RELIABLE if all(offer == RELIABLE for offer in offers) else BEST_EFFORT


class ImageInput:
    """Images of one topic for as long as it is started, in a separate callback group.

    With image_reliability auto it asks for what the publishers offer. Before there is any it asks
    for reliable images, of which none is lost; where a publisher comes that does not offer it, and
    later where others come and go, it subscribes again.

    Args:
        node: that subscribes. name: of the topic, before remapping.
        values: of the node's parameters; image_transport and image_reliability are read at `start`.
        take: called with each message. log: see `Log`.

    Attributes:
        hint: the QoS mismatch with a publisher, once there was one; else empty.
        other_type: what its publishers send instead of images, as `look` found; else empty.
    """

    def __init__(
        self, node: LifecycleNode, name: str, values: Mapping[str, Any], take: Take, log: Log
    ) -> None:
        self._node, self._name, self._values = node, name, values
        self._take, self._log = take, log
        self._group = MutuallyExclusiveCallbackGroup()
        self._lock = threading.RLock()  # of the subscription
        self._subscription: Any = None
        self._asked = RELIABLE
        self._number = 0  # of the subscription
        self.hint = ""
        self.other_type = ""

    _queue = 1  # messages that wait to be taken: the newest image wins

    @property
    def _compressed(self) -> bool:
        return self._values["image_transport"] == "compressed"

    @property
    def _overridden(self) -> bool:
        """The user gave a reliability for this topic as qos_overrides, which wins."""
        given = given_overrides(self._node, self.topic, "subscription")
        return any(name.endswith(".reliability") for name in given)

    @property
    def _auto(self) -> bool:
        return self._values["image_reliability"] == "auto" and not self._overridden

    @property
    def topic(self) -> str:
        """Full name of the topic; that of compressed images follows a remapping of `image`."""
        topic = self._node.resolve_topic_name(self._name)
        return f"{topic}/compressed" if self._compressed else topic

    def start(self) -> str:
        """Subscribes; the full name of the topic."""
        self.hint = ""
        if self._auto:
            offered = offered_reliability(self._node, self.topic)
            asked = RELIABLE if offered is None else offered
        else:
            reliable = self._values["image_reliability"] == "reliable"
            asked = RELIABLE if reliable else BEST_EFFORT
        with self._lock:
            self._subscribe(asked)
            return str(self._subscription.topic_name)

    def stop(self) -> None:
        """Ends the subscription; more than once if need be."""
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        with self._lock:
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    @property
    def problem(self) -> str:
        """Why nothing can come; empty where nothing is known."""
        return self.other_type or self.hint

    def look(self) -> None:
        """With auto: subscribes again where the publishers offer something else by now."""
        with self._lock:
            if self._subscription is None:
                self.other_type = ""
                return
            self.other_type = self._type_mismatch()
            if not self._auto:
                return
            offered = offered_reliability(self._node, self.topic)
            if offered is not None and offered != self._asked:
                self._ask_for(offered)

    def _type_mismatch(self) -> str:
        kind = "CompressedImage" if self._compressed else "Image"
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        types = {info.topic_type for info in publishers}
        if not types or f"sensor_msgs/msg/{kind}" in types:
            return ""
        return (
            f"{self.topic} has {', '.join(sorted(types))}, and this node takes "
            f"sensor_msgs/msg/{kind} there: {self._type_remedy}"
        )

    _type_remedy = (
        "name the topic of the raw images (without /compressed), and set image_transport to "
        "compressed for compressed ones"
    )

    def _ask_for(self, reliability: ReliabilityPolicy) -> None:
        name = "reliable" if reliability == RELIABLE else "best-effort"
        self._log("info", "", f"{self.topic}: asking for {name} images, as its publishers offer")
        self._unsubscribe()
        self._subscribe(reliability)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        self._asked = reliability
        self._number += 1
        overridable = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
        if self._overridden:
            # only then: rclpy declares it with the first value asked for, which would override the
            # next one
            overridable.append(QoSPolicyKind.RELIABILITY)
        topic = self.topic if self._compressed else self._name
        with overrides_named(self._node, topic, "subscription"):
            self._subscription = self._node.create_subscription(
                CompressedImage if self._compressed else Image,
                topic,
                self._on_image_with_info if WITH_MESSAGE_INFO else self._on_image,
                QoSProfile(
                    history=HistoryPolicy.KEEP_LAST,
                    depth=self._queue,
                    reliability=reliability,
                    durability=DurabilityPolicy.VOLATILE,
                ),
                callback_group=self._group,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
                qos_overriding_options=QoSOverridingOptions(overridable),
            )

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._take(message, None, None)

    def _on_image_with_info(self, message: Image | CompressedImage, info: Any) -> None:
        publisher = info.get("publisher_gid")
        sequence = info.get("publication_sequence_number") if publisher is not None else None
        # what was sent between two subscriptions was not lost on the way
        self._take(message, f"{publisher} {self._number}", sequence)

    def _on_incompatible(self, info: Any) -> None:
        policy = policy_name(info)
        with self._lock:
            if self._subscription is None:
                return
            if self._auto and policy == "reliability" and self._asked == RELIABLE:
                self._ask_for(BEST_EFFORT)
                return
        remedy = (
            "set image_reliability to auto or best_effort, or let the camera publish reliably"
            if policy == "reliability"
            else "make its QoS fit, or set qos_overrides for the subscription"
        )
        self.hint = (
            f"QoS mismatch with a publisher of {self.topic}: its {policy} does not fit what this "
            f"node asks for; {remedy} (ros2 topic info -v shows both)"
        )
        self._log("error", "", self.hint)


def policy_name(info: Any) -> str:
    """The QoS policy that an incompatible-QoS event is about, in words."""
    return str(qos_policy_name_from_kind(info.last_policy_kind)).lower()


def no_time_yet(node: Node) -> bool:
    """The node's clock is simulated and has not received the time."""
    clock = node.get_clock()
    simulated = getattr(clock, "ros_time_is_active", False)
    return bool(simulated and not clock.now().nanoseconds)
