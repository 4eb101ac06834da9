"""What is kept of seeds on their way: what was asked for, what came of it, which were overtaken."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.overlap import Overlap
from stremn_ros.results import MAX_ID
from stremn_ros.stream.intake import FoundFrame, Frame


class OnOverlap(IntEnum):
    """What a seed does where it covers an object that is followed; the services' constants."""

    SEED_AGAIN = 0  # that object is seeded again, under its own id
    REPLACE = 1  # that object is forgotten, and the new one takes its place
    KEEP_BOTH = 2  # both are followed; the old one keeps the pixels that are left of it
    REFUSE = 3  # nothing is seeded


@dataclass(frozen=True)
class SeedOptions:
    """What the caller of a seed asks for beside its mask.

    Attributes:
        stamp: nanoseconds, of the frame that the seed is for; 0 for the newest.
        replace: forget all other objects.
        strict: refuse a stamp that no kept frame has; else the next frame is taken.
        on_overlap: a value of OnOverlap.
    """

    stamp: int = 0
    replace: bool = False
    strict: bool = False
    on_overlap: int = OnOverlap.SEED_AGAIN

    def check(self) -> None:
        """InputError for a value of on_overlap that there is not."""
        if self.on_overlap not in list(OnOverlap):
            known = ", ".join(f"{choice.name} ({choice.value})" for choice in OnOverlap)
            raise InputError(f"on_overlap is {self.on_overlap}; it is one of {known}")


@dataclass
class SeedWork:
    """A seed in the worker.

    Attributes:
        options, found: what was asked for, and the frame it goes to.
        rgb: uint8 [H, W, 3]; mask: uint8 [H, W], the labels as they came.
        names: by the ids of the mask.
        of: of a mask without ids, those of its object and its name; id 0: a free one.
        ticket: see Tickets.
        ids: seeded; renamed: ids of the mask -> ids of objects that were seeded again.
        replaced: ids of objects that were forgotten for it.
        overlapped: what to say of each object that it covers or cuts into, by id.
        encoding: seconds that each of its objects took to encode.
        frame_time: seconds that a frame takes with all objects; 0 where that was not measured.
    """

    options: SeedOptions
    found: FoundFrame
    rgb: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    ticket: int
    names: dict[int, str] = field(default_factory=dict)
    of: tuple[int, str] | None = None
    ids: list[int] = field(default_factory=list)
    renamed: dict[int, int] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)
    overlapped: dict[int, str] = field(default_factory=dict)
    encoding: float = 0.0
    frame_time: float = 0.0

    @property
    def frame(self) -> Frame:
        return self.found.frame

    def settle(self, found: Iterable[Overlap]) -> tuple[dict[int, int], list[Overlap]]:
        """Decides about objects that the seed covers, as on_overlap says.

        Returns:
            Ids of the seed that are to become ids of objects followed; and overlaps whose object
            lies within the seed and keeps its pixels.

        Raises:
            InputError: on_overlap is REFUSE, and the seed covers an object.
        """
        choice = OnOverlap(self.options.on_overlap)
        again: dict[int, int] = {}
        spared: list[Overlap] = []
        for overlap in found:
            old, new = overlap.tracked, overlap.seeded
            if not (overlap.same or overlap.inside) or old in self.replaced:
                continue
            how = f"IoU {overlap.iou:.2f}" if overlap.same else f"{overlap.covered:.0%} of it"
            if choice is OnOverlap.REFUSE:
                raise InputError(
                    f"the mask of object {new} covers object {old} ({how}), which is followed, so "
                    "nothing was seeded: choose another on_overlap, or remove that one first"
                )
            if choice is OnOverlap.REPLACE:
                self.replaced.add(old)
                text = f"object {old}, which object {new} covers ({how}), was replaced"
            elif overlap.inside:
                spared.append(overlap)
                text = f"object {old} lies within object {new} and keeps its pixels"
            elif choice is OnOverlap.KEEP_BOTH:
                text = f"object {new} covers object {old} ({how}), which keeps what is left of it"
            else:
                again[new] = old
                text = (
                    f"the mask of object {new} covers object {old} ({how}), so that one was seeded "
                    "again"
                )
            self.overlapped[old] = text
        self.renamed.update(again)
        return again, spared


class Tickets:
    """The order in which seeds, removals and resets were asked for, from any thread.

    What takes objects away does not wait for seeds that were asked for before it. So that it counts
    for them all the same, a seed takes a ticket when it comes, and looks before it is done whether
    it was overtaken.
    """

    def __init__(self) -> None:
        self._last = 0
        self._reset = 0
        self._removed: dict[int, int] = {}
        self._pending: dict[int, set[int]] = {}
        self._lock = threading.Lock()

    def take(self) -> int:
        """For a seed that comes."""
        with self._lock:
            self._last += 1
            self._pending[self._last] = set()
            return self._last

    def expect(self, ticket: int, ids: Iterable[int]) -> None:
        """The ids that a seed will seed, once they are known."""
        with self._lock:
            if ticket in self._pending:
                self._pending[ticket] = set(ids)

    def done(self, ticket: int) -> None:
        """The seed has been answered."""
        with self._lock:
            self._pending.pop(ticket, None)

    def reset(self) -> None:
        """All objects are to be forgotten, those of seeds on their way as well."""
        self._reset = self._last

    def remove(self, object_id: int, followed: bool) -> bool:
        """An object is to be forgotten; whether a seed of it is on its way.

        followed: there is such an object. Else it counts only for seeds that named it, not for one
        that is to be given a free id.
        """
        with self._lock:
            expected = any(object_id in ids for ids in self._pending.values())
            if (followed or expected) and 1 <= object_id <= MAX_ID:
                self._removed[object_id] = self._last
            return expected

    def forgotten(self, ticket: int) -> bool:
        """A reset came after this seed."""
        return ticket <= self._reset

    def removed(self, ticket: int, ids: Iterable[int]) -> list[int]:
        """Those of the ids that were removed after this seed came."""
        return [number for number in ids if ticket <= self._removed.get(number, 0)]


class FreeIds:
    """Ids for objects that come without one: such as were never used, else the one free longest.

    So whoever follows an object by its id does not find another one in its place at once.
    """

    def __init__(self) -> None:
        self._used: dict[int, None] = {}  # the last one used last

    def note(self, tracked: Iterable[int]) -> None:
        """These are in use now."""
        for number in tracked:
            self._used.pop(number, None)
            self._used[number] = None

    def clear(self) -> None:
        """All is forgotten, so ids begin at 1 again."""
        self._used.clear()

    def take(self, tracked: Iterable[int]) -> int:
        """An id that is none of these.

        Raises:
            InputError: all are in use.
        """
        taken = set(tracked)
        unused = (number for number in range(1, MAX_ID + 1) if number not in self._used)
        for number in (*unused, *self._used):
            if number not in taken:
                return number
        raise InputError(f"all {MAX_ID} ids are in use: remove an object first")
