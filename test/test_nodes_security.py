"""What the nodes may do and do: the SROS 2 policy against the live graph, files and sockets."""

from __future__ import annotations

import contextlib
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import pytest
import rclpy
from prediction_helpers import tiny_prediction_model
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import Peer, image_message, own_node, wait_for
from shapes import TINY_MODEL, scene

from stremn_ros.client.bring_up import bring_up
from stremn_ros.nodes.predict_node import PredictNode
from stremn_ros.nodes.video_source_node import VideoSource

POLICY = Path(__file__).resolve().parents[1] / "config" / "security" / "stremn.policy.xml"
RIGHTS = {"publish": "topics", "subscribe": "topics", "reply": "services", "request": "services"}
# not there without vision_msgs, with raw images or without simulated time
SOMETIMES = {
    ("publish", "/stremn/detections"),
    ("publish", "/stremn/label_info"),
    ("subscribe", "/stremn/seed_detections"),
    ("subscribe", "/stremn/seed_yolo"),
    ("subscribe", "/image/compressed"),
    ("subscribe", "/clock"),
    ("subscribe", "/parameter_events"),
    # with a depth camera, the first two while somebody wants what is made of it
    ("subscribe", "/depth"),
    ("subscribe", "/camera_info"),
    ("publish", "/stremn/detections_3d"),
    ("publish", "/tf"),
}
IN_SPACE = {
    ("publish", f"/stremn/{name}")
    for name in (
        "objects_3d",
        "follow_pose",
        "points",
        "masked_depth",
        "depth_without_objects",
        "markers",
    )
}
SUCCESS = TransitionCallbackReturn.SUCCESS


def allowed(node):
    """(right, full name) of all that the policy allows a node, whatever its enclave."""
    found = set()
    for profile in ElementTree.parse(POLICY).iter("profile"):
        if profile.get("node") != node:
            continue
        for part in profile:
            for right, kind in RIGHTS.items():
                if part.get(right) == "ALLOW":
                    assert part.tag == kind
                    for item in part:
                        name = item.text.replace("~", f"/{node}")
                        found.add((right, name if name.startswith("/") else f"/{name}"))
    assert found, f"the policy has nothing of {node}"
    return found


def used(node):
    """(right, full name) of all that a node really has."""
    of = node.get_name(), node.get_namespace()
    found = set()
    for right, listed in (
        ("publish", node.get_publisher_names_and_types_by_node(*of)),
        ("subscribe", node.get_subscriber_names_and_types_by_node(*of)),
        ("reply", node.get_service_names_and_types_by_node(*of)),
        ("request", node.get_client_names_and_types_by_node(*of)),
    ):
        found |= {(right, name) for name, _ in listed}
    return found


def agreed(node, without=frozenset()):
    """The node has what the policy allows, and nothing else. without: what it does without."""
    policy = allowed(node.get_name())
    wait_for(lambda: used(node) <= policy or None, f"all of {used(node) - policy} to be allowed")
    # get_type_description is new in Jazzy
    spare = {item for item in policy - used(node) if not item[1].endswith("/get_type_description")}
    assert spare <= SOMETIMES | without
    assert not without & used(node)


@pytest.mark.parametrize("depth", [False, True])
def test_the_policy_lists_what_the_segmentation_node_has(depth):
    words = ["depth_topic:=depth", "publish_tf:=true"] if depth else []
    with own_node(f"model:={TINY_MODEL}", *words) as node:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        agreed(node, frozenset() if depth else IN_SPACE)
        if depth:
            (camera,) = node._cameras
            camera._depth.start()
            heard = {("subscribe", "/depth"), ("subscribe", "/camera_info")}
            wait_for(lambda: heard <= used(node), "the subscriptions to the depth camera")
            agreed(node)
            camera._depth.stop()


def test_the_policy_lists_what_the_prediction_node_has(tmp_path):
    model = tiny_prediction_model(tmp_path / "tiny")
    with own_node(f"model:={model}", kind=PredictNode) as node:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        agreed(node)


def test_the_policy_lists_what_the_video_source_has(tmp_path):
    for step in range(2):
        cv2.imwrite(str(tmp_path / f"{step}.png"), scene(step)[0])
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]) % 100 + 1)
    node = VideoSource(context=context, cli_args=["--ros-args", "-p", f"path:={tmp_path}"])
    try:
        agreed(node)
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def test_the_policy_lists_what_the_helper_that_activates_has():
    with Peer("bring_up") as peer:
        with contextlib.suppress(Exception):  # no such node: it has asked, and that is enough
            bring_up(peer, "/stremn", 0.5)
        policy = allowed("bring_up")
        wait_for(lambda: used(peer.node), "the graph")
        assert used(peer.node) <= policy
        assert {item for item in policy if item[0] == "request"} == {
            ("request", f"/{node}/{service}")
            for node in ("stremn", "stremn_predict")
            for service in ("change_state", "get_state")
        }


def test_a_user_may_use_everything_the_node_offers_and_nothing_else():
    node, user = allowed("stremn") | allowed("stremn_predict"), allowed("user")
    offered = {name for right, name in node if right in ("publish", "reply")}
    wanted = {name for right, name in user if right in ("subscribe", "request")}
    assert wanted - {"/clock", "/parameter_events"} == offered - {"/parameter_events"}
    published = {name for right, name in user if right == "publish"}
    seeds = {f"/stremn/{name}" for name in ("seed", "seed_detections", "seed_yolo")}
    assert published == {*seeds, "/rosout", "/parameter_events"}


WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
ELSEWHERE = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.")
_heard = None


def _hook(event, arguments):
    if _heard is None:
        return
    if event == "open":
        path, _, flags = arguments
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
        if isinstance(path, (str, bytes)) and flags & writes:
            _heard.append((event, os.fsdecode(path)))
    elif event in WRITES:
        _heard.append((event, os.fsdecode(arguments[0])))
    elif event.startswith(ELSEWHERE) or event in ("subprocess.Popen", "os.system", "os.exec"):
        _heard.append((event, repr(arguments)))


@pytest.fixture
def heard():
    """What Python does with files and sockets from here on; the C++ of DDS is not heard."""
    global _heard
    if not getattr(sys, "_stremn_audit", False):
        sys.addaudithook(_hook)  # for good, so once
        sys._stremn_audit = True
    _heard = []
    yield _heard
    _heard = None


def test_nothing_is_written_outside_the_folder_given_and_nothing_is_connected_to(tmp_path, heard):
    folder = tmp_path / "snapshots"
    with own_node(
        f"model:={TINY_MODEL}",
        f"snapshot_dir:={folder}",
        "autosave_at_stop:=true",
        "autosave_period:=0.1",
        "autoload:=true",
    ) as node:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        (camera,) = node._cameras
        camera._core.on_frame(image_message(scene(0)[0], 10**9))
        wait_for(camera._core.idle, "the frame")
        assert camera._core.seed_mask(image_message(scene(0)[1], 0, "mono8")).success
        box = camera._core.seed_object(0, "box", box=(20, 20, 60, 60))
        assert box.success, box.message
        assert camera._snapshots.save("by_hand").success
        for name in ("../x", "/tmp/x", "a/b", "..", ""):
            assert camera._snapshots.save(name).success == (name == "")
        assert camera._snapshots.load("by_hand").success
        for step in range(1, 4):
            camera._core.on_frame(image_message(scene(step)[0], 10**9 + step * 10**8))
            wait_for(camera._core.idle, "the frame")
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
    files = {path for event, path in heard if event in ("open", *WRITES)}
    assert any(path.startswith(str(folder)) for path in files), "the hook heard nothing"
    outside = {path for path in files if not path.startswith(str(folder))}
    # what Python itself keeps of modules that are imported late
    outside = {path for path in outside if "__pycache__" not in path and path != "/dev/null"}
    assert outside == set()
    assert [item for item in heard if item[0] not in ("open", *WRITES)] == []
    assert sorted(path.name for path in folder.iterdir()) == [
        "by_hand.safetensors",
        "stremn.safetensors",
    ]


def test_a_link_in_the_place_of_the_hidden_file_is_not_followed(tmp_path):
    """Snapshots are written beside their place first; a link put there leads nowhere."""
    folder, victim = tmp_path / "snapshots", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / ".stremn.safetensors.tmp").symlink_to(victim)
    with own_node(f"model:={TINY_MODEL}", f"snapshot_dir:={folder}") as node:
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        (camera,) = node._cameras
        camera._core.on_frame(image_message(scene(0)[0], 10**9))
        wait_for(camera._core.idle, "the frame")
        assert camera._core.seed_mask(image_message(scene(0)[1], 0, "mono8")).success
        assert camera._snapshots.save().success
        # nor is one in the place of the snapshot itself, for reading or writing
        (folder / "link.safetensors").symlink_to(victim)
        for call in (camera._snapshots.save, camera._snapshots.load):
            answer = call("link")
            assert not answer.success
            assert "is a link" in answer.message
    assert victim.read_text() == "precious"
    assert not (folder / "stremn.safetensors").is_symlink()
