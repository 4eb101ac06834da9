"""Messages of recorded ROS topics: MCAP, rosbag2 (MCAP or sqlite3) and ROS 1 bags, without ROS.

A bag is read through rosbags. What rosbags refuses (cut short, damaged, never closed, an MCAP of
another profile) is read by ``damaged``, as far as it goes; ``problems`` says what could not be
read.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import in_order, is_tools, list_images
from stremn_ros.recordings import damaged
from stremn_ros.recordings.bag import (
    BAG_SUFFIXES,
    METADATA,
    Bag,
    Message,
    full_type,
    rosbags_part,
)


class HealthyBag(Bag):
    """A bag as rosbags reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ros1 = path.suffix.lower() in (".bag", ".active")
        kind = rosbags_part("rosbag1" if self.ros1 else "rosbag2").Reader
        if not self.ros1 and path.suffix != path.suffix.lower():
            # rosbags knows small letters only; this is what it chooses by them
            kind = kind.STORAGE_PLUGINS[path.suffix.lower()]
        self._reader = kind(path)
        self._reader.open()
        # of a folder the files themselves: rosbags passes over the messages of a topic whose QoS
        # is written otherwise in the metadata than in the file
        self._files = self._reader.storage.storages if path.is_dir() else [self._reader]
        for file in self._files:
            for connection in file.connections:
                self.topics.setdefault(connection.topic, full_type(connection.msgtype))

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        for connection, when, data in self.by_connection(topics, start, stop):
            yield connection.topic, when, data

    def by_connection(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Any, int, bytes]]:
        """As ``messages``, with rosbags' connections: each publisher in ROS 1 has its own."""
        parts = [self._part(file, topics, start, stop) for file in self._files]
        yield from heapq.merge(*parts, key=lambda message: message[1])

    def _part(
        self, file: Any, topics: Collection[str], start: int | None, stop: int | None
    ) -> Iterator[tuple[Any, int, bytes]]:
        chosen = [c for c in file.connections if c.topic in topics]
        if not chosen:
            return
        try:
            yield from file.messages(chosen, start, stop)
        except Exception as error:  # rosbags trusts the bytes; what it raises is up to them
            raise InputError(f"{self.path}: {type(error).__name__}: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._reader.close()


class ChainedBags(Bag):
    """Several files of one recording, in the order of time."""

    def __init__(self, path: Path, parts: list[Bag]) -> None:
        super().__init__(path)
        self._parts = parts
        self.ros1 = parts[0].ros1
        for part in parts:
            for topic, kind in part.topics.items():
                self.topics.setdefault(topic, kind)

    @property
    def problems(self) -> list[str]:
        """Of all files."""
        return [*self._own, *(problem for part in self._parts for problem in part.problems)]

    @problems.setter
    def problems(self, value: list[str]) -> None:
        self._own = value

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        parts = [part.messages(topics, start, stop) for part in self._parts]
        yield from heapq.merge(*parts, key=lambda message: message[1])

    def close(self) -> None:
        for part in self._parts:
            part.close()


def is_bag(path: Path) -> bool:
    """Whether a path is a recording of ROS messages, rather than a video or a folder of images."""
    if not path.is_dir():
        return path.suffix.lower() in BAG_SUFFIXES
    if _storage_files(path) or _packed_files(path):
        return True
    # other tools write a file of that name as well
    return (path / METADATA).is_file() and not list_images(path)


def _storage_files(folder: Path) -> list[Path]:
    return in_order(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".mcap", ".db3") and not is_tools(path.name) and path.is_file()
    )


def _packed_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".zstd")


def open_bag(path: Path, scan: bool = False) -> Bag:
    """Opens a bag: a folder of rosbag2, an .mcap, .db3 or .bag file.

    Args:
        scan: read it as a damaged one, whatever rosbags says.

    Raises:
        InputError: nothing of it can be read; StremnError: rosbags is not installed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    rosbags_part("rosbag2")
    problem = ""
    if not scan:
        try:
            return HealthyBag(path)
        except PermissionError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except Exception as error:  # rosbags trusts the bytes; what it raises is up to them
            problem = f"{path.name}: not a whole bag ({error})"
            if path.is_dir() and not (path / METADATA).is_file():
                problem = f"{path.name}: has no {METADATA} (was the recorder killed?)"
    bag = _chained(path, scan) if path.is_dir() else _scanned(path)
    # an MCAP file of another profile, or without a summary, may be whole all the same
    if problem and (bag.problems or path.suffix.lower() != ".mcap"):
        bag.problems.insert(0, problem)
    return bag


def _chained(folder: Path, scan: bool) -> Bag:
    """The files of a folder whose metadata is missing or does not fit them."""
    parts: list[Bag] = []
    broken: list[str] = []
    for path in _storage_files(folder):
        try:
            parts.append(open_bag(path, scan))
        except InputError as error:
            broken.append(str(error))
    if packed := _packed_files(folder):
        broken.append(f"{folder}: {packed} are not read without {METADATA}; unpack them by unzstd")
    if not parts:
        raise InputError(
            "; ".join(broken) or f"{folder}: holds no .mcap or .db3 file that could be read"
        )
    bag = ChainedBags(folder, parts)
    bag.problems = broken
    return bag


def _scanned(path: Path) -> Bag:
    return damaged.open_damaged(path)
