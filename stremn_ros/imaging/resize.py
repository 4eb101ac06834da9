"""How frames and masks change their size, and what is too small for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.imaging.sizes import LARGEST_ADVISED, STRIDE, shape_text

SMALLEST_SIDE = 8  # pixels at the processing size; a smaller square is lost at once
SUFFICIENT_SIDE = 10  # that a larger processing size is advised for


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """An image [H, W] or [H, W, C] at (rows, columns); averages where it gets smaller, so that
    thin parts do not vanish."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] > size[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)


def too_small(labels: NDArray[Any], size: tuple[int, int], ids: Sequence[int] | None = None) -> str:
    """What is to be said of objects that are too small to be followed; empty where all are not.

    Things that cover less than ``SMALLEST_SIDE`` squared pixels where the network works are lost at
    once (docs/accuracy.md has the measurement).

    Args:
        labels: [H, W] of the source's size, 0 background, n = object n; size: (rows, columns) that
            the network works at; ids: look at these only.
    """
    areas = np.bincount(labels.ravel().astype(np.int64))
    wanted = [int(value) for value in np.flatnonzero(areas) if value]
    if ids is not None:
        wanted = [value for value in wanted if value in ids]
    share = math.sqrt(size[0] * size[1] / labels.size)
    sides = {value: math.sqrt(areas[value]) * share for value in wanted}
    small = {value: side for value, side in sides.items() if side < SMALLEST_SIDE}
    if not small:
        return ""
    listed = ", ".join(
        f"object {value} ({areas[value]} pixels in the frame, {side:.1f} x {side:.1f} at the "
        "processing size)"
        for value, side in list(small.items())[:5]
    )
    more = f" and {len(small) - 5} more" if len(small) > 5 else ""
    factor = SUFFICIENT_SIDE / min(small.values())
    wanted_size = STRIDE * math.ceil(min(size) * factor / STRIDE)
    remedy = (
        f"a processing size of {wanted_size} would do, at {factor**2:.0f} times the work"
        if wanted_size <= LARGEST_ADVISED
        else "no processing size will do: give a cut-out of the frame, or a larger mask"
    )
    return (
        f"too small to be followed at {shape_text(size)}: {listed}{more}. Below {SMALLEST_SIDE} x "
        f"{SMALLEST_SIDE} there things are lost at once; {remedy}"
    )
