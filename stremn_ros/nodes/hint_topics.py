"""Seeds from what people run already: clicks in an image viewer, and the boxes of detectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import Point, PointStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from stremn_ros.messages.detections import detector_types, read_detections
from stremn_ros.messages.reading import stamp_of
from stremn_ros.stream.segment_core import SegmentCore

# best effort fits every publisher
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
CLICKS: dict[str, Any] = {
    "geometry_msgs/msg/Point": Point,
    "geometry_msgs/msg/PointStamped": PointStamped,
}


class HintTopics:
    """The subscriptions of one camera to clicks and detections, for as long as it is started.

    Args:
        node: that they are made on. private: what the names of its topics begin with.
        click_topic: of Point (rqt_image_view) or PointStamped; empty for none.
        core: the core that seeds, or None while there is none.

    Attributes:
        hint: why clicks cannot come; else empty.
    """

    def __init__(
        self,
        node: LifecycleNode,
        private: str,
        click_topic: str,
        core: Callable[[], SegmentCore | None],
    ) -> None:
        self._node, self._private, self._core = node, private, core
        self._click_topic = click_topic
        self._group = MutuallyExclusiveCallbackGroup()
        self._lock = threading.Lock()  # of the subscriptions
        self._subscriptions: list[Any] = []
        self._clicks: Any = None
        self._started = False
        self.hint = ""

    def start(self) -> None:
        """Subscribes to what is there; `look` does so when publishers of clicks come later."""
        with self._lock:
            self._started = True
            for name, kind in detector_types().items():
                self._subscriptions.append(
                    self._subscribe(kind, self._private + name, self._on_detections)
                )
        self.look()

    def stop(self) -> None:
        """Ends the subscriptions; more than once if need be."""
        with self._lock:
            self._started = False
            clicks = [] if self._clicks is None else [self._clicks]
            for subscription in self._subscriptions + clicks:
                self._node.destroy_subscription(subscription)
            self._subscriptions, self._clicks = [], None

    def look(self) -> None:
        """Subscribes to clicks as their publisher sends them: with a stamp, or without."""
        if not self._click_topic or not self._started or self._clicks is not None:
            return
        topic = self._node.resolve_topic_name(self._click_topic)
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(topic)}
        known = sorted(types & CLICKS.keys())
        with self._lock:
            if known and self._started and self._clicks is None:
                self._clicks = self._subscribe(CLICKS[known[0]], topic, self._on_click)
        self.hint = ""
        if types and not known:
            self.hint = (
                f"{topic} (click_topic) has {', '.join(sorted(types))}; clicks are "
                f"{' or '.join(sorted(CLICKS))}"
            )

    def _subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None]) -> Any:
        return self._node.create_subscription(
            kind, topic, callback, NEWEST, callback_group=self._group
        )

    def _on_click(self, message: Any) -> None:
        core = self._core()
        if core is None:
            return
        stamped = hasattr(message, "point")
        point = message.point if stamped else message
        core.click_later(point.x, point.y, stamp_of(message) if stamped else 0)

    def _on_detections(self, message: Any) -> None:
        core = self._core()
        if core is not None:
            core.seed_detections_later(read_detections(message), stamp_of(message))
