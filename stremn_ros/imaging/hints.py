"""Hints (a box, points on and beside an object) as the click network sees them: a square crop of
the frame around them, and planes in which they are drawn. NumPy and OpenCV only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PLANES = 4  # points inside, points outside, box, mask of an earlier pass
INSIDE, OUTSIDE, BOX, PREVIOUS = range(PLANES)
LARGEST = 8192  # side of a window that is made as a picture; of larger ones the frame's part alone
RADIUS = 4  # of a drawn point, in pixels of the crop
PADDING = 127  # gray outside the frame: about the mean that the encoders subtract


@dataclass(frozen=True)
class Window:
    """A square of a frame, in whole pixels; it may reach beyond the frame.

    Attributes:
        x, y: of its left upper corner; side: its width and height.
    """

    x: int
    y: int
    side: int

    @classmethod
    def around(cls, center: tuple[float, float], side: float, width: int, height: int) -> Window:
        """A window of about ``side`` around a center, moved into the frame where it fits."""
        whole = max(16, round(side))
        corner = []
        for middle, length in zip(center, (width, height), strict=True):
            start = round(middle - whole / 2.0)
            if whole <= length:
                start = min(max(start, 0), length - whole)
            else:  # the frame is in it as a whole
                start = min(max(start, length - whole), 0)
            corner.append(start)
        return cls(corner[0], corner[1], whole)

    def resembles(self, other: Window) -> bool:
        """Whether the other one shows about the same, at about the same scale."""
        near = 0.1 * other.side
        return (
            abs(self.side - other.side) < near
            and abs(self.x - other.x) < near
            and abs(self.y - other.y) < near
        )

    def to_crop(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Pixels (x, y) [N, 2] of the frame -> pixels of the crop."""
        scaled: NDArray[np.float64] = (points + 0.5 - [self.x, self.y]) * (size / self.side) - 0.5
        return scaled


def cut(image: NDArray[np.uint8], window: Window, size: int, outside: int) -> NDArray[np.uint8]:
    """A window of an image [H, W(, 3)] as a crop uint8 [size, size(, 3)].

    Args:
        outside: the value beyond the image; for a mask 0, of which the crop has 0 and 1.
    """
    height, width = image.shape[:2]
    left, top = max(window.x, 0), max(window.y, 0)
    right, bottom = min(window.x + window.side, width), min(window.y + window.side, height)
    part, side = image[top:bottom, left:right], window.side
    above, before = top - window.y, left - window.x
    if side > LARGEST:  # of a narrow picture nearly all of the window is beside it
        share = LARGEST / side
        shape = [max(1, round(length * share)) for length in part.shape[1::-1]]
        part = np.asarray(cv2.resize(part, shape, interpolation=cv2.INTER_AREA), np.uint8)
        above, before, side = round(above * share), round(before * share), LARGEST
    part = np.asarray(
        cv2.copyMakeBorder(
            part,
            above,
            max(0, side - above - part.shape[0]),
            before,
            max(0, side - before - part.shape[1]),
            cv2.BORDER_CONSTANT,
            value=(outside,) * 3,
        ),
        np.uint8,
    )
    method = cv2.INTER_AREA if window.side > size else cv2.INTER_LINEAR
    if image.ndim == 2:
        smooth = cv2.resize(part.astype(np.float32), (size, size), interpolation=method)
        return (smooth > 0.5).astype(np.uint8)
    return np.asarray(cv2.resize(part, (size, size), interpolation=method), np.uint8)


def put_back(
    probability: NDArray[np.float32], window: Window, width: int, height: int
) -> NDArray[np.float32]:
    """A map [h, w] over a window -> float32 [height, width] over the frame, 0 outside of it."""
    side = window.side
    left, top = max(window.x, 0), max(window.y, 0)
    right, bottom = min(window.x + side, width), min(window.y + side, height)
    result = np.zeros((height, width), np.float32)
    if side > LARGEST:
        rows = _between(probability, np.arange(top, bottom) - window.y, side)
        result[top:bottom, left:right] = _between(rows.T, np.arange(left, right) - window.x, side).T
        return result
    large = cv2.resize(probability, (side, side), interpolation=cv2.INTER_LINEAR)
    result[top:bottom, left:right] = large[
        top - window.y : bottom - window.y, left - window.x : right - window.x
    ]
    return result


def _between(values: NDArray[np.float32], at: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Rows of a map [h, w] that is enlarged to ``side`` rows, interpolated: [len(at), w]."""
    place = ((at + 0.5) * (len(values) / side) - 0.5).clip(0, len(values) - 1).astype(np.float32)
    low = place.astype(np.int64)
    part = (place - low)[:, None]
    high = np.minimum(low + 1, len(values) - 1)
    return np.asarray(values[low] * (1 - part) + values[high] * part, np.float32)


def draw_points(plane: NDArray[Any], points: NDArray[np.float64]) -> None:
    """Draws points (x, y) [N, 2] of the crop into a plane [S, S]."""
    for x, y in points:
        cv2.circle(plane, (round(float(x)), round(float(y))), RADIUS, 1, -1)


def draw_box(plane: NDArray[Any], corners: NDArray[np.float64]) -> None:
    """Fills a box, given by two opposite corners (x, y) [2, 2] in pixels of the crop."""
    (left, top), (right, bottom) = np.rint(corners).astype(int)
    cv2.rectangle(plane, (int(left), int(top)), (int(right), int(bottom)), 1, -1)
