"""Python and the command `stremn` as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(**changes: str) -> dict[str, str]:
    """This process's, with the package in its path, and one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def run_python(
    *words: object, cwd: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Python with these words; changes: of the environment."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=environment(**changes),
        check=False,
    )


def stremn(
    *words: object, cwd: Path | None = None, **changes: str
) -> subprocess.CompletedProcess[str]:
    """The command with these words; changes: of the environment."""
    return run_python("-m", "stremn_ros.cli", *words, cwd=cwd, **changes)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """What it said; the test fails where it did not end well."""
    assert done.returncode == 0, done.stderr
    return done.stdout
