"""The camera of a recording (a bag) on the page: any of its frames, by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stremn_ros.imaging.video import WhatComes
from stremn_ros.recordings.sources import Index, Source, open_source
from stremn_ros.web.export import Footage
from stremn_ros.web.frames import KeptFrames

FASTEST, SLOWEST = 240.0, 0.2  # frames per second that the page plays
LOOKS_BACK = 30  # frames, for one that can be decoded
BLANK = np.zeros((240, 320, 3), np.uint8)  # before the first frame that can be decoded


class RecordingFrames:
    """See ``video_source.Frames``. The bag is read where a frame is, so going to one is quick.

    A frame that cannot be decoded shows the one before it, and counts as dropped; ``problem`` says
    why.

    Args:
        path: of the bag. index: of the camera.
    """

    live = False

    def __init__(self, path: Path, index: Index) -> None:
        self._source: Source = open_source(path, index)
        self.count, self.dropped, self.paused = len(self._source), 0, True
        steps = np.diff(index.stamps)
        step = float(np.median(steps[steps > 0])) / 1e9 if (steps > 0).any() else 1.0 / 30.0
        self.fps = min(max(1.0 / step, SLOWEST), FASTEST)
        self.problem = ""
        self._interrupted = False
        self._next, self._reading = 0, self._from(0)
        self._kept = KeptFrames()
        self._last: NDArray[np.uint8] | None = None  # the last one that could be decoded

    def _from(self, number: int) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
        return self._source.frames(number, self.count - 1)

    def get(self, number: int) -> NDArray[np.uint8] | None:
        if number in self._kept:
            return self._kept[number]
        if self._interrupted or number >= self.count:
            return None
        if jumped := number != self._next:
            self._next, self._reading = number, self._from(number)
        _, frame = next(self._reading, (number, None))
        self._next = number + 1
        if frame is None:
            self.dropped += 1
            problems = self._source.problems
            self.problem = problems[-1] if problems else f"frame {number} cannot be read"
            if jumped:  # the last one that was read is not the one before it
                self._next, self._reading = -1, iter(())
                earlier = self._source.backwards(number - 1, max(0, number - LOOKS_BACK))
                self._last = next((frame for _, frame in earlier if frame is not None), None)
            frame = BLANK if self._last is None else self._last
        self._last = frame
        self._kept.keep(number, frame)
        return frame

    def time(self, number: int) -> int:
        return int(self._source.index.stamps[number])

    def footage(self, last: int) -> Footage:
        # what is read for the page goes on from another place after this
        self._next, self._reading = -1, iter(())
        readable = (frame for _, frame in self._source.frames(0, last) if frame is not None)
        shown = next(readable, BLANK)

        def frames() -> Iterator[NDArray[np.uint8]]:
            before = shown
            for _, frame in self._source.frames(0, last):
                before = before if frame is None else frame
                yield before

        return Footage(WhatComes(frames()), self.fps, (shown.shape[0], shown.shape[1]))

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._kept.clear()
        self._source.close()
