"""Masks from boxes, polygons and points: pixel by pixel against pictures whose truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stremn_ros.demo.assets import START_FRAME, demo_video
from stremn_ros.errors import InputError
from stremn_ros.imaging.seeding import DOUBTFUL, agreement, make_mask
from stremn_ros.imaging.video import open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.resources import shared_file


def scene(height=240, width=320, objects=(((160, 110), (48, 34)),), seed=0):
    """A textured greenish background with reddish ellipses; the frame and its label mask."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 60, (height, width, 3)).astype(np.float32), (0, 0), 3)
    frame = np.array([70, 120, 80], np.float32) + noise
    labels = np.zeros((height, width), np.uint8)
    for number, (centre, axes) in enumerate(objects, 1):
        cv2.ellipse(labels, centre, axes, 20, 0, 360, number, -1)
    frame[labels > 0] = (np.array([190, 60, 70], np.float32) + noise)[labels > 0]
    frame += rng.normal(0, 6, frame.shape)
    return np.clip(frame, 0, 255).astype(np.uint8), labels


def iou(mask, truth):
    return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)


def box_around(truth, margin=8):
    rows, columns = np.nonzero(truth)
    x, y = columns.min() - margin, rows.min() - margin
    return int(x), int(y), int(columns.max() - x + margin), int(rows.max() - y + margin)


def test_a_box_gives_the_outline():
    frame, truth = scene()
    mask = make_mask(frame, box=box_around(truth))
    assert mask.dtype == np.uint8
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) == {0, 1}
    assert iou(mask, truth) > 0.97


def test_a_large_picture_is_cut_at_a_smaller_scale_and_scaled_back():
    frame, truth = scene(1080, 1920, objects=(((900, 500), (400, 260)),))
    mask = make_mask(frame, box=box_around(truth, 30))
    assert mask.shape == (1080, 1920)
    assert iou(mask, truth) > 0.97


def test_a_polygon_gives_the_outline_and_nothing_outside_it():
    frame, truth = scene()
    x, y, w, h = box_around(truth, 10)
    polygon = [(x, y + h / 2), (x + w / 2, y), (x + w, y + h / 2), (x + w / 2, y + h)]
    mask = make_mask(frame, polygon=polygon)
    filled = np.zeros_like(truth)
    cv2.fillPoly(filled, [np.rint(polygon).astype(np.int32)], 1)
    assert not (mask & ~filled & 1).any()
    assert iou(mask, truth & filled) > 0.95


def test_points_alone_give_the_object_they_touch_and_not_its_twin():
    frame, labels = scene(objects=(((90, 110), (45, 34)), ((240, 130), (40, 30))))
    mask = make_mask(frame, inside=[(90, 110), (110, 118)], outside=[(10, 10), (165, 200)])
    assert iou(mask, (labels == 1).astype(np.uint8)) > 0.95
    other = make_mask(frame, inside=[(240, 130)], outside=[(10, 10)])
    assert iou(other, (labels == 2).astype(np.uint8)) > 0.95


def test_outside_points_take_a_part_away():
    frame, labels = scene(objects=(((90, 110), (45, 34)), ((240, 130), (40, 30))))
    box = (30, 60, 270, 120)
    both = make_mask(frame, box=box)
    assert iou(both, (labels > 0).astype(np.uint8)) > 0.95
    one = make_mask(frame, box=box, inside=[(90, 110)], outside=[(240, 130)])
    assert iou(one, (labels == 1).astype(np.uint8)) > 0.95
    assert not one[130, 240]


def test_the_mask_stays_inside_the_box():
    frame, truth = scene()
    x, y, w, h = 120, 90, 50, 30  # a box that cuts the object
    mask = make_mask(frame, box=(x, y, w, h), inside=[(150, 110)])
    outside = mask.copy()
    outside[y : y + h, x : x + w] = 0
    assert not outside.any()
    assert mask[110, 150]
    assert truth.any()


def test_the_same_hints_give_the_same_mask():
    frame, truth = scene()
    masks = [make_mask(frame, box=box_around(truth)) for _ in range(3)]
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_an_object_at_the_border():
    frame, truth = scene(objects=(((0, 0), (80, 60)),))
    mask = make_mask(frame, box=(0, 0, 100, 90))
    assert iou(mask, truth) > 0.9


BAD = {
    "nothing": (
        {},
        r"nothing says where the object is: give a box, a polygon .* or points on the object",
    ),
    "outside only": ({"outside": [(3, 3)]}, "points beside the object alone are not enough"),
    "box beside": ({"box": (400, 10, 20, 20)}, r"x 400\.\.420.*outside the image.* 320 x 240"),
    "box over the edge": ({"box": (300, 10, 21, 20)}, r"x 300\.\.321"),
    "box above": ({"box": (10, -1, 21, 20)}, r"y -1\.\.19"),
    "huge box": ({"box": (2**32 - 1,) * 4}, "outside the image"),
    "flat box": ({"box": (10, 10, 0, 20)}, "0 x 20 pixels: width and height must be at least 1"),
    "whole box": ({"box": (0, 0, 320, 240)}, "covers the whole image"),
    "one pixel": ({"box": (10, 10, 1, 1)}, "too few pixels of the object"),
    "line": ({"polygon": [(1, 1), (9, 9)]}, "the polygon has 2 points: it takes 3 or more"),
    "flat polygon": ({"polygon": [(5, 5), (6, 5), (7, 5)]}, "encloses almost no pixels"),
    "polygon out": ({"polygon": [(5, 5), (60, 5), (7, 500)]}, r"polygon: \(7, 500\) lies outside"),
    "apart": (
        {"box": (5, 5, 30, 30), "polygon": [(200, 100), (250, 100), (220, 150)]},
        "do not overlap",
    ),
    "point out": (
        {"inside": [(320, 10)]},
        r"points on the object: \(320, 10\) lies outside the image",
    ),
    "nan": ({"inside": [(np.nan, 10)]}, r"\(nan, 10\) lies outside"),
    "inf": ({"box": (9, 9, 90, 90), "outside": [(np.inf, 1)]}, "points beside the object.*inf"),
    "point beside box": (
        {"box": (5, 5, 30, 30), "inside": [(100, 100)]},
        r"point \(100, 100\) on the object lies outside the given box",
    ),
    "box of nan": ({"box": (np.nan, 1, 2, 3)}, r"the box is \(nan, .*four numbers are wanted"),
    "endless box": ({"box": (0, 0, np.inf, 3)}, "four numbers are wanted"),
    "box of three": ({"box": (1, 2, 3)}, "four numbers are wanted, x, y, width and height"),
    "box of none": ({"box": ()}, "four numbers are wanted"),
    "box of text": ({"box": "1,2,3,4"}, "four numbers are wanted"),
    "box is a number": ({"box": 5}, "four numbers are wanted"),
    "both": (
        {"inside": [(20, 30), (50.2, 60)], "outside": [(9, 9), (50.9, 60)]},
        r"the point \(50, 60\) is given as on the object and as beside it",
    ),
    "generator": ({"inside": (point for point in [(1, 2)])}, r"a list of \(x, y\) pairs"),
    "not pairs": ({"inside": [(1, 2, 3)]}, r"points on the object: a list of \(x, y\) pairs"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_hints_are_refused_in_words(name):
    hints, text = BAD[name]
    frame, _ = scene()
    with pytest.raises(InputError, match=text):
        make_mask(frame, **hints)


def test_an_empty_result_is_an_error_that_says_what_to_try():
    frame = np.full((120, 160, 3), 90, np.uint8)
    with pytest.raises(InputError, match=r"no object was found.*points on the object.*or a mask"):
        make_mask(frame, box=(40, 30, 60, 50))


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), None])
def test_wrong_frames_are_refused(frame):
    with pytest.raises(InputError, match=r"a frame must .*\[H, W, 3\]"):
        make_mask(frame, box=(0, 0, 2, 2))


coordinate = st.floats(-20, 80) | st.sampled_from([np.nan, np.inf])
point_list = st.lists(st.tuples(coordinate, coordinate), max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 60)),
    box=st.none() | st.tuples(*[st.integers(-3, 60)] * 4),
    polygon=point_list,
    inside=point_list,
    outside=point_list,
)
def test_any_hints_give_a_mask_or_an_input_error(size, box, polygon, inside, outside):
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    try:
        mask = make_mask(frame, box=box, polygon=polygon, inside=inside, outside=outside)
    except InputError:
        return
    assert mask.shape == size
    assert mask.any()
    assert mask.max() == 1


def test_hints_that_fit_an_outline_agree_when_they_are_moved():
    frame, truth = scene()
    hints = [
        {"box": box_around(truth)},
        {"inside": [(160, 110)]},
        {"box": box_around(truth), "inside": [(160, 110)], "outside": [(10, 10)]},
        {"polygon": [(100, 60), (220, 60), (220, 160), (100, 160)]},
    ]
    for hint in hints:
        mask = make_mask(frame, **hint)
        assert iou(mask > 0, truth > 0) > 0.95
        assert agreement(frame, mask, **hint) > 0.9, hint
        assert agreement(frame, mask * np.uint8(7), **hint) > 0.9, "whatever its id"


@pytest.mark.parametrize("click", [(162, 226), (192, 140), (192, 186)])
def test_a_click_that_finds_a_part_of_a_real_object_disagrees_when_it_is_moved(click):
    """The demo's video, in the first frame played: the masks have an IoU of 0.01, 0.10 and 0.60."""
    frame = next(iter(open_frames(demo_video(), START_FRAME, START_FRAME + 1, size=360)))
    drawn = read_label_png(shared_file("demo_seed.png"))
    drawn = cv2.resize(drawn, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    mask = make_mask(frame, inside=[click])
    assert drawn[click[1], click[0]]
    assert iou(mask > 0, drawn) < 0.65, "it is the case that this is about"
    assert agreement(frame, mask, inside=[click]) < DOUBTFUL


def test_the_agreement_of_a_box_that_is_none_is_refused_in_words():
    frame, _ = scene()
    with pytest.raises(InputError, match="four numbers are wanted"):
        agreement(frame, np.ones(frame.shape[:2], np.uint8), box=(np.nan, 1, 2, 3))


def test_moved_hints_stay_within_the_image():
    frame, _ = scene(objects=(((30, 25), (28, 22)),))
    for hint in ({"inside": [(3, 3)]}, {"box": (0, 0, 70, 60)}):
        mask = make_mask(frame, **hint)
        assert 0.0 <= agreement(frame, mask, **hint) <= 1.0
