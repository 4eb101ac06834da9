"""Seeds for the past over real DDS: a detector that answers late, and the object moves on.

The figures in docs/seeding.md: `python -m pytest test/test_nodes_past.py -s -k late`
"""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from ros_helpers import Background, SegmentPeer, segment_node, to_stamp, wait_for
from shapes import TINY_MODEL, iou
from std_srvs.srv import Trigger

from stremn_ros.messages import image_read
from stremn_ros.segmenter import Segmenter

HEIGHT, WIDTH = 120, 160
MOVING, STANDING = 1, 2
PERIOD = 0.1  # of the camera, s
LATE = 0.5  # of the detector, s
SPEED = 40.0  # pixels in a second


def scene(step):
    """A disc of 36 pixels that goes to and fro over 60 pixels, and a square that stands."""
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    x = 90 - abs(step * SPEED * PERIOD % 120 - 60)
    cv2.circle(truth, (round(x), 40), 18, MOVING, -1)
    cv2.rectangle(truth, (100, 74), (130, 104), STANDING, -1)
    frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    frame[truth == MOVING] = (220, 40, 30)
    frame[truth == STANDING] = (30, 60, 220)
    return frame, truth


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    with (
        segment_node(folder, {"seed_buffer": 20, "log_period": 5.0}) as node,
        SegmentPeer() as peer,
    ):
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        yield peer


class Camera(Background):
    """The scene at the camera's rate, in a thread; sent: (stamp, step) of every frame."""

    def __init__(self, peer):
        self.peer, self.sent = peer, []

    def run(self):
        begin = time.monotonic()
        step = 0
        while not self.ended.wait(max(0.0, begin + step * PERIOD - time.monotonic())):
            stamp = self.peer.publish(scene(step)[0])
            self.sent.append((stamp, step))
            step += 1

    def newest(self):
        return self.sent[-1]


def follow(peer, late, with_stamp):
    """IoU of the moving object with the truth in the ten masks after the detector's answer."""
    assert peer.call(Trigger, "/stremn/reset").success
    with Camera(peer) as camera:
        wait_for(lambda: len(camera.sent) > 4, "the first frames")
        stamp, step = camera.sent[4]  # what the detector is given
        detected = scene(step)[1]
        detected[detected != MOVING] = 0
        wait_for(lambda: camera.newest()[1] >= step + round(late / PERIOD), "the late answer")
        answer = peer.seed(detected, stamp if with_stamp else 0)
        assert not with_stamp or to_stamp(answer.stamp) == stamp
        at = camera.newest()[1]
        masks = []

        def seen():
            masks[:] = [
                (step, peer.masks[stamp])
                for stamp, step in list(camera.sent)
                if step > at and stamp in peer.masks
            ]
            return len(masks) >= 10

        wait_for(seen, "ten masks")
    found = [
        iou(image_read.decode_labels(message), scene(step)[1], MOVING) for step, message in masks
    ]
    return found, answer.message


def test_a_detector_that_answers_late_seeds_the_frame_that_it_saw(peer):
    lines, means, firsts = [], {}, {}
    for name, late, with_stamp in (
        ("answers at once", 0.0, True),
        ("late, with the stamp", LATE, True),
        ("late, without", LATE, False),
    ):
        found, message = follow(peer, late, with_stamp)
        firsts[name], means[name] = found[0], float(np.mean(found))
        lines.append(
            f"{name}: IoU with the truth now {found[0]:.3f}, mean of ten masks "
            f"{means[name]:.3f} ({message})"
        )
    said = f"\n{LATE} s late at {SPEED:g} px/s:\n" + "\n".join(lines)
    print(said)
    at_once, with_rule, without = means.values()
    assert with_rule > 0.65, said
    assert with_rule > at_once - 0.1, said
    assert firsts["late, with the stamp"] > 0.6, said
    assert firsts["late, without"] < 0.4, said
    assert without < with_rule - 0.3, said


def test_the_masks_are_those_of_a_segmenter_that_forks_and_adopts(peer):
    """Bit for bit, the object that was followed all the time included; and the buffer's bytes."""
    assert peer.call(Trigger, "/stremn/reset").success
    reference = Segmenter.load(str(TINY_MODEL), runtime="torch")
    peer.segment(scene(0)[0])
    truth = scene(0)[1]
    peer.seed(truth * (truth == STANDING))
    reference.seed(scene(0)[0], truth * (truth == STANDING))
    stamps = [0]
    for step in range(1, 30):
        stamps.append(peer.next_stamp())
        found, _ = peer.segment(scene(step)[0], stamps[-1])
        np.testing.assert_array_equal(found, reference.step(scene(step)[0]).labels)
    before = iou(found, scene(29)[1], STANDING)
    values = peer.fresh_diagnostics()
    assert values["seed buffer [frames]"] == "20 of 20"
    assert values["seed buffer [bytes]"] == str(20 * 3 * HEIGHT * WIDTH)
    truth = scene(24)[1]
    assert peer.set_parameter("catch_up_time", 30.0) == (True, "")
    answer = peer.seed(truth * (truth == MOVING), stamps[24])
    assert peer.set_parameter("catch_up_time", 1.0) == (True, "")
    assert "0.500 s before the newest; carried forward through 5 of the 5" in answer.message
    fork = reference.fork([MOVING])
    fork.seed(scene(24)[0], truth * (truth == MOVING))
    for step in range(25, 30):
        fork.step(scene(step)[0])
    reference.adopt(fork)
    for step in range(30, 36):
        found, objects = peer.segment(scene(step)[0])
        expected = reference.step(scene(step)[0])
        np.testing.assert_array_equal(found, expected.labels)
        assert [item.id for item in objects.objects] == [MOVING, STANDING]
        assert iou(found, scene(step)[1], MOVING) > 0.6
        assert iou(found, scene(step)[1], STANDING) > before - 0.05
