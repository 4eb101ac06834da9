"""Frames by number for the page: of a video, a folder of images, or a webcam."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.video import WhatComes, open_frames
from stremn_ros.web.export import Footage

CAMERA_PATIENCE = 5.0  # seconds that a webcam may take for a frame
CACHED_BYTES = 192 * 2**20  # of frames that were read, for going back


class Frames(Protocol):
    """Frames by number. `count` is 0 where it is not known; `live`: only the next one can be had,
    whatever its number; `paused`: nobody wants the next one now, so that none counts as dropped."""

    live: bool
    paused: bool
    fps: float
    count: int
    dropped: int

    def get(self, number: int) -> NDArray[np.uint8] | None:
        """RGB uint8 [H, W, 3]; None past the end. Raises InputError where it cannot be read."""

    def time(self, number: int) -> int:
        """When a frame was taken, in nanoseconds: its stamp, or since the start."""

    def footage(self, last: int) -> Footage:
        """All frames up to the last one, to write pictures of. Raises InputError if `live`."""

    def interrupt(self) -> None:
        """From any thread: `get` comes back soon, with None."""

    def close(self) -> None: ...


class KeptFrames(OrderedDict[int, NDArray[np.uint8]]):
    """The frames read last, by number, in a bounded number of bytes."""

    def keep(self, number: int, frame: NDArray[np.uint8]) -> None:
        self[number] = frame
        while len(self) > 1 and len(self) * frame.nbytes > CACHED_BYTES:
            self.popitem(last=False)


class VideoFrames:
    """A video file or a folder of images: any frame, exactly, by reading on or from the start.

    Seeking by time is off by a few frames with many codecs, so nothing is sought. The frames read
    last are kept, for going back a few.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        frames = open_frames(path)
        self.fps, self.count, self.dropped = frames.fps, frames.count, 0
        self.paused = True
        self.problem = ""
        self._ended = self._interrupted = False
        self._next, self._reading = 0, self._from(0)
        self._kept = KeptFrames()

    def _from(self, number: int) -> Iterator[NDArray[np.uint8]]:
        self._comes = WhatComes(open_frames(self._path, number))
        return iter(self._comes)

    def get(self, number: int) -> NDArray[np.uint8] | None:
        if number in self._kept:
            return self._kept[number]
        if self.count and number >= self.count and self._ended:
            return None
        if number < self._next:
            self._next, self._reading = number, self._from(number)
        while not self._interrupted:
            frame = self._read()
            if frame is None:
                return None
            if self._next > number:
                return frame
        return None

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame in order."""
        try:
            frame = next(self._reading, None)
        except InputError:
            if not self._next:
                raise
            frame = None  # opened behind the last frame
        if frame is None:
            self.count, self._ended = self._next, True
            self.problem = str(self._comes.error or "")
            return None
        self._kept.keep(self._next, frame)
        self._next += 1
        self.count = max(self.count, self._next)
        return frame

    def time(self, number: int) -> int:
        return round(number / self.fps * 1e9)

    def footage(self, last: int) -> Footage:
        source = open_frames(self._path, 0, last + 1)
        names = [Path(name).stem for name in source.names] if self._path.is_dir() else []
        if len(set(names)) < len(names):
            names = []  # a.jpg beside a.png: their masks would have one name
        return Footage(WhatComes(source), source.fps, source.size, names)

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._kept.clear()


class CameraFrames:
    """A webcam: a thread reads on, and whoever asks gets the newest frame; the others are counted.

    Raises:
        InputError: there is no such camera, or it gives no picture.
    """

    live = True

    def __init__(self, number: int) -> None:
        self._capture = cv2.VideoCapture(number)
        self.count = self.dropped = 0
        self.paused = True
        self.fps = 30.0
        self._newest: NDArray[np.uint8] | None = None
        self._taken = 0  # when the frame was that `get` gave
        self._condition = threading.Condition()
        self._closing = self._ended = False
        if not self._capture.isOpened():
            raise InputError(
                f"there is no camera {number} here (/dev/video{number}), or another program uses it"
            )
        stated = self._capture.get(cv2.CAP_PROP_FPS)
        if 1.0 <= stated <= 240.0:
            self.fps = float(stated)
        self._thread = threading.Thread(target=self._read_on, name="camera", daemon=True)
        self._thread.start()

    def _read_on(self) -> None:
        while not self._closing:
            done, frame = self._capture.read()
            with self._condition:
                if not done or frame is None:
                    self._ended = True
                else:
                    self.dropped += self._newest is not None and not self.paused
                    self._newest = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                self._condition.notify_all()
            if self._ended:
                return

    def get(self, number: int) -> NDArray[np.uint8] | None:
        with self._condition:
            self._condition.wait_for(
                lambda: self._newest is not None or self._ended or self._closing, CAMERA_PATIENCE
            )
            frame, self._newest = self._newest, None
            self._taken = time.time_ns()
        if frame is None and not self._closing:
            raise InputError("the camera gives no picture any more: is it unplugged?")
        return frame

    def time(self, number: int) -> int:
        return self._taken

    def footage(self, last: int) -> Footage:
        raise InputError("a webcam's frames are not kept, so there is nothing to export")

    def interrupt(self) -> None:
        self._closing = True
        with self._condition:
            self._condition.notify_all()

    def close(self) -> None:
        self.interrupt()
        self._thread.join(CAMERA_PATIENCE)
        if not self._thread.is_alive():  # a driver may hang in it, and must not be freed then
            self._capture.release()
