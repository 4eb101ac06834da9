"""What is segmented from which side: sections between borders, and the passes through them.

An accepted frame is a border that nothing crosses. Between two borders (and from the recording's
ends) lies a section. A section has two passes at most: forwards from its first seed, and backwards
from its last. Each follows all objects that it has met, and starts an object again at each of its
seeds. `joining` then chooses for each object and frame the pass that is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SeedPoint:
    """A frame that has seeds: which objects, and whether nothing crosses it."""

    frame: int
    ids: tuple[int, ...]
    accepted: bool = False


@dataclass(frozen=True)
class Pass:
    """Frames that are segmented one after the other, from start to end, both included.

    Attributes:
        section: number of its section. end: smaller than start where it goes backwards.
    """

    section: int
    start: int
    end: int

    @property
    def forward(self) -> bool:
        return self.end >= self.start

    @property
    def name(self) -> str:
        return f"{self.section:04d}-{'forward' if self.forward else 'backward'}"

    def __len__(self) -> int:
        return abs(self.end - self.start) + 1

    def position(self, frame: int) -> int | None:
        """Where a frame is in the pass, from 0; None where it is not."""
        place = frame - self.start if self.forward else self.start - frame
        return place if 0 <= place < len(self) else None


@dataclass(frozen=True)
class Section:
    """Frames first to last, both included; borders belong to the sections on both sides."""

    number: int
    first: int
    last: int
    seeds: tuple[SeedPoint, ...]

    def passes(self) -> list[Pass]:
        """The passes that are needed; one that ends where it starts has nothing to say."""
        forward = Pass(self.number, self.seeds[0].frame, self._inner(self.last, -1))
        backward = Pass(self.number, self.seeds[-1].frame, self._inner(self.first, 1))
        found = [forward] if forward.end > forward.start else []
        return [*found, backward] if backward.end < backward.start else found

    def _inner(self, end: int, step: int) -> int:
        """The section's end, or the frame before it where the end is a border with seeds."""
        at_end = any(seed.frame == end and seed.accepted for seed in self.seeds)
        return end + step if at_end and self.first < self.last else end


def make_sections(frames: int, seeds: Sequence[SeedPoint]) -> list[Section]:
    """The sections of a camera's frames, in order; every frame is in one of them.

    Args:
        seeds: in the order of the frames; at least one.
    """
    borders = [seed.frame for seed in seeds if seed.accepted]
    cuts = sorted({0, frames - 1, *borders})
    pairs = list(itertools.pairwise(cuts)) or [(0, 0)]
    sections: list[Section] = []
    for first, last in pairs:
        own = tuple(seed for seed in seeds if first <= seed.frame <= last)
        sections.append(Section(len(sections), first, last, own))
    return sections
