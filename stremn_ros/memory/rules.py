"""Which slots are fused when a bank is full (paper, 3.2, rules A to D).

A rule sees the similarity table of an object's unlocked slots, oldest first, and names the pairs
(i, j) to fuse: i is distilled into j; the i of the first pair is the slot that goes. Adding a rule
means adding a function and its entry in ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pairs = list[tuple[int, int]]
Rule = Callable[[NDArray[np.float32]], Pairs]


def oldest(table: NDArray[np.float32]) -> Pairs:
    """A: the oldest goes and updates every other."""
    return [(0, j) for j in range(1, len(table))]


def newest(table: NDArray[np.float32]) -> Pairs:
    """B: the newest goes and updates every other."""
    last = len(table) - 1
    return [(last, j) for j in range(last)]


def least_similar(table: NDArray[np.float32]) -> Pairs:
    """C: the pair i < j with the smallest similarity; i goes."""
    return [_extreme(table, np.argmin)]


def most_similar(table: NDArray[np.float32]) -> Pairs:
    """D: the pair i < j with the largest similarity; i goes."""
    return [_extreme(table, np.argmax)]


def _extreme(table: NDArray[np.float32], choose: Callable[..., np.intp]) -> tuple[int, int]:
    rows, columns = np.triu_indices(len(table), k=1)
    picked = int(choose(table[rows, columns]))
    return int(rows[picked]), int(columns[picked])


RULES: dict[str, Rule] = {
    "oldest": oldest,
    "newest": newest,
    "least_similar": least_similar,
    "most_similar": most_similar,
}
