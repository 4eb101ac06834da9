"""The thread that pairs masks with depth: bounded, the newest wins, and nothing ends it; no ROS."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from shapes import DISC, SQUARE, scene

from stremn_ros.messages import image_write
from stremn_ros.results import ObjectState, SegmentResult, TrackedObject
from stremn_ros.stream.answers import Seeding, Segmented
from stremn_ros.stream.intake import Frame
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.spatial_core import Demand, SpatialCore

SECOND = 1_000_000_000
K = (150.0, 0.0, 79.5, 0.0, 150.0, 59.5, 0.0, 0.0, 1.0)


def wait_for(condition, timeout=60.0):
    """Until it is true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def header(stamp, frame="camera"):
    parts = SimpleNamespace(sec=stamp // SECOND, nanosec=stamp % SECOND)
    return SimpleNamespace(stamp=parts, frame_id=frame)


class Rig:
    """A core with a depth camera and somebody who wants positions."""

    def __init__(self, **options):
        self.wanted = Demand(True)
        self.published, self.listening, self.said = [], [], []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail = None
        self.settings = Settings(frame_timeout=0.1)
        self.core = SpatialCore(
            publish=self.publish,
            demand=lambda: self.wanted,
            listen=options.pop("listen", self.listening.append),
            log=lambda severity, key, text: self.said.append(text),
            settings=self.settings,
            **options,
        )
        self.number = 0
        self.core.activate()

    def publish(self, placed):
        self.entered.set()
        self.gate.wait(60)
        if self.fail:
            raise self.fail
        self.published.append(placed.segmented.frame.number)

    def image(self, stamp=None, labels=None, seedings=None, frame_id="camera"):
        self.number += 1
        stamp = self.number * SECOND if stamp is None else stamp
        frame, truth = scene(0)
        found = [
            TrackedObject(number, ObjectState.TRACKED, 0.9, 100, (0, 0, 9, 9), (4.0, 4.0))
            for number in (DISC, SQUARE)
        ]
        message = SimpleNamespace(header=header(stamp, frame_id))
        result = SegmentResult(truth if labels is None else labels, found)
        taken = Frame(message, self.number, stamp, 0.0)
        self.core.put(Segmented(taken, frame, result, {}, seedings=seedings or {}))
        return self.number

    def depth(self, stamp=None):
        stamp = self.number * SECOND if stamp is None else stamp
        message = SimpleNamespace(header=header(stamp))
        values = np.full((120, 160), 1000, np.uint16)
        self.core.on_depth(image_write.encode(message, values, "16UC1"))

    def listen(self):
        def on():
            self.image()
            return self.listening == [True]

        wait_for(on)
        info = {"width": 160, "height": 120, "k": K, "d": [], "distortion_model": ""}
        self.core.on_info(SimpleNamespace(**info))

    def both(self):
        number = self.image()
        self.depth()
        return number


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.gate.set()
    made.core.close()
    assert not made.core._thread.is_alive()


def test_an_image_is_placed_when_its_depth_is_there(rig):
    rig.listen()
    number = rig.both()
    wait_for(lambda: number in rig.published)
    known = rig.core.known
    assert known.frame == "camera"
    assert set(known.objects) == {DISC, SQUARE}
    assert known.of(DISC, number * SECOND).position[2] == pytest.approx(1.0)
    assert known.of(DISC, (number + 3) * SECOND) is None  # too old for that image
    assert known.of(9, number * SECOND) is None


def test_an_id_that_was_given_to_another_object_does_not_bring_the_place_of_the_first(rig):
    rig.listen()
    start = SECOND * 100

    def place(step, labels, seeding, frame="camera"):
        number = rig.image(start + step * SECOND // 30, labels, {DISC: seeding}, frame)
        rig.depth(start + step * SECOND // 30)
        wait_for(lambda: number in rig.published)
        return rig.core.known

    left, right = np.zeros((2, 120, 160), np.uint8)
    left[40:80, 20:60], right[40:80, 100:140] = DISC, DISC
    one, again, other = Seeding(1, 1), Seeding(1, 2), Seeding(3, 3)
    for step in range(5):
        known = place(step, left, one)
    stamp = start + 5 * SECOND // 30
    assert known.of(DISC, stamp, one).position[0] == pytest.approx(-40 / 150, abs=0.01)
    assert known.of(DISC, stamp, again) is known.of(DISC, stamp, one)
    assert known.of(DISC, stamp, other) is None
    found = place(5, right, other).objects[DISC]
    assert not found.predicted
    assert found.position[0] == pytest.approx(40 / 150, abs=0.01)
    found = place(6, left, Seeding(3, 4)).objects[DISC]  # seeded again, elsewhere
    assert found.position[0] == pytest.approx(-40 / 150, abs=0.01)
    found = place(7, right, Seeding(3, 4), "another").objects[DISC]  # of another camera's images
    assert found.position[0] == pytest.approx(40 / 150, abs=0.01)
    assert found.velocity is None


def test_the_newest_wins_and_nothing_piles_up(rig):
    rig.listen()
    rig.gate.clear()
    rig.both()
    wait_for(rig.entered.is_set)
    last = [rig.both() for _ in range(100)][-1]
    assert len(rig.core._images) <= 4
    assert len(rig.core._depths) <= 30
    rig.gate.set()
    wait_for(lambda: last in rig.published)
    assert len(rig.published) <= 6
    assert "passed over" in rig.core.text()


def test_whatever_goes_wrong_the_next_image_is_tried(rig):
    rig.listen()
    rig.fail = RuntimeError("a bug")
    rig.both()
    wait_for(lambda: any("a bug" in text for text in rig.said))
    assert any("RuntimeError: a bug" in text for text in rig.core.problems())
    rig.fail = None
    number = rig.both()
    wait_for(lambda: number in rig.published)


def test_nothing_is_published_after_deactivate_has_returned(rig):
    rig.listen()
    number = rig.both()
    wait_for(lambda: number in rig.published)
    rig.core.deactivate()
    assert rig.listening == [True, False]
    count = len(rig.published)
    rig.both()
    rig.core.activate()
    wait_for(lambda: rig.image() and rig.listening == [True, False, True])
    assert len(rig.published) == count
    number = rig.both()
    wait_for(lambda: number in rig.published)  # the camera_info is still known


def test_it_sleeps_while_nobody_wants_anything(rig):
    rig.wanted = Demand(False)
    for _ in range(5):
        rig.both()
    assert rig.core.text() == "asleep: nobody wants objects in space"
    assert rig.core.problems() == []
    assert rig.listening == []
    assert not rig.core._images
    rig.wanted = Demand(True)
    rig.listen()
    number = rig.both()
    wait_for(lambda: number in rig.published)
    rig.wanted = Demand(False)
    rig.image()
    wait_for(lambda: rig.listening == [True, False])
    assert not rig.core.known.objects


def test_a_camera_that_cannot_be_listened_to_does_not_hold_up_the_end():
    def listen(on):
        raise RuntimeError("no such topic")

    rig = Rig(listen=listen)
    rig.image()
    wait_for(lambda: any("no such topic" in text for text in rig.said))
    rig.core._error_time = -1e9  # also when that was long ago: nothing else is the reason
    (problem,) = rig.core.problems()
    assert problem == "depth on depth: RuntimeError: no such topic"
    rig.core.close()
    assert not rig.core._thread.is_alive()


def test_what_is_missing_is_told_after_a_while(rig):
    rig.listen()
    wait_for(lambda: rig.image() and any("no depth image" in text for text in rig.core.problems()))
    rig.depth()
    wait_for(lambda: rig.both() and not rig.core.problems())
    told = "no depth image has come for"
    wait_for(lambda: rig.image() and any(told in text for text in rig.core.problems("deaf")))
    assert rig.core.problems("deaf")[0] == "depth on depth: deaf"
