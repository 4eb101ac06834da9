"""What the worker is asked to do for a stream beside its frames; callers wait for the answer.

Urgent commands (remove, reset, and the copy that is saved) take a moment, and wait for one piece
of work at most. What adds objects (seeds, a snapshot that is loaded) waits behind them. It takes
long and is a generator: after each step, which costs about as much as a frame, a frame that waits
goes first, and frames that wait have at least the share of the time that seeds leave them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, TypeVar

from stremn_ros.errors import StremnError
from stremn_ros.stream.worker import Job

# A command waits for the frame in work; a worker that takes longer than this is stuck.
COMMAND_TIMEOUT = 60.0

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
"""A command in the worker: it yields where a frame may go first, and returns the answer."""
_Queue = deque[tuple[Steps[Any], "Future[Any]"]]


class Commands:
    """Two queues of commands; the worker's condition guards them.

    Args:
        condition: of the worker. clock: monotonic seconds.
        share: of the time, that what adds objects may take while frames wait; read at each use.
        done: called in the worker after each command, before it is answered.

    Attributes:
        urgent, adding: the commands that wait. stopping: no command is taken any more.
    """

    def __init__(
        self,
        condition: threading.Condition,
        clock: Callable[[], float],
        share: Callable[[], float],
        done: Callable[[], None],
    ) -> None:
        self._condition, self._clock, self._share, self._done = condition, clock, share, done
        self.urgent: _Queue = deque()
        self.adding: _Queue = deque()
        self.stopping = False
        self._frame_next = False  # so that a stream of urgent commands does not keep frames out
        self._owed = 0.0  # seconds that frames have before the next step of a seed, if they wait

    def at_once(self, work: Callable[[], _T], overtake: Callable[[], None] | None = None) -> _T:
        """Does a piece of work in the worker, and returns what it returns or raises what it raises.

        overtake: of an urgent command; called when it is queued, with the condition held.
        """

        def steps() -> Steps[_T]:
            yield from ()
            return work()

        return self.call(steps(), self.adding if overtake is None else self.urgent, overtake)

    def call(
        self, steps: Steps[_T], queue: _Queue, overtake: Callable[[], None] | None = None
    ) -> _T:
        """Runs `steps` in the worker; overtake: as in `at_once`."""
        future: Future[_T] = Future()
        with self._condition:
            if self.stopping:
                raise _ended()
            if overtake is not None:
                overtake()
            queue.append((steps, future))
            self._condition.notify_all()
        try:
            return future.result(COMMAND_TIMEOUT)
        except FutureTimeoutError:
            if future.cancel():
                raise StremnError(
                    f"the network was busy for {COMMAND_TIMEOUT:g} s, so nothing was done: it is "
                    "stuck or far too slow on this machine (/diagnostics shows the latency)"
                ) from None
            return future.result()  # it began at the last moment

    def close(self) -> None:
        """Commands that wait are answered with a failure, as all that come later."""
        with self._condition:
            self.stopping = True
            pending = [*self.urgent, *self.adding]
            self.urgent.clear()
            self.adding.clear()
            self._condition.notify_all()
        for _, future in pending:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(_ended())

    def take(self, frame_waits: bool) -> Job | None:
        """The next step, None where it is the turn of the frame; the condition is held."""
        if self.urgent and not (self._frame_next and frame_waits):
            self._frame_next = True
            return partial(self._execute, *self.urgent.popleft(), self.urgent)
        if self.adding and not (frame_waits and self._owed > 0):
            return partial(self._execute, *self.adding.popleft(), self.adding)
        self._frame_next = False
        return None

    def frame_took(self, seconds: float) -> None:
        """A frame has had so much of the worker's time."""
        self._owed -= seconds

    def _execute(self, steps: Steps[Any], future: Future[Any], queue: _Queue) -> None:
        if not future.running() and not future.set_running_or_notify_cancel():
            return  # given up by its caller
        begin = self._clock()
        try:
            next(steps)
        except StopIteration as end:
            try:
                self._done()  # before the answer, which tells the ids
            finally:
                future.set_result(end.value)
        except Exception as error:
            try:
                self._done()
            finally:
                future.set_exception(error)
        else:  # there is more to do, after the frame that waits
            with self._condition:
                stopped = self.stopping
                if not stopped:
                    queue.appendleft((steps, future))
            if stopped:
                future.set_exception(_ended())
        if queue is self.adding:
            share = self._share()
            self._owed = (self._clock() - begin) * (1.0 - share) / share


def _ended() -> StremnError:
    return StremnError("the node is being cleaned up")
