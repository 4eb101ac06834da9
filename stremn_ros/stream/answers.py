"""What comes out of a stream of segmented images: masks for publishing, and answers of services."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stremn_ros.results import SegmentResult
from stremn_ros.stream.intake import Frame


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame and what was found in it, for publishing."""

    frame: Frame
    rgb: NDArray[np.uint8]
    result: SegmentResult
    names: dict[int, str]


@dataclass
class Answer:
    """Of a service: what happened, in words, and the state after it."""

    success: bool
    message: str
    ids: list[int] = field(default_factory=list)
    tracked_ids: list[int] = field(default_factory=list)
    frame: Frame | None = None  # that the seed was applied to
    exact: bool = False  # it is the one that was asked for
    mask: NDArray[np.uint8] | None = None
    overlapped_ids: list[int] = field(default_factory=list)  # of objects that the seed covered
    frame_time: float = 0.0  # seconds of a frame with all objects; 0 where not measured
    agreement: float = 0.0  # of a mask made of hints, see `seeding.agreement`
