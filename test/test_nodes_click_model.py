"""The node with the model of clicks: the answer's quality, refusals, and frames that go on."""

from __future__ import annotations

import itertools
import threading

import cv2
import numpy as np
import pytest
from core_helpers import Rig, picture, wait_until
from geometry_msgs.msg import Point32
from ros_helpers import SegmentPeer, segment_node
from sensor_msgs.msg import RegionOfInterest

from stremn_interfaces.srv import SeedObject
from stremn_ros.demo.assets import START_FRAME, demo_video
from stremn_ros.hint_masks import HintMask, HintMasks
from stremn_ros.imaging.seeding import agreement
from stremn_ros.imaging.video import open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.messages import image_read
from stremn_ros.resources import shared_file


class Told(HintMasks):
    """Masks of a predicted IoU that is told; each waits for the gate."""

    def __init__(self, predicted):
        super().__init__()
        self.predicted = predicted
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()

    def make(self, frame, **hints):
        self.begun.set()
        assert self.gate.wait(30.0)
        return HintMask(super().make(frame, **hints).mask, self.predicted)


def large():
    return np.repeat(np.repeat(picture(0), 8, axis=0), 8, axis=1)


@pytest.fixture
def rig():
    masks = Told(0.9)
    made = Rig(masks=masks)
    made.masks = masks
    yield made
    masks.gate.set()
    made.core.close()


def test_the_answer_carries_the_predicted_iou_and_says_when_it_is_low(rig):
    rig.send(large())
    good = rig.core.seed_object(box=(14, 30, 68, 68))
    assert good.success, good.message
    assert good.quality == 0.9
    assert good.agreement == agreement(large(), good.mask, box=(14, 30, 68, 68))
    assert "doubtful" not in good.message
    rig.masks.predicted = 0.41
    bad = rig.core.seed_object(box=(14, 30, 68, 68))
    assert bad.quality == 0.41
    assert "the mask is doubtful, as its predicted IoU with the object is only 0.41" in bad.message
    rig.masks.predicted = None  # GrabCut made it
    other = rig.core.seed_object(box=(14, 30, 68, 68))
    assert other.quality == other.agreement == good.agreement


def test_frames_go_on_while_a_mask_takes_its_time(rig):
    rig.send(large())
    before = len(rig.published)
    rig.masks.gate.clear()
    answers = []
    seed = threading.Thread(
        target=lambda: answers.append(rig.core.seed_object(box=(14, 30, 68, 68)))
    )
    seed.start()
    assert rig.masks.begun.wait(30.0)
    for _ in range(5):
        rig.send(large())
    assert len(rig.published) == before + 5
    assert not answers
    rig.masks.gate.set()
    seed.join(30.0)
    assert answers[0].success, answers[0].message
    wait_until(lambda: rig.core.tracked() == answers[0].ids, "the object to be followed")


def test_a_node_makes_masks_with_the_model_and_refuses_what_is_no_object(tmp_path):
    truth = read_label_png(shared_file("demo_seed.png")) > 0
    frame = next(itertools.islice(open_frames(demo_video()), START_FRAME, None))
    frame = cv2.resize(frame, truth.shape[::-1], interpolation=cv2.INTER_AREA)
    x, y, width, height = cv2.boundingRect(truth.astype(np.uint8))
    with segment_node(tmp_path, {"click_model": "clicks_lite0"}) as node, SegmentPeer() as peer:
        peer.bring_up(node)
        assert "masks of boxes and points by clicks_lite0 on " in node.log
        peer.connect(frame)
        box = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
        answer = peer.call(SeedObject, "/stremn/seed_object", box=box, return_mask=True)
        assert answer.success, answer.message
        assert answer.quality > 0.6
        made = image_read.decode_labels(answer.mask) > 0
        assert np.count_nonzero(made & truth) / np.count_nonzero(made | truth) > 0.72
        peer.segment(np.full_like(frame, 128))
        point = [Point32(x=320.0, y=180.0)]
        answer = peer.call(SeedObject, "/stremn/seed_object", points_inside=point)
        assert not answer.success
        assert "give more points, a box, a polygon" in answer.message
        assert list(answer.tracked_ids) == [1]
        assert peer.segment(frame)[0].shape == truth.shape


def test_a_node_without_the_model_says_so_and_takes_grabcut(tmp_path):
    with segment_node(tmp_path, {"click_model": "no_such_model"}) as node, SegmentPeer() as peer:
        peer.bring_up(node)
        assert "masks of boxes and points by GrabCut" in node.log
        assert "no model 'no_such_model'" in node.log
        frame = large()
        peer.connect(frame)
        box = RegionOfInterest(x_offset=14, y_offset=30, width=68, height=68)
        answer = peer.call(SeedObject, "/stremn/seed_object", box=box)
        assert answer.success, answer.message
        assert answer.quality == pytest.approx(answer.agreement)
