"""Labels as ROS messages in a bag, written by rosbags: alone, or beside the recording's own.

Topics, as the node has them, under /stremn, or under /stremn/CAMERA where several cameras of a
recording are labelled: `mask` (sensor_msgs/Image, mono8), `objects`
(stremn_interfaces/ObjectArray), `seed` (the masks that were given) and `label_info`
(vision_msgs/LabelInfo). A message has the header of the frame that it is of, and is recorded when
that frame was.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import heapq
import io
import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.recordings.bag import IMAGE, full_type, rosbags_part
from stremn_ros.recordings.bags import HealthyBag, is_bag, open_bag
from stremn_ros.recordings.joining import Labelled
from stremn_ros.recordings.sources import LAST_STAMP, Frame
from stremn_ros.recordings.track import Track
from stremn_ros.resources import shared_places

VERSION: Literal[8] = 8  # of rosbag2's metadata: Humble reads it, too
OBJECTS = "stremn_interfaces/msg/ObjectArray"
OBJECT = "stremn_interfaces/msg/TrackedObject"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
_NO_HASH = f"RIHS01_{0:064x}"
HEADER, TIME = "std_msgs/msg/Header", "builtin_interfaces/msg/Time"

# vision_msgs 4.1, which may not be installed
_VISION = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: (
        "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
    ),
}


@functools.cache
def label_types() -> Any:
    """A typestore with the messages of the labels, read from their .msg files.

    It is made once in a process: it takes a moment, and a few megabytes.

    Raises:
        InputError: the definitions of stremn_interfaces are nowhere. StremnError: rosbags is not
        installed.
    """
    typesys = rosbags_part("typesys")
    store = typesys.get_typestore(typesys.Stores.LATEST)
    texts = dict(_VISION)
    folder = _definitions()
    for path in sorted(folder.glob("*.msg")):
        texts[f"stremn_interfaces/msg/{path.stem}"] = path.read_text(encoding="utf-8")
    types: dict[str, Any] = {}
    for name, text in texts.items():
        types.update(typesys.get_types_from_msg(text, name))
    store.register({name: kind for name, kind in types.items() if name not in store.fielddefs})
    return store


def _definitions() -> Path:
    places = shared_places("stremn_interfaces/msg")
    # where the interfaces are installed as a package of their own
    places += [path.parents[2] / "stremn_interfaces" / "msg" for path in places[1:]]
    for path in places:
        if (path / "ObjectArray.msg").is_file():
            return path
    looked = ", ".join(str(path) for path in places)
    raise InputError(f"the message definitions of stremn_interfaces were not found in {looked}")


class Storage(enum.Enum):
    """Formats of bags that are written."""

    MCAP = "mcap"
    SQLITE3 = "sqlite3"
    ROS1 = "bag"


def storage_of(recording: Path) -> Storage:
    """The format of a bag; MCAP for a video."""
    files = list(recording.iterdir()) if recording.is_dir() else [recording]
    # the last suffix counts: x.bag.mcap is MCAP, but x.db3.zstd is a packed database
    kinds = {Path(path.name.lower().removesuffix(".zstd")).suffix for path in files}
    if not recording.is_dir() and kinds & {".bag", ".active"}:
        return Storage.ROS1
    return Storage.SQLITE3 if ".db3" in kinds else Storage.MCAP


class _Messages:
    """Makes messages; fields that are not named have their defaults, whatever the version has."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._default = rosbags_part("convert.converter").default_message

    def make(self, kind: str, **values: Any) -> Any:
        message = self._default(self._store, kind)
        for name, value in values.items():
            setattr(message, name, value)
        return message

    def header(self, stamp: int, frame_id: str) -> Any:
        # a damaged bag may say that it was recorded in a year that no message can hold
        seconds, rest = divmod(stamp if 0 <= stamp <= LAST_STAMP else 0, NANOSECONDS)
        time = self.make(TIME, sec=seconds, nanosec=rest)
        return self.make(HEADER, stamp=time, frame_id=frame_id)

    def image(self, header: Any, labels: Any) -> Any:
        rows, columns = labels.shape
        data = np.ascontiguousarray(labels).reshape(-1)
        return self.make(
            IMAGE,
            header=header,
            height=rows,
            width=columns,
            encoding="mono8",
            step=columns,
            data=data,
        )

    def objects(self, header: Any, item: Labelled) -> Any:
        made = []
        for found in item.objects:
            message = self.make(
                OBJECT,
                id=found.id,
                name=found.name,
                state=int(found.state),
                score=float(found.score),
                area=found.area,
            )
            x, y, width, height = found.box
            message.box.x_offset, message.box.y_offset = x, y
            message.box.width, message.box.height = width, height
            message.centroid.x, message.centroid.y = found.centroid
            for place in (message.position, message.size, message.velocity):
                place.x = place.y = place.z = math.nan  # a recording has no depth camera here
            made.append(message)
        return self.make(OBJECTS, header=header, objects=made)

    def label_info(self, header: Any, names: Sequence[tuple[int, str]]) -> Any:
        kind = "vision_msgs/msg/VisionClass"
        classes = [self.make(kind, class_id=n, class_name=text) for n, text in names]
        return self.make(LABEL_INFO, header=header, class_map=classes)


def check_messages() -> None:
    """Loads what writes the labels as messages, before the long work rather than at its end.

    Raises: what would keep them from being written; see ``label_types``.
    """
    _Messages(label_types())
    rosbags_part("highlevel")


def _latched() -> list[Any]:
    """QoS of what a late subscriber gets, too."""
    from rosbags.convert.converter import LATCH

    return list(LATCH)


def _writer(target: Path, storage: Storage = Storage.MCAP) -> Any:
    """A writer of a folder of rosbag2 with one file, or of a ROS 1 bag.

    MCAP is compressed by chunks; the others are not compressed, which is what rosbag2 and ROS 1
    write by themselves and play everywhere.
    """
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    if storage is Storage.ROS1:
        return Writer1(target)
    writer = Writer(target, version=VERSION, storage_plugin=StoragePlugin[storage.name])
    if storage is Storage.MCAP:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    return writer


class Sidecar:
    """Writes the labels of a track as a bag of their own, OUT/mcap/NAME or in the folder of work.

    Attributes: problems, what could not be written, in words.
    """

    def __init__(self, track: Track, folder: Path) -> None:
        self.problems: list[str] = []
        self._track, self._folder = track, folder
        # the name of the file in it is that of the folder
        self._temporary = track.folder / "bag" / folder.name
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        self._store = label_types()
        self._make = _Messages(self._store)
        self._frame_id = _frame_id(track)
        self._writer = _writer(self._temporary)
        self._writer.open()
        prefix = topic_prefix(track)
        self._topics = {
            name: self._writer.add_connection(
                f"{prefix}/{name}",
                kind,
                typestore=self._store,
                offered_qos_profiles=_latched() if name == "label_info" else (),
            )
            for name, kind in label_topics().items()
        }
        index = track.index
        self._times = index.recorded[index.places] if len(index.recorded) else index.stamps
        first = self._make.header(int(index.stamps[0]), self._frame_id)
        names = [(0, "background"), *((n, track.name_of(n)) for n in track.ids)]
        self._write("label_info", int(self._times.min()), self._make.label_info(first, names))

    def _write(self, name: str, when: int, message: Any) -> None:
        kind = label_topics()[name]
        self._writer.write(self._topics[name], when, self._store.serialize_cdr(message, kind))

    def add(self, item: Labelled, frame: Frame | None) -> None:
        """Takes the next frame."""
        if item.labels is None:
            return
        when = int(self._times[item.frame])
        header = self._make.header(item.stamp, self._frame_id)
        if item.given:
            given = np.where(np.isin(item.labels, item.given), item.labels, 0).astype(np.uint8)
            self._write("seed", when, self._make.image(header, given))
        self._write("mask", when, self._make.image(header, item.labels))
        self._write("objects", when, self._make.objects(header, item))

    def finish(self) -> None:
        """Gives the folder its name."""
        self._writer.close()
        _put(self._temporary, self._folder)


def label_topics() -> dict[str, str]:
    """Names under the prefix, and their types."""
    return {"mask": IMAGE, "objects": OBJECTS, "label_info": LABEL_INFO, "seed": IMAGE}


def topic_prefix(track: Track) -> str:
    """What the topics of a track begin with."""
    return f"/stremn/{track.camera}" if track.camera else "/stremn"


def _frame_id(track: Track) -> str:
    """Of the camera's first message; ``camera`` for a video."""
    path = Path(track.recording)
    if track.topic:
        with contextlib.suppress(InputError), open_bag(path, track.scanned) as bag:
            for _, _, data in bag.messages([track.topic]):
                return str(bag.decode(track.topic, data).header.frame_id)
    return "camera"


def _put(temporary: Path, target: Path) -> None:
    """Moves a whole file or folder to its name; one that is there is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(target)
    temporary.rename(target)


def _remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def copy_bag(source: Path, folder: Path) -> None:
    """Copies a bag of this module's under another name; it is there when it is whole.

    Its file keeps the name that its metadata gives it.
    """
    temporary = source.with_name(f"{source.name}.copy")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    _put(temporary, folder)


def sidecar_folder(track: Track, out: Path, alone: bool) -> Path:
    """Where the labels of a track are written: among the results, or to be merged."""
    return out / "mcap" / track.name if alone else track.folder / "sidecar"


def write_bags(
    tracks: Sequence[Track], name: str, out: Path, formats: Collection[str], work: Path
) -> str:
    """Writes a recording again with the labels of its tracks, as the formats ask.

    Where that cannot be, the labels are written alone.

    Args:
        tracks: of one recording, whose sidecars were written. name: of the bag in the results.
        out: of the results. work: a folder for what is not whole yet; it is removed.

    Returns:
        Why the recording was not written again, for people; or nothing.

    Raises:
        InputError: nothing can be written there.
    """
    path = Path(tracks[0].recording)
    why: dict[str, str] = {}
    try:
        if "mcap" in formats:
            why["mcap"] = write_again(path, tracks, out / "mcap" / name, work)
        if "bag" in formats:
            storage = storage_of(path)
            ending = ".bag" if storage is Storage.ROS1 else ""
            target = out / "bag" / f"{name}{ending}"
            why["bag"] = write_again(path, tracks, target, work, storage)
        if why.get("mcap", why.get("bag")):
            for track in tracks:
                copy_bag(sidecar_folder(track, out, False), sidecar_folder(track, out, True))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    shutil.rmtree(work, ignore_errors=True)
    return tracks[0].told("; ".join(dict.fromkeys(text for text in why.values() if text)))


def write_again(
    recording: Path,
    tracks: Sequence[Track],
    target: Path,
    work: Path,
    storage: Storage = Storage.MCAP,
) -> str:
    """Writes a recording again with the labels of its tracks added; why not, or nothing.

    Topics that the labels bring, too, are left out of the recording's own.

    Args:
        tracks: whose sidecars were written. target: the folder, or the file of a ROS 1 bag.
        work: a folder for what is not whole yet.
    """
    if not is_bag(recording):
        return f"{recording} is no bag: the labels are written alone"
    if any(track.scanned for track in tracks):
        return (
            f"{recording} is damaged, or rosbags does not read it, so it is not written again: the "
            "labels are written alone"
        )
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    temporary = work / target.name
    _remove(temporary)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    new = {f"{topic_prefix(track)}/{name}" for track in tracks for name in label_topics()}
    try:
        with contextlib.ExitStack() as stack:
            latest = get_typestore(Stores.LATEST)
            reader = stack.enter_context(AnyReader([recording], default_typestore=latest))
            writer = stack.enter_context(_writer(temporary, storage))
            own = [
                c._replace(msgtype=full_type(c.msgtype))
                for c in reader.connections
                if c.topic not in new
            ]
            known_types = reader.typestore.fielddefs
            unknown = [c for c in own if reader.is2 and c.msgtype not in known_types]
            if unknown and storage is not Storage.SQLITE3:
                more = "; --format bag writes it again as it is"
                return (
                    f"{recording} has messages of {unknown[0].msgtype}, does not define that type, "
                    "and MCAP files need it: the labels are written alone"
                    + (more if storage_of(recording) is Storage.SQLITE3 else "")
                )
            convert = _conversions([c for c in own if c not in unknown], reader, writer)
            convert.update({(c.id, c.owner): (_undefined(c, writer), bytes) for c in unknown})
            # the messages by our own reader, as rosbags may pass over some (``HealthyBag``)
            bag = HealthyBag(recording)
            stack.callback(bag.close)
            # the publishers of a topic of ROS 1 stay apart: what each of them latched is its own
            known = {_key(c, bag): convert[c.id, c.owner] for c in own}
            streams: list[Iterator[tuple[int, Any, Any]]] = [
                (
                    (when, to, converted(bag.plain(c.topic, data)))
                    for c, when, data in bag.by_connection({c.topic for c in own})
                    for to, converted in (known[_key(c, bag)],)
                )
            ]
            for track in tracks:
                sidecar = stack.enter_context(AnyReader([track.folder / "sidecar"]))
                streams.append(_stream(sidecar, _conversions(sidecar.connections, sidecar, writer)))
            for when, connection, data in heapq.merge(*streams, key=lambda item: item[0]):
                writer.write(connection, when, data)
    except OSError as error:
        raise InputError(f"{temporary}: cannot be written ({error.strerror or error})") from None
    except Exception as error:  # rosbags raises many things for types that it does not know
        return f"{recording} cannot be written again ({error}): the labels are written alone"
    _put(temporary, target)
    return ""


def _key(connection: Any, bag: HealthyBag) -> tuple[str, int]:
    return connection.topic, connection.id if bag.ros1 else 0


def _conversions(connections: Sequence[Any], reader: Any, writer: Any) -> dict[Any, Any]:
    """Of each connection its (connection in the writer, function that converts a message)."""
    from rosbags.convert.converter import create_connections_converters

    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it converts
        places, converters = create_connections_converters(connections, None, reader, writer)
    return {(c.id, c.owner): (places[c.id, c.owner], converters[c.msgtype]) for c in connections}


def _undefined(connection: Any, writer: Any) -> Any:
    """The connection in a writer of sqlite3 for messages that are copied byte for byte, as nobody
    knows their type's definition."""
    for made in writer.connections:
        if (made.topic, made.msgtype) == (connection.topic, connection.msgtype):
            return made
    writer.added_types.add(connection.msgtype)  # so that it gets no empty definition
    return writer.add_connection(
        connection.topic,
        connection.msgtype,
        msgdef="",
        rihs01=connection.digest or _NO_HASH,
        serialization_format=connection.ext.serialization_format,
        offered_qos_profiles=connection.ext.offered_qos_profiles,
    )


def _stream(reader: Any, convert: dict[Any, Any]) -> Iterator[tuple[int, Any, Any]]:
    for connection, when, data in reader.messages():
        target, converted = convert[connection.id, connection.owner]
        yield when, target, converted(data)
