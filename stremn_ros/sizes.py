"""The processing size: rows and columns that the network works at, multiples of its stride."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import InputError

STRIDE = 16  # of the memory's cells
MIN_SIDE, MAX_SIDE = 32, 4096


def checked_size(size: int | tuple[int, int] | Sequence[int]) -> int | tuple[int, int]:
    """Rows, or (rows, columns), as they were asked for.

    Raises:
        InputError: neither of the two, or a side out of range.
    """
    sides = (size,) if isinstance(size, int) else tuple(size)
    if len(sides) not in (1, 2) or not all(MIN_SIDE <= side <= MAX_SIDE for side in sides):
        raise InputError(
            f"processing_size is {size}; it must be rows, or (rows, columns), each "
            f"{MIN_SIDE}..{MAX_SIDE}"
        )
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def fitted_size(requested: int | tuple[int, int], source: tuple[int, int]) -> tuple[int, int]:
    """Processing size for a source of (rows, columns): multiples of 16, at most 4:1.

    Args:
        requested: rows, whose columns follow from the source, or (rows, columns).
    """

    def rounded(length: float) -> int:
        return max(MIN_SIDE, STRIDE * round(length / STRIDE))

    if isinstance(requested, tuple):
        return rounded(requested[0]), rounded(requested[1])
    aspect = min(max(source[1] / source[0], 0.25), 4.0)
    return rounded(requested), rounded(requested * aspect)


def could_be(size: tuple[int, int], requested: int | tuple[int, int]) -> bool:
    """Whether a source exists for which ``fitted_size`` gives this size."""
    if isinstance(requested, tuple):
        return size == fitted_size(requested, (1, 1))
    rows, columns = size
    low, high = (fitted_size(requested, source)[1] for source in ((4, 1), (1, 4)))
    return (
        rows == fitted_size(requested, (1, 1))[0]
        and columns % STRIDE == 0
        and low <= columns <= high
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """For messages, e.g. ``240x432``."""
    return "x".join(str(length) for length in shape)
