"""The tasks of a job on one process, or on several.

A task is a pass of a track, or its last step, which needs all its passes. Tasks share nothing but
files, so it does not matter where each runs, and a task whose worker died is simply done again: it
goes on where it was.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stremn_ros.errors import InputError, StremnError
from stremn_ros.recordings.finishing import FINISHED, finish_track
from stremn_ros.recordings.passes import PassFolder, Settings, run_pass
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.track import Track
from stremn_ros.runtime.device import return_freed_memory

TRIES = 3  # of a task whose worker died
_LOOK_EVERY = 0.5  # seconds


class Runner(Protocol):
    """Does the tasks of tracks; the errors by track."""

    def __call__(self, job: Job, tracks: Sequence[Track], quiet: bool) -> dict[str, str]: ...


@dataclass(frozen=True)
class Task:
    """A task that any process can do which sees the files.

    Attributes:
        folder: of the track. number: of the pass; -1 for the last step.
        base: the folder that relative paths are from.
    """

    folder: str
    number: int
    out: str
    formats: tuple[str, ...]
    settings: Settings
    base: str

    def run(self, tell: Callable[[int], None] = lambda count: None) -> None:
        track = Track.load(Path(self.folder))
        return_freed_memory()  # of the task before: each needs other things
        if self.number < 0:
            finish_track(track, Path(self.out), self.formats, self.settings.stretch, tell)
        else:
            run_pass(track, track.passes[self.number], self.settings, tell)


def _tasks(job: Job, track: Track) -> tuple[list[Task], Task]:
    """The passes of a track that are not done, and its last step."""

    def task(number: int) -> Task:
        folder, out = str(track.folder), str(job.out)
        return Task(folder, number, out, job.formats, job.settings, os.getcwd())

    open_ = [
        task(number)
        for number, each in enumerate(track.passes)
        if (files := PassFolder(track, each, job.settings.stretch)).done() < files.parts
    ]
    return open_, task(-1)


def frames_of(job: Job, tracks: Sequence[Track]) -> tuple[int, int]:
    """(done, all) frames of the passes and last steps."""
    done = total = 0
    for track in tracks:
        finished = (track.folder / FINISHED).is_file()
        count = len(track.index.stamps)
        total += count
        done += count if finished else 0
        for each in track.passes:
            total += len(each)
            files = PassFolder(track, each, job.settings.stretch)
            done += len(each) if finished else files.frames_done()
    return done, total


@contextlib.contextmanager
def _bar(job: Job, tracks: Sequence[Track], quiet: bool) -> Iterator[Any]:
    from tqdm import tqdm

    done, total = frames_of(job, tracks)
    with tqdm(total=total, initial=done, unit="frame", disable=quiet, dynamic_ncols=True) as bar:
        yield bar


def run_serially(job: Job, tracks: Sequence[Track], quiet: bool) -> dict[str, str]:
    """Does all tasks in this process."""
    errors: dict[str, str] = {}
    with _bar(job, tracks, quiet) as bar:
        for track in tracks:
            bar.set_description(track.name)
            passes, last = _tasks(job, track)
            try:
                for task in [*passes, last]:
                    task.run(bar.update)
            except StremnError as error:
                if _disk_is_full(job.out):
                    raise
                errors[track.name] = str(error)
    return errors


def _disk_is_full(out: Path) -> bool:
    import shutil

    return shutil.disk_usage(out).free < 1 << 20


def _start_worker(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _run_task(task: Task) -> str:
    """A worker's part: does a task; why it failed, or nothing."""
    os.chdir(task.base)  # where relative paths are from
    try:
        task.run()
    except StremnError as error:
        return str(error)
    return ""


class _Pool(Protocol):
    """Runs tasks somewhere; what stands for a task is up to the pool."""

    def submit(self, task: Task, name: str) -> Any: ...

    def ready(self, running: Collection[Any]) -> list[Any]:
        """Those that are done; it waits a moment for the first."""

    def result(self, handle: Any) -> str: ...


class _Processes:
    """A pool of processes of this machine; BrokenProcessPool where one of them died."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(self, task: Task, name: str) -> Future[str]:
        return self._executor.submit(_run_task, task)

    def ready(self, running: Collection[Future[str]]) -> list[Future[str]]:
        return list(wait(running, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)[0])

    def result(self, handle: Future[str]) -> str:
        return handle.result()


class _Ray:
    """A Ray cluster. Ray does a task again on another worker when one dies."""

    def __init__(self, ray: Any, gpus: float) -> None:
        self._ray = ray
        self._run = ray.remote(max_retries=TRIES, num_cpus=1, num_gpus=gpus)(_run_task)

    def submit(self, task: Task, name: str) -> Any:
        return self._run.options(name=name).remote(task)

    def ready(self, running: Collection[Any]) -> list[Any]:
        return list(self._ray.wait(list(running), num_returns=1, timeout=_LOOK_EVERY)[0])

    def result(self, handle: Any) -> str:
        try:
            return str(self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            return f"its task failed on the cluster: {' '.join(str(error).split())[:500]}"


def on_processes(workers: int) -> Runner:
    """A runner on several processes, each with its share of the threads."""
    if workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed")

    def run(job: Job, tracks: Sequence[Track], quiet: bool) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        # one process imports what all workers need, and they are copies of it
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with _bar(job, tracks, quiet) as bar:
            for attempt in range(1, TRIES + 1):
                executor = ProcessPoolExecutor(
                    workers, mp_context=context, initializer=_start_worker, initargs=(threads,)
                )
                try:
                    return _on_pool(_Processes(executor), job, tracks, bar)
                except BrokenProcessPool:
                    if attempt == TRIES:
                        raise InputError(
                            f"a worker process died {TRIES} times (killed, or out of memory?): try "
                            "fewer --workers; --resume goes on with the same command"
                        ) from None
                finally:
                    executor.shutdown(wait=True, cancel_futures=True)
        raise AssertionError

    return run


def on_ray(address: str) -> Runner:
    """A runner on a Ray cluster that is there; all of it must see the files by the same paths.

    Args:
        address: of the cluster; empty for the one that Ray finds (RAY_ADDRESS, or this machine's).

    Raises:
        StremnError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise StremnError(
            f"--ray needs the package ray, which does not import here ({error}): pip install "
            "'stremn_ros[ray]'"
        ) from None

    def run(job: Job, tracks: Sequence[Track], quiet: bool) -> dict[str, str]:
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(
                    address=address or "auto", log_to_driver=False, logging_level=logging.ERROR
                )
            except ConnectionError as error:
                raise InputError(
                    f"there is no Ray cluster at {address or 'the default address'} ({error}): "
                    "start one by `ray start --head`, or give its address"
                ) from None
        gpus = 1.0 if job.settings.device.startswith("cuda") else 0.0
        try:
            with _bar(job, tracks, quiet) as bar:
                return _on_pool(_Ray(ray, gpus), job, tracks, bar)
        finally:
            if started:
                ray.shutdown()

    return run


def _on_pool(pool: _Pool, job: Job, tracks: Sequence[Track], bar: Any) -> dict[str, str]:
    """Does all tasks on a pool: the passes, and each track's last step when its passes are done."""
    errors: dict[str, str] = {}
    running: dict[Any, tuple[Track, Task]] = {}
    left: dict[str, int] = {}
    lasts: dict[str, Task] = {}

    def submit(track: Track, task: Task) -> None:
        each = "files" if task.number < 0 else track.passes[task.number].name
        running[pool.submit(task, f"{track.name} {each}")] = track, task

    for track in tracks:
        passes, lasts[track.name] = _tasks(job, track)
        left[track.name] = len(passes)
        for task in passes or [lasts[track.name]]:
            submit(track, task)
    shown = time.monotonic()
    while running:
        for handle in pool.ready(running):
            track, task = running.pop(handle)
            if why := pool.result(handle):
                errors.setdefault(track.name, why)
            if task.number >= 0:
                left[track.name] -= 1
                if not left[track.name] and track.name not in errors:
                    submit(track, lasts[track.name])
        if time.monotonic() - shown > _LOOK_EVERY or not running:
            bar.update(frames_of(job, tracks)[0] - bar.n)
            bar.set_description(f"{len(running)} tasks")
            shown = time.monotonic()
    return errors
