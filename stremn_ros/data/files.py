"""What the data sets share: broken files, and how often each entry is drawn."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stremn_ros.errors import InputError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
MOST_DRAWS = 300  # that may fail one after another


def pattern_weight(name: str, weights: Mapping[str, float]) -> float:
    """Of the first pattern (as of a shell) that fits a name; 1 where none does."""
    for pattern, weight in weights.items():
        if fnmatch.fnmatchcase(name, pattern):
            return weight
    return 1.0


def draw(count: int, one: Callable[[], _T | None]) -> list[_T]:
    """So many results of ``one()``, which is asked again where it gives None.

    Raises:
        InputError: it gave None ``MOST_DRAWS`` times in a row.
    """
    found: list[_T] = []
    failed = 0
    while len(found) < count:
        drawn = one()
        if drawn is not None:
            found.append(drawn)
            failed = 0
            continue
        failed += 1
        if failed == MOST_DRAWS:
            raise InputError(
                "most masks are empty or tiny, or cannot be read: nothing to train on in "
                f"{MOST_DRAWS} draws in a row"
            )
    return found


@dataclass
class Handled:
    """Whether a guarded read failed and was skipped."""

    failed: bool = False


class BrokenFiles:
    """What happens when a file of a data set cannot be read.

    Args:
        policy: ``raise``: the InputError reaches the caller. ``skip``: it is logged once for each
            message and counted, and the caller continues with another file.
    """

    def __init__(self, policy: str = "raise") -> None:
        if policy not in ("raise", "skip"):
            raise InputError(f"broken={policy!r}; it must be 'raise' or 'skip'")
        self.policy = policy
        self.messages: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many reads failed so far."""
        return sum(self.messages.values())

    @contextlib.contextmanager
    def handled(self) -> Iterator[Handled]:
        """Guards a read: ``with broken.handled() as handled: ...``, then look at its ``failed``."""
        outcome = Handled()
        try:
            yield outcome
        except InputError as error:
            if self.policy == "raise":
                raise
            message = str(error)
            if message not in self.messages:
                log.warning("left out: %s", message)
            self.messages[message] = self.messages.get(message, 0) + 1
            outcome.failed = True
