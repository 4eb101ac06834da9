"""image_reliability: auto, through real DDS: every image of every camera, whatever it offers."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import NodeProcess, SegmentPeer, image_message, own_node, wait_for
from sensor_msgs.msg import Image
from shapes import TINY_MODEL, scene

from stremn_ros.nodes.image_input import offered_reliability

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """With the defaults: nothing is said of reliability."""
    process = NodeProcess(
        "segment_node",
        tmp_path_factory.mktemp("node"),
        {"model": str(TINY_MODEL), "runtime": "torch", "diagnostics_period": 0.2},
    )
    yield process
    process.stop()


@pytest.fixture(scope="module")
def peer(node):
    made = SegmentPeer()
    made.node.destroy_publisher(made.images)
    made.bring_up(node)
    yield made
    made.close()


@pytest.fixture
def camera(peer):
    """Makes a publisher, ended after the test."""
    made = []

    def publisher(reliability):
        made.append(
            peer.node.create_publisher(
                Image, "/image", QoSProfile(depth=5, reliability=reliability)
            )
        )
        return made[-1]

    yield publisher
    for one in made:
        peer.node.destroy_publisher(one)
    wait_for(lambda: peer.node.count_publishers("/image") == 0, "the cameras to be gone")


def asked(peer):
    """What the node asks for, by its subscriptions of the topic; None while it has not one."""
    infos = peer.node.get_subscriptions_info_by_topic("/image")
    return infos[0].qos_profile.reliability if len(infos) == 1 else None


def images_arrive(peer, publisher):
    """All of some images, one by one."""
    peer.images = publisher

    def first():
        stamp = peer.publish(scene(0)[0])
        try:
            return wait_for(lambda: stamp in peer.masks, "a mask", 1.0)
        except Exception:
            return False

    wait_for(first, "the camera to be heard")
    for step in range(5):
        peer.segment(scene(step)[0])


def test_a_camera_of_either_kind_is_heard_as_it_offers(peer, node, camera):
    wait_for(lambda: asked(peer) == RELIABLE, "the node to ask for all images")
    images_arrive(peer, camera(RELIABLE))
    assert asked(peer) == RELIABLE
    lost = int(peer.fresh_diagnostics()["lost in transport"])
    # one that is not reliable comes beside it: the node hears both
    other = camera(BEST_EFFORT)
    wait_for(lambda: asked(peer) == BEST_EFFORT, "the node to ask for less")
    node.wait_for_log("/image: asking for best-effort images, as its publishers offer")
    images_arrive(peer, other)
    images_arrive(peer, peer.images)
    assert int(peer.fresh_diagnostics()["lost in transport"]) == lost
    assert "QoS mismatch" not in node.log


def test_once_the_best_effort_camera_is_gone_all_images_are_asked_for_again(peer, node, camera):
    images_arrive(peer, camera(BEST_EFFORT))
    assert asked(peer) == BEST_EFFORT
    reliable = camera(RELIABLE)
    images_arrive(peer, reliable)
    assert asked(peer) == BEST_EFFORT, "both are there"


def test_after_that_a_reliable_camera_alone_is_heard_reliably(peer, node, camera):
    images_arrive(peer, camera(RELIABLE))
    wait_for(lambda: asked(peer) == RELIABLE, "the node to ask for all images")
    images_arrive(peer, peer.images)
    assert peer.transition("deactivate")
    assert peer.transition("activate")
    wait_for(lambda: asked(peer) == RELIABLE, "the subscription")
    images_arrive(peer, peer.images)
    assert "Traceback" not in node.log


@pytest.mark.parametrize("setting", ["auto", "best_effort"])
def test_a_reliability_given_for_the_topic_wins(setting):
    override = "qos_overrides./image.subscription.reliability:=reliable"
    with own_node(f"model:={TINY_MODEL}", f"image_reliability:={setting}", override) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        images = node._cameras[0]._images
        assert images._subscription.qos_profile.reliability == RELIABLE
        images.look()
        assert images._subscription.qos_profile.reliability == RELIABLE


def test_the_depth_of_an_output_can_be_overridden():
    name = "qos_overrides./stremn/mask.publisher.depth"
    with own_node(f"model:={TINY_MODEL}", f"{name}:=100") as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        by_topic = {made.topic_name: made for made in node._cameras[0]._outputs._made}
        assert by_topic["/stremn/mask"].qos_profile.depth == 100
        assert by_topic["/stremn/objects"].qos_profile.depth == 1
        # and again, when it is configured again
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node._cameras[0]._outputs._made[0].qos_profile.depth == 100


@pytest.mark.parametrize("value", ["-1", "many", "1.5", str(2**40)])
@pytest.mark.parametrize("entity", ["/stremn/mask.publisher", "/image.subscription"])
def test_an_override_that_ros_refuses_is_named(entity, value, capfd):
    with own_node(f"model:={TINY_MODEL}", f"qos_overrides.{entity}.depth:={value}") as node:
        configured = node.trigger_configure()
        if entity == "/image.subscription":
            assert configured == TransitionCallbackReturn.SUCCESS
            assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        else:
            assert configured == TransitionCallbackReturn.FAILURE
    told = capfd.readouterr().err
    shown = f"'{value}'" if value == "many" else value
    assert f"qos_overrides.{entity}.depth: {shown}: ROS refuses this" in told
    assert "Traceback" not in told


def test_another_setting_holds_after_the_next_configure():
    with own_node(f"model:={TINY_MODEL}", "image_reliability:=best_effort") as node:
        for setting, expected in (
            ("best_effort", BEST_EFFORT),
            ("reliable", RELIABLE),
            ("auto", RELIABLE),
            ("best_effort", BEST_EFFORT),
        ):
            change = [Parameter("image_reliability", value=setting)]
            assert node.set_parameters(change)[0].successful
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            subscription = node._cameras[0]._images._subscription
            assert subscription.qos_profile.reliability == expected
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def test_what_fits_all_publishers(peer, camera):
    assert offered_reliability(peer.node, "/nobody") is None
    camera(RELIABLE)
    wait_for(lambda: offered_reliability(peer.node, "/image") == RELIABLE, "the publisher")
    camera(BEST_EFFORT)
    wait_for(lambda: offered_reliability(peer.node, "/image") == BEST_EFFORT, "the other one")


def test_a_reliable_setting_still_refuses_a_best_effort_camera(tmp_path):
    process = NodeProcess(
        "segment_node",
        tmp_path,
        {"model": str(TINY_MODEL), "runtime": "torch", "image_reliability": "reliable"},
        remaps=["image:=/other", "__node:=strict"],
    )
    other = SegmentPeer("/other", "/strict")
    try:
        other.bring_up(process, "/strict")
        quality = QoSProfile(depth=5, reliability=BEST_EFFORT)
        camera = other.node.create_publisher(Image, "/other", quality)
        process.wait_for_log("QoS mismatch with a publisher of /other: its reliability")
        camera.publish(image_message(scene(0)[0]))
        assert "set image_reliability to auto or best_effort" in process.log
    finally:
        other.close()
        process.stop()
