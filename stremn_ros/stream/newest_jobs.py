"""Jobs from topics that anybody may publish on: of each kind the newest waits, for one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

Job = Callable[[], None]


class NewestJobs:
    """A thread that does what is put here, one job after another.

    A newer job of a kind takes the place of one that waits, so a fast publisher costs no more than
    a slow one.

    Attributes:
        replaced: how many jobs gave way to newer ones.
    """

    def __init__(self, name: str) -> None:
        self.replaced = 0
        self._condition = threading.Condition()
        self._waiting: dict[str, Job] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, kind: str, job: Job) -> None:
        """Takes a job, which must not raise; costs nothing."""
        with self._condition:
            if self._closing:
                return
            self.replaced += self._waiting.pop(kind, None) is not None
            self._waiting[kind] = job
            self._condition.notify_all()

    def clear(self) -> None:
        """Forgets the jobs that wait."""
        with self._condition:
            self._waiting.clear()

    def close(self) -> None:
        """Ends the thread after the job that it may have in hand."""
        with self._condition:
            self._closing = True
            self._waiting.clear()
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                job = self._waiting.pop(next(iter(self._waiting)))
            job()
