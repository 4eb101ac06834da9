"""Masks that come by topic: they wait here, of each object the newest, for a thread to seed them.

A detector may publish faster than objects can be seeded. If its masks queued up, each would be
seeded later than the last, and further in the past; so a newer mask of an object takes the place of
one that waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.mask_reading import VOID, clean
from stremn_ros.messages import image_read
from stremn_ros.messages.reading import stamp_of
from stremn_ros.results import MAX_ID

LEAST = 16  # messages that have room


@dataclass(eq=False)
class WaitingSeed:
    """A mask that waits.

    Attributes:
        labels: uint8 [H, W], without the objects of which there is a newer mask.
        stamp: nanoseconds; ticket: see `seed_requests.Tickets`.
        notes: on how the mask was read.
    """

    labels: NDArray[np.uint8]
    stamp: int
    ticket: int
    notes: tuple[str, ...] = ()


class SeedInbox:
    """A thread that seeds what is put here.

    Args:
        size: messages that have room; the oldest gives way to another one.
        seed: called in the thread for each mask.
        refuse: called in the thread with the ticket of a mask that cannot be read, and why.
        drop: called with the ticket of a mask for which newer ones of the same objects came.

    Attributes:
        replaced: how many masks gave way to newer ones.
    """

    def __init__(
        self,
        size: int,
        seed: Callable[[WaitingSeed], None],
        refuse: Callable[[int, str], None],
        drop: Callable[[int], None],
    ) -> None:
        self.replaced = 0
        self._seed, self._refuse, self._drop = seed, refuse, drop
        self._size = max(size, LEAST)
        self._condition = threading.Condition()
        self._arrived: deque[tuple[Any, int]] = deque()
        self._waiting: deque[WaitingSeed] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="seeds", daemon=True)
        self._thread.start()

    def put(self, message: Any, ticket: int) -> None:
        """Takes a mask; costs nothing."""
        with self._condition:
            if self._closing:
                return
            self._arrived.append((message, ticket))
            while len(self._arrived) > self._size:
                self._give_way(self._arrived.popleft()[1])
            self._condition.notify_all()

    def clear(self) -> None:
        """Forgets the masks that wait."""
        with self._condition:
            for ticket in [*(one for _, one in self._arrived), *(w.ticket for w in self._waiting)]:
                self._drop(ticket)
            self._arrived.clear()
            self._waiting.clear()

    def close(self) -> None:
        """Ends the thread after the seed that it may have in hand."""
        self.clear()
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    def _give_way(self, ticket: int) -> None:
        self.replaced += 1
        self._drop(ticket)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closing or self._arrived or self._waiting)
                if self._closing:
                    return
                arrived = list(self._arrived)
                self._arrived.clear()
            for message, ticket in arrived:
                try:
                    mask = clean(image_read.decode_labels(message))
                    (labels, notes), stamp = mask.labels(alone=VOID), stamp_of(message)
                except InputError as error:
                    self._refuse(ticket, str(error))
                else:
                    with self._condition:
                        self._waiting.append(WaitingSeed(labels, stamp, ticket, notes))
            with self._condition:
                self._keep_the_newest()
                chosen = self._waiting.popleft() if self._waiting else None
            if chosen is not None:
                self._seed(chosen)

    def _keep_the_newest(self) -> None:
        newer = np.zeros(MAX_ID + 1, bool)  # ids of which there is a newer mask
        for waiting in reversed(list(self._waiting)):
            ids = np.bincount(waiting.labels.ravel(), minlength=len(newer)) > 0
            ids[0] = False
            if (ids & newer).any():
                if not (ids & ~newer).any():
                    self._waiting.remove(waiting)
                    self._give_way(waiting.ticket)
                    continue
                waiting.labels[newer[waiting.labels]] = 0
            newer |= ids
        while len(self._waiting) > self._size:
            self._give_way(self._waiting.popleft().ticket)
