"""Where the tasks of a job are done: in this process, on several, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from stremn_ros.errors import InputError, StremnError
from stremn_ros.recordings import tasks
from stremn_ros.recordings.tasks import Task, Tell
from stremn_ros.runtime.device import return_freed_memory

TRIES = 3  # of a task whose worker died
_LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its result, or why there is none."""

    value: Any = None
    error: str = ""


Done = Callable[[Task, Outcome], Iterable[Task]]
Look = Callable[[Collection[Task]], None]


class Runner(ABC):
    """Does tasks; a context manager, so that its workers may stay between two calls of ``run``.

    Attributes:
        tells: whether ``run`` tells each frame; else the files say what was done.
    """

    tells = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  this process has nothing to close
        """Ends the workers."""

    @abstractmethod
    def run(self, first: Iterable[Task], done: Done, look: Look, tell: Tell) -> None:
        """Does tasks, and those that follow from them.

        Args:
            done: gets a task and what came of it; returns the tasks that are now to be done.
            look: gets the tasks that are being done, now and then.
            tell: gets numbers of frames as they are done, where ``tells``.

        Raises:
            InputError: there are no workers, or they die again and again.
        """


class Serial(Runner):
    """Does tasks in this process, one by one: those that follow from one right after it."""

    tells = True

    def run(self, first: Iterable[Task], done: Done, look: Look, tell: Tell) -> None:
        waiting = deque(first)
        while waiting:
            task = waiting.popleft()
            look([task])
            waiting.extendleft(reversed(list(done(task, _outcome(task, tell)))))


def _outcome(task: Task, tell: Tell) -> Outcome:
    try:
        return Outcome(task.run(tell))
    except StremnError as error:
        return Outcome(error=str(error))
    finally:
        return_freed_memory()  # the next task needs other things


def _on_worker(task: Task, base: str) -> Outcome:
    """A worker's part. base: the folder that relative paths are from."""
    os.chdir(base)
    return _outcome(task, lambda count: None)


class _Pool(Runner):
    """Hands tasks out. What stands for a task that is being done is up to the pool."""

    @abstractmethod
    def submit(self, task: Task) -> Any: ...

    @abstractmethod
    def ready(self, running: Collection[Any]) -> Iterable[Any]:
        """Those that are done; it waits a moment for the first."""

    @abstractmethod
    def result(self, handle: Any) -> Outcome | None:
        """What came of one; None where all that are being done must be handed out again."""

    def run(self, first: Iterable[Task], done: Done, look: Look, tell: Tell) -> None:
        running = {self.submit(task): task for task in first}
        while running:
            for handle in self.ready(running):
                outcome = self.result(handle)
                if outcome is None:
                    running = {self.submit(task): task for task in running.values()}
                    break
                for task in done(running.pop(handle), outcome):
                    running[self.submit(task)] = task
            look(running.values())


class Processes(_Pool):
    """Processes of this machine, each with its share of the threads.

    Those of a pool in which one died are replaced.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise InputError(f"--workers {workers}: at least 1 is needed")
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._deaths = 0

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # one process imports what all workers need, and they are copies of it
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, tasks.__name__])
            threads = max(1, len(os.sched_getaffinity(0)) // self._workers)
            self._executor = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
            )
        return self._executor

    def submit(self, task: Task) -> Future[Outcome]:
        try:
            return self._started().submit(_on_worker, task, os.getcwd())
        except BrokenProcessPool as error:  # found out with the next result
            failed: Future[Outcome] = Future()
            failed.set_exception(error)
            return failed

    def ready(self, running: Collection[Future[Outcome]]) -> Iterable[Future[Outcome]]:
        return wait(running, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)[0]

    def result(self, handle: Future[Outcome]) -> Outcome | None:
        try:
            return handle.result()
        except BrokenProcessPool:
            self.close()
            self._deaths += 1
            if self._deaths < TRIES:
                return None
            raise InputError(
                f"a worker process died {TRIES} times (killed, or out of memory?): try fewer "
                "--workers; --resume goes on with the same command"
            ) from None

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def _start_worker(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


class RayCluster(_Pool):
    """A Ray cluster that is there; all of it must see the files by the same paths.

    Ray does a task again on another worker when one dies. A task that runs the network on CUDA
    takes a GPU.

    Args:
        address: of the cluster; empty for the one that Ray finds (RAY_ADDRESS, or this machine's).
        gpus: whether the network runs on CUDA.

    Raises:
        StremnError: Ray is not installed.
    """

    def __init__(self, address: str = "", gpus: bool = False) -> None:
        try:
            import ray
        except ImportError as error:
            raise StremnError(
                f"--ray needs the package ray, which does not import here ({error}): pip install "
                "'stremn_ros[ray]'"
            ) from None
        self._ray, self._address, self._gpus = ray, address, gpus
        self._began = False

    def __enter__(self) -> RayCluster:
        """Raises: InputError, where there is no cluster."""
        self._began = not self._ray.is_initialized()
        if self._began:
            try:
                self._ray.init(
                    address=self._address or "auto",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except ConnectionError as error:
                raise InputError(
                    f"there is no Ray cluster at {self._address or 'the default address'} "
                    f"({error}): start one by `ray start --head`, or give its address"
                ) from None
        self._run = self._ray.remote(max_retries=TRIES, num_cpus=1)(_on_worker)
        return self

    def submit(self, task: Task) -> Any:
        gpus = 1.0 if self._gpus and task.uses_device else 0.0
        return self._run.options(name=task.name, num_gpus=gpus).remote(task, os.getcwd())

    def ready(self, running: Collection[Any]) -> Iterable[Any]:
        return list(self._ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY)[0])

    def result(self, handle: Any) -> Outcome:
        try:
            found: Outcome = self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[:500]
            return Outcome(error=f"its task failed on the cluster: {said}")
        return found

    def close(self) -> None:
        if self._began:
            self._ray.shutdown()
