"""Which boxes of a detector are worth a seed, and how its messages are read."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stremn_ros.messages.detections import Detection, read_detections
from stremn_ros.results import ObjectState, SegmenterState, TrackedObject
from stremn_ros.stream.detector import PATIENCE, SMALLEST, BoxSeed, Detector
from stremn_ros.stream.settings import Settings

SIZE = (100, 160)


def state(*objects: tuple[int, ObjectState, tuple[int, int, int, int]], names=None, most=8):
    items = [TrackedObject(n, s, 0.9, b[2] * b[3], b, (0.0, 0.0)) for n, s, b in objects]
    ids = [item.id for item in items]
    return SegmenterState(
        ids=ids,
        objects=items,
        names=names or {},
        max_objects=most,
        memory_bytes=0,
        slots_used={},
        memory={},
        runtime="torch",
    )


def chosen(detections, of=None, now=0.0, detector=None, **values):
    options = Settings()
    for name, value in values.items():
        setattr(options, name, value)
    return (detector or Detector(options)).choose(detections, SIZE, of or state(), now)


CUP = Detection((10.0, 20.0, 30.0, 40.0), "cup", 0.8)
BOX = Detection((90.0, 20.0, 30.0, 40.0), "box", 0.6)


def test_what_nobody_follows_is_seeded_the_surest_first():
    assert chosen([BOX, CUP]) == [
        BoxSeed(0, "cup", (10, 20, 30, 40)),
        BoxSeed(0, "box", (90, 20, 30, 40)),
    ]


def test_classes_and_scores_are_filtered():
    assert [s.name for s in chosen([CUP, BOX], detection_classes=["box"])] == ["box"]
    assert [s.name for s in chosen([CUP, BOX], detection_classes=[""])] == ["cup", "box"]
    assert [s.name for s in chosen([CUP, BOX], detection_min_score=0.7)] == ["cup"]


def test_an_object_that_is_followed_is_left_alone():
    near = state((3, ObjectState.TRACKED, (12, 22, 30, 40)), names={3: "mug"})
    assert [s.name for s in chosen([CUP, BOX], near)] == ["box"]
    assert [s.name for s in chosen([CUP, BOX], near, detection_overlap=0.95)] == ["cup", "box"]


def test_a_lost_object_of_the_class_is_seeded_again_once():
    gone = state((3, ObjectState.LOST, (0, 0, 0, 0)), names={3: "cup"})
    other = Detection((90.0, 20.0, 30.0, 40.0), "cup", 0.7)
    assert chosen([CUP, other], gone) == [
        BoxSeed(3, "cup", (10, 20, 30, 40)),
        BoxSeed(0, "cup", (90, 20, 30, 40)),
    ]
    hidden = state((3, ObjectState.OCCLUDED, (0, 0, 0, 0)), names={3: "cup"})
    assert chosen([CUP], hidden) == [BoxSeed(0, "cup", (10, 20, 30, 40))]


def test_a_full_memory_takes_only_lost_objects():
    full = state(
        (1, ObjectState.TRACKED, (60, 60, 20, 20)),
        (2, ObjectState.LOST, (0, 0, 0, 0)),
        names={2: "box"},
        most=2,
    )
    assert [s.object_id for s in chosen([CUP, BOX], full)] == [2]


def test_the_same_place_is_not_tried_again_at_once():
    detector = Detector(Settings())
    assert len(chosen([CUP], detector=detector)) == 1
    assert chosen([CUP], detector=detector, now=PATIENCE - 0.1) == []
    assert len(chosen([CUP], detector=detector, now=PATIENCE + 0.1)) == 1


ANY = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY), max_size=5))
def test_any_boxes_give_boxes_within_the_image(values):
    found = chosen([Detection(tuple(v[:4]), "thing", v[4]) for v in values])
    for seed in found:
        x, y, width, height = seed.box
        assert 0 <= x < x + width <= SIZE[1]
        assert 0 <= y < y + height <= SIZE[0]
        assert min(width, height) >= SMALLEST
    assert len(found) <= sum(math.isfinite(v[4]) for v in values)


def test_messages_of_both_kinds_are_read():
    def center(x, y, theta=0.0):
        return SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)

    def hypothesis(name, score):
        return SimpleNamespace(hypothesis=SimpleNamespace(class_id=name, score=score))

    vision = SimpleNamespace(
        detections=[
            SimpleNamespace(
                results=[hypothesis("mug", 0.3), hypothesis("cup", 0.6)],
                bbox=SimpleNamespace(center=center(25.0, 40.0), size_x=30.0, size_y=40.0),
            ),
            SimpleNamespace(
                results=[], bbox=SimpleNamespace(center=center(1, 1), size_x=1.0, size_y=1.0)
            ),
        ]
    )
    yolo = SimpleNamespace(
        detections=[
            SimpleNamespace(
                class_name="cup\r",
                score=0.6,
                bbox=SimpleNamespace(
                    center=center(25.0, 40.0), size=SimpleNamespace(x=30.0, y=40.0)
                ),
            )
        ]
    )
    wanted = [Detection((10.0, 20.0, 30.0, 40.0), "cup", 0.6)]
    assert read_detections(vision) == wanted
    assert read_detections(yolo) == wanted
    # a box that is turned: the upright one around it
    for message in (vision, yolo):
        message.detections[0].bbox.center.theta = math.pi / 2
    for found in read_detections(vision) + read_detections(yolo):
        assert found.box == pytest.approx((5.0, 25.0, 40.0, 30.0))
    yolo.detections[0].bbox.center.theta = math.pi / 4
    (found,) = read_detections(yolo)
    side = 70 * math.sqrt(0.5)
    assert found.box == pytest.approx((25 - side / 2, 40 - side / 2, side, side))
    # a score that is none is not the highest
    vision.detections[0].results.insert(0, hypothesis("nothing", math.nan))
    assert read_detections(vision)[0].label == "cup"
    for theta in (math.nan, math.inf):
        yolo.detections[0].bbox.center.theta = theta
        assert not Detector(Settings()).choose(read_detections(yolo), SIZE, state(), 0.0)
