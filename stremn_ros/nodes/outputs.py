"""What a camera of the segmentation node publishes of each frame: one row for each topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Point32, PoseStamped, TransformStamped, Vector3
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_ros import results
from stremn_ros.imaging import visualization
from stremn_ros.messages import image_write, spatial
from stremn_ros.messages.detections import (
    VisionTypes,
    detection_3d_types,
    to_detections,
    to_label_info,
    vision_types,
)
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.nodes.qos import RESULTS, create_result_publisher
from stremn_ros.results import ObjectState
from stremn_ros.spatial import SpatialObject, depth_without_objects, masked_depth
from stremn_ros.stream.ahead import Ahead, MasksAhead
from stremn_ros.stream.answers import Known, Segmented
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.spatial_core import Demand, Placed

LATCHED = QoSProfile(  # for those who come later as well
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
TRANSFORMS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)  # as tf2 has it

NAN = float("nan")
CLOUD_TYPES = spatial.CloudTypes(PointCloud2, PointField)
MARKER_TYPES = spatial.MarkerTypes(MarkerArray, Marker, Point)
DETECTION_3D_TYPES = detection_3d_types()  # None where vision_msgs is not installed
TRANSFORM_TYPES = spatial.transform_types(TransformStamped)  # None where tf2_msgs is not


@dataclass
class Making:
    """What the messages of one camera are made with.

    Attributes:
        settings: of the node. frames: the names of TF frames. markers: it keeps which were sent.
        depth: written to by the outputs that are depth images. clock: the node's. ahead: masks for
            a later time than their image's. transformed: stamp of the last transforms.
    """

    settings: Settings
    clock: Callable[[], Any]
    frames: spatial.FrameNames
    ahead: MasksAhead = field(default_factory=MasksAhead)
    markers: spatial.MarkerBuilder = field(default_factory=spatial.MarkerBuilder)
    depth: NDArray[Any] | None = None
    transformed: int = 0


@dataclass(frozen=True)
class Output:
    """One topic.

    Attributes:
        name: below that of the node, or with `/` in front a name for all nodes.
        kind: of message; None where its package is not installed, and nothing is published.
        make: the message of a `Segmented` frame, or of a `Placed` one for an output that is
            `in_space`; None for no message. Its stamp is copied, never made.
        on_demand: only while somebody subscribes. where: and while the settings say so.
        in_space: it needs the depth camera; it is there where a depth topic is set.
        oriented: it shows oriented boxes, which take time.
        quality: of the topic.
    """

    name: str
    kind: Any
    make: Callable[[Any, Making], Any]
    on_demand: bool = False
    where: Callable[[Settings], bool] = lambda settings: True
    in_space: bool = False
    oriented: bool = False
    quality: QoSProfile = field(default_factory=lambda: RESULTS)

    def wanted(self, settings: Settings, publisher: Any) -> bool:
        """Whether a message is to be made now."""
        if not self.where(settings):
            return False
        return not self.on_demand or publisher.get_subscription_count() > 0


def _mask(segmented: Segmented, _: Making) -> Image:
    message = Image(header=segmented.frame.message.header)
    return image_write.encode(message, segmented.result.labels, "mono8")


def _objects(segmented: Segmented, _: Making) -> ObjectArray:
    return _object_array(segmented, segmented.known)


def _ahead(segmented: Segmented, making: Making) -> tuple[Ahead, Header]:
    now = making.clock().now().nanoseconds
    ahead = making.ahead.of(segmented, making.settings.mask_horizon, now)
    frame = segmented.frame.message.header.frame_id
    return ahead, Header(stamp=_time(ahead.stamp), frame_id=frame)


def _predicted_mask(segmented: Segmented, making: Making) -> Image:
    ahead, header = _ahead(segmented, making)
    return image_write.encode(Image(header=header), ahead.labels, "mono8")


def _predicted_objects(segmented: Segmented, making: Making) -> ObjectArray:
    ahead, header = _ahead(segmented, making)
    message = ObjectArray(header=header, latency=time.monotonic() - segmented.frame.arrival)
    for found in ahead.objects:
        made = _tracked_object(found, segmented.names.get(found.id, ""))
        _set_place(made, None, "")
        message.objects.append(made)
    return message


def _overlay(segmented: Segmented, making: Making) -> Image:
    message = Image(header=segmented.frame.message.header)
    return image_write.encode(message, _tinted(segmented, making), "rgb8")


def _overlay_jpeg(segmented: Segmented, making: Making) -> CompressedImage:
    message = CompressedImage(header=segmented.frame.message.header)
    return image_write.encode_jpeg(message, _tinted(segmented, making))


def _tinted(segmented: Segmented, making: Making) -> NDArray[np.uint8]:
    alpha = making.settings.overlay_alpha
    return visualization.overlay(segmented.rgb, segmented.result.labels, alpha)


def _objects_3d(placed: Placed, _: Making) -> ObjectArray:
    return _object_array(placed.segmented, placed.known)


def _points(placed: Placed, making: Making) -> PointCloud2:
    cloud = placed.tracker.cloud(placed.segmented.rgb, voxel=making.settings.points_voxel)
    return spatial.to_point_cloud(CLOUD_TYPES, _header(placed), cloud)


def _masked_depth(placed: Placed, making: Making) -> Image:
    labels, depth = placed.segmented.result.labels, placed.pair.depth
    making.depth = masked_depth(labels, depth, out=making.depth)
    return _depth_image(placed, making.depth)


def _depth_without_objects(placed: Placed, making: Making) -> Image:
    labels, depth = placed.segmented.result.labels, placed.pair.depth
    making.depth = depth_without_objects(labels, depth, out=making.depth)
    return _depth_image(placed, making.depth)


def _markers(placed: Placed, making: Making) -> MarkerArray:
    names = placed.segmented.names
    return making.markers.build(MARKER_TYPES, _header(placed), placed.objects, names)


def _detections_3d(placed: Placed, _: Making) -> Any:
    assert DETECTION_3D_TYPES is not None  # else the row has no publisher
    return spatial.to_detections_3d(DETECTION_3D_TYPES, _header(placed), placed.objects)


def _transforms(placed: Placed, making: Making) -> Any:
    assert TRANSFORM_TYPES is not None  # else the row has no publisher
    header, stamp = _header(placed), placed.segmented.frame.stamp
    # every listener would log each that has no frame, or a stamp for the second time
    if not header.frame_id or stamp == making.transformed:
        return None
    making.transformed = stamp
    names = placed.segmented.names
    return spatial.to_transforms(TRANSFORM_TYPES, header, placed.objects, names, making.frames)


def _follow_pose(placed: Placed, making: Making) -> PoseStamped | None:
    wanted = making.settings.follow_id
    found = [item for item in placed.objects if item.id == wanted]
    return spatial.to_pose(PoseStamped, _header(placed), found[0]) if found else None


# in the order in which they go out
OUTPUTS = (
    Output("mask", Image, _mask),
    Output("objects", ObjectArray, _objects),
    Output("predicted_mask", Image, _predicted_mask, on_demand=True),
    Output("predicted_objects", ObjectArray, _predicted_objects, on_demand=True),
    Output("overlay", Image, _overlay, on_demand=True, where=lambda settings: settings.overlay),
    Output(
        "overlay/compressed",
        CompressedImage,
        _overlay_jpeg,
        on_demand=True,
        where=lambda settings: settings.overlay,
    ),
    Output(
        "follow_pose",
        PoseStamped,
        _follow_pose,
        on_demand=True,
        where=lambda settings: settings.follow_id > 0,
        in_space=True,
    ),
    Output("objects_3d", ObjectArray, _objects_3d, on_demand=True, in_space=True),
    Output(
        "/tf",
        TRANSFORM_TYPES and TRANSFORM_TYPES.message,
        _transforms,
        in_space=True,
        quality=TRANSFORMS,
    ),
    Output("markers", MarkerArray, _markers, on_demand=True, in_space=True, oriented=True),
    Output(
        "detections_3d",
        DETECTION_3D_TYPES and DETECTION_3D_TYPES.array,
        _detections_3d,
        on_demand=True,
        in_space=True,
        oriented=True,
    ),
    Output("points", PointCloud2, _points, on_demand=True, in_space=True),
    Output("masked_depth", Image, _masked_depth, on_demand=True, in_space=True),
    Output("depth_without_objects", Image, _depth_without_objects, on_demand=True, in_space=True),
)


class Outputs:
    """The publishers of one camera.

    Args:
        node: that they are made on. private: what their names begin with. settings, values: of the
            node's parameters, which may change while it runs.
        in_space: it has a depth camera.
    """

    def __init__(
        self,
        node: LifecycleNode,
        private: str,
        settings: Settings,
        values: Mapping[str, Any],
        in_space: bool = False,
    ) -> None:
        self._node, self._private = node, private
        self._settings, self._values = settings, values
        prefix = private.replace("~", node.get_fully_qualified_name(), 1)  # /tf is of all robots
        self._making = Making(settings, node.get_clock, spatial.FrameNames(prefix))
        self._made: list[Any] = []
        rows = [row for row in OUTPUTS if row.kind is not None and (in_space or not row.in_space)]
        if not values.get("publish_tf"):
            rows = [row for row in rows if row.name != "/tf"]
        made = [(row, self._make(row.kind, row.name, self._quality(row))) for row in rows]
        self._publishers = [pair for pair in made if not pair[0].in_space]
        self._in_space = [pair for pair in made if pair[0].in_space]
        self._objects = next(publisher for row, publisher in made if row.name == "objects")
        self._labels_told: Any = None  # what the last label_info said
        self._vision = vision_types()  # where vision_msgs is installed
        self._label_info: Any = None
        if self._vision is not None:
            self._detections = self._make(self._vision.detection_array, "detections")
            if self._vision.label_info is not None:
                self._label_info = self._make(self._vision.label_info, "label_info", LATCHED)

    def _make(self, kind: Any, name: str, quality: QoSProfile = RESULTS) -> Any:
        full = name if name.startswith("/") else self._private + name
        made = create_result_publisher(self._node, kind, full, quality)
        self._made.append(made)
        return made

    def _quality(self, row: Output) -> QoSProfile:
        """Of a row; that of the mask as its parameters say."""
        if row.name != "mask":
            return row.quality
        quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        if deadline := self._values.get("mask_deadline"):
            quality.deadline = Duration(seconds=deadline)
        if lifespan := self._values.get("mask_lifespan"):
            quality.lifespan = Duration(seconds=lifespan)
        return quality

    def tell_again(self) -> None:
        """The label info goes out with the next frame, whatever was told before."""
        self._labels_told = None

    def publish(self, segmented: Segmented) -> None:
        """All of a frame; in the worker."""
        for row, publisher in self._publishers:
            if row.wanted(self._settings, publisher):
                publisher.publish(row.make(segmented, self._making))
            if row.name == "objects" and self._vision is not None:
                self._publish_vision(self._vision, segmented)

    @property
    def wanted(self) -> bool:
        """Whether somebody subscribes to anything."""
        return any(publisher.get_subscription_count() > 0 for publisher in self._made)

    def demand(self) -> Demand:
        """What somebody wants of the objects in space."""
        wanted = [row for row, made in self._in_space if row.wanted(self._settings, made)]
        told = bool(wanted) or self._objects.get_subscription_count() > 0
        return Demand(told, any(row.oriented for row in wanted))

    def publish_in_space(self, placed: Placed) -> None:
        """What is wanted of a frame whose depth has come; in the thread that measures objects."""
        for row, publisher in self._in_space:
            if row.wanted(self._settings, publisher):
                message = row.make(placed, self._making)
                if message is not None:
                    publisher.publish(message)

    def _publish_vision(self, types: VisionTypes, segmented: Segmented) -> None:
        header, found = segmented.frame.message.header, segmented.result.objects
        if self._label_info is not None:
            ids, score = [item.id for item in found], segmented.min_score
            told = ids, dict(segmented.names), score
            if told != self._labels_told:  # before the first detection that needs it
                info = to_label_info(types, header, ids, segmented.names, score)
                self._label_info.publish(info)
                self._labels_told = told
        self._detections.publish(to_detections(types, header, found))

    def close(self) -> None:
        for publisher in self._made:
            self._node.destroy_lifecycle_publisher(publisher)


def _header(placed: Placed) -> Any:
    """Of what is in space: the frame's own."""
    return placed.segmented.frame.message.header


def _depth_image(placed: Placed, depth: NDArray[Any]) -> Image:
    """With stamp and frame of the depth image, so that the depth camera's camera_info fits it."""
    pair = placed.pair
    header = Header(stamp=_time(pair.depth_stamp), frame_id=pair.depth_frame)
    encoding = "16UC1" if depth.dtype.kind == "u" else "32FC1"
    return image_write.encode(Image(header=header), depth, encoding)


def _time(stamp: int) -> Time:
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def _object_array(segmented: Segmented, known: Known) -> ObjectArray:
    frame = segmented.frame
    message = ObjectArray(header=frame.message.header)
    for found in segmented.result.objects:
        made = _tracked_object(found, segmented.names.get(found.id, ""))
        place = None
        if found.state is not ObjectState.LOST:
            place = known.of(found.id, frame.stamp, segmented.seedings.get(found.id))
        _set_place(made, place, known.frame)
        message.objects.append(made)
    message.latency = time.monotonic() - frame.arrival
    return message


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


def _set_place(message: TrackedObject, place: SpatialObject | None, frame: str) -> None:
    """What is known of an object in space; NaN for the rest."""
    box = velocity = position = None
    if place is not None and place.position is not None:
        message.position_stamp, message.position_frame = _time(place.stamp), frame
        message.depth_valid = place.valid_share
        position, velocity, box = place.position, place.velocity, place.box
    message.position = _xyz(Point, position)
    message.velocity = _xyz(Vector3, velocity)
    message.size = _xyz(Vector3, None if box is None else box.size)


def _xyz(kind: Any, values: tuple[float, float, float] | None) -> Any:
    x, y, z = (NAN, NAN, NAN) if values is None else values
    return kind(x=x, y=y, z=z)
