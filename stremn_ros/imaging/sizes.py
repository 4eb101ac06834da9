"""The processing size: rows and columns that the network works at, multiples of its stride.

One number asked for is the length of the shorter side, so that a picture costs and shows the same
whether it lies or stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from stremn_ros.errors import InputError

STRIDE = 16  # of the memory's cells
MIN_SIDE, MAX_SIDE = 32, 4096
LARGEST_ADVISED = 2160  # processing size, as the node's parameter has it
WIDEST = 4.0  # long side to short; of a narrower picture both shrink, so that it costs no more


def whole_number(value: Any, name: str, low: int, high: int | None = None) -> int:
    """A whole number in a range, as Python's own: NumPy's are taken, too, which JSON is not.

    Raises:
        InputError: it is something else; the message gives the range.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        among = f"at least {low}" if high is None else f"{low}..{high}"
        raise InputError(f"{name} is {value!r}; it must be a whole number, {among}")
    return int(value)


def checked_size(
    size: int | tuple[int, int] | Sequence[int], most: int = MAX_SIDE
) -> int | tuple[int, int]:
    """The shorter side, or (rows, columns), as they were asked for.

    Raises:
        InputError: neither of the two, or a side out of range.
    """
    given: Any = size
    sides: tuple[Any, ...]
    try:
        sides = tuple(given)
    except TypeError:
        sides = (given,)
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) not in (1, 2) or not whole or not all(MIN_SIDE <= s <= most for s in sides):
        raise InputError(
            f"processing_size is {size!r}; it must be the shorter side, or (rows, columns), each "
            f"{MIN_SIDE}..{most}"
        )
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def fitted_size(
    requested: int | tuple[int, int], source: tuple[int, int], stride: int = STRIDE
) -> tuple[int, int]:
    """Processing size for a source of (rows, columns): multiples of the stride.

    Args:
        requested: length of the shorter side, from which the longer follows by the source's
            aspect, or (rows, columns). A source longer than 4:1 gets as many pixels as one of 4:1.
    """
    if isinstance(requested, tuple):
        rows, columns = (_rounded(side, stride) for side in requested)
        return rows, columns
    short, long = sorted(source)
    aspect = long / short
    wanted = requested * min(1.0, math.sqrt(WIDEST / aspect))
    sides = _rounded(wanted, stride), _rounded(wanted * aspect, stride)
    return sides if source[0] <= source[1] else sides[::-1]


def _rounded(length: float, stride: int) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, stride * round(length / stride)))


def size_is_possible(size: tuple[int, int], requested: int | tuple[int, int]) -> bool:
    """Whether a source exists for which ``fitted_size`` gives this size, now or in version 0.1.

    There one number was of rows, which snapshots of pictures that stand still have.
    """
    if isinstance(requested, tuple):
        return size == fitted_size(requested, (1, 1))
    if any(side % STRIDE for side in size):
        return False
    short, long = sorted(size)
    shortest = _rounded(requested, STRIDE)
    longest = WIDEST * requested  # of 4:1; up to it the shorter side is what was asked for
    now = short == shortest and long <= longest + STRIDE
    if long >= longest - STRIDE:  # beyond it the number of pixels stays
        ends = (longest * requested / (long + part) for part in (STRIDE / 2, -STRIDE / 2))
        low, high = (_rounded(end, STRIDE) for end in ends)
        now = now or ((long == MAX_SIDE or low <= short) and short <= high)
    now = now or (long == MAX_SIDE and longest > MAX_SIDE and short <= shortest)
    narrowest = _rounded(requested / WIDEST, STRIDE)
    earlier = size[0] == shortest and narrowest <= size[1] <= _rounded(longest, STRIDE)
    return now or earlier


def shape_text(shape: tuple[int, ...]) -> str:
    """For messages, e.g. ``240x432``."""
    return "x".join(str(length) for length in shape)
