"""What the page may ask for. Every message is checked here as a whole, before anything is done."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.imaging.checks import check_name

LARGEST_MESSAGE = 65536  # bytes
MOST_POINTS = 1000  # of a polygon; a freehand outline on a large screen has a few hundred
MOST_CLICKS = 64
LARGEST_PIXEL = 65535.0
LARGEST_STAMP = 2**63 - 1

Point = tuple[float, float]


@dataclass(frozen=True)
class Hints:
    """Where an object is, in pixels of the source's frames; at least one of the first three.

    Attributes: box (x, y, width, height); polygon, 3 or more corners; inside, outside: clicks.
    """

    box: tuple[int, int, int, int] | None = None
    polygon: tuple[Point, ...] = ()
    inside: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Request:
    """One message of the page.

    Attributes:
        id: the page's own number, for the answer. do: what to do, a name in ``ACTIONS``.
        stamp: of the picture that was clicked. hints: where the object is. name: of the object.
        object_id: of the object; 0 takes a free one. number: of a picture (ack) or frame (seek).
    """

    id: int
    do: str
    stamp: int = 0
    hints: Hints = Hints()
    name: str = ""
    object_id: int = 0
    number: int = 0


# what each needs beside its number
ACTIONS: dict[str, tuple[str, ...]] = {
    "ack": ("number",),
    "preview": ("stamp", "hints", "object"),
    "hold": ("stamp",),
    "follow": ("stamp", "hints", "object", "name"),
    "remove": ("object",),
    "reset": (),
    "pause": (),
    "play": (),
    "step": (),
    "seek": ("number",),
    "export": (),
    "save": (),
    "load": (),
}


def read_request(text: str) -> Request:
    """The request in a message.

    Raises:
        InputError: it is no request, or one beyond the limits; the text says what is wrong.
    """
    if len(text) > LARGEST_MESSAGE:
        raise InputError(f"the message has {len(text)} characters; {LARGEST_MESSAGE} are allowed")
    try:
        message = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise InputError("the message is not JSON") from None
    if not isinstance(message, dict):
        raise InputError("the message is not a JSON object")
    do = message.get("do")
    if not isinstance(do, str) or do not in ACTIONS:
        raise InputError(f"'do' must be one of {', '.join(ACTIONS)}")
    needs = ACTIONS[do]
    return Request(
        _whole(message, "id", LARGEST_STAMP),
        do,
        _stamp(message) if "stamp" in needs else 0,
        _hints(message) if "hints" in needs else Hints(),
        _name(message) if "name" in needs else "",
        _whole(message, "object", 255) if "object" in needs else 0,
        _whole(message, "number", LARGEST_STAMP) if "number" in needs else 0,
    )


def _no_number(text: str) -> None:
    raise ValueError(text)  # NaN and Infinity, which JSON does not have


def _whole(message: dict[str, Any], key: str, most: int) -> int:
    value = message.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"'{key}' must be a whole number from 0 to {most}")
    return value


def _stamp(message: dict[str, Any]) -> int:
    """Nanoseconds as text, as JavaScript's numbers do not hold them."""
    value = message.get("stamp")
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,19}", value):
        raise InputError("'stamp' must be a text of 1 to 19 digits")
    if int(value) > LARGEST_STAMP:
        raise InputError(f"'stamp' must be {LARGEST_STAMP} at most")
    return int(value)


def _name(message: dict[str, Any]) -> str:
    value = message.get("name", "")
    if not isinstance(value, str):
        raise InputError("'name' must be a text")
    check_name(value)
    return value.strip()


def _hints(message: dict[str, Any]) -> Hints:
    box = message.get("box")
    sides = None
    if box is not None:
        values = _numbers(box, "box", 4)
        sides = (round(values[0]), round(values[1]), round(values[2]), round(values[3]))
    hints = Hints(
        sides,
        _points(message, "polygon", MOST_POINTS),
        _points(message, "inside", MOST_CLICKS),
        _points(message, "outside", MOST_CLICKS),
    )
    if not (hints.box or hints.polygon or hints.inside):
        raise InputError("nothing says where the object is: click it, drag a box or draw around it")
    return hints


def _points(message: dict[str, Any], key: str, most: int) -> tuple[Point, ...]:
    value = message.get(key, [])
    if not isinstance(value, list) or len(value) > most:
        raise InputError(f"'{key}' must be a list of {most} points [x, y] at most")
    pairs = [_numbers(point, key, 2) for point in value]
    return tuple((x, y) for x, y in pairs)


def _numbers(value: Any, key: str, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"'{key}': a list of {count} numbers is needed")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InputError(f"'{key}': a list of {count} numbers is needed")
        # a whole number of any length comes through JSON; one that is too large is no float
        if not 0 <= number <= LARGEST_PIXEL or not math.isfinite(number):
            raise InputError(f"'{key}': numbers from 0 to {LARGEST_PIXEL:.0f} are needed")
    return [float(number) for number in value]
