"""Recordings to test with, written by rosbags: every kind of bag, raw and compressed images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore
from shapes import scene

from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.messages import image_write

KINDS = ("mcap", "mcap_zstd", "sqlite3", "sqlite3_zstd", "bag1", "bag1_lz4")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # 10 Hz
SIZE = (60, 80)
ROS2, ROS1 = get_typestore(Stores.LATEST), get_typestore(Stores.ROS1_NOETIC)

Record = tuple[str, str, int, Any]  # topic, type, recorded at, message


def stamps(count: int) -> list[int]:
    return [START + n * STEP for n in range(count)]


def header(store: Any, stamp: int) -> Any:
    types = store.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    fields = {"stamp": time, "frame_id": "camera"}
    if store is ROS1:
        fields["seq"] = 0
    return types["std_msgs/msg/Header"](**fields)


class _Bare:
    """What the codec fills."""


def image(store: Any, stamp: int, rgb: np.ndarray, encoding: str = "rgb8") -> Any:
    made = image_write.encode(_Bare(), rgb, encoding)
    return store.types[IMAGE](
        header=header(store, stamp),
        height=made.height,
        width=made.width,
        encoding=made.encoding,
        is_bigendian=made.is_bigendian,
        step=made.step,
        data=np.frombuffer(made.data, np.uint8),
    )


def compressed(store: Any, stamp: int, rgb: np.ndarray, suffix: str = ".png") -> Any:
    data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    return store.types[COMPRESSED](
        header=header(store, stamp), format=suffix[1:], data=data.reshape(-1)
    )


def store_of(kind: str) -> Any:
    return ROS1 if kind.startswith("bag1") else ROS2


def write_bag(path: Path, kind: str, records: Sequence[Record]) -> Path:
    """A bag of a kind with these messages, in their order; its file or folder."""
    store = store_of(kind)
    if kind.startswith("bag1"):
        path = path.with_suffix(".bag")
        writer: Any = Writer1(path)
        if kind.endswith("lz4"):
            writer.set_compression(Writer1.CompressionFormat.LZ4)
    else:
        plugin = StoragePlugin.MCAP if kind.startswith("mcap") else StoragePlugin.SQLITE3
        writer = Writer2(path, version=8, storage_plugin=plugin)
        if kind.endswith("zstd"):
            mode = CompressionMode.STORAGE if "mcap" in kind else CompressionMode.MESSAGE
            writer.set_compression(mode, CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, msgtype, when, message in records:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=store)
            serialize = store.serialize_ros1 if store is ROS1 else store.serialize_cdr
            writer.write(connections[topic], when, serialize(message, msgtype))
    return path


def scenes(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [scene(step, size)[0] for step in range(count)]


def camera(
    kind: str,
    frames: Sequence[np.ndarray],
    topic: str = "/camera/image_raw",
    encoding: str = "rgb8",
    times: Sequence[int] = (),
) -> list[Record]:
    """The records of a camera; an encoding of .png or .jpg makes compressed images."""
    store = store_of(kind)
    made = []
    for stamp, frame in zip(times or stamps(len(frames)), frames):
        if encoding.startswith("."):
            made.append((topic, COMPRESSED, stamp, compressed(store, stamp, frame, encoding)))
        else:
            made.append((topic, IMAGE, stamp, image(store, stamp, frame, encoding)))
    return made


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its name there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def seeds_file(folder: Path, *entries: dict[str, Any]) -> Path:
    """A seeds file; a mask may be given as an array of numbers."""
    written = []
    for number, entry in enumerate(entries):
        entry = dict(entry)
        if isinstance(entry.get("mask"), np.ndarray):
            write_label_png(folder / f"mask{number}.png", entry["mask"])
            entry["mask"] = f"mask{number}.png"
        written.append(entry)
    path = folder / "seeds.yaml"
    path.write_text(yaml.safe_dump(written))
    return path


def file_of(bag: Path) -> Path:
    """The one file of a bag that holds the messages."""
    if bag.is_file():
        return bag
    return next(path for path in sorted(bag.iterdir()) if path.suffix in (".mcap", ".db3"))
