"""Through real DDS: stamps of every kind, simulated time, seeds by topic; what is told of it."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import SECOND, SegmentPeer, image_message, segment_node, to_time, wait_for
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from shapes import DISC, SQUARE, scene
from std_srvs.srv import Trigger

from stremn_interfaces.msg import TrackedObject
from stremn_interfaces.srv import SeedMask
from stremn_ros.messages.image_read import decode_labels

STATES = {
    TrackedObject.TRACKED: "TRACKED",
    TrackedObject.OCCLUDED: "OCCLUDED",
    TrackedObject.LOST: "LOST",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with segment_node(tmp_path_factory.mktemp("time"), {"seed_wait": 0.2}) as process:
        yield process


@pytest.fixture(scope="module")
def connected(node):
    with SegmentPeer() as peer:
        peer.clock = peer.node.create_publisher(Clock, "/clock", 10)
        peer.seeds = peer.node.create_publisher(Image, "/stremn/seed", 10)
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        wait_for(peer.seeds.get_subscription_count, "the node to listen to seeds")
        yield peer


@pytest.fixture
def peer(connected):
    assert connected.call(Trigger, "/stremn/reset").success
    return connected


def seed(peer, truth, stamp=0):
    mask = image_message(truth, stamp, "mono8")
    answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask, names=["cup", "box"])
    assert answer.success, answer.message


def ids(objects):
    return [item.id for item in objects.objects]


def again(peer, array, stamp):
    """As `segment`, with a stamp that was there before."""
    peer.masks.pop(stamp, None)
    peer.objects.pop(stamp, None)
    return peer.segment(array, stamp)


def told(peer, text):
    """Waits until the diagnostics say so, and returns the status."""

    def said():
        status = peer.status
        also = {item.key: item.value for item in status.values}.get("also", "")
        return status if text in status.message or text in also else None

    wait_for(said, f"{text!r} in the diagnostics; they say {peer.describe_status()}")
    return peer.status


def test_images_without_a_stamp_are_segmented_in_the_order_they_come(peer):
    peer.segment(scene(0)[0])
    seed(peer, scene(0)[1])
    before = int(peer.fresh_diagnostics()["stale"])
    for step in range(1, 5):
        labels, objects = again(peer, scene(step)[0], 0)
        assert ids(objects) == [DISC, SQUARE]
        assert (objects.header.stamp.sec, objects.header.stamp.nanosec) == (0, 0)
        assert labels.any()
    assert int(peer.fresh_diagnostics()["stale"]) == before
    # and a seed for "the newest" means the last of them
    answer = peer.call(
        SeedMask, "/stremn/seed_mask", mask=image_message(scene(4)[1], 0, "mono8"), replace=True
    )
    assert answer.success
    assert (answer.stamp.sec, answer.stamp.nanosec) == (0, 0)


def test_a_stamp_that_repeats_is_segmented_and_counted(peer):
    stamp = peer.next_stamp()
    peer.segment(scene(0)[0], stamp)
    seed(peer, scene(0)[1])
    before = peer.settled_counters(), int(peer.diagnostics["stale"])
    for step in range(1, 4):
        _, objects = again(peer, scene(step)[0], stamp)
        assert ids(objects) == [DISC, SQUARE]
    after = peer.settled_counters(), int(peer.diagnostics["stale"])
    assert [new - old for new, old in zip(after[0], before[0])] == [3, 3, 0, 0]
    assert after[1] - before[1] == 3


def test_a_bag_that_loops_begins_anew_each_time(peer, node):
    start = peer.next_stamp(1000 * SECOND)
    loops = node.log.count("time jumped back by 0.400 s")
    for round_ in range(3):
        for step in range(6):
            stamp = start + step * 100_000_000
            if step == 0 and round_:  # dropped: one stamp proves nothing
                before = peer.settled_counters()
                peer.publish(scene(step)[0], stamp)
                wait_for(lambda b=before: peer.settled_counters()[2] == b[2] + 1, "the drop")
                continue
            _, objects = again(peer, scene(step)[0], stamp)
            if step == (1 if round_ else 0):
                assert ids(objects) == [], "objects of the round before"
                seed(peer, scene(step)[1], stamp)
            else:
                assert ids(objects) == [DISC, SQUARE]
        assert node.log.count("time jumped back by 0.400 s") == loops + round_
    peer.next_stamp(10 * SECOND)


def test_simulated_time(peer):
    """Lateness is measured by /clock, and a node that waits for a clock says so."""
    now = peer.next_stamp(1000 * SECOND)
    peer.segment(scene(0)[0], now)
    assert peer.set_parameter("use_sim_time", True) == (True, "")
    try:
        status = told(peer, "nothing has published a time on /clock")
        assert status.level == DiagnosticStatus.WARN

        def tick():
            peer.clock.publish(Clock(clock=to_time(now)))
            return "on /clock" not in peer.told

        wait_for(tick, "the clock to arrive", every=0.1)
        before = int(peer.fresh_diagnostics()["stale"])
        for step in range(1, 6):
            now += 100_000_000
            peer.clock.publish(Clock(clock=to_time(now)))
            peer.segment(scene(step)[0], now)
        assert int(peer.fresh_diagnostics()["stale"]) == before
        # the clock runs ahead of the images: each of them is late
        now += 100 * SECOND
        begin = peer.diagnostics["stale"]

        def late():
            peer.clock.publish(Clock(clock=to_time(now)))
            stamp = peer.next_stamp()
            peer.segment(scene(0)[0], stamp)
            return int(peer.fresh_diagnostics()["stale"]) > int(begin) + 5

        wait_for(late, "late images to be counted")
        told(peer, "s old when they come")
    finally:
        assert peer.set_parameter("use_sim_time", False) == (True, "")


def test_seeds_by_topic_do_what_the_service_does(peer, node):
    stamps = [peer.next_stamp() for _ in range(4)]
    for step, stamp in enumerate(stamps):
        peer.segment(scene(step)[0], stamp)
    truth = scene(1)[1]
    peer.seeds.publish(image_message(truth * (truth == DISC), stamps[1], "mono8"))
    wait_for(
        lambda: "seeded object 1 in the frame of 0.200 s" in peer.diagnostics["last seed"],
        "the seed; the diagnostics say " + peer.diagnostics["last seed"],
    )
    assert ids(peer.segment(scene(4)[0])[1]) == [DISC]
    # another object beside it, for the newest image
    truth = scene(4)[1]
    peer.seeds.publish(image_message(truth * (truth == SQUARE), 0, "mono8"))
    wait_for(lambda: "seeded object 2," in peer.diagnostics["last seed"], "the second seed")
    assert ids(peer.segment(scene(5)[0])[1]) == [DISC, SQUARE]
    # one that is no mask is told and changes nothing
    peer.seeds.publish(image_message(scene(5)[0], 0, "rgb8"))
    wait_for(lambda: "cannot be of encoding 'rgb8'" in peer.diagnostics["last seed"], "the reason")
    node.wait_for_log("a mask cannot be of encoding 'rgb8'")
    labels, objects = peer.segment(scene(6)[0])
    assert ids(objects) == [DISC, SQUARE]
    assert set(np.unique(labels)) == {0, DISC, SQUARE}


def test_a_detector_that_cannot_be_heard_is_told(peer):
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    deaf = peer.node.create_publisher(Image, "/stremn/seed", quality)
    try:
        told(peer, "QoS mismatch with a publisher of /stremn/seed: its reliability does not fit")
    finally:
        peer.node.destroy_publisher(deaf)


def test_objects_and_diagnostics_agree(peer):
    """Of the same frame they tell the same, while objects are seen, unsure and lost."""
    peer.segment(scene(0)[0])
    seed(peer, scene(0)[1])

    def agreed(objects):
        values = peer.fresh_diagnostics()
        assert {key for key in values if re.fullmatch(r"object \d+", key)} == {
            f"object {item.id}" for item in objects.objects
        }
        for item in objects.objects:
            assert values[f"object {item.id}"] == (
                f"{item.name}: {STATES[item.state]}, score {item.score:.3f}, area {item.area}"
            )
        assert values["objects"] == f"{len(objects.objects)} of 8"

    labels, objects = peer.segment(scene(1)[0])
    assert [item.state for item in objects.objects] == [TrackedObject.TRACKED] * 2
    assert [item.area for item in objects.objects] == [
        np.count_nonzero(labels == number) for number in (DISC, SQUARE)
    ]
    agreed(objects)
    assert peer.set_parameter("low_confidence", 1.0) == (True, "")
    try:
        told(peer, "low confidence in object 1 (")
    finally:
        assert peer.set_parameter("low_confidence", 0.7) == (True, "")
    empty = np.full_like(scene(0)[0], 90)

    def gone():
        _, objects = peer.segment(empty)
        return objects if {item.state for item in objects.objects} == {TrackedObject.LOST} else None

    objects = wait_for(gone, "both objects to be lost")
    agreed(objects)
    told(peer, "lost object 1, 2: seed it again, or remove it")
    for step in range(2, 40):  # they come back
        _, objects = peer.segment(scene(step)[0])
        if {item.state for item in objects.objects} == {TrackedObject.TRACKED}:
            break
    agreed(objects)
    assert decode_labels(peer.masks[max(peer.masks)]).any() == any(
        item.area for item in objects.objects
    )


def test_the_overlay_can_be_turned_off_while_it_runs(peer):
    peer.subscribe_overlay()
    try:

        def overlaid():
            peer.segment(scene(0)[0])
            return bool(peer.overlays)

        wait_for(overlaid, "an overlay")
        assert peer.set_parameter("overlay", False) == (True, "")
        peer.segment(scene(1)[0])
        count = len(peer.overlays)
        for step in range(2, 8):
            peer.segment(scene(step)[0])
        time.sleep(0.2)  # for one that should not come
        assert len(peer.overlays) <= count + 1  # one may have been on its way
    finally:
        assert peer.set_parameter("overlay", True) == (True, "")
        peer.unsubscribe_overlay()
