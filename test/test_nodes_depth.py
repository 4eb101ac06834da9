"""The depth camera of a node: whom it listens to and when, what ages, what is not installed."""

from __future__ import annotations

import array
import itertools
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import Peer, image_message, own_node, segment_node, to_time, wait_for
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from shapes import DISC, SQUARE, TINY_MODEL, scene
from spatial_peer import AWAY, CAMERA, DEPTH, FRAME, SpatialPeer, measured, scene_depth
from test_messages_spatial import detection_types, stand_in

from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import SeedMask
from stremn_ros.messages.spatial import TransformTypes
from stremn_ros.nodes import outputs
from stremn_ros.nodes.depth_input import info_topic_of
from stremn_ros.results import SegmentResult
from stremn_ros.spatial import Pair
from stremn_ros.stream.answers import Known, Segmented
from stremn_ros.stream.intake import Frame
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.spatial_core import Placed

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- other nodes


def test_a_publisher_whose_qos_does_not_fit_is_told(tmp_path):
    """The node asks for reliable depth, and the camera does not offer it."""
    with segment_node(tmp_path, {"depth_topic": DEPTH}) as node, SpatialPeer() as peer:
        peer.node.destroy_publisher(peer.depths)
        best = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        peer.depths = peer.node.create_publisher(Image, DEPTH, best)
        peer.bring_up(node)
        peer.connect(scene(0)[0])

        def said():
            peer.segment(scene(0)[0])
            return f"QoS mismatch with a publisher of {DEPTH}: its reliability" in peer.told

        wait_for(said, "the diagnostics to tell")
        assert "set image_reliability to auto" in peer.told


def test_topics_of_another_type_are_told(tmp_path):
    """Compressed images where raw ones are expected, and the other way round for depth."""
    parameters = {"depth_topic": "/other_depth", "frame_timeout": 0.1}
    with segment_node(tmp_path, parameters, remaps=["image:=/camera/compressed"]) as node:
        peer, camera = SpatialPeer(), Peer("camera")
        try:
            wrong = peer.node.create_publisher(CompressedImage, "/camera/compressed", 1)
            peer.node.create_publisher(CompressedImage, "/other_depth", 1)
            peer.bring_up(node)
            takes = "has sensor_msgs/msg/CompressedImage, and this node takes sensor_msgs/msg/Image"
            wait_for(lambda: f"/camera/compressed {takes}" in peer.told, "the type of the images")
            assert "set image_transport to compressed" in peer.told
            # depth is subscribed to once an image came
            peer.node.destroy_publisher(wrong)
            images = camera.node.create_publisher(Image, "/camera/compressed", 1)

            def said():
                images.publish(image_message(scene(0)[0], time.time_ns()))
                return f"/other_depth {takes}" in peer.told

            wait_for(said, "the type of the depth images")
            assert "ends in /compressedDepth" in peer.told
            assert f"/camera/compressed {takes}" not in peer.told
        finally:
            camera.close()
            peer.close()


def test_what_needs_a_depth_camera_says_so_without_one():
    given = (f"model:={TINY_MODEL}", "click_model:=''")
    says = "no object has a position without a depth camera: set depth_topic"
    with own_node(*given, "publish_tf:=true", "follow_id:=3") as node:
        node.trigger_configure()
        node.trigger_activate()
        (camera,) = node._cameras
        report = camera.report()
        assert f"publish_tf and follow_id: {says}" in report.message + report.values["also"]
        node.set_parameters([Parameter("follow_id", value=0)])
        report = camera.report()
        assert f"publish_tf: {says}" in report.message + report.values["also"]
    with own_node(*given) as node:
        node.trigger_configure()
        node.trigger_activate()
        report = node._cameras[0].report()
        assert says not in report.message + report.values["also"]


def test_nothing_is_done_while_nobody_wants_it(tmp_path):
    """No subscription to the depth camera, and none of what would need it."""
    with (
        segment_node(tmp_path, {"depth_topic": DEPTH, "image_reliability": "auto"}) as node,
        SpatialPeer() as peer,
    ):
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        peer.listens()  # as ~/objects has a subscriber
        peer.node.destroy_subscription(peer.objects_subscription)

        def count():
            peer.publish(scene(0)[0])
            return peer.depths.get_subscription_count() + peer.infos.get_subscription_count()

        wait_for(lambda: count() == 0, "the node to let go of the depth camera", every=0.05)
        for _ in range(5):
            assert count() == 0
        assert peer.fresh_diagnostics()["depth"] == "asleep: nobody wants objects in space"
        assert DEPTH not in peer.told
        peer.watch(PointCloud2, "points")
        wait_for(lambda: count() == 2, "the node to listen again", every=0.05)
        peer.unwatch("points")
        wait_for(lambda: count() == 0, "the node to let go again", every=0.05)


def test_each_camera_has_a_depth_camera_of_its_own_or_none(tmp_path):
    """compressedDepth for one, and a camera_info that is elsewhere; nothing for the other."""
    topic, info = "/rgbd/depth/image/compressedDepth", "/elsewhere/info"
    parameters = {
        "cameras": ["left", "right"],
        "depth_topic": f"left={topic}",
        "depth_camera_info_topic": f"left={info}",
    }
    with segment_node(tmp_path, parameters) as node:
        left = SpatialPeer(camera="left", topic="/left/image", depth="/unused", info=info)
        right = SpatialPeer(camera="right", topic="/right/image", depth="/unused2", info="/unused3")
        left.depths = left.node.create_publisher(CompressedImage, topic, 10)

        def send_depth(depth, stamp, **_):
            message = CompressedImage(format="16UC1; compressedDepth png")
            message.header.stamp, message.header.frame_id = to_time(stamp), FRAME
            png = cv2.imencode(".png", depth)[1].tobytes()
            message.data = array.array("B", bytes(12) + png)
            left.depths.publish(message)

        left.send_depth = send_depth
        try:
            left.bring_up(node)
            left.connect(scene(0)[0])
            right.connect(scene(0)[0])
            left.segment(scene(0)[0])
            left.seed(scene(0)[1])
            left.watch(ObjectArray, "objects_3d")
            _, _, found = left.shown("objects_3d")
            assert [item.id for item in found.objects] == [DISC, SQUARE]
            for item in found.objects:
                assert item.position.z == pytest.approx(AWAY[item.id], abs=0.002)
            topics = {name for name, _ in left.node.get_topic_names_and_types()}
            assert "/stremn/left/points" in topics
            assert "/stremn/right/points" not in topics
        finally:
            left.close()
            right.close()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (["depth_topic:=left=/a"], "one topic, as the node has one camera"),
        (["depth_topic:=/a,/b"], "twice|one topic"),
        (["depth_topic:=/a b"], "no name of a topic"),
        (["cameras:=[left, right]", "depth_topic:=/a"], "NAME=TOPIC,NAME=TOPIC"),
        (["cameras:=[left, right]", "depth_topic:=up=/a"], "names of cameras .left, right."),
        (["cameras:=[left, right]", "depth_camera_info_topic:=left=/a,left=/b"], "left is there"),
    ],
)
def test_a_depth_topic_that_cannot_be_is_refused_in_configure(parameters, says):
    with own_node(f"model:={TINY_MODEL}", *parameters) as node:
        assert node.trigger_configure() != TransitionCallbackReturn.SUCCESS
        assert re.search(says, node._failure), node._failure


def test_cycles_leave_no_thread_and_no_subscription():
    with own_node(f"model:={TINY_MODEL}", "cameras:=[left, right]", "depth_topic:=left=/d") as node:
        for _ in range(3):
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            left, right = node._cameras
            assert (left._space is None, right._space is None) == (False, True)
            left._depth.start()
            assert {"/d", "/camera_info"} <= {item.topic_name for item in node.subscriptions}
            left._depth.stop()
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
            assert not [item for item in threading.enumerate() if item.name == "spatial"]
            names = {item.topic_name for item in (*node.subscriptions, *node.publishers)}
            assert not names & {"/d", "/camera_info", "/stremn/left/points"}


def test_the_camera_info_is_beside_the_depth():
    assert info_topic_of("/cam/depth/image_raw") == "/cam/depth/camera_info"
    assert info_topic_of("/cam/depth/image_raw/compressedDepth") == "/cam/depth/camera_info"
    assert info_topic_of("depth") == "camera_info"


# ---------------------------------------------------------------- age and QoS


def test_images_and_seeds_older_than_max_age_are_dropped(tmp_path):
    with segment_node(tmp_path, {"max_age": 5.0}) as node, SpatialPeer() as peer:
        peer.bring_up(node)
        peer._stamp = time.time_ns()
        peer.connect(scene(0)[0])
        peer.segment(scene(0)[0])
        before = peer.settled_counters()
        old = itertools.count(time.time_ns() - 60 * 10**9, 10**8)

        def told():  # two of one time at least: a single stamp might be a wrong one
            peer.publish(scene(0)[0], next(old))
            return "were older than max_age (5 s)" in peer.told

        wait_for(told, "the diagnostics", 30.0, every=0.05)
        received, segmented, dropped, failed = peer.settled_counters()
        assert segmented == before[1]
        assert received - before[0] == dropped - before[2]
        assert failed == 0
        mask = image_message(scene(0)[1], next(old), "mono8")
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask)
        assert not answer.success
        assert "max_age is 5 s" in answer.message
        assert peer.set_parameter("max_age", 0.0)[0]
        stamp = next(old)
        peer.segment(scene(0)[0], stamp)
        peer.seed(scene(0)[1], stamp)


def test_the_mask_has_the_deadline_and_lifespan_of_the_parameters(tmp_path):
    with (
        segment_node(tmp_path, {"mask_deadline": 0.5, "mask_lifespan": 0.25}) as node,
        SpatialPeer() as peer,
    ):
        peer.bring_up(node)

        def offers(name):
            found = peer.node.get_publishers_info_by_topic(f"/stremn/{name}")
            return found and found[0].qos_profile

        quality = wait_for(lambda: offers("mask"), "the publisher of the mask")
        assert quality.deadline.nanoseconds == 500_000_000
        assert quality.lifespan.nanoseconds == 250_000_000
        other = wait_for(lambda: offers("objects"), "the publisher of the objects")
        assert other.deadline.nanoseconds > 10**15


# ---------------------------------------------------------------- without their packages


def test_transforms_and_detections_over_dds(tmp_path):
    """Where tf2_msgs and vision_msgs are installed; where not, the node says so and goes on."""
    with (
        segment_node(tmp_path, {"depth_topic": DEPTH, "publish_tf": True}) as node,
        SpatialPeer() as peer,
    ):
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        peer.segment(scene(0)[0])
        peer.seed(scene(0)[1], names=["cup", "box"])
        types = outputs.TRANSFORM_TYPES
        if types is None:
            wait_for(lambda: "tf2_msgs is not installed" in peer.told, "the diagnostics")
            pytest.skip("tf2_msgs/TFMessage IS NOT TESTED HERE: no wheels of it exist")
        peer.watch(types.message, "/tf")
        _, _, found = peer.shown("/tf")
        assert {item.child_frame_id for item in found.transforms} == {
            "stremn_cup",
            "stremn_box",
        }


def recorder(kind, name, quality, **_):
    return SimpleNamespace(
        kind=kind,
        name=name,
        sent=(sent := []),
        publish=sent.append,
        get_subscription_count=lambda: 1,
    )


def test_the_rows_of_packages_that_have_no_wheels_make_their_messages(monkeypatch):
    """With stand-ins of tf2_msgs and vision_msgs, and publishers that only keep what they get."""
    transforms = TransformTypes(stand_in(transforms=list), TransformStamped)
    detections = detection_types(real=False)
    monkeypatch.setattr(outputs, "TRANSFORM_TYPES", transforms)
    monkeypatch.setattr(outputs, "DETECTION_3D_TYPES", detections)
    kinds = {"/tf": transforms.message, "detections_3d": detections.array}
    rows = [replace(row, kind=kinds.get(row.name, row.kind)) for row in outputs.OUTPUTS]
    monkeypatch.setattr(outputs, "OUTPUTS", tuple(rows))
    fake = SimpleNamespace(
        create_lifecycle_publisher=recorder,
        get_fully_qualified_name=lambda: "/robot1/stremn",
        get_clock=None,
    )
    frame, truth = scene(0)
    depth = scene_depth(truth)
    message = image_message(frame, 10**9, frame_id=FRAME)
    found, tracker = measured(truth, depth, 10**9)
    segmented = Segmented(
        Frame(message, 1, 10**9, 0.0), frame, SegmentResult(truth), {DISC: "red cup"}
    )
    pair = Pair(segmented, 10**9, depth, 0.0, CAMERA, 10**9, FRAME)
    made = outputs.Outputs(fake, "~/left/", Settings(), {"publish_tf": True}, in_space=True)
    # every listener of /tf would log each transform without a frame, or with a stamp it has had
    message.header.frame_id = ""
    made.publish_in_space(Placed(segmented, pair, Known("", found), tracker))
    message.header.frame_id = FRAME
    for _ in range(2):
        made.publish_in_space(Placed(segmented, pair, Known(FRAME, found), tracker))
    assert (Known("", found).unframed, Known(FRAME, found).unframed) == (True, False)
    sent = {publisher.name: publisher.sent for _, publisher in made._in_space}
    (tf,) = sent["/tf"]
    names = {item.child_frame_id: item for item in tf.transforms}
    assert set(names) == {"robot1_stremn_left_red_cup", "robot1_stremn_left_object_2"}
    assert names["robot1_stremn_left_red_cup"].header == message.header
    array_3d = sent["~/left/detections_3d"][0]
    assert [item.id for item in array_3d.detections] == ["1", "2"]
    # without the parameter nothing goes out on /tf, which belongs to all
    made = outputs.Outputs(fake, "~/", Settings(), {}, in_space=True)
    assert "/tf" not in {publisher.name for _, publisher in made._in_space}
