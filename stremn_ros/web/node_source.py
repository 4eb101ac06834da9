"""A running segmentation node on the page: its images, masks and services, over DDS.

Best effort is asked of everything that is watched, so the node never waits for the page. A callback
only keeps the newest messages; one thread decodes, and only the newest pair of image and mask.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_ros.client.peer import check_name
from stremn_ros.client.segment_client import SegmentClient
from stremn_ros.errors import InputError, StremnError
from stremn_ros.hint_masks import HintMasks
from stremn_ros.messages import image_read
from stremn_ros.messages.reading import decode, nanoseconds
from stremn_ros.web.requests import Request
from stremn_ros.web.source import MaskMaker, Picture, free_id

KEPT_IMAGES = 30  # as many as the node keeps for seeds (its default seed_buffer)
KEPT_BYTES = 192 * 2**20
SERVICE_PATIENCE = 20.0  # seconds
TOLD_PATIENCE = 5.0  # seconds until the node has told which objects it follows
SLOTS_USED = "slots used"  # of the diagnostics: it names all objects, also while paused
LOOK_PERIOD = 1.0  # seconds between looks for the node's image topic
STOPPED_AFTER = 2.0  # seconds without a mask
PLAIN_AFTER = 1.0  # seconds without a mask, after which images are shown without
PLAIN_PERIOD = 0.1  # seconds between those
WATCHED = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
SECOND = 1_000_000_000
STATES = {TrackedObject.TRACKED: "TRACKED", TrackedObject.OCCLUDED: "OCCLUDED"}
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class NodeSource:
    """See ``source.Source``.

    Args:
        node: full name of the node. camera: of a node with several.
        image_topic: of its images; empty looks it up.
        masks: makes the masks of hints; None: GrabCut does.

    Raises:
        InputError: what cannot be such a name.
        StremnError: ROS cannot be started.
    """

    abilities = frozenset({"preview", "follow", "remove", "reset", "pause", "play", "save", "load"})

    def __init__(
        self,
        node: str = "/stremn",
        camera: str = "",
        image_topic: str = "",
        masks: HintMasks | None = None,
    ) -> None:
        if image_topic:
            check_name(image_topic, "a topic")
        self._client = SegmentClient(
            node, camera, f"stremn_view_{os.getpid()}", timeout=SERVICE_PATIENCE
        )
        self._node = self._client.target
        self._camera = camera
        self._private = f"{self._node}/{camera}" if camera else self._node
        self.title = self._private
        self._image_topic = image_topic
        self._changed: Callable[[], None] = lambda: None
        self._newest: Picture | None = None
        self._number = 0
        self._masks = MaskMaker(self._kept_frame, masks or HintMasks())
        self._wake = threading.Condition()
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._mask: Any = None  # the newest that was not shown
        self._objects: OrderedDict[int, Any] = OrderedDict()
        self._image: Any = None
        self._mask_times: deque[float] = deque(maxlen=60)
        self._giving = threading.Lock()  # from the choice of an id until the node has answered
        self._given = 0  # the last id that this page gave
        self._tracked: set[int] = set()  # of the node's last answer
        self._latency = 0.0
        self._told: dict[str, str] = {}
        self._message = ""
        self._problem = f"looking for the node {self._node}"
        self._closing = False
        self._subscribed = False
        every = self._client.node
        every.create_subscription(Image, f"{self._private}/mask", self._on_mask, WATCHED)
        every.create_subscription(
            ObjectArray, f"{self._private}/objects", self._on_objects, WATCHED
        )
        every.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 5)
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    @property
    def newest(self) -> Picture | None:
        return self._newest

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def status(self) -> dict[str, Any]:
        times = list(self._mask_times)
        now = time.monotonic()
        times = [when for when in times if when > now - 5.0]
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        playing = self._told.get("enabled", "true") == "true"
        stopped = self._newest is not None and playing and not times
        problem = self._problem
        if stopped and not problem:
            problem = f"The stream has stopped. {self._message}"
        dropped = self._told.get("dropped", "")
        return {
            "playing": playing,
            "position": 0,
            "count": 0,
            "fps": 0.0,
            "live": True,
            "rate": (len(times) - 1) / span if span else 0.0,
            "latency": self._latency,
            "dropped": int(dropped) if dropped.isdecimal() else 0,
            "doing": "",
            "problem": problem,
            "stopped": stopped,
        }

    def do(self, request: Request) -> dict[str, Any]:
        if request.do == "preview":
            if not request.stamp:  # of a camera without stamps: the image is another one each time
                self._masks.clear()
            return self._masks.preview(request.stamp, request.hints)
        if request.do == "follow":
            return self._follow(request)
        calls: dict[str, Callable[[], Any]] = {
            "remove": lambda: self._client.remove(request.object_id),
            "reset": self._client.reset,
            "pause": lambda: self._client.enable(False),
            "play": lambda: self._client.enable(True),
            "save": self._client.save,
            "load": self._client.load,
        }
        answer = calls[request.do]()
        self._note_tracked(answer)
        if not answer.success:
            raise StremnError(answer.message)
        if request.do in ("pause", "play"):  # the diagnostics say it in a while
            self._told["enabled"] = "true" if request.do == "play" else "false"
        return {"message": answer.message or request.do}

    def _follow(self, request: Request) -> dict[str, Any]:
        """The mask that was shown, and no other: the node gets it with the stamp of its image."""
        _, mask = self._masks.make(request.stamp, request.hints)
        stamp = Time(sec=request.stamp // SECOND, nanosec=request.stamp % SECOND)
        with self._giving:
            # not one that was given a moment ago, which no message tells of yet
            object_id = request.object_id or free_id(self._known_ids(), self._given)
            answer = self._client.seed_mask(
                mask * np.uint8(object_id),
                [request.name] if request.name else [],
                stamp=stamp,
                strict=True,
            )
            self._note_tracked(answer)
            if answer.success and not request.object_id:
                self._given = object_id
        if not answer.success:
            raise StremnError(
                f"{answer.message} (the node keeps images for a while only: click again and follow "
                "sooner, or raise its parameter seed_buffer)"
                if not answer.exact and answer.stamp.sec == 0
                else answer.message
            )
        return {"message": answer.message, "object": answer.ids[0] if answer.ids else object_id}

    def _known_ids(self) -> set[int]:
        """Of all objects that the node may follow.

        Raises:
            StremnError: the node has not told yet; while it is paused only its diagnostics do.
        """
        with self._wake:
            if not self._wake.wait_for(
                lambda: self._objects or SLOTS_USED in self._told or self._closing, TOLD_PATIENCE
            ):
                raise StremnError(
                    f"{self._node} has not told which objects it follows: wait for its images or "
                    "its /diagnostics, and follow again"
                )
            messages = {item.id for array in self._objects.values() for item in array.objects}
            used = self._told.get(SLOTS_USED, "")
        told = {int(number) for number in re.findall(r"(\d+):", used)}
        return messages | told | self._tracked

    def _note_tracked(self, answer: Any) -> None:
        if answer.success and hasattr(answer, "tracked_ids"):
            self._tracked = {int(number) for number in answer.tracked_ids}

    def _kept_frame(self, stamp: int) -> NDArray[np.uint8]:
        with self._wake:
            message = self._images.get(stamp)
        picture = self._newest
        if picture is not None and picture.stamp == stamp:
            return picture.frame
        if message is None:
            raise InputError("that picture is no longer kept: click again on one that is shown now")
        return decode(message)

    def close(self) -> None:
        self._closing = True
        with self._wake:
            self._wake.notify_all()
        self._thread.join()
        self._client.close()

    # ------------------------------------------------------------------ ROS's thread

    def _on_image(self, message: Any) -> None:
        with self._wake:
            self._images[nanoseconds(message.header.stamp)] = self._image = message
            size = len(message.data)
            while len(self._images) > 1 and (
                len(self._images) > KEPT_IMAGES or len(self._images) * size > KEPT_BYTES
            ):
                self._images.popitem(last=False)
            self._wake.notify_all()

    def _on_mask(self, message: Any) -> None:
        with self._wake:
            self._mask = message
            self._mask_times.append(time.monotonic())
            self._wake.notify_all()

    def _on_objects(self, message: Any) -> None:
        with self._wake:
            self._objects[nanoseconds(message.header.stamp)] = message
            self._latency = float(message.latency)
            while len(self._objects) > KEPT_IMAGES:
                self._objects.popitem(last=False)
            self._wake.notify_all()

    def _on_diagnostics(self, message: Any) -> None:
        name = f"{self._node.lstrip('/')}: segmentation"
        name += f" of {self._camera}" if self._camera else ""
        for status in message.status:
            if status.name == name:
                with self._wake:
                    self._told = {item.key: item.value for item in status.values}
                    self._message = status.message
                    self._wake.notify_all()

    # ------------------------------------------------------------------ the thread of pictures

    def _run(self) -> None:
        looked = plain = 0.0
        while not self._closing:
            now = time.monotonic()
            if not self._subscribed and now - looked > LOOK_PERIOD:
                looked = now
                with self._told_problem():
                    self._subscribe()
            image, mask, objects = self._next(now - plain > PLAIN_PERIOD)
            if image is None:
                continue
            if mask is None:
                plain = now
            with self._told_problem():
                self._show(image, mask, objects)

    def _next(self, plain: bool) -> tuple[Any, Any, Any]:
        """The newest image with its mask and objects, as soon as there is one; or None.

        plain: where no masks come, an image without one will do.
        """
        with self._wake:
            self._wake.wait_for(lambda: self._mask is not None or self._closing, PLAIN_PERIOD)
            mask, self._mask = self._mask, None
            if mask is not None:
                stamp = nanoseconds(mask.header.stamp)
                # the mask may come before the objects, and even before the image
                self._wake.wait_for(
                    lambda: (stamp in self._images and stamp in self._objects) or self._closing,
                    PLAIN_PERIOD,
                )
                return self._images.get(stamp), mask, self._objects.get(stamp)
            last = self._mask_times[-1] if self._mask_times else 0.0
            image = None
            if plain and time.monotonic() - last > PLAIN_AFTER:
                image, self._image = self._image, None
            return image, None, None

    @contextlib.contextmanager
    def _told_problem(self) -> Iterator[None]:
        """Whatever is wrong with an image or the node is told on the page, and ends nothing."""
        try:
            yield
            self._problem = ""
        except Exception as error:
            self._problem = str(error) or type(error).__name__
            self._changed()

    def _subscribe(self) -> None:
        """Subscribes to the node's images.

        Raises:
            StremnError: the node is not there, or the topic cannot be told.
        """
        node = self._client.node
        topic = self._image_topic or self._find_topic()
        kinds = dict(node.get_topic_names_and_types()).get(node.resolve_topic_name(topic), [])
        if not kinds:
            raise StremnError(f"waiting for images on {topic}")
        kind = CompressedImage if COMPRESSED in kinds else Image
        node.create_subscription(kind, topic, self._on_image, WATCHED)
        self._subscribed = True

    def _find_topic(self) -> str:
        """The topic of images that the node subscribes to."""
        namespace, _, name = self._node.rpartition("/")
        node = self._client.node
        try:
            found = node.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except Exception:  # rclpy's own, of a node that is not there
            raise StremnError(f"no node {self._node} is running: see `ros2 node list`") from None
        topics = sorted(
            topic
            for topic, kinds in found
            if {IMAGE, COMPRESSED} & set(kinds) and not topic.startswith(f"{self._node}/")
        )
        if not topics:
            raise StremnError(f"{self._node} subscribes to no images: is it active?")
        if len(topics) > 1:
            raise StremnError(
                f"{self._node} subscribes to {', '.join(topics)}: give --camera and --image-topic"
            )
        return topics[0]

    def _show(self, image: Any, mask: Any, objects: Any) -> None:
        frame = decode(image)
        labels = np.zeros(frame.shape[:2], np.uint8)
        if mask is not None:
            found = image_read.decode_labels(mask)
            if found.shape == labels.shape:
                labels = found
        self._number += 1
        items = objects.objects if objects is not None else ()
        self._newest = Picture(
            self._number,
            nanoseconds(image.header.stamp),
            frame,
            labels,
            tuple(
                {
                    "id": int(item.id),
                    "name": item.name,
                    "state": STATES.get(item.state, "LOST"),
                    "score": round(float(item.score), 3),
                    "area": int(item.area),
                    "box": [item.box.x_offset, item.box.y_offset, item.box.width, item.box.height],
                }
                for item in items
            ),
            time=nanoseconds(image.header.stamp),
        )
        self._changed()
