"""The one way in which frames and masks change their size."""

from __future__ import annotations

from typing import Any

import cv2
from numpy.typing import NDArray


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """An image [H, W] or [H, W, C] at (rows, columns); averages where it gets smaller, so that
    thin parts do not vanish."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] > size[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
