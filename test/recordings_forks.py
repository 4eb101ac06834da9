"""Runs of `stremn label` in processes of their own that start at once: copies of one that imported.

python recordings_forks.py      reads a line of JSON for each run, answers its process id
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Forks:
    """The process that is copied; a context manager."""

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, words: Sequence[str], said: Path, largest_file: int = 0) -> int:
        """Starts a command of stremn; its process id. What it says goes to a file."""
        return int(self._ask({"words": list(words), "said": str(said), "largest": largest_file}))

    def wait(self, pid: int) -> int:
        """The exit code; negative: the signal that ended it."""
        return int(self._ask({"wait": pid}))

    def _ask(self, values: dict[str, object]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


def descendants(pid: int) -> list[tuple[int, int, str]]:
    """(process, its parent, its command) of all processes below one."""
    children: dict[int, list[tuple[int, int, str]]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                children.setdefault(parent, []).append((int(folder.name), parent, words))
    found: list[tuple[int, int, str]] = []
    stack = [pid]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += [own for own, _, _ in below]
    return found


def kill_one(out: Path, choose: Callable[[], list[int]]) -> list[int]:
    """Kills one of the processes that are chosen once a stretch of a run was written; which."""
    for _ in range(6000):
        if list(out.rglob("*.zip")) and (chosen := choose()):
            os.kill(chosen[0], signal.SIGKILL)
            return chosen[:1]
        time.sleep(0.01)
    return []


def _serve() -> None:
    import stremn_ros.recordings.job
    import stremn_ros.recordings.workers  # noqa: F401
    from stremn_ros.cli import main

    # a shell that starts the tests in the background has them ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            code = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
            print(code, flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        file = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if asked["largest"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest"], asked["largest"]))
        code = 1
        try:
            code = main(asked["words"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    _serve()
