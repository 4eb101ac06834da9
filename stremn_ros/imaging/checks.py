"""What a frame and an object's name are, checked in one place."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from stremn_ros.errors import InputError

LONGEST_NAME = 128  # characters of an object's name
JOINERS = "\u200c\u200d"  # within words of Persian or Hindi, and within emoji


def check_frame(frame: Any) -> None:
    """Refuses what is no RGB frame: uint8 [H, W, 3] with at least one pixel.

    Raises:
        InputError: it is something else; the message says what.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise InputError(f"a frame must be a uint8 array [H, W, 3], not {kind}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(f"a frame must have the shape [H, W, 3], not {list(frame.shape)}")


def check_name(name: str) -> None:
    """Refuses a name of an object that is too long, or that not every file and page can show.

    Raises:
        InputError: more than LONGEST_NAME characters, or one that cannot be printed.
    """
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the name {name[:16]!r}... has {len(name)} characters; {LONGEST_NAME} are the most"
        )
    if wrong := [letter for letter in name if not _printable(letter)]:
        raise InputError(
            f"the name {name!r} has {wrong[0]!r} in it, which cannot be printed: leave it out"
        )


def name_of(object_id: int, names: Mapping[int, str]) -> str:
    """An object's name; `object N` for one without, made longer where another one is called so.

    Args:
        names: of all objects that have one, by id.
    """
    name = names.get(object_id) or f"object {object_id}"
    while not names.get(object_id) and name in names.values():
        name += " (without a name)"
    return name


def _printable(letter: str) -> bool:
    """Python's ``isprintable`` knows one space only, and no letters that are joined by a sign."""
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"
