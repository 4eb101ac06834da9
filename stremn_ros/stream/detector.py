"""What to seed of a detector's boxes: what is new, and what was lost and is seen again.

A detector has no memory: it finds the same things in each image. Only what nobody follows yet is
worth a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stremn_ros.imaging.seeding import Box
from stremn_ros.messages.detections import Detection
from stremn_ros.results import MAX_ID, ObjectState, SegmenterState
from stremn_ros.stream.settings import Settings

SMALLEST = 8  # pixels of a box's side; less is lost at once
PATIENCE = 5.0  # seconds before a place is tried again


@dataclass(frozen=True)
class BoxSeed:
    """A seed to be made: object_id 0 for a new object, else that of a lost one."""

    object_id: int
    name: str
    box: Box


class Detector:
    """Chooses the detections that are worth a seed.

    Args:
        settings: `detection_classes` (none: all), `detection_min_score`, and `detection_overlap`,
            the IoU of boxes at or above which a detection is an object that is followed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tried: list[tuple[float, Box]] = []  # when, and where

    def choose(
        self,
        detections: Sequence[Detection],
        size: tuple[int, int],
        state: SegmenterState,
        now: float,
    ) -> list[BoxSeed]:
        """The seeds to make, that of the highest score first.

        Where a seed was made or refused in the last seconds, none is made again: the object
        appears among those followed with the next frame only, and a refused one costs as much.

        Args:
            detections: of one image; those with impossible boxes or scores are left out.
            size: (rows, columns) of the image.
            state: the objects that are followed, as in the newest frame, and their names.
            now: seconds, of a clock that does not jump.
        """
        settings = self._settings
        self._tried = [each for each in self._tried if 0.0 <= now - each[0] < PATIENCE]
        classes = {name for name in settings.detection_classes if name}
        seen = [item for item in state.objects if item.state is not ObjectState.LOST]
        lost = {item.id for item in state.objects if item.state is ObjectState.LOST}
        taken = [item.box for item in seen if item.area] + [box for _, box in self._tried]
        room = min(state.max_objects, MAX_ID) - len(state.ids)
        chosen: list[BoxSeed] = []
        for item in sorted(detections, key=lambda each: -_number(each.score)):
            box = _whole(item.box, size)
            if (
                box is None
                or not _number(item.score) >= settings.detection_min_score
                or (classes and item.label not in classes)
                or any(_iou(box, other) >= settings.detection_overlap for other in taken)
            ):
                continue
            again = next((n for n in sorted(lost) if state.names.get(n) == item.label), 0)
            if not again and room <= 0:
                continue
            lost.discard(again)
            room -= not again
            taken.append(box)
            self._tried.append((now, box))
            chosen.append(BoxSeed(again, item.label, box))
        return chosen


def _number(value: float) -> float:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else -1.0


def _whole(box: Sequence[float], size: tuple[int, int]) -> Box | None:
    """A box cut to the image, in whole pixels; None for one that is none or too small."""
    if len(box) != 4 or not all(
        isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e6
        for value in box
    ):
        return None
    x, y, width, height = box
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    right, bottom = min(size[1], math.ceil(x + width)), min(size[0], math.ceil(y + height))
    if right - left < SMALLEST or bottom - top < SMALLEST:
        return None
    return left, top, right - left, bottom - top


def _iou(one: Box, other: Box) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, width) * max(0, height)
    return both / (one[2] * one[3] + other[2] * other[3] - both)
