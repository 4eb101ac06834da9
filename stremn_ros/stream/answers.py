"""What comes out of a stream of segmented images: masks for publishing, and answers of services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.results import SegmentResult
from stremn_ros.spatial.results import SpatialObject
from stremn_ros.stream.intake import Frame

KEPT_FOR = 2 * NANOSECONDS  # a position is predicted for so long without depth


class Seeding(NamedTuple):
    """Which seeds an object has, by their numbers: an id may be given to another object.

    Attributes:
        first: with which the object began. newest: of those since.
    """

    first: int = 0
    newest: int = 0


@dataclass(frozen=True)
class Known:
    """The newest that is known of the objects in space.

    Attributes:
        frame: frame_id of the image that it is of. objects, seedings: by id.
    """

    frame: str = ""
    objects: Mapping[int, SpatialObject] = field(default_factory=dict)
    seedings: Mapping[int, Seeding] = field(default_factory=dict)

    @property
    def unframed(self) -> bool:
        """There are objects, in an image that does not name its frame."""
        return bool(self.objects) and not self.frame

    def of(
        self, object_id: int, stamp: int, seeding: Seeding | None = None
    ) -> SpatialObject | None:
        """Of an object in an image of a stamp; None where what is known is too old for it, or of
        another object that had its id."""
        found = self.objects.get(object_id)
        if found is None or abs(stamp - found.stamp) > KEPT_FOR:
            return None
        if seeding is not None and self.seedings.get(object_id, seeding).first != seeding.first:
            return None
        return found


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame and what was found in it, for publishing.

    Attributes:
        min_score: that an object needs to be seen.
        known: of the objects in space when this was published; of an image before this one.
        seedings: of the objects, by id.
    """

    frame: Frame
    rgb: NDArray[np.uint8]
    result: SegmentResult
    names: dict[int, str]
    min_score: float = 0.0
    known: Known = field(default_factory=Known)
    seedings: Mapping[int, Seeding] = field(default_factory=dict)


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
    quality: float = 0.0  # of such a mask, see `HintMask.quality`
