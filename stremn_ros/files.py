"""Files are written whole: under a temporary name beside the right one, which they get at the end.

A reader sees the old file or the new one, and after an error or a power cut the old one is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from stremn_ros.errors import InputError

# how a text holds a file's name that is in no known encoding: "\udcfc" for the byte 0xfc
UNKNOWN = "backslashreplace"
_numbers = itertools.count()


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """A program's printing, flushed at the end of the block.

    Where nobody reads it any more (``... | head``), the block ends there in silence.

    Raises:
        OSError: it cannot be written for another reason, such as a full disk.
    """
    try:
        try:
            yield
        except SystemExit:  # --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OSError as error:
        lost = [stream for stream in (sys.stdout, sys.stderr) if _is_lost(stream)]
        for stream in lost:  # else Python complains of it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not (lost and isinstance(error, BrokenPipeError)):
            raise


def _is_lost(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return True
    found = select.poll()  # a write that failed may have emptied the buffer
    found.register(stream.fileno(), 0)
    return bool(found.poll(0))


class NewFile:
    """A file in the making: ``with NewFile(path) as temporary`` names the file to write to.

    It gets its name when the block ends well, and is removed otherwise.

    Args:
        path: in a folder that exists.
        suffix: of the temporary name, for writers that choose the format by it.
        durable: a power cut after the block loses nothing. The temporary name is always the same
            then, so a process that is killed again and again leaves one such file at most. For
            files that one process writes.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], suffix: str = "", durable: bool = False
    ) -> None:
        self.path = Path(path)
        self.durable = durable
        # hidden, so that nobody takes it for a result
        name = f".{os.getpid()}.{next(_numbers)}.part{suffix}"
        self.temporary = self.path.with_name(f".{self.path.name}.tmp" if durable else name)

    def __enter__(self) -> Path:
        self.discard()  # a leftover might be a link to another file
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            with contextlib.suppress(OSError):  # the first error says more
                self.discard()

    def commit(self) -> None:
        """Gives the file its name."""
        if self.durable:
            _sync(self.temporary)
        os.replace(self.temporary, self.path)
        if self.durable:
            _sync(self.path.parent)  # the new name as well

    def discard(self) -> None:
        """Removes the temporary file, if there is one."""
        self.temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_with(
    path: str | os.PathLike[str], write: Callable[[Path], object], durable: bool = False
) -> None:
    """Writes a file by a function that gets the temporary name; the folder is made.

    Args:
        durable: see ``NewFile``.

    Raises:
        InputError: it cannot be written (no permission, disk full); the message says why.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NewFile(path, durable=durable) as temporary:
            write(temporary)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file; the folder is made. Raises: as ``write_with``."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text as UTF-8; the folder is made. Raises: as ``write_with``."""
    write_bytes(path, text.encode(errors=UNKNOWN))


def write_json(
    path: str | os.PathLike[str],
    values: Mapping[str, Any],
    indent: int = 2,
    durable: bool = False,
) -> None:
    """Writes a result as JSON; the folder is made. durable, Raises: as ``write_with``."""
    text = json.dumps(values, indent=indent) + "\n"
    write_with(path, lambda temporary: temporary.write_text(text, encoding="ascii"), durable)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
