"""A log that says the same thing only now and then."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

Log = Callable[[str, str, str], None]
"""log(severity, key, text): severity is debug, info, warning or error; repeated texts of one key
may be held back; an empty key never is."""


MOST_KEYS = 256
# an apostrophe within a word begins no quotation
_VALUES = re.compile(r"(?<!\w)'[^']*'?|\"[^\"]*\"?|[-+]?\d[\d.e+-]*|\b(nan|inf)\b")


def alike(text: str) -> str:
    """A key that texts share which differ in their numbers and quoted words alone."""
    return _VALUES.sub("", text[:400])[:40]


class LimitedLog:
    """Passes a text on once in `period` seconds for each key, and says how many it held back.

    Of more than `MOST_KEYS` keys, the oldest are forgotten.
    """

    def __init__(
        self,
        write: Callable[[str, str], None],
        period: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.period = period
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, int]] = {}

    def __call__(self, severity: str, key: str, text: str) -> None:
        if key:
            with self._lock:
                now = self._clock()
                before, held = self._last.get(key, (-1e18, 0))
                if now - before < self.period:
                    self._last[key] = (before, held + 1)
                    return
                self._last.pop(key, None)  # so that it is the newest
                self._last[key] = (now, 0)
                if len(self._last) > MOST_KEYS:
                    del self._last[next(iter(self._last))]
            if held:
                text += f" (and {held} more like it in the last {now - before:.0f} s)"
        self._write(severity, text)
