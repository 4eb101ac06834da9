"""Objects in space, from a depth camera over real DDS to every topic that tells of them."""

from __future__ import annotations

import math
import struct
import time

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from ros_helpers import image_message, segment_node, to_stamp, wait_for
from sensor_msgs.msg import Image, PointCloud2
from shapes import DISC, SQUARE, iou, scene
from spatial_peer import AWAY, DEPTH, FOCAL, FRAME, K, SpatialPeer, measured, scene_depth
from visualization_msgs.msg import Marker, MarkerArray

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_interfaces.srv import RemoveObject
from stremn_ros.messages import image_read
from stremn_ros.spatial import depth_without_objects, masked_depth

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spatial")
    with segment_node(
        folder, {"depth_topic": DEPTH, "follow_id": DISC, "frame_timeout": 1.0}
    ) as it:
        yield it


@pytest.fixture(scope="module")
def peer(node):
    with SpatialPeer() as peer:
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        peer.segment(scene(0)[0])
        peer.seed(scene(0)[1], names=["cup", "box"])
        peer.listens()
        yield peer


def test_objects_3d_are_of_the_image_and_objects_have_the_newest(node, peer):
    peer.watch(ObjectArray, "objects_3d")
    peer.shown("objects_3d")
    stamp, labels, array = peer.shown("objects_3d")  # a still scene: the filter has settled
    assert (to_stamp(array.header.stamp), array.header.frame_id) == (stamp, FRAME)
    wanted, _ = measured(labels, scene_depth(scene(0)[1]), stamp)
    assert [item.id for item in array.objects] == [DISC, SQUARE]
    for item in array.objects:
        place = wanted[item.id]
        assert to_stamp(item.position_stamp) == stamp
        assert item.position_frame == FRAME
        found = (item.position.x, item.position.y, item.position.z)
        assert found == pytest.approx(place.position, abs=0.005)
        assert item.position.z == pytest.approx(AWAY[item.id], abs=0.002)
        assert (item.size.x, item.size.y, item.size.z) == pytest.approx(place.box.size)
        assert item.depth_valid == pytest.approx(place.valid_share) == 1.0
        assert abs(item.velocity.z) < 0.05
    # ~/objects goes out with the mask, before the depth of its image: it has what came before
    frame, truth = scene(0)
    following = peer.next_stamp()
    _, objects = peer.segment(frame, following, frame_id=FRAME)
    for item in objects.objects:
        assert stamp <= to_stamp(item.position_stamp) < following
        assert item.position.z == pytest.approx(AWAY[item.id], abs=0.01)
    peer.send_depth(scene_depth(truth), following)
    wait_for(lambda: following in peer.got["objects_3d"], "the 3D of the mask that was there")
    peer.unwatch("objects_3d")


def test_points_are_those_of_the_mask_with_color_and_label(node, peer):
    peer.watch(PointCloud2, "points")
    stamp, labels, cloud = peer.shown("points", 3)
    assert cloud.header.frame_id == FRAME
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb", "label"]
    _, tracker = measured(labels, scene_depth(scene(3)[1]), stamp)
    expected = tracker.cloud(scene(3)[0])
    assert cloud.width == len(expected) > 500
    assert bytes(cloud.data) == expected.data.tobytes()
    *_, z, _, label = struct.unpack_from("<fffII", cloud.data)
    assert z == pytest.approx(AWAY[label], abs=1e-3)
    # fewer with voxels, from the next image on
    ok, reason = peer.set_parameter("points_voxel", 0.05)
    assert ok, reason
    _, _, fewer = peer.shown("points", 3)
    assert 0 < fewer.width < cloud.width / 10
    assert not peer.set_parameter("points_voxel", 0.0001)[0]
    assert peer.set_parameter("points_voxel", 0.0)[0]
    peer.unwatch("points")


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_depth_images_with_and_without_the_objects(node, peer, kind):
    for name in ("masked_depth", "depth_without_objects"):
        peer.watch(Image, name)
    depth = scene_depth(scene(0)[1]).astype(kind)
    if kind is np.float32:
        depth /= 1000
    stamp, labels, masked = peer.shown("masked_depth", 0, depth=depth)
    wait_for(lambda: stamp in peer.got["depth_without_objects"], "its complement")
    rest = peer.got["depth_without_objects"][stamp]
    for message, make in ((masked, masked_depth), (rest, depth_without_objects)):
        assert message.encoding == ("16UC1" if kind is np.uint16 else "32FC1")
        assert message.header.frame_id == FRAME
        np.testing.assert_array_equal(image_read.decode_depth(message), make(labels, depth))
    for name in ("masked_depth", "depth_without_objects"):
        peer.unwatch(name)


def test_depth_images_have_the_stamp_of_the_depth(node, peer):
    """So that the depth camera's camera_info is that of these images, too."""
    peer.watch(Image, "masked_depth")
    frame, truth = scene(0)
    peer.shown("masked_depth")
    stamp = peer.next_stamp()
    peer.send_depth(scene_depth(truth), stamp + 10_000_000)
    peer.segment(frame, stamp, frame_id=FRAME)
    wait_for(lambda: stamp + 10_000_000 in peer.got["masked_depth"], "depth 10 ms after its image")
    peer.unwatch("masked_depth")


def test_markers_show_the_objects_and_go_with_them(node, peer):
    peer.watch(MarkerArray, "markers")
    _, _, message = peer.shown("markers", 0)
    shown = {(marker.ns, marker.id): marker for marker in message.markers}
    assert {("box", DISC), ("box", SQUARE), ("name", DISC), ("name", SQUARE)} <= shown.keys()
    assert shown["name", DISC].text == "cup"
    assert shown["box", SQUARE].pose.position.z == pytest.approx(AWAY[SQUARE], abs=0.02)
    assert peer.call(RemoveObject, "/stremn/remove_object", id=SQUARE).success
    _, _, message = peer.shown("markers", 0)
    gone = {m.ns for m in message.markers if m.id == SQUARE and m.action == Marker.DELETE}
    assert {"box", "name"} <= gone
    peer.unwatch("markers")
    peer.seed(np.where(scene(0)[1] == SQUARE, SQUARE, 0).astype(np.uint8))


def test_the_pose_of_the_followed_object_is_silent_when_it_is_lost(node, peer):
    peer.watch(PoseStamped, "follow_pose")
    peer.watch(ObjectArray, "objects_3d")
    _, _, pose = peer.shown("follow_pose", 0)
    assert pose.header.frame_id == FRAME
    assert pose.pose.position.z == pytest.approx(AWAY[DISC], abs=0.01)
    assert pose.pose.orientation.w == 1.0
    assert peer.set_parameter("follow_id", 0)[0]
    stamp, _, _ = peer.shown("objects_3d", 0)
    assert stamp not in peer.got["follow_pose"]
    assert not peer.set_parameter("follow_id", 256)[0]
    assert peer.set_parameter("follow_id", SQUARE)[0]
    _, _, pose = peer.shown("follow_pose", 0)
    assert pose.pose.position.z == pytest.approx(AWAY[SQUARE], abs=0.01)
    # nothing but background: the object is LOST after lost_after images, and has no pose any more
    empty = np.full((120, 160, 3), 90, np.uint8)
    assert peer.set_parameter("lost_after", 3)[0]
    depth = np.full((120, 160), 3000, np.uint16)
    for _ in range(6):
        stamp = peer.next_stamp()
        peer.send_depth(depth, stamp)
        _, objects = peer.segment(empty, stamp, frame_id=FRAME)
    assert [item.state for item in objects.objects] == [TrackedObject.LOST] * 2
    assert all(math.isnan(item.position.z) for item in objects.objects)
    assert all(to_stamp(item.position_stamp) == 0 for item in objects.objects)
    wait_for(lambda: stamp in peer.got["objects_3d"], "the image in which it is lost")
    assert stamp not in peer.got["follow_pose"]
    peer.unwatch("follow_pose")
    peer.unwatch("objects_3d")
    assert peer.set_parameter("lost_after", -1)[0] or peer.set_parameter("lost_after", 0)[0]
    peer.segment(scene(0)[0])
    peer.seed(scene(0)[1], names=["cup", "box"])


# ---------------------------------------------------------------- bad input


def plane(value, kind=np.float32, size=(120, 160)):
    return np.full(size, value, kind)


def holed():
    """Depth of all but the disc, as of a thing of glass."""
    depth = scene_depth(scene(0)[1])
    depth[cv2.dilate((scene(0)[1] == DISC).astype(np.uint8), np.ones((9, 9))) > 0] = 0
    return depth


BAD = {
    "a hole where an object is": (
        lambda p, t: p.send_depth(holed(), t),
        f"object {DISC} has no position: 0 of its mask's",
    ),
    "another size": (lambda p, t: p.send_depth(plane(900, np.uint16, (120, 240)), t), "same view"),
    "another encoding": (
        lambda p, t: p.send_depth(np.zeros((120, 160, 3), np.uint8), t, "rgb8"),
        "depth is 16UC1 or mono16",
    ),
    "another frame": (
        lambda p, t: p.send_depth(scene_depth(scene(0)[1]), t, frame_id="elsewhere"),
        "the depth image is in the frame 'elsewhere'",
    ),
    "NaN": (lambda p, t: p.send_depth(plane(math.nan), t), "100% NaN or infinite"),
    "infinite": (lambda p, t: p.send_depth(plane(math.inf), t), "100% NaN or infinite"),
    "zeros": (lambda p, t: p.send_depth(plane(0, np.uint16), t), "100% 0"),
    "negative": (lambda p, t: p.send_depth(plane(-1.0), t), "100% negative"),
    "millimeters as floats": (lambda p, t: p.send_depth(plane(900.0), t), "look like millimeters"),
    "far away stamps": (
        lambda p, t: p.send_depth(scene_depth(scene(0)[1]), t - 300_000_000),
        "the smallest distance of their stamps was",
    ),
    "another clock": (
        lambda p, t: p.send_depth(scene_depth(scene(0)[1]), t + 10**12),
        "two clocks stamp the streams",
    ),
}
BAD_INFO = {
    "zeros": ({"k": (0.0,) * 9}, "k is all zeros"),
    "no focal length": ({"k": (0.0, *K[1:])}, "focal lengths"),
    "no size": ({"width": 0}, "the driver has not filled it"),
    "another size": ({"width": 320}, "camera_info is for 320 x 120"),
    "unknown lens": ({"distortion_model": "junk", "d": [0.1]}, "is not known"),
    "NaN": ({"k": (math.nan, *K[1:])}, "NaN or infinite"),
}


def told(peer, text, send):
    """Sends images with what `send(stamp)` adds until the diagnostics say so; the masks go on."""

    def said():
        stamp = peer.next_stamp(10**9)  # so far apart that no other image's depth is near
        send(stamp)
        labels, objects = peer.segment(scene(0)[0], stamp, frame_id=FRAME)
        assert [item.id for item in objects.objects] == [DISC, SQUARE]
        assert iou(labels, scene(0)[1], DISC) > 0.5
        return text in peer.told

    wait_for(said, f"{text!r} in the diagnostics, not {peer.told}", 30.0, every=0.05)
    assert peer.status.level == b"\x01"  # a warning


def recovered(peer, text):
    """Positions come again, and the diagnostics no longer complain."""

    def well():
        peer.shown("objects_3d")
        return text not in peer.told

    wait_for(well, f"{text!r} to go", 30.0)


@pytest.mark.parametrize("name", BAD)
def test_depth_that_is_wrong_is_told_and_the_masks_go_on(node, peer, name):
    peer.watch(ObjectArray, "objects_3d")
    peer.shown("objects_3d")
    send, text = BAD[name]

    def both(stamp):
        peer.send_info(stamp)
        send(peer, stamp)

    told(peer, text, both)
    assert DEPTH in peer.told
    recovered(peer, text)
    peer.unwatch("objects_3d")


@pytest.mark.parametrize("name", BAD_INFO)
def test_a_camera_info_that_is_wrong_is_told_and_the_masks_go_on(node, peer, name):
    peer.watch(ObjectArray, "objects_3d")
    peer.shown("objects_3d")
    changes, text = BAD_INFO[name]

    def both(stamp):
        peer.send_info(stamp, **changes)
        peer.send_depth(scene_depth(scene(0)[1]), stamp)

    told(peer, text, both)
    recovered(peer, text)
    peer.unwatch("objects_3d")


def test_a_camera_info_that_changes_counts_from_the_next_image_on(node, peer):
    peer.watch(ObjectArray, "objects_3d")
    _, _, before = peer.shown("objects_3d")
    zoomed = (2 * FOCAL, 0.0, K[2], 0.0, 2 * FOCAL, *K[5:])
    depth = scene_depth(scene(0)[1])

    def seen():  # the filter takes it for an outlier three times
        stamp = peer.next_stamp()
        peer.send_info(stamp, k=zoomed)
        peer.send_depth(depth, stamp)
        peer.segment(scene(0)[0], stamp, frame_id=FRAME)
        found = peer.got["objects_3d"].get(stamp)
        return found and abs(2 * found.objects[1].position.x - was) < 0.01

    was = before.objects[1].position.x
    wait_for(seen, "half as far from the axis", 30.0)
    for _ in range(8):  # back, and settled
        peer.shown("objects_3d")
    peer.unwatch("objects_3d")


def test_depth_that_is_cut_short_or_out_of_order_is_no_harm(node, peer):
    peer.watch(ObjectArray, "objects_3d")
    peer.shown("objects_3d")
    depth = scene_depth(scene(0)[1])

    def cut(stamp):
        peer.send_info(stamp)
        message = image_message(depth, stamp, "16UC1", FRAME)
        message.data = message.data[:-1]
        peer.depths.publish(message)

    told(peer, "cut short", cut)
    recovered(peer, "cut short")
    # the depth images of four images, the newest first, and the masks only then
    stamps = [peer.next_stamp() for _ in range(4)]
    for stamp in reversed(stamps):
        peer.send_depth(depth, stamp)
        time.sleep(0.1)  # a burst may be more than a busy node's queue for a sensor holds
    for stamp in stamps:
        peer.segment(scene(0)[0], stamp, frame_id=FRAME)
        wait_for(lambda at=stamp: at in peer.got["objects_3d"], "the image with its own depth")
    peer.unwatch("objects_3d")


def test_depth_that_stops_is_told(node, peer):
    peer.watch(ObjectArray, "objects_3d")
    stamp, *_ = peer.shown("objects_3d")
    told(peer, "no depth image has come for", lambda stamp: None)
    assert "two clocks" not in peer.told
    # positions are told for two seconds, by their stamps, and then no more
    for ahead in (1.0, 3.0):
        at = stamp + int(ahead * 10**9)
        _, objects = peer.segment(scene(0)[0], max(at, peer._stamp + 1), frame_id=FRAME)
        peer._stamp = max(at, peer._stamp + 1)
    assert all(math.isnan(item.position.z) for item in objects.objects)
    recovered(peer, "no depth image has come for")
    peer.unwatch("objects_3d")
