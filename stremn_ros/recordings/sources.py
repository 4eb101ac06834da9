"""The frames of one camera of a recording: every one of them, in order, with its stamp.

A recording is a bag (``bags``), a video file or a folder of images. Before anything else it is read
once for its index: how many frames each camera has, and their stamps. Whatever its length, no more
than a block of frames is in memory.

Stamps are those of the messages' headers, in nanoseconds. A header without one (zero) gets the time
at which the message was recorded, by the clock of the headers that have one; in a clock that begins
at zero, as a simulation's does, the zero is a stamp. Frames are in the order of their stamps, as
messages may overtake each other on the way to the recorder; where stamps jump back for longer than
that (a bag that was recorded from a loop), the order is that of the recording. Frame n of a video
is at n / its rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import list_images
from stremn_ros.imaging.video import WhatComes, open_frames, read_image
from stremn_ros.messages import compressed_read, image_read
from stremn_ros.messages.reading import NANOSECONDS, stamp_of
from stremn_ros.recordings.bag import COMPRESSED, IMAGE, Bag
from stremn_ros.recordings.bags import HealthyBag, is_bag, open_bag

Frame = NDArray[np.uint8]
Numbered = tuple[int, "Frame | None"]

OVERTAKES = 64  # frames by which a message may be late and still be put in its place
LAST_STAMP = (1 << 31) * NANOSECONDS - 1  # the latest that a message of ROS 2 can hold, in 2038
_LATEST = 1 << 62  # nanoseconds; a message that was recorded later, in 2116, is damaged
_OURS = ("seed", "mask", "overlay", "predicted_mask", "masked_depth")  # what the node adds


@dataclass
class Index:
    """What is known of a camera's frames after one reading of the recording.

    Attributes:
        topic: empty for a video. stamps: int64 [n], nanoseconds, of frame 0, 1, ...
        recorded: int64 [n], when each message was recorded, in the order of the recording;
        places: int64 [n], the place in that order of frame 0, 1, ...; both empty for a video.
        scanned: the bag is damaged, and is read by ``damaged``.
        fps: of a video. problems: what could not be read, in words.
    """

    topic: str
    stamps: NDArray[np.int64]
    recorded: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scanned: bool = False
    fps: float = 0.0
    problems: list[str] = field(default_factory=list)


class Source(ABC):
    """The frames of one camera.

    Attributes: path, index. Frames are uint8 [H, W, 3] RGB; None stands for one that cannot be
    decoded, of which ``problems`` then tells why.
    """

    # what is held to go backwards: a file of messages is read anywhere at about the same cost
    BLOCK_BYTES, BLOCK_FRAMES = 1 << 24, 64

    def __init__(self, path: Path, index: Index) -> None:
        self.path, self.index = path, index
        self.problems: list[str] = []
        self._said: dict[int, str] = {}  # of frames that cannot be decoded

    def __len__(self) -> int:
        return len(self.index.stamps)

    @abstractmethod
    def frames(self, first: int, last: int) -> Iterator[Numbered]:
        """(number, frame) of the frames first to last, both included."""

    def backwards(self, last: int, first: int) -> Iterator[Numbered]:
        """(number, frame) from the last to the first, both included."""
        end = last
        held = 1
        while end >= first:
            begin = max(first, end - held + 1)
            block = list(self.frames(begin, end))
            yield from reversed(block)
            end = begin - 1
            largest = max((frame.nbytes for _, frame in block if frame is not None), default=1)
            held = max(1, min(self.BLOCK_FRAMES, self.BLOCK_BYTES // largest))

    def frame(self, number: int) -> Frame:
        """One frame.

        Raises:
            InputError: it cannot be decoded.
        """
        for _, frame in self.frames(number, number):
            if frame is not None:
                return frame
        said = self._said.get(number, f"frame {number} cannot be read")
        raise InputError(f"{self.path}: {said}")

    def nearest(self, stamp: int) -> int:
        """The number of the frame whose stamp is nearest."""
        return int(np.abs(self.index.stamps - stamp).argmin())

    def close(self) -> None:  # noqa: B027  a recording may have none to close
        """Closes the files."""

    def _unreadable(self, number: int, why: str) -> None:
        if number not in self._said and len(self._said) < 1000:
            self._said[number] = f"frame {number} cannot be decoded: {why}"
            self.problems.append(self._said[number])


class BagSource(Source):
    """Frames of an image topic."""

    def __init__(self, path: Path, index: Index, bag: Bag | None = None) -> None:
        super().__init__(path, index)
        self._bag = bag or open_bag(path, index.scanned)
        self._sorted = bool((np.diff(index.recorded) >= 0).all())

    def frames(self, first: int, last: int) -> Iterator[Numbered]:
        index = self.index
        places = index.places[first : last + 1]
        if not len(places):
            return
        times = index.recorded[places]
        start, stop = int(times.min()), int(times.max()) + 1
        # the messages recorded between start and stop are these, in this order
        if self._sorted:
            coming: Any = range(*np.searchsorted(index.recorded, [start, stop]).tolist())
        else:
            coming = np.flatnonzero((index.recorded >= start) & (index.recorded < stop))
        lowest = int(places.min())
        numbers = np.full(int(places.max()) - lowest + 1, -1, np.int64)  # of frames, by place
        numbers[places - lowest] = np.arange(first, first + len(places))
        waiting: dict[int, bytes] = {}  # that overtook others
        number = first
        messages = self._bag.messages([index.topic], start, stop)
        for place, (_, _, data) in zip(coming, messages):
            at = int(place) - lowest
            if not 0 <= at < len(numbers) or numbers[at] < 0:
                continue
            waiting[int(numbers[at])] = data
            while number in waiting:
                yield number, self._decoded(number, waiting.pop(number))
                number += 1

    def _decoded(self, number: int, data: bytes) -> Frame | None:
        try:
            return decode_image(self._bag, self.index.topic, data)
        except InputError as error:
            self._unreadable(number, str(error))
            return None

    def close(self) -> None:
        self._bag.close()


class VideoSource(Source):
    """Frames of a video file. Going back decodes it from its start, block by block."""

    BLOCK_BYTES, BLOCK_FRAMES = 1 << 27, 256

    def frames(self, first: int, last: int) -> Iterator[Numbered]:
        # the end of a damaged file is in the index already
        yield from enumerate(WhatComes(open_frames(self.path, first, last + 1)), first)


class FolderSource(Source):
    """The images of a folder."""

    def __init__(self, path: Path, index: Index) -> None:
        super().__init__(path, index)
        self._files = list_images(path)
        if len(self._files) != len(self):  # one more or less, and the numbers are of other pictures
            raise InputError(
                f"{path}: has {len(self._files)} pictures now, and had {len(self)} when it was "
                "first read: was it changed meanwhile?"
            )

    def frames(self, first: int, last: int) -> Iterator[Numbered]:
        for number in range(first, last + 1):
            try:
                yield number, read_image(self._files[number])
            except InputError as error:
                self._unreadable(number, str(error))
                yield number, None


def decode_image(bag: Bag, topic: str, data: bytes) -> Frame:
    """The picture of a message, raw or compressed, as the node reads it: uint8 [H, W, 3] RGB.

    Raises:
        InputError: it cannot be read; the text says why.
    """
    codec = compressed_read if bag.topics[topic] == COMPRESSED else image_read
    return codec.decode_rgb(bag.decode(topic, data))


def usable_stamp(message: Any) -> int:
    """Nanoseconds; 0 for none, and for one that no message of ROS 2 can hold."""
    stamp = stamp_of(message)
    return stamp if stamp <= LAST_STAMP else 0


def is_camera(topic: str, kind: str) -> bool:
    """Whether a topic of a bag may be a camera's: an image topic that is none of the node's own."""
    words = topic.strip("/").split("/")
    if "compressedDepth" in words:
        return False
    return kind == COMPRESSED or (kind == IMAGE and words[-1] not in _OURS)


def read_indexes(path: Path, topics: Sequence[str] = ()) -> dict[str, Index]:
    """The indexes of a recording's cameras by topic, or of a video by an empty name.

    Args:
        topics: of a bag; none stands for all that may be cameras.

    Raises:
        InputError: no recording, one without frames, or a topic that it does not have; the message
            lists those that it has.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not is_bag(path):
        if topics:
            raise InputError(
                f"{path}: is a video or a folder of images, which has no topics ({topics[0]})"
            )
        return {"": _video_index(path)}
    bag = open_bag(path)
    try:
        return _bag_indexes(bag, topics, False)
    except _DamagedError as error:
        bag.close()
        bag = open_bag(path, scan=True)
        bag.problems.insert(0, str(error))
        return _bag_indexes(bag, topics, True)
    finally:
        bag.close()


class _DamagedError(InputError):
    """A bag turned out to be damaged on the way."""


def _bag_indexes(bag: Bag, topics: Sequence[str], scanned: bool) -> dict[str, Index]:
    images = sorted(name for name, kind in bag.topics.items() if kind in (IMAGE, COMPRESSED))
    cameras = [name for name in images if is_camera(name, bag.topics[name])]
    if absent := [name for name in topics if name not in images]:
        raise InputError(
            f"{bag.path}: has no image topic {absent[0]}; its image topics are "
            f"{', '.join(images) or 'none'}"
        )
    chosen = list(topics) or cameras
    if not chosen:
        raise InputError(
            f"{bag.path}: has no image topic of a camera; its topics are "
            + (", ".join(f"{name} ({kind})" for name, kind in sorted(bag.topics.items())) or "none")
        )
    times = {name: (array("q"), array("q")) for name in chosen}
    bad = dict.fromkeys(chosen, 0)
    try:
        for topic, when, data in bag.messages(chosen):
            if when > _LATEST:
                bad[topic] += 1
                continue
            try:
                stamp = usable_stamp(bag.decode(topic, data))
            except InputError:
                bad[topic] += 1
                stamp = 0
            times[topic][0].append(when)
            times[topic][1].append(stamp)
    except InputError as error:
        if scanned:
            raise
        raise _DamagedError(str(error)) from None
    found = {}
    for topic in chosen:
        index = _ordered(topic, *(np.array(part, np.int64) for part in times[topic]))
        index.scanned = scanned or not isinstance(bag, HealthyBag)
        if bad[topic]:
            index.problems.append(f"{topic}: {bad[topic]} messages are damaged")
        index.problems[:0] = bag.problems
        found[topic] = index
    if topics and (empty := [name for name in topics if not len(found[name].stamps)]):
        raise InputError("; ".join([f"{bag.path}: {empty[0]} has no messages", *bag.problems]))
    found = {name: index for name, index in found.items() if len(index.stamps)}
    if not found:
        raise InputError(
            "; ".join([f"{bag.path}: none of its image topics has a message", *bag.problems])
        )
    return found


def _ordered(topic: str, recorded: NDArray[np.int64], stamps: NDArray[np.int64]) -> Index:
    """The order of a topic's messages, from what was recorded."""
    problems = []
    if (stamps == 0).any():
        stamps, taken = _stamped(recorded, stamps)
        if taken:
            problems.append(
                f"{topic}: {taken} of {len(stamps)} messages have no stamp in their header (or one "
                "after 2038); the time at which they were recorded is taken"
                + ("" if taken == len(stamps) else ", by the clock of the others")
            )
    places = np.argsort(stamps, kind="stable")
    moved = np.abs(places - np.arange(len(places)))
    if moved.size and moved.max() > OVERTAKES:
        places = np.arange(len(places))
        problems.append(
            f"{topic}: the stamps jump back by more than {OVERTAKES} frames (a loop, or a clock "
            "that was set?); the frames are taken in the order in which they were recorded"
        )
    elif moved.any():
        problems.append(
            f"{topic}: {int((moved > 0).sum())} messages were not recorded in the order of their "
            "stamps; they are put in that order"
        )
    return Index(topic, stamps[places], recorded, places.astype(np.int64), problems=problems)


def _stamped(
    recorded: NDArray[np.int64], stamps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Stamps in the place of those that are zero, and how many that are stamps no longer.

    The headers' clock may be another than the recorder's. The next message that has a stamp tells
    by how much, as at a place where stamps jump the clock is that of what follows.
    """
    known = np.flatnonzero(stamps)
    if not known.size:
        return recorded, len(stamps)
    zero = np.flatnonzero(stamps == 0)
    near = known[np.minimum(np.searchsorted(known, zero), known.size - 1)]
    taken = np.maximum(stamps[near] - (recorded[near] - recorded[zero]), 0)
    # a clock that begins there: the next stamp comes as soon after zero as stamps do
    steps = np.diff(stamps[known])
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    taken[(near > zero) & (stamps[near] <= 1.5 * usual)] = 0
    made = stamps.copy()
    made[zero] = taken
    return made, int(np.count_nonzero(taken))


def _video_index(path: Path) -> Index:
    frames = open_frames(path)
    problems: list[str] = []
    if path.is_dir():
        count = frames.count
    else:
        readable = WhatComes(frames)
        count = sum(1 for _ in readable)
        if readable.error is not None:
            problems.append(str(readable.error))
    stamps = np.rint(np.arange(count) * (NANOSECONDS / frames.fps)).astype(np.int64)
    return Index("", stamps, fps=frames.fps, problems=problems)


def open_source(path: Path, index: Index) -> Source:
    """The frames of a camera whose index was read."""
    if index.topic:
        return BagSource(path, index)
    return FolderSource(path, index) if path.is_dir() else VideoSource(path, index)


def image_topics(path: Path) -> tuple[list[str], list[str]]:
    """A bag's image topics, and those of them that may be cameras; none of either for a video.

    Raises:
        InputError: no recording, or nothing of it can be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not is_bag(path):
        return [], []
    with open_bag(path) as bag:
        images = sorted(name for name, kind in bag.topics.items() if kind in (IMAGE, COMPRESSED))
        return images, [name for name in images if is_camera(name, bag.topics[name])]
