"""Files and folders in the order that people mean, without what tools leave between them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

_NUMBER = re.compile(r"[+-]?\d+(?:\.(\d+))?(?:e[+-]?\d+)?", re.IGNORECASE)
_OF_NUMBERS = "0123456789."
_NANOSECONDS = 9  # digits


def is_tools(name: str) -> bool:
    """Whether a file or folder of this name is a tool's, not a person's.

    Hidden ones (.ipynb_checkpoints, ._clip.mp4 of a Mac), @eaDir and the like of network drives,
    __MACOSX of archives, and what Windows keeps.
    """
    return name.startswith((".", "@", "__MACOSX", "$")) or name in (
        "lost+found",
        "System Volume Information",
        "Thumbs.db",
        "desktop.ini",
    )


def natural_key(name: str) -> list[tuple[int, Any]]:
    """Sort key under which "img2" comes before "img10"."""
    return [
        (0, int(part)) if part.isdecimal() else (1, part.lower())
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order of their names: numbers count as numbers.

    Where the names differ in one decimal number, as exporters of recordings write stamps, they are
    in the order of these numbers: 5.05 comes before 5.2.
    """
    paths = list(paths)
    stems = [path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name for path in paths]
    values = _decimals(stems)
    keys: Sequence[Any] = [natural_key(stem) for stem in stems] if values is None else values
    ranked = sorted(zip(keys, paths), key=lambda item: (item[0], item[1].name))
    return [path for _, path in ranked]


def _decimals(stems: Sequence[str]) -> list[Decimal] | None:
    """The numbers in which names differ; None where that is not all, or points mean another thing.

    A point may also stand between two whole numbers: a scene and a frame (1.9, 1.10), seconds and
    nanoseconds (5.50000000 is 5.05). A number that a program printed never ends in a zero that it
    could leave out, so where digits differ in number, such a zero tells.
    """
    before = os.path.commonprefix(stems).rstrip(_OF_NUMBERS)  # noqa: RUF071  letters are meant
    if before in ("-", "+"):
        before = ""
    rest = [stem[len(before) :] for stem in stems]
    backwards = [stem[::-1] for stem in rest]
    after = os.path.commonprefix(backwards)[::-1].lstrip(_OF_NUMBERS)  # noqa: RUF071
    rest = [stem[: len(stem) - len(after)] for stem in rest]
    matches = [match for stem in rest if (match := _NUMBER.fullmatch(stem))]
    if len(matches) < len(stems):
        return None
    parts = [match[1] or "" for match in matches]
    lengths = {len(part) for part in parts if part}
    if not lengths:
        return None  # whole numbers
    if len(lengths) > 1:
        if any(len(part) > 1 and part.endswith("0") for part in parts):
            return None
        seconds = min(len(match[0].partition(".")[0]) for match in matches)
        if max(lengths) == _NANOSECONDS and seconds >= _NANOSECONDS:
            return None  # of this many digits no program prints fractions of a second
    return [Decimal(match[0]) for match in matches]


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder (by suffix, those of tools left out), ``in_order``."""
    return in_order(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_tools(path.name) and path.is_file()
    )


def list_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders in a folder, those of tools left out, in the order of their names."""
    return in_order(
        path for path in Path(folder).iterdir() if path.is_dir() and not is_tools(path.name)
    )
