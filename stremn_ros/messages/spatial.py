"""Objects in space as ROS messages: point clouds, markers, detections, transforms and poses.

The message classes are handed in, so that nothing here imports ROS and a conversion can be tried
without the package of its messages. Results and clouds are those of `stremn_ros.spatial`, used by
their fields. Every builder copies `header`: the stamp is the image's, the frame the results' own.
"""

from __future__ import annotations

import array
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stremn_ros.imaging.checks import name_of
from stremn_ros.imaging.palette import PALETTE

# sensor_msgs/PointField
_UINT32, _FLOAT32 = 6, 7
# visualization_msgs/Marker
_ARROW, _CUBE, _TEXT = 0, 1, 9
_ADD, _DELETE = 0, 2
_BOX, _NAME, _VELOCITY = "box", "name", "velocity"
_SLOWEST = 0.02  # m/s; below it an arrow would show noise
_THINNEST = 0.001  # m; rviz draws nothing of a box with an edge of 0
_LONGEST = 10.0  # s that markers are shown at most
_TURN_UNKNOWN = np.pi**2  # rad^2: the variance of an orientation that may be any


@dataclass(frozen=True)
class CloudTypes:
    """sensor_msgs: PointCloud2, PointField."""

    cloud: Any
    field: Any


@dataclass(frozen=True)
class MarkerTypes:
    """visualization_msgs: MarkerArray, Marker; geometry_msgs: Point."""

    array: Any
    marker: Any
    point: Any


@dataclass(frozen=True)
class Detection3DTypes:
    """vision_msgs: Detection3DArray, Detection3D, ObjectHypothesisWithPose."""

    array: Any
    detection: Any
    hypothesis: Any


@dataclass(frozen=True)
class TransformTypes:
    """tf2_msgs: TFMessage; geometry_msgs: TransformStamped."""

    message: Any
    transform: Any


def transform_types(transform: Any) -> TransformTypes | None:
    """The classes of a TFMessage; None where tf2_msgs is not installed.

    Args:
        transform: the class geometry_msgs/TransformStamped.
    """
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return TransformTypes(TFMessage, transform)


def to_point_cloud(types: CloudTypes, header: Any, cloud: Any) -> Any:
    """A PointCloud2 with the fields x, y, z (meters), rgb and label, one row of points.

    Args:
        cloud: a `PointCloud`; its structured array `data` is sent as it lies in memory, little
            endian. rgb is a FLOAT32 that holds 0x00RRGGBB, as PCL and rviz read it; label is a
            UINT32, the object's id.
    """
    data = cloud.data
    message = types.cloud(header=header)
    message.height = 1
    message.width = len(data)
    for name in data.dtype.names:
        kind = _UINT32 if name == "label" else _FLOAT32
        offset = int(data.dtype.fields[name][1])
        message.fields.append(types.field(name=name, offset=offset, datatype=kind, count=1))
    message.is_bigendian = False
    message.point_step = data.dtype.itemsize
    message.row_step = data.dtype.itemsize * len(data)
    # an array.array is taken as it is; any other sequence would be checked byte by byte
    sent = array.array("B")
    if len(data):
        sent.frombytes(np.ascontiguousarray(data).view(np.uint8).data)
    message.data = sent
    message.is_dense = True  # pixels without depth have no point
    return message


class MarkerBuilder:
    """Boxes, names and arrows of velocity for rviz; deletes those of objects that are gone.

    It keeps which markers it has sent, at most three for each of 255 ids.

    Args:
        lifetime: seconds after which rviz drops markers that nobody renews, more where messages
            come more slowly; 0 keeps them.
        ahead: seconds of motion that an arrow shows. clock: monotonic seconds.
    """

    def __init__(
        self,
        lifetime: float = 1.0,
        ahead: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lifetime = lifetime
        self.ahead = ahead
        self._clock = clock
        self._built = clock()  # when the last message was
        self._shown = lifetime
        self._sent: set[tuple[str, int]] = set()

    def build(
        self, types: MarkerTypes, header: Any, objects: Sequence[Any], names: Mapping[int, str]
    ) -> Any:
        """A MarkerArray of the objects that have a position.

        An object whose position is predicted keeps its name and arrow and has no box.

        Args:
            objects: of the tracker. names: by id; see ``imaging.checks.name_of``.
        """
        now = self._clock()
        slow = min(3.0 * (now - self._built), _LONGEST)  # else they would blink
        self._built, self._shown = now, max(self.lifetime, slow) if self.lifetime else 0.0
        message = types.array()
        sent: set[tuple[str, int]] = set()
        for item in objects:
            if item.position is None:
                continue
            made = [self._name(types, header, item, name_of(item.id, names))]
            if item.oriented_box is not None:
                made.append(self._box(types, header, item))
            if item.velocity is not None and np.linalg.norm(item.velocity) >= _SLOWEST:
                made.append(self._arrow(types, header, item))
            message.markers.extend(made)
            sent |= {(marker.ns, marker.id) for marker in made}
        for namespace, object_id in sorted(self._sent - sent):
            gone = types.marker(header=header, ns=namespace, id=object_id, action=_DELETE)
            message.markers.append(gone)
        self._sent = sent
        return message

    def _marker(
        self, types: MarkerTypes, header: Any, item: Any, namespace: str, kind: int, alpha: float
    ) -> Any:
        marker = types.marker(header=header, ns=namespace, id=item.id, type=kind, action=_ADD)
        marker.lifetime.sec = int(self._shown)
        marker.lifetime.nanosec = int(self._shown % 1 * 1e9)
        marker.pose.orientation.w = 1.0
        red, green, blue = (float(value) / 255 for value in PALETTE[item.id])
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = red, green, blue, alpha
        return marker

    def _box(self, types: MarkerTypes, header: Any, item: Any) -> Any:
        marker = self._marker(types, header, item, _BOX, _CUBE, 0.4)
        _set_pose(marker.pose, item.oriented_box.center, item.oriented_box.orientation)
        x, y, z = (max(_THINNEST, edge) for edge in item.oriented_box.size)
        marker.scale.x, marker.scale.y, marker.scale.z = x, y, z
        return marker

    def _name(self, types: MarkerTypes, header: Any, item: Any, name: str) -> Any:
        marker = self._marker(types, header, item, _NAME, _TEXT, 1.0)
        _set_point(marker.pose.position, item.position)
        height = 0.05 if item.box is None else min(max(0.25 * max(item.box.size), 0.03), 0.3)
        marker.scale.z = height  # of a capital letter
        marker.text = name
        return marker

    def _arrow(self, types: MarkerTypes, header: Any, item: Any) -> Any:
        marker = self._marker(types, header, item, _VELOCITY, _ARROW, 1.0)
        end = [at + self.ahead * speed for at, speed in zip(item.position, item.velocity)]
        for place in (item.position, end):
            point = types.point()
            _set_point(point, place)
            marker.points.append(point)
        marker.scale.x, marker.scale.y = 0.01, 0.025  # shaft and head
        return marker


def to_detections_3d(types: Detection3DTypes, header: Any, objects: Iterable[Any]) -> Any:
    """A Detection3DArray of the objects that were measured in this image.

    Each has one hypothesis: the object's id as its class (`label_info` tells its name), its score
    and the filtered position with its covariance. The box is the oriented one, of the visible part.
    """
    message = types.array(header=header)
    for item in objects:
        if item.position is None or item.predicted or item.oriented_box is None:
            continue
        detection = types.detection(header=header, id=str(item.id))
        box = item.oriented_box
        _set_pose(detection.bbox.center, box.center, box.orientation)
        detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = box.size
        hypothesis = types.hypothesis()
        hypothesis.hypothesis.class_id = str(item.id)
        hypothesis.hypothesis.score = item.score
        _set_pose(hypothesis.pose.pose, item.position, box.orientation)
        covariance = np.zeros((6, 6))
        covariance[:3, :3] = item.covariance[:3, :3]
        covariance[range(3, 6), range(3, 6)] = _TURN_UNKNOWN
        hypothesis.pose.covariance = covariance.ravel().tolist()
        detection.results.append(hypothesis)
        message.detections.append(detection)
    return message


def to_transforms(
    types: TransformTypes,
    header: Any,
    objects: Iterable[Any],
    names: Mapping[int, str],
    frames: FrameNames,
) -> Any:
    """A TFMessage for /tf: a frame `<prefix>_<name>` at each object that has a position.

    The frames are parallel to the parent frame: an object's own axes would jump where its shape
    has no direction. An object that is LOST has no position and so no transform.

    Args:
        objects: all that are followed, also those without a position.
        names: by id; a name that is missing, or that another object has, is made of the id.
    """
    message = types.message()
    listed = list(objects)
    children = frames.of([item.id for item in listed], names)
    for item in listed:
        if item.position is None:
            continue
        transform = types.transform(header=header, child_frame_id=children[item.id])
        _set_point(transform.transform.translation, item.position)
        transform.transform.rotation.w = 1.0
        message.transforms.append(transform)
    return message


class FrameNames:
    """The frame_id of each object, `<prefix>_<name>`: it is never that of another one, and stays as
    long as the object is followed by that name.

    Args:
        prefix: such as the node's full name.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._frames: dict[int, tuple[str, str]] = {}  # what it was made of, and the frame

    def of(self, ids: Iterable[int], names: Mapping[int, str]) -> dict[int, str]:
        """By id. ids: all objects that are followed; names: of those that have one."""
        wanted = {
            number: frame_name(self._prefix, names.get(number, ""), f"object_{number}")
            for number in ids
        }
        self._frames = {
            number: kept for number, kept in self._frames.items() if wanted.get(number) == kept[0]
        }
        taken = {child for _, child in self._frames.values()}
        for number, name in wanted.items():
            if number not in self._frames:
                child = name
                while child in taken:
                    child = f"{child}_{number}"
                taken.add(child)
                self._frames[number] = name, child
        return {number: child for number, (_, child) in self._frames.items()}


def frame_name(prefix: str, name: str, otherwise: str) -> str:
    """A frame_id of a node's name and an object's: letters, digits and underscores only.

    otherwise: instead of a name that has none of these.
    """

    def plain(text: str) -> str:
        return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")

    return f"{plain(prefix)}_{plain(name) or otherwise}"


def to_pose(pose: Any, header: Any, item: Any) -> Any | None:
    """A PoseStamped of an object for Nav2's Following Server; None where nothing should be sent.

    That is where it is LOST or nothing is known of its position. The orientation is the frame's.

    Args:
        pose: the class geometry_msgs/PoseStamped.
    """
    if item.position is None or item.state == "LOST":
        return None
    message = pose(header=header)
    _set_pose(message.pose, item.position, (0.0, 0.0, 0.0, 1.0))
    return message


def _set_point(target: Any, values: Sequence[float]) -> None:
    target.x, target.y, target.z = (float(value) for value in values)


def _set_pose(target: Any, position: Sequence[float], orientation: Sequence[float]) -> None:
    _set_point(target.position, position)
    target.orientation.x, target.orientation.y, target.orientation.z, target.orientation.w = (
        float(value) for value in orientation
    )
