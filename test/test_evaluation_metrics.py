"""J and F against hand-made cases, a slow reference, and the package vos-benchmark."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stremn_ros.errors import InputError
from stremn_ros.evaluation import metrics


def disk_mask(height, width, y, x, radius):
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def moving_shapes(rng, frames=12, height=120, width=200, objects=3):
    """Label masks uint8 [T, H, W] of shapes that move and hide each other."""
    sequence = np.zeros((frames, height, width), np.uint8)
    for label in range(1, objects + 1):
        y, x = rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width
        speed = rng.uniform(-1, 1, 2) * (4, 10)
        radius = rng.uniform(12, 30)
        for index in range(frames):
            centre = (y + speed[0] * index, x + speed[1] * index)
            sequence[index][disk_mask(height, width, *centre, radius)] = label
    return sequence


def noisy(rng, truth, objects=3):
    """What a tracker may make of them: late, shifted, ragged, lost, or confused."""
    predicted = np.zeros_like(truth)
    for index in range(len(truth)):
        frame = truth[max(0, index - int(rng.integers(0, 3)))]
        frame = np.roll(frame, rng.integers(-3, 4, 2), (0, 1))
        ragged = rng.random(frame.shape) < 0.02
        frame = np.where(ragged, rng.integers(0, objects + 1, frame.shape), frame)
        if rng.random() < 0.15:
            frame = np.where(frame == rng.integers(1, objects + 1), 0, frame)
        if rng.random() < 0.1:
            frame = np.where(frame == 1, 2, frame)
        predicted[index] = frame
    return predicted


def slow_boundary(mask):
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            y2, x2 = min(y + 1, height - 1), min(x + 1, width - 1)
            around = (mask[y2, x], mask[y, x2], mask[y2, x2])
            edge[y, x] = any(other != mask[y, x] for other in around)
    return edge


def slow_f(predicted, truth, radius):
    """F straight from its definition, with distances between all pairs of contour pixels."""
    ours, theirs = np.argwhere(slow_boundary(predicted)), np.argwhere(slow_boundary(truth))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    near = ((ours[:, None] - theirs[None]) ** 2).sum(2) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_j_of_simple_cases():
    full, none, left = np.ones((4, 6)), np.zeros((4, 6)), np.zeros((4, 6))
    left[:, :3] = 1
    assert metrics.region_similarity(left, full) == 0.5
    assert metrics.region_similarity(left, none) == 0
    assert metrics.region_similarity(none, none) == 1
    void = 1 - left
    assert metrics.region_similarity(left, full, void) == 1
    with pytest.raises(InputError, match="one size"):
        metrics.region_similarity(left, full[:2])
    with pytest.raises(InputError, match="void"):
        metrics.region_similarity(left, full, void[:2])


def test_f_forgives_the_tolerance_and_no_more():
    """On 480 x 854 the disk has a radius of 8 pixels: a shift by 8 is free, one by 9 is not."""
    assert metrics.boundary_radius((480, 854)) == 8
    truth = np.zeros((480, 854), bool)
    truth[100:300, 100:500] = True
    assert metrics.contour_accuracy(np.roll(truth, 8, 1), truth) == 1
    assert metrics.contour_accuracy(np.roll(truth, 9, 1), truth) < 0.9
    assert metrics.contour_accuracy(np.roll(truth, 9, 1), truth, tolerance=9) == 1
    assert metrics.contour_accuracy(np.zeros_like(truth), truth) == 0
    assert metrics.contour_accuracy(truth, np.zeros_like(truth)) == 0
    assert metrics.contour_accuracy(np.zeros_like(truth), np.zeros_like(truth)) == 1
    assert metrics.contour_accuracy(np.ones_like(truth), np.zeros_like(truth)) == 1  # no contours


@pytest.mark.parametrize("seed", range(6))
def test_f_against_its_definition(seed):
    rng = np.random.default_rng(seed)
    truth = disk_mask(30, 40, *rng.uniform(0, 40, 2), rng.uniform(3, 20))
    predicted = np.roll(truth, rng.integers(-4, 5, 2), (0, 1)) ^ (rng.random((30, 40)) < 0.02)
    assert np.array_equal(metrics.boundary(predicted), slow_boundary(predicted))
    for radius in (1, 2, 5):
        assert metrics.contour_accuracy(predicted, truth, tolerance=radius) == pytest.approx(
            slow_f(predicted, truth, radius), abs=1e-12
        )


def test_random_masks_at_the_image_border():
    """The crop that makes it quick changes nothing where masks touch the border."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        truth, predicted = np.zeros((2, 17, 23), bool)
        for mask in (truth, predicted):
            y, x = rng.integers(0, 17), rng.integers(0, 23)
            mask[y : y + rng.integers(1, 17), x : x + rng.integers(1, 23)] = True
        assert metrics.contour_accuracy(predicted, truth, tolerance=2) == pytest.approx(
            slow_f(predicted, truth, 2), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(4))
def test_against_vos_benchmark(seed):
    """The independent implementation agrees to 0.1 (in fact to rounding) in percent."""
    evaluator = pytest.importorskip("vos_benchmark.evaluator", reason="package vos-benchmark")
    rng = np.random.default_rng(seed)
    truth = moving_shapes(rng)
    predicted = noisy(rng, truth)
    ids = [int(label) for label in np.unique(truth[1]) if label]
    theirs = evaluator.Evaluator()
    ours_j, ours_f = [], []
    for guess, right in zip(predicted[1:-1], truth[1:-1]):
        theirs.feed_frame(guess, right)
        j, f = metrics.score_frame(guess, right, ids)
        ours_j.append(j)
        ours_f.append(f)
    j, f = theirs.conclude()
    assert 20 < np.mean(list(j.values())) < 98  # the predictions are neither perfect nor useless
    assert np.mean(ours_j, 0) * 100 == pytest.approx([j[label] for label in ids], abs=1e-6)
    assert np.mean(ours_f, 0) * 100 == pytest.approx([f[label] for label in ids], abs=1e-6)


def test_score_frame_leaves_void_pixels_out():
    truth, predicted, void = np.zeros((3, 40, 60), np.uint8)
    truth[10:20, 10:20] = 1
    truth[10:20, 30:40] = 2
    predicted[10:20, 10:20] = 1
    predicted[30:40, 30:40] = 1
    j, f = metrics.score_frame(predicted, truth, [1, 2])
    assert j.tolist() == [0.5, 0.0]
    assert f[0] < 0.8
    void[25:, :] = 255
    j, f = metrics.score_frame(predicted, truth, [1, 2], void)
    assert (j.tolist(), f.tolist()) == ([1.0, 0.0], [1.0, 0.0])
    with pytest.raises(InputError, match="one size"):
        metrics.score_frame(predicted, truth[1:], [1])


def test_statistics():
    values = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2])
    result = metrics.statistics(values)
    assert result.mean == pytest.approx(values.mean())
    assert result.recall == 5 / 8
    # Quarters from 1..8 with borders at 1, 2.75 -> 3, 4.5 -> 5, 6.25 -> 6, 8, ends included
    assert result.decay == pytest.approx(values[0:3].mean() - values[5:8].mean())
    assert math.isnan(metrics.statistics(values[:3]).decay)
    with pytest.raises(InputError):
        metrics.statistics(np.array([]))
