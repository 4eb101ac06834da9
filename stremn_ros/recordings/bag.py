"""What every bag offers, whole or damaged."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError, StremnError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
BAG_SUFFIXES = (".mcap", ".db3", ".bag", ".active")  # x.bag.active: its recorder was killed
METADATA = "metadata.yaml"
_ZSTD = b"\x28\xb5\x2f\xfd"  # no CDR message begins so

Message = tuple[str, int, bytes]  # topic, when it was recorded in nanoseconds, its bytes


def rosbags_part(module: str) -> Any:
    """A part of rosbags; StremnError says how to install it."""
    try:
        return importlib.import_module(f"rosbags.{module}")
    except ImportError as error:
        raise StremnError(
            f"bags are read with the package rosbags, which does not import here ({error}): "
            "pip install 'stremn_ros[recordings]', or pip install rosbags"
        ) from None


def full_type(name: str) -> str:
    """sensor_msgs/Image, as ROS 1 and the first recorders of ROS 2 have it, as ROS 2 writes it."""
    package, _, kind = name.partition("/")
    return name if "/msg/" in name else f"{package}/msg/{kind}"


class Bag(ABC):
    """Messages of a recording in the order in which they were recorded.

    Attributes:
        path: the file or folder.
        topics: name -> type, as ROS 2 writes it (``sensor_msgs/msg/Image``).
        ros1: whether the messages are serialized as in ROS 1 (else CDR).
        problems: what could not be read, in words; complete when all messages were read once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, str] = {}
        self.ros1 = False
        self.problems: list[str] = []
        self._store: Any = None

    @abstractmethod
    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """Messages of some topics recorded from start on and before stop (nanoseconds).

        Raises:
            InputError: the bag is damaged, and reading by ``damaged`` would go further.
        """

    def decode(self, topic: str, data: bytes) -> Any:
        """The message, with the attributes that the ROS type has.

        Raises:
            InputError: the bytes are none of that type.
        """
        kind = self.topics[topic]
        if self._store is None:
            typesys = rosbags_part("typesys")
            stores = typesys.Stores
            self._store = typesys.get_typestore(stores.ROS1_NOETIC if self.ros1 else stores.LATEST)
        data = self.plain(topic, data)
        read = self._store.deserialize_ros1 if self.ros1 else self._store.deserialize_cdr
        try:
            return read(data, kind)
        except Exception as error:  # whatever a parser stumbles over in damaged bytes
            raise InputError(
                f"a message of {topic} is no {kind} ({type(error).__name__}: {error})"
            ) from None

    def plain(self, topic: str, data: bytes) -> bytes:
        """A message's bytes as they were serialized: rosbag2 may have compressed them.

        Raises:
            InputError: they cannot be unpacked.
        """
        if self.ros1 or data[:4] != _ZSTD:
            return data
        try:
            return bytes(zstd_unpacker().decompress(data))
        except Exception as error:  # its library has its own
            raise InputError(f"a message of {topic} cannot be unpacked ({error})") from None

    def close(self) -> None:  # noqa: B027  a recording may have none to close
        """Closes the files."""

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def zstd_unpacker() -> Any:
    """A decompressor of zstd, which takes its bytes part by part."""
    from rosbags.rosbag2.storage_mcap import zstd  # of Python, or of a package before 3.14

    return zstd.ZstdDecompressor()
