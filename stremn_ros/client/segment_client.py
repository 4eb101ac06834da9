"""A running segmentation node, for programs that use it: `stremn seed`, the demo, your own.

client = SegmentClient("/stremn")
answer = client.seed_object(name="cup", box=(210, 120, 90, 110))
print(answer.success, answer.message)
client.close()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point32, Polygon
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject
from stremn_ros.client.peer import Peer, check_name, wait_for
from stremn_ros.errors import InputError, StremnError
from stremn_ros.messages import image_write
from stremn_ros.messages.reading import frame_size
from stremn_ros.nodes.image_input import offered_reliability

Point = Sequence[float]

# Sides of a mask and of the images may differ by this share of their ratio, for rounding.
ASPECT_TOLERANCE = 0.01

# the largest that the messages can carry
LARGEST_ID = 2**31 - 1
LARGEST_SIDE = 2**32 - 1

STARTING = ("configuring", "activating")  # states of a node that is about to be active


def fit_mask(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A label mask [H, W] at the images' size (rows, columns).

    Raises:
        InputError: it is of another shape, so that it cannot be of these images.
    """
    rows, columns = labels.shape
    if (rows, columns) == size:
        return labels
    if abs(columns * size[0] - rows * size[1]) > ASPECT_TOLERANCE * rows * size[1]:
        raise InputError(
            f"the mask is {columns} x {rows} pixels and the images are {size[1]} x {size[0]}: they "
            "are of another shape; draw the mask on one of the images"
        )
    fitted = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(fitted, np.uint8)


def _whole(value: Any, what: str, most: int) -> int:
    # rclpy raises a SystemError for what a message cannot carry, and may send -1 all the same
    number = isinstance(value, Real)
    if not (number and 0 <= value <= most and value == int(value)):
        raise InputError(f"{what} is {value!r}; it must be a whole number, 0 to {most}")
    return int(value)


def _text(value: Any, what: str) -> str:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"{what} is {value!r}; it must be a text") from None
    return str(value)


def _points(given: Sequence[Point], what: str) -> list[Point32]:
    try:
        return [Point32(x=float(x), y=float(y)) for x, y in given]
    except (TypeError, ValueError):
        raise InputError(f"{what}: a list of (x, y) pairs is wanted, not {given!r}") from None


class SegmentClient(Peer):
    """Calls the services of a segmentation node, or of one of its cameras.

    Each call returns the service's response, with `success` and `message`.

    Args:
        node: its full name.
        camera: of a node with several; empty for a node with one.
        name: of this client's own node.
        timeout: seconds that a call may take.

    Raises:
        InputError: what cannot be such a name.
        StremnError: ROS cannot be started here; of each call: the node does not answer in time, or
            the client was closed.

    A call that is given what cannot be sent raises InputError.
    """

    def __init__(
        self,
        node: str = "/stremn",
        camera: str = "",
        name: str = "stremn_client",
        timeout: float = 60.0,
    ) -> None:
        self.target = "/" + node.strip("/")
        check_name(self.target, "a node")
        if camera:
            check_name(camera, "a camera")
        super().__init__(name)
        self._private = f"{self.target}/{camera}" if camera else self.target
        self._timeout = timeout

    def connect(self) -> str:
        """Makes sure that the node runs and receives this client's calls; its lifecycle state."""
        self._check_open()
        try:
            return self.state(self.target, self._timeout)
        except StremnError:
            raise StremnError(
                f"no node {self.target} answers within {self._timeout:g} s: see `ros2 node list` "
                "for its name, and give both sides the same ROS_DOMAIN_ID"
            ) from None

    def is_starting(self) -> bool:
        """Whether the node is configuring or activating: a call that failed may succeed later."""
        return self.state(self.target, self._timeout) in STARTING

    def wait_while_starting(self) -> str:
        """The node's state once it is neither configuring nor activating.

        Raises:
            StremnError: it still is after the client's timeout.
        """
        state = ""

        def settled() -> bool:
            nonlocal state
            before, state = state, self.state(self.target, self._timeout)
            # twice, because a node that starts itself is inactive for a moment between the two
            return state == before and state not in STARTING

        wait_for(settled, f"{self.target} to load its model", self._timeout, every=0.2)
        return state

    def seed_mask(
        self,
        labels: NDArray[np.uint8],
        names: Sequence[str] = (),
        *,
        stamp: Time | None = None,
        replace: bool = False,
        strict: bool = False,
        on_overlap: int = SeedMask.Request.SEED_AGAIN,
    ) -> Any:
        """Seeds the objects of a label mask, uint8 [H, W] of the images' size.

        stamp: of the image that the mask is of; None for the newest. The rest: see SeedMask.srv.
        """
        if isinstance(names, str):
            raise InputError(f"names is the text {names!r}; a list of texts is wanted")
        request = SeedMask.Request(
            names=[_text(name, "a name") for name in names],
            replace=bool(replace),
            strict=bool(strict),
            on_overlap=_whole(on_overlap, "on_overlap", 255),
        )
        if stamp is not None:
            request.mask.header.stamp = stamp
        image_write.encode(request.mask, labels, "mono8")
        return self._call(SeedMask, "seed_mask", request)

    def seed_object(
        self,
        name: str = "",
        object_id: int = 0,
        *,
        box: tuple[int, int, int, int] | None = None,
        polygon: Sequence[Point] = (),
        inside: Sequence[Point] = (),
        outside: Sequence[Point] = (),
        stamp: Time | None = None,
        strict: bool = False,
        on_overlap: int = SeedObject.Request.SEED_AGAIN,
        return_mask: bool = False,
    ) -> Any:
        """Seeds one object from hints in pixels of the image; see SeedObject.srv.

        object_id: 0 takes a free one. box: (x, y, width, height).
        """
        request = SeedObject.Request(
            id=_whole(object_id, "object_id", LARGEST_ID),
            name=_text(name, "name"),
            polygon=Polygon(points=_points(polygon, "polygon")),
            points_inside=_points(inside, "inside"),
            points_outside=_points(outside, "outside"),
            strict=bool(strict),
            on_overlap=_whole(on_overlap, "on_overlap", 255),
            return_mask=bool(return_mask),
        )
        if box is not None:
            names = ("x_offset", "y_offset", "width", "height")
            values = list(box) if isinstance(box, Iterable) else []
            if len(values) != len(names):
                raise InputError(f"box is {box!r}; it must be (x, y, width, height)")
            request.box = RegionOfInterest(
                **{
                    name: _whole(value, f"the box's {name}", LARGEST_SIDE)
                    for name, value in zip(names, values)
                }
            )
        if stamp is not None:
            request.stamp = stamp
        return self._call(SeedObject, "seed_object", request)

    def remove(self, object_id: int) -> Any:
        """Stops following an object."""
        request = RemoveObject.Request(id=_whole(object_id, "object_id", LARGEST_ID))
        return self._call(RemoveObject, "remove_object", request)

    def reset(self) -> Any:
        """Forgets all objects."""
        return self._call(Trigger, "reset", Trigger.Request())

    def enable(self, on: bool) -> Any:
        """Pauses, and goes on."""
        return self._call(SetBool, "enable", SetBool.Request(data=bool(on)))

    def save(self, path: str = "") -> Any:
        """~/save_memory, into a file of the node's `snapshot_dir`; empty: the default name."""
        request = SaveMemory.Request(path=_text(path, "path"))
        return self._call(SaveMemory, "save_memory", request)

    def load(self, path: str = "") -> Any:
        """~/load_memory: the node goes on from such a file, and forgets what it follows now."""
        request = LoadMemory.Request(path=_text(path, "path"))
        return self._call(LoadMemory, "load_memory", request)

    def image_size(self, timeout: float) -> tuple[int, int] | None:
        """(rows, columns) of the images that the node segments; None where none comes in time."""
        self._check_open()
        masks: list[Image] = []
        # kept to the end: rclpy does not bear that one is destroyed while another thread spins
        self.node.create_subscription(
            Image, f"{self._private}/mask", lambda mask: None if masks else masks.append(mask), 1
        )
        try:
            wait_for(lambda: masks, "a mask", timeout)
        except StremnError:
            return None
        return frame_size(masks[0])

    def first_image(self, topic: str, timeout: float) -> Any:
        """The first image that comes on a topic from now on: an Image or a CompressedImage.

        It is asked for as its publishers offer it, reliably or not.

        Raises:
            InputError: that is no name of a topic.
            StremnError: none comes in time.
        """
        self._check_open()
        check_name(topic, "a topic")
        topic = self.node.resolve_topic_name(topic)
        images: list[Any] = []
        what = f"a publisher of {topic}"
        wait_for(lambda: offered_reliability(self.node, topic) is not None, what, timeout)
        kinds = [kind for name, kind in self.node.get_topic_names_and_types() if name == topic]
        compressed = any("sensor_msgs/msg/CompressedImage" in kind for kind in kinds)
        reliability = offered_reliability(self.node, topic) or ReliabilityPolicy.BEST_EFFORT
        self.node.create_subscription(
            CompressedImage if compressed else Image,
            topic,
            lambda message: None if images else images.append(message),
            QoSProfile(depth=5, reliability=reliability),
        )
        wait_for(lambda: images, f"an image on {topic}", timeout)
        return images[0]

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        self._check_open()
        name = f"{self._private}/{service}"
        try:
            return self.call(kind, name, request, self._timeout)
        except StremnError:
            client = self._clients.get(name)
            if client is None or client.service_is_ready():
                raise
            offered = (found for found, _ in self.node.get_service_names_and_types())
            others = sorted(n for n in offered if n.endswith(f"/{service}") and n != name)
            raise StremnError(
                f"there is no service {name}; there is {', '.join(others) or 'none of that name'}"
            ) from None
