"""How a full memory takes in a new template: the table of update rules (paper, 3.2).

This table is the one place where a rule is added: the bank, the training, the command line, the
node's parameter and the documentation are all made from it. It needs no PyTorch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from stremn_ros.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Table: TypeAlias = "NDArray[np.float32]"
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Rule:
    """One update rule.

    Attributes:
        text: what it does, in a line for people.
        choose: from a table [n, n] of an object's unlocked slots, oldest first, the pairs (i, j)
            to fuse, at least one: i is fused into j; the i of the first pair is the slot that is
            removed. The table holds similarities S(i, j), or the scorer's scores where ``scored``.
            Equally many pairs for equal n. Not called while there is one unlocked slot, which is
            then overwritten.
        absorb: with input_to_memory (I2M), from the similarity [n] of the new template to each
            unlocked slot, the slot that it is fused into. None: the rule has no such form.
        scored: ``choose`` sees what a trained scorer makes of the pairs.
        limit: slots used of each object at most, the seed's included; None for all there are.
        grows: nothing is ever given up; a baseline, not for streams without end.
    """

    text: str
    choose: Callable[[Table], Pairs]
    absorb: Callable[[Table], int] | None = None
    scored: bool = False
    limit: int | None = None
    grows: bool = False


def _extreme(table: Table, choose: Callable[..., tuple[int, int]]) -> Pairs:
    return [choose(itertools.combinations(range(len(table)), 2), key=lambda pair: table[pair])]


def _none(table: Table) -> Pairs:
    raise AssertionError("a rule that fuses nothing was asked for a pair")


RULES: dict[str, Rule] = {
    "oldest": Rule(
        "A: the oldest is removed and updates every other",
        lambda table: [(0, j) for j in range(1, len(table))],
        lambda similarity: 0,
    ),
    "newest": Rule(
        "B: the newest is removed and updates every other",
        lambda table: [(len(table) - 1, j) for j in range(len(table) - 1)],
        lambda similarity: len(similarity) - 1,
    ),
    "least_similar": Rule(
        "C: of the least similar pair the older is removed and updates the other",
        lambda table: _extreme(table, min),
        lambda similarity: int(similarity.argmin()),
    ),
    "most_similar": Rule(
        "D: of the most similar pair the older is removed and updates the other",
        lambda table: _extreme(table, max),
        lambda similarity: int(similarity.argmax()),
    ),
    "learned": Rule(
        "a trained scorer chooses the pair; for models that have one",
        lambda table: _extreme(table, max),
        scored=True,
    ),
    "first_and_previous": Rule(
        "STM's constant memory: the seed and the newest template, nothing is fused",
        _none,
        limit=2,
    ),
    "linear": Rule(
        "STM's growing memory: the seed, a template every 5 frames and the newest; a baseline",
        _none,
        grows=True,
    ),
}


def find_rule(name: str) -> Rule:
    """The rule of that name; InputError where there is none."""
    if name not in RULES:
        raise InputError(f"update rule {name!r} is unknown; known are {sorted(RULES)}")
    return RULES[name]
