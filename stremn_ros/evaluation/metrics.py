"""Region similarity J and contour accuracy F, as DAVIS defines them.

Definition: F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016; several objects and their averaging: J. Pont-Tuset et al., "The 2017
DAVIS Challenge on Video Object Segmentation", arXiv 1704.00675.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.imaging.masks import iou

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal


def _as_masks(
    predicted: np.ndarray, truth: np.ndarray, void: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise InputError(
            f"predicted mask {list(predicted.shape)}, true mask {list(truth.shape)}: "
            "two masks [H, W] of one size are needed"
        )
    predicted, truth = predicted != 0, truth != 0
    if void is not None:
        if void.shape != truth.shape:
            raise InputError(f"void is {list(void.shape)}, the masks are {list(truth.shape)}")
        counted = void == 0
        predicted, truth = predicted & counted, truth & counted
    return predicted, truth


def region_similarity(
    predicted: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> float:
    """J: intersection over union of two masks [H, W] (non-zero is inside), 0..1.

    Two empty masks agree: 1. Pixels where void is non-zero are left out.
    """
    return iou(*_as_masks(predicted, truth, void))


def boundary(mask: np.ndarray) -> np.ndarray:
    """The one pixel wide contour of a mask bool [H, W], as DAVIS (and Berkeley's seg2bmap) has it.

    A pixel is on the contour when its right, lower or lower right neighbor differs from it; the
    image's last row and column look only along themselves.
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    edge = np.zeros_like(mask)
    down = mask[:-1] != mask[1:]
    right = mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= down
    edge[:, :-1] |= right
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def boundary_radius(shape: tuple[int, ...], tolerance: float = BOUNDARY_TOLERANCE) -> int:
    """Pixels by which a contour may be off in an image [H, W]: the radius of the disk."""
    return math.ceil(tolerance * math.hypot(*shape)) if tolerance < 1 else math.ceil(tolerance)


def contour_accuracy(
    predicted: np.ndarray,
    truth: np.ndarray,
    void: np.ndarray | None = None,
    tolerance: float = BOUNDARY_TOLERANCE,
) -> float:
    """F: harmonic mean of precision and recall of the contour pixels, 0..1.

    A contour pixel counts as found when the other contour passes within the tolerance (a fraction
    of the image's diagonal, rounded up to pixels). Two masks without contour agree: 1.
    """
    predicted, truth = _as_masks(predicted, truth, void)
    return _contour_accuracy(predicted, truth, boundary_radius(truth.shape, tolerance))


def _contour_accuracy(predicted: np.ndarray, truth: np.ndarray, radius: int) -> float:
    box = _box(predicted | truth)
    if box is None:
        return 1.0
    # Outside of the box around both masks there is no contour, so nothing else is looked at.
    edge_predicted, edge_truth = boundary(predicted[box]), boundary(truth[box])
    count_predicted = np.count_nonzero(edge_predicted)
    count_truth = np.count_nonzero(edge_truth)
    if not count_predicted or not count_truth:
        # One contour is missing: precision 1 and recall 0, or the other way round. Both are
        # missing when a mask fills the whole image or there is none.
        return 1.0 if count_predicted == count_truth else 0.0
    precision = np.count_nonzero(_near(edge_truth, radius)[edge_predicted]) / count_predicted
    recall = np.count_nonzero(_near(edge_predicted, radius)[edge_truth]) / count_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(edge: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by the disk x*x + y*y <= radius*radius."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return cv2.dilate(edge.view(np.uint8), disk).view(bool)


def _box(mask: np.ndarray) -> tuple[slice, slice] | None:
    """The box around a mask, one pixel wider where the image goes on; None for an empty mask."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if not width:
        return None
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)


def score_frame(
    predicted: np.ndarray,
    truth: np.ndarray,
    ids: Iterable[int],
    void: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """J and F, float [objects] each, of two label masks [H, W] for the objects named by ids."""
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise InputError(
            f"predicted labels {list(predicted.shape)}, true labels {list(truth.shape)}: "
            "two masks [H, W] of one size are needed"
        )
    if void is not None:
        counted = void == 0
        predicted, truth = predicted * counted, truth * counted
    radius = boundary_radius(truth.shape)
    j, f = [], []
    for label in ids:
        ours, theirs = predicted == label, truth == label
        j.append(iou(ours, theirs))
        f.append(_contour_accuracy(ours, theirs, radius))
    return np.array(j), np.array(f)


@dataclass(frozen=True)
class Statistics:
    """Mean, recall (share of frames above 0.5) and decay (first quarter less last) over frames."""

    mean: float
    recall: float
    decay: float


def statistics(values: np.ndarray) -> Statistics:
    """The three statistics of DAVIS over the frames of one object: float [frames], 0..1.

    Decay is nan with fewer than four frames, where there are no quarters.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        raise InputError("no frames to take the statistics of")
    decay = math.nan
    if values.size >= 4:
        # The bounds as DAVIS computes them: rounded halves up, quarters sharing their border frame
        bounds = np.floor(np.linspace(1, values.size, 5) + 1e-10 + 0.5).astype(int) - 1
        decay = float(
            values[bounds[0] : bounds[1] + 1].mean() - values[bounds[3] : bounds[4] + 1].mean()
        )
    return Statistics(float(values.mean()), float((values > 0.5).mean()), decay)
