"""What a segmenter says of a frame and of itself; nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ID = 255  # of an object: a label is one byte


class ObjectState(IntEnum):
    """TRACKED: seen in this frame. OCCLUDED: not seen for a short while. LOST: for longer."""

    TRACKED = 0
    OCCLUDED = 1
    LOST = 2


@dataclass(frozen=True)
class TrackedObject:
    """An object in one frame.

    Attributes:
        score: how good the mask is, 0..1; 0 for an empty mask. It is the IoU that the network
            predicts for it, or, from a network without that head, the mean probability inside.
        area: pixels of the mask.
        box: (x, y, width, height) in pixels.
        centroid: (x, y) in pixels.
    """

    id: int
    state: ObjectState
    score: float
    area: int
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]


@dataclass(frozen=True)
class SegmentResult:
    """labels uint8 [H, W] at the frame's size (0 background, n = object n), objects by id."""

    labels: NDArray[np.uint8]
    objects: list[TrackedObject] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SegmenterState:
    """A segmenter at one moment, for those who must not ask it while it works.

    Attributes:
        objects: of the last frame, those that are still followed.
        names, slots_used, memory: by id; memory: what it holds, in words.
    """

    ids: Sequence[int] = ()
    objects: Sequence[TrackedObject] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    max_objects: int
    memory_bytes: int
    slots_used: Mapping[int, int] = field(default_factory=dict)
    memory: Mapping[int, str] = field(default_factory=dict)
    runtime: str
