"""A scene that the tiny test model follows: a red disc and a blue square on grey, with truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

TINY_MODEL = Path(__file__).parent / "data" / "tiny_model"
DISC, SQUARE = 1, 2


def scene(step: int, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """Frame uint8 [H, W, 3] and truth uint8 [H, W] at a step; both shapes move and stay inside."""
    unit = size[0] / 120.0
    truth = np.zeros(size, np.uint8)
    swing = 12.0 * np.sin(step / 6.0)
    centre = (round(50 * unit + swing * unit), round(62 * unit))
    cv2.circle(truth, centre, round(18 * unit), DISC, -1)
    top = round((35 + 8.0 * np.cos(step / 5.0)) * unit)
    side = round(30 * unit)
    left = round(105 * unit)
    cv2.rectangle(truth, (left, top), (left + side, top + side), SQUARE, -1)
    frame = np.full((*size, 3), 90, np.uint8)
    frame[truth == DISC] = (220, 40, 30)
    frame[truth == SQUARE] = (30, 60, 220)
    return frame, truth


def iou(labels: np.ndarray, truth: np.ndarray, object_id: int) -> float:
    """Intersection over union of one object."""
    a, b = labels == object_id, truth == object_id
    return float((a & b).sum() / max(1, (a | b).sum()))
