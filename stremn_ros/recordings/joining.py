"""What is right in each frame, of two passes: what is given, what came forwards or backwards.

Before an object's first seed in a section only the backward pass knows it, after the last only the
forward pass. Between two seeds both do, and a pass is the more often right the nearer its seed is:
so one changes to the other in the middle half, at the frame where they agree best (the largest
IoU), and of frames that hardly differ in that, at the one nearest to the middle. Near the seeds
they always agree, as both know these. Where the other pass is clearly surer of the object in a
frame (by its score), that one is right there.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from stremn_ros.imaging.masks import iou, measured
from stremn_ros.recordings.passes import PassFolder, PassFrame, Seen
from stremn_ros.recordings.plan import Section
from stremn_ros.recordings.seeds import Labels
from stremn_ros.recordings.track import Track
from stremn_ros.results import ObjectState, TrackedObject

TIE = 0.05  # of IoU: frames whose agreement differs by less are as good as each other
SURER = 0.05  # of the score, by which the farther pass must be surer to be taken in a frame
EDGE = 0.25  # of the frames between two seeds, at either end, in which nothing is joined
GIVEN, FORWARD, BACKWARD = "given", "forward", "backward"


_GIVEN = Seen(ObjectState.TRACKED, 1.0)


@dataclass(frozen=True)
class FrameObject(TrackedObject):
    """An object in a frame as it is labelled.

    Attributes:
        origin: ``given``, ``forward`` or ``backward``.
        agreement: IoU of the two passes, where both know the object.
    """

    name: str
    origin: str
    agreement: float | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """A frame as it is labelled.

    Attributes:
        stamp: nanoseconds. labels: uint8 [H, W]; None where the frame could not be decoded.
        accepted: a person accepted it. given: ids of the objects that are given in it.
    """

    frame: int
    stamp: int
    labels: Labels | None
    objects: list[FrameObject]
    accepted: bool = False
    given: tuple[int, ...] = ()


@dataclass(frozen=True)
class Join:
    """Where an object changes from the forward to the backward pass.

    Attributes:
        seeds: frames of the seeds around it. at: the first frame of the backward pass.
        agreement: IoU there; worst: the least between the two seeds, and the frame that has it.
    """

    id: int
    seeds: tuple[int, int]
    at: int
    agreement: float
    worst: float
    worst_frame: int


@dataclass
class _Between:
    """The agreement of the passes on an object between two seeds."""

    seeds: tuple[int, int]
    values: array[float] = field(default_factory=lambda: array("d"))  # of the frames between

    def join(self, object_id: int) -> Join:
        first, last = self.seeds
        if not self.values:  # neighbours
            return Join(object_id, self.seeds, last, 1.0, 1.0, last)
        middle, reach = (first + last) / 2, (last - first) * (0.5 - EDGE)
        inner = [n for n in range(first + 1, last) if abs(n - middle) <= reach]
        inner = inner or [(first + last) // 2]
        best = max(self.values[n - first - 1] for n in inner)
        places = [n for n in inner if self.values[n - first - 1] >= best - TIE]
        at = min(places, key=lambda frame: (abs(frame - middle), frame))
        there = self.values[at - first - 1]
        worst = min(self.values)
        return Join(object_id, self.seeds, at, there, worst, first + 1 + self.values.index(worst))


class Joining:
    """All passes of a track, read together. It holds one frame at a time.

    Attributes: joins, of all sections.
    """

    def __init__(self, track: Track, stretch: int) -> None:
        self.track = track
        self._passes: dict[tuple[int, bool], PassFolder] = {
            (each.section, each.forward): PassFolder(track, each, stretch) for each in track.passes
        }
        self._seeded: dict[int, dict[int, list[int]]] = {}  # section -> id -> frames
        for section in track.sections:
            frames = self._seeded.setdefault(section.number, {})
            for point in section.seeds:
                for object_id in point.ids:
                    frames.setdefault(object_id, []).append(point.frame)
        self._points = {point.frame: point for point in track.seeds}
        self.joins: dict[int, list[Join]] = {
            section.number: self._join(section) for section in track.sections
        }

    def _both(self, section: int) -> list[tuple[str, PassFolder | None]]:
        """The passes of a section with their names; None where there is no such pass."""
        both = ((FORWARD, True), (BACKWARD, False))
        return [(name, self._passes.get((section, forward))) for name, forward in both]

    def _pair(self, section: int, frame: int) -> list[PassFrame | None]:
        return [None if files is None else files.read(frame) for _, files in self._both(section)]

    def _join(self, section: Section) -> list[Join]:
        spans = {
            object_id: [_Between(pair) for pair in itertools.pairwise(frames)]
            for object_id, frames in self._seeded[section.number].items()
        }
        spans = {object_id: items for object_id, items in spans.items() if items}
        if not spans:
            return []
        low = min(items[0].seeds[0] for items in spans.values())
        high = max(items[-1].seeds[1] for items in spans.values())
        for frame in range(low, high + 1):
            one, other = self._pair(section.number, frame)
            for object_id, items in spans.items():
                for item in items:
                    if item.seeds[0] < frame < item.seeds[1]:
                        item.values.append(_agreement(one, other, object_id))
        return [item.join(object_id) for object_id, items in spans.items() for item in items]

    def frames(self) -> Iterator[Labelled]:
        """Every frame of the track, in order."""
        for section in self.track.sections:
            last = section is self.track.sections[-1]
            for frame in range(section.first, section.last + last):
                yield self._labelled(section, frame)

    def outline(self) -> Iterator[tuple[int, dict[int, Seen]]]:
        """(frame, objects by id) of every frame, in order, without their masks: quick."""
        for section in self.track.sections:
            last = section is self.track.sections[-1]
            for frame in range(section.first, section.last + last):
                known = {
                    name: (files.objects(frame) if files is not None else None) or {}
                    for name, files in self._both(section.number)
                }
                seen: dict[int, Seen] = {}
                for object_id, origin in self._origins(section.number, frame, known).items():
                    found = _GIVEN if origin == GIVEN else known[origin].get(object_id)
                    if found is not None:
                        seen[object_id] = found
                yield frame, seen

    def close(self) -> None:
        """Closes the files."""
        for files in self._passes.values():
            files.close()

    def _origins(
        self, section: int, frame: int, known: Mapping[str, Mapping[int, Seen]]
    ) -> dict[int, str]:
        """Where each object that is known in a frame comes from.

        Args:
            known: what each pass says of the frame's objects, by the pass's name.
        """
        found = {n: self._origin(section, n, frame, known) for n in self.track.ids}
        if frame in self._points and self._points[frame].accepted:  # nothing from either side
            return {n: origin for n, origin in found.items() if origin == GIVEN}
        return {n: origin for n, origin in found.items() if origin}

    def _origin(
        self, section: int, object_id: int, frame: int, known: Mapping[str, Mapping[int, Seen]]
    ) -> str:
        """Which pass is right for an object in a frame; empty where it is not known."""
        seeded = self._seeded[section].get(object_id)
        if not seeded:
            return ""
        if frame in seeded:
            return GIVEN
        if frame < seeded[0]:
            return BACKWARD
        if frame > seeded[-1]:
            return FORWARD
        join = next(
            join
            for join in self.joins[section]
            if join.id == object_id and join.seeds[0] < frame < join.seeds[1]
        )
        near, far = (BACKWARD, FORWARD) if frame >= join.at else (FORWARD, BACKWARD)
        return far if surer(known[near].get(object_id), known[far].get(object_id)) else near

    def _labelled(self, section: Section, frame: int) -> Labelled:
        one, other = self._pair(section.number, frame)
        point = self._points.get(frame)
        given = self.track.seed(frame) if point is not None else None
        known = {
            name: {} if read is None else read.objects
            for name, read in ((FORWARD, one), (BACKWARD, other))
        }
        origins = self._origins(section.number, frame, known)
        accepted = point is not None and point.accepted
        seen = dict.fromkeys(point.ids if point is not None else (), _GIVEN)
        layers = []
        for name, read in ((FORWARD, one), (BACKWARD, other)):
            if read is None:
                continue
            chosen = [n for n, origin in origins.items() if origin == name and n in read.objects]
            seen.update({n: read.objects[n] for n in chosen})
            if read.labels is not None:
                layers.append(_only(read.labels, chosen))
        labels = given
        if layers:
            labels = _together(layers, seen)
            if given is not None:
                labels = np.where(given, given, labels)
        objects = []
        if labels is not None:
            both = one is not None and other is not None
            for n in sorted(seen):
                agreement = None
                if both and n not in (point.ids if point is not None else ()):
                    agreement = self._known_agreement(one, other, n)
                objects.append(self._described(n, seen[n], labels, origins[n], agreement))
        return Labelled(
            frame,
            int(self.track.index.stamps[frame]),
            labels,
            objects,
            accepted,
            point.ids if point is not None else (),
        )

    @staticmethod
    def _known_agreement(
        one: PassFrame | None, other: PassFrame | None, object_id: int
    ) -> float | None:
        if one is None or other is None:
            return None
        if object_id not in one.objects or object_id not in other.objects:
            return None
        return _agreement(one, other, object_id)

    def _described(
        self,
        object_id: int,
        seen: Seen,
        labels: Labels,
        origin: str,
        agreement: float | None,
    ) -> FrameObject:
        area, box, centroid = measured(labels, object_id)
        state, score = seen.state, seen.score
        if not area:
            state = ObjectState.OCCLUDED if state is ObjectState.TRACKED else state
            score = 0.0
        name = self.track.name_of(object_id)
        return FrameObject(object_id, state, score, area, box, centroid, name, origin, agreement)


def surer(near: Seen | None, far: Seen | None) -> bool:
    """Whether the pass whose seed is farther is clearly surer of an object in a frame."""
    return _sureness(far) > _sureness(near) + SURER


def _sureness(seen: Seen | None) -> float:
    """The score of an object that a pass sees, else 0."""
    return seen.score if seen is not None and seen.state is ObjectState.TRACKED else 0.0


def _only(labels: Labels, ids: list[int]) -> Labels:
    table = np.zeros(256, np.uint8)
    table[ids] = ids
    return table[labels]


def _together(layers: list[Labels], seen: dict[int, Seen]) -> Labels:
    """One label mask of two; a pixel that both claim goes to the object with the higher score."""
    if len(layers) == 1:
        return layers[0]
    one, other = layers
    score = np.zeros(256)
    for object_id, item in seen.items():
        score[object_id] = item.score
    # where the scores are the same, the smaller id has it
    other_wins = (score[other] > score[one]) | ((score[other] == score[one]) & (other < one))
    return np.where((other > 0) & ((one == 0) | other_wins), other, one)


def _agreement(one: PassFrame | None, other: PassFrame | None, object_id: int) -> float:
    """IoU of an object in two passes; 1 where neither sees it."""
    if one is None or other is None or one.labels is None or other.labels is None:
        return 0.0
    return iou(one.labels == object_id, other.labels == object_id)
