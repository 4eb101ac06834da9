"""The objects of a stream in the worker: a segmenter, their names, and what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import StremnError
from stremn_ros.options import RUN_TIME
from stremn_ros.results import SegmenterState, SegmentResult, TrackedObject
from stremn_ros.segmenter import Segmenter
from stremn_ros.snapshot import Snapshot
from stremn_ros.stream.answers import Seeding
from stremn_ros.stream.seed_requests import FreeIds
from stremn_ros.stream.settings import Settings

# Seconds between two looks inside the memory for the diagnostics, and how many of the frame's cells
# are asked for their attention: about a millisecond for an object
LOOK_PERIOD = 1.0
LOOK_CELLS = 64


class Followed:
    """A segmenter and what belongs to it; the worker alone touches it.

    Args:
        refused: called with why the segmenter cannot follow a setting, and its name.

    Attributes:
        changes: of the memory, counted. names, seedings: of the objects, by id.
        latest: number of the last frame and its labels; None where others came since.
        frame_time: seconds in the network for the last frame, and its objects.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        settings: Settings,
        clock: Callable[[], float],
        refused: Callable[[str, str], None],
    ) -> None:
        self.segmenter = segmenter
        self._settings, self._clock, self._refused = settings, clock, refused
        self.names: dict[int, str] = {}
        self.seedings: dict[int, Seeding] = {}
        self._seeds = 0  # so far
        self.free_ids = FreeIds()
        self.changes = 0
        self.latest: tuple[int, NDArray[np.uint8]] | None = None
        self.frame_time = 0.0, 0
        self._inside: dict[int, str] = {}
        self._looked_at = -LOOK_PERIOD

    def apply_settings(self) -> None:
        """Run-time changes reach the segmenter here, between two frames."""
        segmenter = self.segmenter
        own = {name: getattr(segmenter.defaults, name) for name in RUN_TIME}
        for name, value in {**own, **self._settings.options()}.items():
            if getattr(segmenter.options, name) != value:
                try:
                    segmenter.change(**{name: value})
                except StremnError as error:  # a rule that this model cannot follow
                    self._refused(f"{name} stays as it was: {error}", name)

    def segment(self, rgb: NDArray[np.uint8]) -> SegmentResult:
        begin = self._clock()
        result = self.segmenter.segment(rgb)
        self.frame_time = self._clock() - begin, len(result.objects)
        return result

    def remember(self) -> None:
        self.segmenter.remember()
        if self.segmenter.ids:
            self.changes += 1

    def remove(self, object_id: int) -> None:
        self.segmenter.remove(object_id)
        self._let_go([object_id])
        self.changes += 1

    def note_seed(self, ids: Iterable[int], gone: Iterable[int]) -> None:
        """These were seeded. gone: what gave way to them."""
        self._let_go(gone)
        self._seeds += 1
        for number in ids:
            first = self.seedings.get(number, Seeding(self._seeds)).first
            self.seedings[number] = Seeding(first, self._seeds)
        self.changes += 1
        self.latest = None  # it does not show these

    def _let_go(self, ids: Iterable[int]) -> None:
        for number in ids:
            self.names.pop(number, None)
            self.seedings.pop(number, None)

    def forget(self) -> int:
        """Forgets all objects, and returns how many they were."""
        count = len(self.segmenter.ids)
        self.segmenter.reset()
        self._let_go(list(self.seedings))
        self.free_ids.clear()
        self.latest = None
        self.changes += 1
        return count

    def copy(self) -> tuple[Snapshot, int]:
        """What is remembered, and the number of changes that it has."""
        return self.segmenter.snapshot(self.names), self.changes

    def restore(self, snapshot: Snapshot) -> int:
        """All objects give way to those of a snapshot; the number of changes then."""
        names = self.segmenter.restore(snapshot)
        self.note_seed(self.segmenter.ids, list(self.seedings))
        self.names = names
        return self.changes

    def state(self, objects: Sequence[TrackedObject]) -> SegmenterState:
        """For those who must not ask the segmenter. objects: of the last frame."""
        segmenter = self.segmenter
        ids = segmenter.ids
        self.free_ids.note(ids)
        # what it takes time to look at is looked at once a second
        if self._clock() - self._looked_at >= LOOK_PERIOD or set(ids) != self._inside.keys():
            self._looked_at = self._clock()
            seen = segmenter.look_inside(cells=LOOK_CELLS)
            self._inside = {memory.id: memory.text() for memory in seen}
        return SegmenterState(
            ids=ids,
            objects=[item for item in objects if item.id in ids],
            names=dict(self.names),
            max_objects=segmenter.max_objects,
            memory_bytes=segmenter.memory_bytes,
            slots_used=segmenter.slots_used,
            memory=self._inside,
            runtime=segmenter.runtime_name,
        )
