"""The one thread that owns a network, and how the cameras that share it take turns.

No two calls of the network ever run at the same time, so it needs no lock, one copy of the weights
(one engine, one GPU context) serves all cameras, and what a runtime overwrites in its next call is
never in use. Each camera is a client with its own work; the next job is taken from the one
that has had the least of the thread's time, so that a camera whose images take long (large ones,
many objects) or come fast cannot hold up the others: each waits for one piece of work at most
before its share comes. A camera that had nothing to do saves up no time for later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]


class Client(Protocol):
    """Who has work; all are called while the worker's condition is held."""

    def has_work(self) -> bool: ...

    def has_urgent(self) -> bool:
        """Some of it goes before the work of the others, whoever has had how much time."""
        ...

    def take_work(self) -> Job:
        """The next job, when there is one."""
        ...


class Worker:
    """A thread that does the work of its clients until it is closed.

    Args:
        complain: called with an exception that a job let through; the thread lives on.
        clock: monotonic seconds.

    Attributes:
        condition: guards what clients hand over; notify it when there is new work.
        free_since: when the last job ended, by the clock.
    """

    def __init__(
        self,
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.condition = threading.Condition()
        self.free_since = 0.0
        self._complain = complain
        self._clock = clock
        # seconds of the thread that each client has had, and its last turn
        self._spent: dict[Client, float] = {}
        self._turns: dict[Client, int] = {}
        self._turn = 0
        self._serving: Client | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="segmenter", daemon=True)
        self._thread.start()

    def add(self, client: Client) -> None:
        """Its work is done from now on."""
        with self.condition:
            self._spent[client] = min(self._spent.values(), default=0.0)
            self._turns[client] = 0
            self.condition.notify_all()

    def remove(self, client: Client) -> None:
        """No work of it is begun any more; returns when none is being done."""
        with self.condition:
            self._spent.pop(client, None)
            self._turns.pop(client, None)
            if threading.current_thread() is not self._thread:
                self.condition.wait_for(lambda: self._serving is not client)

    def close(self) -> None:
        """Ends the thread after its current job."""
        with self.condition:
            self._closing = True
            self.condition.notify_all()
        self._thread.join()

    def _next(self) -> Client | None:
        """Whose turn it is, of those that have work."""
        ready = [client for client in self._spent if client.has_work()]
        if not ready:
            return None
        first = [client for client in ready if client.has_urgent()] or ready
        chosen = min(first, key=lambda client: (self._spent[client], self._turns[client]))
        level = self._spent[chosen]
        for client in self._spent:
            if client not in ready:
                self._spent[client] = max(self._spent[client], level)
        return chosen

    def _run(self) -> None:
        while True:
            with self.condition:
                chosen: Client | None = None
                while not self._closing and (chosen := self._next()) is None:
                    self.condition.wait()
                if self._closing or chosen is None:
                    return
                self._turn += 1
                self._turns[chosen] = self._turn
                self._serving = chosen
                job = chosen.take_work()
            begin = self._clock()
            try:
                job()
            except Exception as error:  # whatever happens, the others' work continues
                self._complain(f"{type(error).__name__}: {error}")
            with self.condition:
                self.free_since = self._clock()
                if chosen in self._spent:
                    self._spent[chosen] += self.free_since - begin
                self._serving = None
                self.condition.notify_all()
