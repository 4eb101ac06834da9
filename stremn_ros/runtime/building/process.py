"""A job in a separate process, with its progress in the log (`stremn_ros.runtime.jobs`)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from stremn_ros.errors import RuntimeUnavailableError

BEAT = 5.0  # seconds of silence after which the log says that the work is still running
MARK = "\x1e"  # before each line of progress, so that other libraries' chatter is left out
ERROR = "\x1f"
JOBS = "stremn_ros.runtime.jobs"  # the module that is run

Progress = Callable[[str], None]


def run(
    words: list[str],
    what: str,
    progress: Progress,
    given: str = "",
    limit: float | None = None,
) -> None:
    """Runs a job as a process; reports every few seconds that it is still running.

    Args:
        words: of ``jobs.main``; what: it is, for messages; given: its standard input.
        limit: seconds after which it is killed.

    Raises:
        RuntimeUnavailableError: it failed, crashed or took too long.
    """
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", JOBS, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tail: list[str] = []
        reader = threading.Thread(target=_keep_tail, args=(process.stderr, tail), daemon=True)
        reader.start()
        ended = threading.Event()
        beat = threading.Thread(
            target=_say_that_it_goes_on, args=(ended, begin, what, progress), daemon=True
        )
        beat.start()
        stop = threading.Timer(limit or 0.0, process.kill)
        stop.daemon = True
        if limit:
            stop.start()
        reason = ""
        try:
            process.stdin.write(given)
            process.stdin.close()
            for line in process.stdout:
                if line.startswith(MARK):
                    progress(line[1:].rstrip())
                elif line.startswith(ERROR):
                    reason = line[1:].rstrip()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
            beat.join()
            stop.cancel()
        reader.join()
    if limit and code < 0 and time.monotonic() - begin >= limit:
        raise RuntimeUnavailableError(f"the {what} did not end within {limit:.0f} s")
    if code < 0:
        raise RuntimeUnavailableError(f"the {what} crashed (signal {-code}): {' '.join(tail[-3:])}")
    if code:
        raise RuntimeUnavailableError(f"the {what} failed: {reason or ' '.join(tail[-3:])}")


def _keep_tail(stream: Any, tail: list[str]) -> None:
    for line in stream:
        if line.strip():
            tail.append(line.strip())
            del tail[:-20]


def _say_that_it_goes_on(
    ended: threading.Event, begin: float, what: str, progress: Progress
) -> None:
    while not ended.wait(BEAT):
        progress(f"the {what} is still running ({time.monotonic() - begin:.0f} s)")
