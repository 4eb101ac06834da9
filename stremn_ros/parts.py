"""Masks in parts: small ones beside an object's main one are mostly not the object."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def drop_small_parts(labels: NDArray[np.uint8], ids: Sequence[int], share: float) -> None:
    """Clears, in place, every connected part of an object that is small beside its largest part.

    Args:
        labels: uint8 [H, W], 0 background, n = object n; ids: of the objects to look at.
        share: a part stays that has at least this share, 0..1, of the largest part's pixels; with 1
            only the largest stays (and others of the very same size).
    """
    for object_id in ids:
        mask = (labels == object_id).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if not height:  # OpenCV does not bear an empty array
            continue
        inside = (slice(y, y + height), slice(x, x + width))
        count, parts, figures, _ = cv2.connectedComponentsWithStats(mask[inside], connectivity=8)
        if count <= 2:  # the background, and one part at most
            continue
        area = figures[:, cv2.CC_STAT_AREA].astype(np.int64)
        area[0] = 0
        small = area < share * area.max()
        small[0] = False
        labels[inside][small[parts]] = 0
