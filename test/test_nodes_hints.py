"""Clicks of image viewers and boxes of detectors, in the core and through real DDS."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from core_helpers import SECOND, Rig, picture, wait_until
from geometry_msgs.msg import Point, PointStamped
from ros_helpers import SegmentPeer, segment_node, wait_for
from shapes import DISC, scene
from std_msgs.msg import String

from stremn_ros.messages.detections import Detection
from stremn_ros.messages.image_read import decode_labels
from stremn_ros.stream.newest_jobs import NewestJobs

# ---------------------------------------------------------------- jobs


def test_the_newest_job_of_a_kind_takes_the_place_of_one_that_waits():
    jobs, gate, done = NewestJobs("test"), threading.Event(), []
    try:
        jobs.put("a", gate.wait)
        for number in range(5):
            jobs.put("b", lambda number=number: done.append(number))
        jobs.put("c", lambda: done.append("c"))
        gate.set()
        wait_until(lambda: done == [4, "c"], "the newest of b, and c")
        assert jobs.replaced >= 4
        gate.clear()
        jobs.put("a", gate.wait)
        jobs.put("b", lambda: done.append("forgotten"))
        jobs.clear()
        gate.set()
        jobs.put("c", lambda: done.append("last"))
        wait_until(lambda: done[-1] == "last", "the last")
        assert "forgotten" not in done
    finally:
        gate.set()
        jobs.close()


# ---------------------------------------------------------------- the core


@pytest.fixture
def rig():
    told = []
    made = Rig(seeded=told.append)
    made.told = told
    yield made
    made.core.close()


def large(offset=0):
    return np.repeat(np.repeat(picture(offset), 8, axis=0), 8, axis=1)


# the red square of `large`, as a detector would see it
RED = Detection((14.0, 30.0, 68.0, 68.0), "red", 0.9)


def test_a_click_seeds_what_is_there_in_the_frame_of_its_stamp(rig):
    rig.send(large(0), 10 * SECOND)
    rig.send(large(4), 11 * SECOND)
    rig.core.click_later(50.0, 60.0, 10 * SECOND)  # where the square was
    wait_until(lambda: rig.told, "the answer")
    assert rig.told[0].success, rig.told[0].message
    assert rig.told[0].frame.stamp == 10 * SECOND
    assert rig.core.tracked() == rig.told[0].ids
    rig.core.click_later(50.0, 60.0, 7 * SECOND)
    wait_until(lambda: len(rig.told) == 2, "the refusal")
    assert not rig.told[1].success
    rig.core.click_later(float("nan"), 1e9)
    wait_until(lambda: len(rig.told) == 3, "the refusal")
    assert "outside the image" in rig.told[2].message
    rig.send(large(4), 12 * SECOND)


def test_a_detector_that_sees_the_same_again_and_again_seeds_it_once(rig):
    rig.send(large(0), 10 * SECOND)
    for _ in range(4):
        rig.core.seed_detections_later([RED], 10 * SECOND)
        rig.send(large(0), 10 * SECOND + len(rig.published))
    wait_until(lambda: rig.told, "the answer")
    assert rig.told[0].success, rig.told[0].message
    rig.core.seed_detections_later([RED], 0)
    rig.settle()
    assert len(rig.told) == 1
    assert len(rig.core.tracked()) == 1


def test_a_reset_takes_the_detections_with_it_that_came_before(rig):
    rig.send(large(0), 10 * SECOND)
    rig.segmenter.may_go.clear()  # the network is busy with the next frame
    rig.core.on_frame(rig.published[0].frame.message)
    boxes = [RED, Detection((14.0, 110.0, 68.0, 68.0), "blue", 0.8)]
    rig.core.seed_detections_later(boxes, 0)
    reset = threading.Thread(target=rig.core.reset)
    reset.start()
    rig.segmenter.may_go.set()
    reset.join()
    rig.settle()
    wait_until(lambda: rig.core._jobs._waiting == {}, "the jobs")
    assert rig.core.tracked() == []


def test_detections_before_the_first_image_and_without_sense_do_nothing(rig):
    rig.core.seed_detections_later([RED], 0)
    rig.send(large(0), 10 * SECOND)
    nan = float("nan")
    rig.core.seed_detections_later([Detection((nan, nan, nan, nan), "red", nan)], 0)
    rig.core.click_later(50.0, 60.0)
    wait_until(lambda: rig.told, "the click after them")
    assert rig.told[0].success


# ---------------------------------------------------------------- DDS


@pytest.mark.parametrize("kind", [Point, PointStamped])
def test_a_click_in_an_image_viewer_seeds_the_object(tmp_path, kind):
    with (
        segment_node(tmp_path, {"click_topic": "/view/image_mouse_left"}) as node,
        SegmentPeer() as peer,
    ):
        other = peer.node.create_publisher(String, "/view/image_mouse_left", 1)
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        wait_for(
            lambda: "(click_topic) has std_msgs/msg/String" in peer.told,
            "the wrong type's line",
        )
        peer.node.destroy_publisher(other)
        frame, truth = scene(0)
        _, objects = peer.segment(frame)
        rows, columns = np.nonzero(truth == DISC)
        x, y = float(columns.mean()), float(rows.mean())
        click = Point(x=x, y=y)
        if kind is PointStamped:
            click = PointStamped(header=objects.header, point=click)
        clicks = peer.node.create_publisher(kind, "/view/image_mouse_left", 1)

        def followed():
            clicks.publish(click)
            stamp = peer.publish(frame)
            wait_for(lambda: stamp in peer.masks, "its mask")
            labels = decode_labels(peer.masks[stamp])
            return (labels,) if labels.any() else None

        (labels,) = wait_for(followed, "the object that was clicked", every=0.2)
        one = labels > 0
        assert (one & (truth == DISC)).sum() / (one | (truth == DISC)).sum() > 0.7
