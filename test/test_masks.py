"""Small parts of masks: what goes, what stays, and that the memory does not notice."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from shapes import DISC, SQUARE, TINY_MODEL, scene

from stremn_ros.imaging.masks import drop_small_parts, label_mask
from stremn_ros.segmenter import Segmenter


@pytest.mark.parametrize("objects", [1, 2, 5])
@pytest.mark.parametrize("size", [(12, 20), (37, 61)])
def test_a_pixel_is_the_object_s_whose_logit_is_the_largest(objects, size):
    """Against NumPy's argmax; of equal logits the first has the pixel, and the background does."""
    generator = torch.Generator().manual_seed(objects)
    logits = torch.randint(-3, 4, (objects + 1, 12, 20), generator=generator).float()
    ids = [200, 3, 77, 1, 9][:objects]
    for unseen in [None, *range(objects)]:
        shown = [n != unseen for n in range(objects)]
        labels = label_mask(logits, ids, shown, size)
        kept = [0, *(n + 1 for n in range(objects) if shown[n])]
        enlarged = [cv2.resize(logits[n].numpy(), size[::-1]) for n in kept]
        expected = np.array([0, *ids])[np.array(kept)[np.stack(enlarged).argmax(axis=0)]]
        if objects == 1:  # decided on the difference, which is rounded after it was enlarged
            clear = np.abs(enlarged[-1] - enlarged[0]) > 1e-5
            labels, expected = labels * clear, expected * clear
        np.testing.assert_array_equal(labels, expected)
        assert labels.dtype == np.uint8


def drawn():
    """Object 3 in parts of 400, 100 and 4 pixels, object 5 in one of 9."""
    labels = np.zeros((60, 80), np.uint8)
    labels[5:25, 5:25] = 3
    labels[40:50, 10:20] = 3
    labels[55:57, 70:72] = 3
    labels[30:33, 60:63] = 5
    return labels


@pytest.mark.parametrize(
    ("share", "left"), [(0.005, 504), (0.011, 500), (0.25, 500), (0.26, 400), (1.0, 400)]
)
def test_parts_below_the_share_of_the_largest_go(share, left):
    labels = drawn()
    drop_small_parts(labels, [3, 5], share)
    assert np.count_nonzero(labels == 3) == left
    assert np.count_nonzero(labels == 5) == 9
    assert (labels[labels != drawn()] == 0).all()


def test_only_the_objects_asked_for_are_looked_at_and_an_empty_one_is_no_trouble():
    labels = drawn()
    drop_small_parts(labels, [5, 77], 1.0)
    np.testing.assert_array_equal(labels, drawn())


def test_corners_that_touch_are_one_part():
    labels = np.zeros((8, 8), np.uint8)
    cv2.line(labels, (0, 0), (7, 7), 1, 1)
    before = labels.copy()
    drop_small_parts(labels, [1], 1.0)
    np.testing.assert_array_equal(labels, before)


def test_the_result_is_the_cleaned_one_and_the_memory_goes_on_as_without():
    plain, cleaned = (Segmenter.load(str(TINY_MODEL), runtime="torch") for _ in range(2))
    cleaned.smallest_part = 1.0

    def pictured(step):
        """The scene, with a second, smaller thing that belongs to the disc."""
        frame, truth = (part.copy() for part in scene(step))
        frame[2:20, 2:20], truth[2:20, 2:20] = (220, 40, 30), DISC
        return frame, truth

    for segmenter in (plain, cleaned):
        segmenter.seed(*pictured(0))
    differs = 0
    for step in range(1, 12):
        frame, _ = pictured(step)
        before, after = plain.step(frame), cleaned.step(frame)
        expected = before.labels.copy()
        drop_small_parts(expected, [DISC, SQUARE], 1.0)
        np.testing.assert_array_equal(after.labels, expected)
        for item in after.objects:
            assert item.area == np.count_nonzero(expected == item.id)
        differs += not np.array_equal(before.labels, after.labels)
    assert differs, "nothing was there to clean"
