"""What is left of a damaged bag: read front to back, part by part, without trusting any index.

- MCAP (https://mcap.dev/spec) and ROS 1 bags (http://wiki.ros.org/Bags/Format/2.0) are sequences of
  records; most messages lie in chunks, which may be compressed. A chunk that was cut short is read
  as far as it goes, one that was changed is left out, and after bytes that are no record the next
  chunk is looked for. Bags that were never closed and MCAP files of other profiles come here, too.
- In a sqlite3 database rows are taken in the order in which they were written.
"""

from __future__ import annotations

import binascii
import bz2
import contextlib
import mmap
import re
import sqlite3
import struct
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.recordings.bag import Bag, Message, full_type, zstd_unpacker

MCAP_MAGIC = b"\x89MCAP0\r\n"
BAG1_MAGIC = b"#ROSBAG V2.0\n"
_LOOSE = 1 << 22  # bytes of messages outside chunks that are read together
_LARGEST_RECORD = 1 << 31  # a longer one is taken for damage
_PROBES = 24  # of rows after one that cannot be read, each twice as far away


@dataclass(frozen=True)
class _Chunk:
    """Bytes of a file that hold messages.

    Attributes:
        at, size: of its data in the file; cut: fewer bytes are there.
        raw: size when it is not compressed, 0 where that is not told; crc: of it, 0 for none.
    """

    at: int
    size: int
    compression: str = ""
    raw: int = 0
    crc: int = 0
    cut: bool = False


@dataclass
class _Read:
    """What came of a chunk: the bytes, and why there are no more of them."""

    data: bytes
    error: str = ""


def open_damaged(path: Path) -> Bag:
    """A bag, as far as it can be read.

    Raises:
        InputError: nothing of it can be read; the message says why.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not head:
        raise InputError(f"{path}: the file is empty")
    if head.startswith(MCAP_MAGIC):
        return _Mcap(path)
    if head.startswith(BAG1_MAGIC):
        return _Bag1(path)
    if head.startswith(b"SQLite format 3"):
        return _Sqlite(path)
    raise InputError(
        f"{path}: begins with {head[:8].hex(' ')}, which is no MCAP file, ROS 1 bag or sqlite3 "
        "database: its first bytes are damaged, or it is something else"
    )


class _Chunked(Bag):
    """A file of records with chunks; what kind of records they are is up to the subclass."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = path.open("rb")
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._channels: dict[int, str] = {}  # topic by the file's own number
        self._said: set[int] = set()  # chunks of which it was said that they are damaged
        # first and last time in each chunk that was read once
        self._spans: dict[int, tuple[int, int]] = {}
        self._chunks = list(self._walk())
        for _ in self._every(self._chunks):  # the topics are told where their messages begin
            pass
        if not self.topics:
            self.close()
            raise InputError("; ".join([f"{path}: no message of it can be read", *self.problems]))

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._map.close()
            self._file.close()

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        for number, when, data in self._every(self._chunks, start, stop):
            topic = self._channels.get(number, "")
            early = start is not None and when < start
            if topic in topics and not early and (stop is None or when < stop):
                yield topic, when, data

    @abstractmethod
    def _walk(self) -> Iterator[_Chunk]:
        """The chunks of the file; problems tells what is no record."""

    @abstractmethod
    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """(channel, time, message) of a chunk's data; channels are noted.

        struct.error, ValueError or IndexError where it ends in the middle.
        """

    def _every(
        self, chunks: list[_Chunk], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[int, int, bytes]]:
        for chunk in chunks:
            span = self._spans.get(chunk.at)
            if span and ((stop is not None and span[0] >= stop) or (start or 0) > span[1]):
                continue
            read = self._unpacked(chunk)
            error, count, first, last = read.error, 0, None, 0
            try:
                for record in self._records(read.data):
                    count += 1
                    first = record[1] if first is None else min(first, record[1])
                    last = max(last, record[1])
                    yield record
            except (struct.error, ValueError, IndexError):
                error = error or "it ends in the middle of a record"
            self._spans[chunk.at] = (first, last) if first is not None else (0, -1)
            if error and chunk.at not in self._said:
                self._said.add(chunk.at)
                self.problems.append(
                    f"{self.path.name}: the chunk at byte {chunk.at}: {error}; {count} messages of "
                    "it were read"
                )

    def _unpacked(self, chunk: _Chunk) -> _Read:
        data = self._map[chunk.at : chunk.at + chunk.size]
        error = f"{chunk.size} bytes of it are there" if chunk.cut else ""
        if chunk.compression not in ("", "none"):
            if chunk.compression not in _UNPACKERS:
                return _Read(b"", f"its compression {chunk.compression!r} is unknown")
            read = _unpack(_UNPACKERS[chunk.compression](), data)
            data, error = read.data, error or read.error
        if not error and chunk.raw and len(data) != chunk.raw:
            error = f"it has {len(data)} bytes and says that it has {chunk.raw}"
        if not error and chunk.crc and binascii.crc32(data) != chunk.crc:
            # which of its messages is the changed one cannot be told
            return _Read(b"", "its checksum is wrong")
        return _Read(data, error)


def _lz4() -> Any:
    from lz4.frame import LZ4FrameDecompressor

    return LZ4FrameDecompressor()


_UNPACKERS: dict[str, Callable[[], Any]] = {
    "zstd": zstd_unpacker,
    "lz4": _lz4,
    "bz2": bz2.BZ2Decompressor,
}
_STEP = 1 << 16


def _unpack(unpacker: Any, data: bytes) -> _Read:
    """As much of compressed data as there is."""
    done = bytearray()
    try:
        for at in range(0, len(data), _STEP):
            if unpacker.eof:
                break
            done += unpacker.decompress(data[at : at + _STEP])
    except Exception as error:  # each library has its own
        return _Read(bytes(done), f"it cannot be unpacked ({error})")
    return _Read(bytes(done), "" if unpacker.eof else "its compressed data is cut short")


class _Mcap(_Chunked):
    """An MCAP file of any profile; its messages are CDR or, in the profile ros1, those of ROS 1."""

    # the start of a chunk: opcode, length below 2^40, times, sizes, checksum, name of compression
    _START = re.compile(
        rb"\x06.{5}\x00{3}.{28}(?:\x00{4}|\x03\x00{3}lz4|\x04\x00{3}zstd)", re.DOTALL
    )

    def _walk(self) -> Iterator[_Chunk]:
        at, end = len(MCAP_MAGIC), len(self._map)
        self._schemas: dict[int, str] = {}
        loose = at
        while at + 9 <= end:
            kind, length = self._map[at], struct.unpack_from("<Q", self._map, at + 1)[0]
            after = at + 9 + length
            inner = kind in (0x03, 0x04, 0x05)  # schema, channel, message
            if not inner or after > end or after - loose > _LOOSE:
                if at > loose:
                    yield _Chunk(loose, at - loose)
                loose = at if inner and after <= end else after
            if kind == 0x06:
                chunk = self._chunk(at + 9, length, end)
                if chunk is not None:
                    yield chunk
            if kind == 0x02:  # the footer, after a summary that names the channels again
                return
            if not 0x01 <= kind <= 0x0F or after > end or length > _LARGEST_RECORD:
                if kind == 0x06 and after > end:
                    self._cut(at, end)
                    return
                found = self._START.search(self._map, at + 1)
                if found is None:
                    self._cut(at, end)
                    return
                self.problems.append(
                    f"{self.path.name}: the bytes {at} to {found.start()} are no records"
                )
                after = loose = found.start()
            at = after
        if at > loose:
            yield _Chunk(loose, min(at, end) - loose)
        self._cut(at, end)

    def _cut(self, at: int, end: int) -> None:
        self.problems.append(
            f"{self.path.name}: the file ends at byte {end} without its end marker (the recorder "
            f"was killed, or the file was cut short); what begins at byte {at} is not whole"
        )

    def _chunk(self, at: int, length: int, end: int) -> _Chunk | None:
        try:
            _, _, raw, crc, name = struct.unpack_from("<QQQII", self._map, at)
            compression = self._map[at + 32 : at + 32 + name].decode()
            (size,) = struct.unpack_from("<Q", self._map, at + 32 + name)
        except (struct.error, ValueError):
            return None
        data = at + 40 + name
        if name > 16 or size > length:
            return None
        there = max(0, min(size, end - data))
        return _Chunk(data, there, compression, raw, crc, cut=there < size)

    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        at = 0
        while at < len(data):
            kind, length = struct.unpack_from("<BQ", data, at)
            at += 9
            if at + length > len(data):
                raise ValueError
            if kind == 0x05:
                number, _, when, _ = struct.unpack_from("<HIQQ", data, at)
                if length < 22:
                    raise ValueError
                yield number, when, data[at + 22 : at + length]
            elif kind == 0x03:
                (number,) = struct.unpack_from("<H", data, at)
                self._schemas[number] = _text(data, at + 2)[0]
            elif kind == 0x04:
                number, schema = struct.unpack_from("<HH", data, at)
                topic, place = _text(data, at + 4)
                encoding = _text(data, place)[0]
                if encoding in ("cdr", "ros1"):
                    self.ros1 = encoding == "ros1"
                    self._channels[number] = topic
                    self.topics.setdefault(topic, full_type(self._schemas.get(schema, "")))
            at += length


class _Bag1(_Chunked):
    """A ROS 1 bag of version 2.0."""

    def __init__(self, path: Path) -> None:
        self._start = re.compile(rb"compression=(?:none|bz2|lz4)")
        super().__init__(path)
        self.ros1 = True

    def _walk(self) -> Iterator[_Chunk]:
        at, end = len(BAG1_MAGIC), len(self._map)
        while at < end:
            try:
                fields, data, size = self._header(at, end)
                kind = fields[b"op"][0]
            except (struct.error, ValueError, KeyError, IndexError):
                found = self._resynced(at + 1)
                if found < 0:
                    break
                self.problems.append(f"{self.path.name}: the bytes {at} to {found} are no records")
                at = found
                continue
            if kind == 0x05:
                there = min(size, end - data)
                raw = struct.unpack("<I", fields[b"size"])[0] if b"size" in fields else 0
                name = fields.get(b"compression", b"none").decode("ascii", "replace")
                yield _Chunk(data, there, name, raw, cut=there < size)
            at = data + size
        if at != end:
            self.problems.append(
                f"{self.path.name}: the file ends at byte {end} in the middle of a record, or what "
                f"begins at byte {at} is none (the recorder was killed, or the file was cut short)"
            )

    def _resynced(self, at: int) -> int:
        """Where the header of the next chunk begins; -1 for nowhere."""
        found = self._start.search(self._map, at)
        while found is not None:
            # the header's length stands before its fields, in any order; 13 to 64 bytes in all
            for start in range(max(at, found.start() - 64), found.start() - 3):
                (length,) = struct.unpack_from("<I", self._map, start)
                if not start + 4 + length >= found.end() or length > 128:
                    continue
                with contextlib.suppress(struct.error, ValueError, KeyError, IndexError):
                    if self._header(start, len(self._map))[0][b"op"] == b"\x05":
                        return start
            found = self._start.search(self._map, found.end())
        return -1

    def _header(self, at: int, end: int) -> tuple[dict[bytes, bytes], int, int]:
        """(fields, where the data begins, its bytes) of the record at a place of the file."""
        (length,) = struct.unpack_from("<I", self._map, at)
        if length > end - at or length > 1 << 20:
            raise ValueError
        fields = _fields(self._map[at + 4 : at + 4 + length])
        (size,) = struct.unpack_from("<I", self._map, at + 4 + length)
        return fields, at + 8 + length, size

    def _records(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            fields = _fields(data[at + 4 : at + 4 + length])
            at += 4 + length
            (size,) = struct.unpack_from("<I", data, at)
            at += 4
            if at + size > len(data):
                raise ValueError
            kind = fields.get(b"op", b"\0")[0]
            if kind in (0x02, 0x07):
                number = struct.unpack("<I", fields.get(b"conn", b""))[0]
            if kind == 0x02:
                seconds, nanoseconds = struct.unpack("<II", fields.get(b"time", b""))
                yield number, seconds * 10**9 + nanoseconds, data[at : at + size]
            elif kind == 0x07:
                told = _fields(data[at : at + size])
                topic = fields.get(b"topic", told.get(b"topic", b"")).decode()
                self._channels[number] = topic
                self.topics.setdefault(topic, full_type(told.get(b"type", b"").decode()))
            at += size


def _fields(header: bytes) -> dict[bytes, bytes]:
    """name=value of a ROS 1 header; ValueError or struct.error where it is none."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(header):
        (size,) = struct.unpack_from("<I", header, at)
        name, sign, value = header[at + 4 : at + 4 + size].partition(b"=")
        if not sign or at + 4 + size > len(header):
            raise ValueError
        found[name] = value
        at += 4 + size
    return found


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length].decode(), at + 4 + length


class _Sqlite(Bag):
    """The database of a rosbag2 recording; its pages may be missing or changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if Path(f"{path}-wal").exists() and Path(f"{path}-wal").stat().st_size:
            self.problems.append(
                f"{path.name}: the last messages are in {path.name}-wal, as the recorder was "
                f"killed, and are not read; sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)' "
                "puts them into the file (make a copy first)"
            )
        self._ids: dict[str, list[int]] = {}
        # a path may hold what a URI gives a meaning to
        name = "".join(f"%{ord(c):02x}" if c in "%?#" else c for c in str(path.absolute()))
        try:
            self._database = sqlite3.connect(
                f"file:{name}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            # opens one whose file is shorter than its header says
            self._database.execute("PRAGMA writable_schema=ON")
            for number, topic, kind in self._database.execute("SELECT id, name, type FROM topics"):
                self.topics.setdefault(str(topic), full_type(str(kind)))
                self._ids.setdefault(str(topic), []).append(int(number))
        except sqlite3.Error as error:
            raise InputError(f"{path}: nothing of this database can be read ({error})") from None
        self._complete = False

    def close(self) -> None:
        self._database.close()

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        names = {n: topic for topic in topics for n in self._ids.get(topic, ())}
        after, step, lost = 0, 1, ""
        while True:
            try:
                rows = self._database.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages NOT INDEXED "
                    "WHERE id > ? ORDER BY id",
                    (after,),
                )
                for number, topic_id, when, data in rows:
                    if number <= after:
                        continue  # in damaged pages; going back would never end
                    after, step = number, 1
                    if not (isinstance(when, int) and isinstance(data, bytes)):
                        continue  # of a page that is not what it was
                    early = start is not None and when < start
                    if topic_id in names and not early and (stop is None or when < stop):
                        yield names[topic_id], when, data
                break
            except sqlite3.Error as error:
                lost = lost or f"{self.path.name}: rows after number {after}: {error}"
                after, step = after + step, step * 2
                if step > 1 << _PROBES:
                    break
        if lost and not self._complete:
            self.problems.append(lost)
        self._complete = True
