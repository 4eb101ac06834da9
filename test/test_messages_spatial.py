"""Objects in space as ROS messages, by the installed message classes where there are any, and the
reader of compressed depth images.

vision_msgs and tf2_msgs have no wheels: where they are absent, stand-ins with the fields of their
definitions take their place, and a test that needs the real ones says that it was skipped.
"""

from __future__ import annotations

import array
import importlib
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatial_scenes import SIZE, K, ball, render, tracked

from stremn_ros.errors import InputError
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.messages import spatial
from stremn_ros.messages.compressed_depth import decode_depth
from stremn_ros.spatial import Box3D, Intrinsics, PointCloud, SpatialObject, SpatialTracker
from stremn_ros.spatial.points import POINT


def messages(*names: str):
    """The classes `package/Name`, or a loud skip."""
    found = []
    for name in names:
        package, _, kind = name.partition("/")
        try:
            found.append(getattr(importlib.import_module(f"{package}.msg"), kind))
        except ImportError as error:
            pytest.skip(f"{name} IS NOT TESTED HERE: {error}")
    return found


def header():
    (kind,) = messages("std_msgs/Header")
    made = kind(frame_id="camera_color_optical_frame")
    made.stamp.sec, made.stamp.nanosec = 12, 345_000_000
    return made


def item(number: int = 1, **changes) -> SpatialObject:
    values = {
        "state": "TRACKED",
        "score": 0.8,
        "stamp": 0,
        "position": (0.1, 0.2, 1.5),
        "measured": (0.11, 0.2, 1.5),
        "velocity": (0.3, 0.0, -0.4),
        "covariance": np.arange(36.0).reshape(6, 6),
        "box": Box3D((0.1, 0.2, 1.6), (0.2, 0.3, 0.4)),
        "oriented_box": Box3D((0.1, 0.2, 1.6), (0.4, 0.3, 0.0), (0.0, 0.6, 0.0, 0.8)),
    }
    return SpatialObject(number, **{**values, **changes})


# ---------------------------------------------------------------- clouds


def cloud_types() -> spatial.CloudTypes:
    return spatial.CloudTypes(*messages("sensor_msgs/PointCloud2", "sensor_msgs/PointField"))


def read_points(message) -> list[tuple]:
    """The points of a PointCloud2, read as its definition says, one field at a time."""
    codes = {6: "I", 7: "f"}
    order = ">" if message.is_bigendian else "<"
    data, points = bytes(message.data), []
    for row in range(message.height):
        for column in range(message.width):
            start = row * message.row_step + column * message.point_step
            points.append(
                tuple(
                    struct.unpack_from(order + codes[field.datatype], data, start + field.offset)[0]
                    for field in message.fields
                )
            )
    return points


def test_a_point_cloud_reads_back_as_it_was() -> None:
    depth, labels = render([ball((0.0, 0.0, 1.0), 0.02), ball((0.1, 0.0, 1.0), 0.02)])
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    tracker = SpatialTracker()
    camera = Intrinsics(SIZE[1], SIZE[0], K)
    tracker.update(labels, tracked([1, 2]), depth.astype(np.float32), camera, 0)
    cloud = tracker.cloud(image)
    message = spatial.to_point_cloud(cloud_types(), header(), cloud)
    assert message.header == header()
    assert [field.name for field in message.fields] == ["x", "y", "z", "rgb", "label"]
    assert [field.offset for field in message.fields] == [0, 4, 8, 12, 16]
    assert [field.datatype for field in message.fields] == [7, 7, 7, 7, 6]
    assert all(field.count == 1 for field in message.fields)
    assert message.point_step == 20
    assert message.row_step == 20 * len(cloud)
    assert (message.height, message.width) == (1, len(cloud))
    assert len(message.data) == message.row_step
    assert isinstance(message.data, array.array)
    assert message.is_dense
    assert not message.is_bigendian
    points = read_points(message)
    for index in range(0, len(cloud), 50):
        x, y, z, rgb, label = points[index]
        assert (x, y, z) == tuple(cloud.xyz[index].tolist())
        code = struct.unpack("<I", struct.pack("<f", rgb))[0]
        assert (code >> 16, code >> 8 & 255, code & 255) == tuple(cloud.rgb[index].tolist())
        assert np.isfinite(rgb)  # a NaN would make readers drop the point
        assert label == cloud.labels[index]


def test_a_cloud_without_points_is_a_message() -> None:
    message = spatial.to_point_cloud(cloud_types(), header(), PointCloud(np.empty(0, POINT)))
    assert (message.height, message.width, message.row_step) == (1, 0, 0)
    assert len(message.data) == 0
    assert message.point_step == 20


# ---------------------------------------------------------------- markers


def marker_types() -> spatial.MarkerTypes:
    return spatial.MarkerTypes(
        *messages(
            "visualization_msgs/MarkerArray", "visualization_msgs/Marker", "geometry_msgs/Point"
        )
    )


def shown(message) -> dict:
    return {(marker.ns, marker.id): marker for marker in message.markers}


def test_markers_show_box_name_and_velocity() -> None:
    types = marker_types()
    builder = spatial.MarkerBuilder(lifetime=1.5, ahead=0.5)
    message = builder.build(types, header(), [item(3)], {3: "cup"})
    assert isinstance(message, types.array)
    by_name = shown(message)
    assert set(by_name) == {("box", 3), ("name", 3), ("velocity", 3)}
    cube, text, arrow = by_name["box", 3], by_name["name", 3], by_name["velocity", 3]
    kind = types.marker
    assert (cube.type, text.type, arrow.type) == (kind.CUBE, kind.TEXT_VIEW_FACING, kind.ARROW)
    assert all(marker.action == kind.ADD for marker in message.markers)
    assert all(marker.header == header() for marker in message.markers)
    assert all(marker.color.a > 0 for marker in message.markers)
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == (0.1, 0.2, 1.6)
    assert (cube.pose.orientation.y, cube.pose.orientation.w) == (0.6, 0.8)
    assert (cube.scale.x, cube.scale.y) == (0.4, 0.3)
    assert cube.scale.z > 0  # rviz refuses a flat one
    assert (cube.lifetime.sec, cube.lifetime.nanosec) == (1, 500_000_000)
    assert cube.color.g == pytest.approx(PALETTE[3][1] / 255)
    assert text.text == "cup"
    start, end = arrow.points
    assert (start.x, start.y, start.z) == (0.1, 0.2, 1.5)
    assert (end.x, end.y, end.z) == pytest.approx((0.25, 0.2, 1.3))


@pytest.mark.parametrize(("between", "lifetime"), [(0.05, 1.0), (1.25, 3.75), (60.0, 10.0)])
def test_markers_last_until_the_next_message_of_a_slow_node(between, lifetime) -> None:
    now = 5.0
    builder = spatial.MarkerBuilder(clock=lambda: now)
    for _ in range(3):
        now += between
        message = builder.build(marker_types(), header(), [item(1)], {})
    for marker in message.markers:
        assert marker.lifetime.sec + marker.lifetime.nanosec * 1e-9 == pytest.approx(lifetime)
    kept = spatial.MarkerBuilder(lifetime=0.0).build(marker_types(), header(), [item(1)], {})
    assert kept.markers[0].lifetime.sec == kept.markers[0].lifetime.nanosec == 0


def test_markers_of_what_is_gone_are_deleted_once() -> None:
    types = marker_types()
    builder = spatial.MarkerBuilder()
    builder.build(types, header(), [item(1), item(2)], {})
    message = shown(
        builder.build(types, header(), [item(1, velocity=None), item(2, position=None)], {})
    )
    gone = {key for key, marker in message.items() if marker.action == types.marker.DELETE}
    assert gone == {("velocity", 1), ("box", 2), ("name", 2), ("velocity", 2)}
    assert message["name", 1].text == "object 1"
    later = builder.build(types, header(), [item(1, velocity=None)], {})
    assert all(marker.action == types.marker.ADD for marker in later.markers)
    # a predicted object has no box, and one that stands still no arrow
    predicted = item(1, predicted=True, measured=None, oriented_box=None, velocity=(0.001, 0, 0))
    message = shown(builder.build(types, header(), [predicted], {}))
    assert message["box", 1].action == types.marker.DELETE
    assert ("velocity", 1) not in message
    assert len(builder.build(types, header(), [], {}).markers) == 1


# ---------------------------------------------------------------- detections, transforms, poses


def stand_in(**fields):
    """A class with these fields, made anew for each message, that refuses any other."""

    class Message:
        __slots__ = tuple(fields)

        def __init__(self, **values) -> None:
            for name, make in fields.items():
                setattr(self, name, values.pop(name) if name in values else make())
            assert not values, f"no such fields: {values}"

    return Message


def detection_types(real: bool) -> spatial.Detection3DTypes:
    if real:
        return spatial.Detection3DTypes(
            *messages(
                "vision_msgs/Detection3DArray",
                "vision_msgs/Detection3D",
                "vision_msgs/ObjectHypothesisWithPose",
            )
        )
    pose, vector, covariance = messages(
        "geometry_msgs/Pose", "geometry_msgs/Vector3", "geometry_msgs/PoseWithCovariance"
    )
    bounding_box = stand_in(center=pose, size=vector)
    hypothesis = stand_in(class_id=str, score=float)
    return spatial.Detection3DTypes(
        stand_in(header=header, detections=list),
        stand_in(header=header, results=list, bbox=bounding_box, id=str),
        stand_in(hypothesis=hypothesis, pose=covariance),
    )


@pytest.mark.parametrize("real", [False, True], ids=["stand-ins", "vision_msgs"])
def test_detections_have_box_score_and_covariance(real: bool) -> None:
    types = detection_types(real)
    objects = [item(3), item(4, predicted=True, measured=None, oriented_box=None), item(5)]
    objects.append(item(6, predicted=True))  # an outlier: measured, and not believed
    message = spatial.to_detections_3d(types, header(), objects)
    assert [detection.id for detection in message.detections] == ["3", "5"]
    detection = message.detections[0]
    assert detection.header == message.header == header()
    assert detection.bbox.center.position.z == 1.6
    assert detection.bbox.center.orientation.w == 0.8
    assert (detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z) == (0.4, 0.3, 0.0)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("3", 0.8)
    assert result.pose.pose.position.x == 0.1
    covariance = np.reshape(result.pose.covariance, (6, 6))
    assert (covariance[:3, :3] == np.arange(36.0).reshape(6, 6)[:3, :3]).all()
    assert (covariance.diagonal()[3:] > 9).all()
    assert not covariance[:3, 3:].any()


def transform_types(real: bool) -> spatial.TransformTypes:
    if real:
        return spatial.TransformTypes(
            *messages("tf2_msgs/TFMessage", "geometry_msgs/TransformStamped")
        )
    return spatial.TransformTypes(
        stand_in(transforms=list), *messages("geometry_msgs/TransformStamped")
    )


@pytest.mark.parametrize("real", [False, True], ids=["stand-ins", "tf2_msgs"])
def test_transforms_have_names_that_tf_takes(real: bool) -> None:
    objects = [item(n) for n in (1, 2, 3, 4)] + [item(5, state="LOST", position=None)]
    names = {1: "red cup/1", 2: "cup", 3: "cup", 5: "gone"}
    frames = spatial.FrameNames("/ns/stremn")
    message = spatial.to_transforms(transform_types(real), header(), objects, names, frames)
    children = [transform.child_frame_id for transform in message.transforms]
    assert children == [
        "ns_stremn_red_cup_1",
        "ns_stremn_cup",
        "ns_stremn_cup_3",
        "ns_stremn_object_4",
    ]
    first = message.transforms[0]
    assert first.header == header()
    assert first.transform.translation.y == 0.2
    assert first.transform.rotation.w == 1.0


def test_frames_never_have_the_same_name() -> None:
    names = {1: "a", 2: "a_3", 3: "a", 4: "!!", 5: "ä"}
    message = spatial.to_transforms(
        transform_types(False),
        header(),
        [item(n) for n in range(1, 6)],
        names,
        spatial.FrameNames("n"),
    )
    children = [transform.child_frame_id for transform in message.transforms]
    assert children[3:] == ["n_object_4", "n_object_5"], "nothing is left of these names"
    assert len(set(children)) == 5
    assert all(child.isascii() and child.replace("_", "").isalnum() for child in children)


def test_a_frame_stays_with_its_object() -> None:
    """Whoever follows a frame must not be led to another object of the same name."""
    frames = spatial.FrameNames("n")

    def children(objects: list, names: dict[int, str]) -> dict[str, float]:
        message = spatial.to_transforms(transform_types(False), header(), objects, names, frames)
        return {each.child_frame_id: each.transform.translation.x for each in message.transforms}

    one, two = item(1, position=(1.0, 0.0, 0.0)), item(2, position=(2.0, 0.0, 0.0))
    cups = {1: "cup", 2: "cup"}
    assert children([one, two], cups) == {"n_cup": 1.0, "n_cup_2": 2.0}
    lost = item(1, state="LOST", position=None)
    assert children([lost, two], cups) == {"n_cup_2": 2.0}
    assert children([two], {2: "cup"}) == {"n_cup_2": 2.0}, "the first was removed"
    assert children([one, two], cups) == {"n_cup": 1.0, "n_cup_2": 2.0}
    assert children([one, two], {1: "cup", 2: "mug"}) == {"n_cup": 1.0, "n_mug": 2.0}


def test_a_pose_to_follow_is_silent_when_lost() -> None:
    (pose,) = messages("geometry_msgs/PoseStamped")
    message = spatial.to_pose(pose, header(), item(1))
    assert isinstance(message, pose)
    assert message.header == header()
    assert (message.pose.position.x, message.pose.position.z) == (0.1, 1.5)
    assert message.pose.orientation.w == 1.0
    assert spatial.to_pose(pose, header(), item(1, state="LOST")) is None
    assert spatial.to_pose(pose, header(), item(1, position=None)) is None
    assert spatial.to_pose(pose, header(), item(1, state="OCCLUDED")) is not None


# ---------------------------------------------------------------- compressed depth


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def compressed(data: bytes, format: str = "16UC1; compressedDepth png") -> SimpleNamespace:
    return SimpleNamespace(data=array.array("B", data), format=format)


def quantized(depth: np.ndarray, most: float = 10.0, quantization: float = 100.0) -> bytes:
    """32FC1 as compressed_depth_image_transport/codec.cpp writes it (its defaults)."""
    a = np.float32(quantization * (quantization + 1.0))
    b = np.float32(1.0) - a / np.float32(most)
    codes = np.zeros(depth.shape, np.uint16)
    for place, value in np.ndenumerate(depth):
        if value < most:  # not for NaN
            codes[place] = np.uint16(a / np.float32(value) + b)
    return struct.pack("<iff", 0, a, b) + png(codes)


HEAD = struct.pack("<iff", 0, 0.0, 0.0)
MILLIMETERS = np.random.default_rng(0).integers(0, 9000, (24, 32)).astype(np.uint16)


@pytest.mark.parametrize(
    "format", ["16UC1; compressedDepth png", "16UC1; compressedDepth", "16UC1"]
)
def test_compressed_millimeters_come_back_exactly(format: str) -> None:
    found = decode_depth(compressed(HEAD + png(MILLIMETERS), format))
    assert found.dtype == np.uint16
    assert (found == MILLIMETERS).all()


def test_a_plain_png_of_16_bits_is_millimeters_too() -> None:
    found = decode_depth(compressed(png(MILLIMETERS), "16UC1; png compressed "))
    assert (found == MILLIMETERS).all()


def test_quantized_meters_come_back_within_a_step() -> None:
    depth = np.random.default_rng(1).uniform(0.4, 9.9, (24, 32)).astype(np.float32)
    depth[3, 4:9] = np.nan
    depth[5, 6] = np.inf
    depth[7, 8] = 12.0  # beyond what the sender keeps
    found = decode_depth(compressed(quantized(depth), "32FC1; compressedDepth png"))
    assert found.dtype == np.float32
    known = np.isfinite(depth) & (depth < 10)
    assert np.isnan(found[~known]).all()
    # one code is this many meters at that distance
    step = depth[known] ** 2 / (100.0 * 101.0)
    assert (np.abs(found[known] - depth[known]) <= 1.02 * step + 1e-6).all()


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


GOOD = HEAD + png(MILLIMETERS)
COLOR = png(np.zeros((4, 4, 3), np.uint8))
BAD_COMPRESSED = [
    (b"", "16UC1; compressedDepth png", "no data"),
    (GOOD[:9], "16UC1; compressedDepth png", "cut short: 9 bytes came"),
    (GOOD[:200], "16UC1; compressedDepth png", "cut short"),
    (GOOD[:-5], "16UC1; compressedDepth png", "cut short"),
    (damaged(GOOD, 300), "16UC1; compressedDepth png", "checksum"),
    (HEAD + b"\xff\xd8\xff\xe0" + bytes(90), "16UC1; compressedDepth png", "no PNG"),
    (HEAD + bytes(90), "16UC1; compressedDepth rvl", "compressedDepth.format to png"),
    (HEAD + COLOR, "16UC1; compressedDepth png", "3 channels of uint8"),
    (HEAD + png(np.zeros((4, 4), np.uint8)), "16UC1; compressedDepth png", "1 channels of uint8"),
    (GOOD, "32FC1; compressedDepth png", "the quantization 0, 0"),
    (struct.pack("<iff", 3, 1.0, 1.0) + GOOD[12:], "32FC1; compressedDepth png", "kind 3"),
    (struct.pack("<iff", 0, np.nan, 1) + GOOD[12:], "32FC1; compressedDepth png", "quantization"),
    (GOOD[12:], "32FC1; png compressed", "no header"),
    (GOOD, "bgr8; jpeg compressed bgr8", "encoding 'bgr8'"),
    (GOOD, "", "encoding ''"),
]


@pytest.mark.parametrize(("data", "format", "says"), BAD_COMPRESSED, ids=lambda v: str(v)[:30])
def test_compressed_depth_that_cannot_be_read_says_why(data: bytes, format: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_depth(compressed(data, format))
    assert says in str(caught.value)


def test_a_png_that_claims_an_absurd_size_costs_nothing() -> None:
    import zlib

    head = struct.pack(">II", 60000, 60000) + GOOD[12 + 24 : 12 + 29]
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    claims = GOOD[:20] + chunk + GOOD[12 + 33 :]
    with pytest.raises(InputError, match="claims to be 60000 x 60000"):
        decode_depth(compressed(claims))


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=80),
    st.sampled_from([0, 8, 12, 20, len(GOOD)]),
    st.sampled_from(["16UC1; compressedDepth png", "32FC1; compressedDepth png", "x", ""]),
)
def test_any_bytes_are_read_or_refused(noise: bytes, kept: int, format: str) -> None:
    try:
        found = decode_depth(compressed(GOOD[:kept] + noise, format))
    except InputError:
        return
    assert found.ndim == 2
    assert found.dtype in (np.uint16, np.float32)
