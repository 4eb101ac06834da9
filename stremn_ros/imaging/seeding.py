"""A first mask from what a person can type: a box, a polygon, points on and beside the object.

GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004; OpenCV's `cv2.grabCut`) finds the outline.
No ROS and no network here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.masks import iou

Box = tuple[int, int, int, int]
Points = Sequence[Sequence[float]] | NDArray[Any]

# GrabCut's time grows with the pixels; a cut-out larger than this is worked on at a smaller scale
# (about 0.3 s on one CPU core) and the outline is scaled back.
WORK_SIDE = 320
# Components smaller than this part of the largest one are specks of the background.
SMALLEST_PART = 0.1
# An object that fills less of its box or polygon than this was probably missed.
TOO_LITTLE = 0.15
# For `agreement`: a share of the longer side that points are moved by, and factors that boxes and
# polygons are scaled by.
MOVED = 0.02
SCALED = (1.08, 0.95)
# A mask of less agreement is probably not the object's. Of 11 objects of real video, one click
# each: below it 6 masks of IoU 0.01 to 0.62, above it 5 of 0.47 to 0.78; with boxes 4 of 0.20 to
# 0.66, and 7 of 0.57 to 0.80.
DOUBTFUL = 0.75
# in words, as each way to give them has other names: `points`, --points, points_inside, a click
ON, BESIDE = "points on the object", "points beside the object"


def make_mask(
    frame: NDArray[np.uint8],
    *,
    box: Box | None = None,
    polygon: Points | None = None,
    inside: Points | None = None,
    outside: Points | None = None,
    iterations: int = 4,
) -> NDArray[np.uint8]:
    """The mask of one object from hints in pixels of the frame; any of them, or several together.

    The object lies within the box and within the polygon when they are given. Parts that no
    `inside` point touches are left away when such points are given.

    Args:
        frame: uint8 [H, W, 3].
        box: (x, y, width, height), whole pixels within the frame.
        polygon: three or more (x, y) around the object.
        inside: (x, y) of pixels of the object.
        outside: (x, y) of pixels of the background.
        iterations: of GrabCut.

    Returns:
        uint8 [H, W], 1 on the object, 0 elsewhere; never empty.

    Raises:
        InputError: no hint, a hint outside the frame, hints that contradict each other, or nothing
            found; the text says what would be right.
    """
    place = check_hints(frame, box=box, polygon=polygon, inside=inside, outside=outside)
    allowed = place.allowed
    if allowed.all() and not len(place.inside) and not len(place.outside):
        raise InputError(
            "the box or polygon covers the whole image, so that nothing shows the background: "
            "draw it closer around the object, or add points beside it"
        )
    return _cut(frame, allowed, place.inside, place.outside, iterations)


@dataclass(frozen=True)
class Place:
    """Checked hints.

    Attributes:
        inside, outside: points (x, y) float64 [N, 2] on the object and beside it.
        box: (x, y, width, height), or None. allowed: uint8 [H, W], 1 within box and polygon.
    """

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    box: Box | None
    allowed: NDArray[np.uint8]


def check_hints(
    frame: NDArray[np.uint8],
    *,
    box: Box | None = None,
    polygon: Points | None = None,
    inside: Points | None = None,
    outside: Points | None = None,
) -> Place:
    """The hints of `make_mask`, or an InputError that says what is wrong with them."""
    check_frame(frame)
    height, width = frame.shape[:2]
    inside_points = _points(inside, ON, width, height)
    outside_points = _points(outside, BESIDE, width, height)
    corners = _points(polygon, "the polygon", width, height)
    if box is None and not len(corners) and not len(inside_points):
        raise InputError(
            f"nothing says where the object is: give a box, a polygon of 3 or more points, or {ON}"
            + (f" ({BESIDE} alone are not enough)" if len(outside_points) else "")
        )
    allowed = np.ones((height, width), np.uint8)
    if box is not None:
        box = x, y, box_width, box_height = _check_box(box, width, height)
        allowed[:] = 0
        allowed[y : y + box_height, x : x + box_width] = 1
    if len(corners):
        if len(corners) < 3:
            raise InputError(f"the polygon has {len(corners)} points: it takes 3 or more")
        filled = np.zeros_like(allowed)
        cv2.fillPoly(filled, [np.rint(corners).astype(np.int32)], 1)
        if int(filled.sum()) < 9:
            raise InputError("the polygon encloses almost no pixels: give points around the object")
        allowed &= filled
        if not allowed.any():
            raise InputError("the box and the polygon do not overlap: give only one of them")
    for column, row in inside_points.astype(int):
        if (outside_points.astype(int) == (column, row)).all(axis=1).any():
            raise InputError(
                f"the point ({column}, {row}) is given as on the object and as beside it: give it "
                "once"
            )
        if not allowed[row, column]:
            raise InputError(
                f"the point ({column}, {row}) on the object lies outside the given box or polygon"
            )
    return Place(inside_points, outside_points, box, allowed)


def agreement(
    frame: NDArray[np.uint8],
    mask: NDArray[Any],
    make: Callable[..., NDArray[np.uint8]] = make_mask,
    *,
    box: Box | None = None,
    polygon: Points | None = None,
    inside: Points | None = None,
    outside: Points | None = None,
) -> float:
    """How little the mask that `make_mask` made of hints depends on where exactly they are, 0..1.

    It is the mean IoU with the masks of hints that are moved a little: a mask that follows an
    outline stays, one that runs into the background or finds a detail changes. A mask may be wrong
    and stay; so a low value says that it is doubtful (`DOUBTFUL`), a high one not that it is right.

    Args:
        frame: uint8 [H, W, 3]. mask: [H, W], not 0 on the object. make: what made it. The hints:
            as in `make_mask`.
    """
    height, width = frame.shape[:2]
    points = _points(inside, ON, width, height)
    corners = _points(polygon, "the polygon", width, height)
    box = None if box is None else _check_box(box, width, height)
    own = np.asarray(mask) > 0
    found = []
    if box is None and not len(corners):
        step = MOVED * max(height, width)
        angle = 0.6  # radians; along neither axis, as many outlines are
        for sign in (1, -1):
            moved = points + sign * step * np.array([np.cos(angle), np.sin(angle)])
            moved = moved.clip(0, [width - 1, height - 1])
            found.append(_mask_or_none(make, frame, inside=moved, outside=outside))
    else:
        # a smaller outline might leave points outside
        for factor in SCALED[: 1 if len(points) else None]:
            scaled: dict[str, Any] = {"inside": inside, "outside": outside}
            if box is not None:
                scaled["box"] = _scaled_box(box, factor, width, height)
            if len(corners):
                middle = corners.mean(axis=0)
                larger = middle + factor * (corners - middle)
                scaled["polygon"] = larger.clip(0, [width - 1, height - 1])
            found.append(_mask_or_none(make, frame, **scaled))
    return float(np.mean([0.0 if other is None else iou(own, other > 0) for other in found]))


def _mask_or_none(
    make: Callable[..., NDArray[np.uint8]], frame: NDArray[np.uint8], **hints: Any
) -> NDArray[np.uint8] | None:
    try:
        return make(frame, **hints)
    except InputError:  # nothing is found any more
        return None


def _scaled_box(box: Box, factor: float, width: int, height: int) -> Box:
    x, y, box_width, box_height = box
    dx, dy = round(box_width * (factor - 1.0)), round(box_height * (factor - 1.0))
    left, top = max(0, x - dx), max(0, y - dy)
    right, bottom = min(width, x + box_width + dx), min(height, y + box_height + dy)
    return left, top, right - left, bottom - top


def _check_box(box: Box, width: int, height: int) -> Box:
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise InputError(f"the box is {box!r}: four numbers are wanted, x, y, width and height")
    x, y, box_width, box_height = (int(value) for value in values)
    if box_width <= 0 or box_height <= 0:
        raise InputError(
            f"the box is {box_width} x {box_height} pixels: width and height must be at least 1"
        )
    if x < 0 or y < 0 or x + box_width > width or y + box_height > height:
        raise InputError(
            f"the box x {x}..{x + box_width}, y {y}..{y + box_height} reaches outside the image, "
            f"which is {width} x {height} pixels"
        )
    return x, y, box_width, box_height


def _points(points: Points | None, name: str, width: int, height: int) -> NDArray[np.float64]:
    if points is None:
        return np.empty((0, 2))
    try:
        values = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        values = np.empty(1)
    if values.ndim and not len(values):
        return np.empty((0, 2))
    if values.ndim != 2 or values.shape[1] != 2:
        raise InputError(f"{name}: a list of (x, y) pairs is wanted")
    for x, y in values:
        # written so that NaN fails as well
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"{name}: ({x:g}, {y:g}) lies outside the image, which is {width} x {height} pixels"
            )
    return values


def _window(
    allowed: NDArray[np.uint8], points: NDArray[np.float64], whole: bool
) -> tuple[slice, slice]:
    """The part of the image to work on: what is allowed and as much around it, for background."""
    height, width = allowed.shape
    if whole:
        return slice(0, height), slice(0, width)
    rows = np.flatnonzero(allowed.any(axis=1))
    columns = np.flatnonzero(allowed.any(axis=0))
    spans = []
    for place, size, extra in ((rows, height, points[:, 1]), (columns, width, points[:, 0])):
        low, high = int(place[0]), int(place[-1]) + 1
        margin = max(16, (high - low) // 2)
        low, high = low - margin, high + margin
        if len(extra):
            low, high = min(low, int(extra.min()) - 8), max(high, int(extra.max()) + 8)
        spans.append(slice(max(0, low), min(size, high)))
    return spans[0], spans[1]


def _cut(
    frame: NDArray[np.uint8],
    allowed: NDArray[np.uint8],
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
    iterations: int,
) -> NDArray[np.uint8]:
    points_only = bool(allowed.all())
    window = _window(allowed, outside, points_only)
    top, left = window[0].start, window[1].start
    picture = frame[window]
    rows, columns = picture.shape[:2]
    scale = min(1.0, WORK_SIDE / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    small: NDArray[Any] = np.ascontiguousarray(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    )
    place = cv2.resize(allowed[window], size, interpolation=cv2.INTER_NEAREST)
    radius = max(1, round(0.01 * max(size)))

    def disc(target: NDArray[np.uint8], point: NDArray[np.float64], reach: int, value: int) -> None:
        center = (
            min(size[0] - 1, int((point[0] - left) * size[0] / columns)),
            min(size[1] - 1, int((point[1] - top) * size[1] / rows)),
        )
        cv2.circle(target, center, reach, value, -1)

    if points_only:
        # Without a box or polygon only the neighborhood of the points is likely the object; the
        # frame of the image is taken for background, so that both color models have samples.
        trimap = np.full(place.shape, cv2.GC_PR_BGD, np.uint8)
        for point in inside:
            disc(trimap, point, max(2, round(0.08 * max(size))), cv2.GC_PR_FGD)
        if not len(inside):
            trimap[:] = cv2.GC_PR_FGD
        trimap[[0, -1]] = trimap[:, [0, -1]] = cv2.GC_BGD
    else:
        trimap = np.where(place > 0, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    for point in outside:
        disc(trimap, point, radius, cv2.GC_BGD)
    for point in inside:
        disc(trimap, point, radius, cv2.GC_FGD)
    likely = int(np.count_nonzero((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)))
    if likely < 9 or likely > trimap.size - 9:
        raise InputError(
            "the hints leave too few pixels of the object or of the background: give a larger box "
            "with some background around it, or a mask"
        )
    found = _grab_cut(small, trimap, iterations)
    if not points_only and not len(inside) and found.sum() < TOO_LITTLE * place.sum():
        # Where object and background share colors the first cut can shrink to nothing. People
        # draw a box around the object, so its middle is taken for certain and the cut made again;
        # when even then nothing beyond that middle joins in, there is no object to see.
        depth = cv2.distanceTransform(np.pad(place, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        core = (depth > 0.7 * depth.max()) & (trimap != cv2.GC_BGD)
        trimap[core] = cv2.GC_FGD
        found = _grab_cut(small, trimap, iterations)
        if found.sum() <= 1.05 * np.count_nonzero(core):
            found[:] = 0
    if scale < 1:
        smooth = cv2.resize(
            found.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR
        )
        found = (smooth > 0.5).astype(np.uint8)
    found &= allowed[window]
    mask = np.zeros_like(allowed)
    mask[window] = found
    mask = keep_parts(mask, inside)
    if not mask.any():
        raise InputError(
            "no object was found with these hints: its colors may be those of the background; "
            f"give {ON}, a closer box, or a mask"
        )
    return mask


def _grab_cut(
    picture: NDArray[Any], trimap: NDArray[np.uint8], iterations: int
) -> NDArray[np.uint8]:
    """1 where GrabCut finds the object; the trimap is left as it is."""
    work = trimap.copy()
    cv2.setRNGSeed(0)  # k-means starts at random: the same hints must give the same mask
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(
            picture, work, (0, 0, 0, 0), background, foreground, iterations, cv2.GC_INIT_WITH_MASK
        )
    except cv2.error as error:
        raise InputError(
            f"GrabCut found no outline here ({error.err}): give another box, or points inside and "
            "outside of the object"
        ) from error
    inside: NDArray[np.bool_] = (work == cv2.GC_FGD) | (work == cv2.GC_PR_FGD)
    return inside.view(np.uint8)


def keep_parts(mask: NDArray[np.uint8], inside: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The parts of a mask [H, W] that points lie on; without points all but the specks."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 1:
        return mask
    if len(inside):
        wanted = {int(parts[int(y), int(x)]) for x, y in inside} - {0}
    else:
        areas = stats[1:, cv2.CC_STAT_AREA]
        wanted = {i + 1 for i, area in enumerate(areas) if area >= SMALLEST_PART * areas.max()}
    keep = np.zeros(count, np.uint8)
    keep[list(wanted)] = 1
    kept: NDArray[np.uint8] = keep[parts]
    return kept
