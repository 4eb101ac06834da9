"""What may fail to import, or crash while doing so, is tried in a separate process.

Each module here imports what it looks for at its top and has a function ``values()``, which says
what is there. ``python -m stremn_ros.doctor.probes MODULE`` prints that as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

DEFAULT_MODEL = "segment_lite0"


@dataclass(frozen=True)
class Probe:
    """What the separate process said: values on success, else the error's last line."""

    values: dict[str, Any]
    error: str = ""


def probe(module: str, timeout: float = 120.0) -> Probe:
    """Imports a module and calls its ``values()``, apart from this process.

    Args:
        module: its full name; one that begins with a dot is one of these here.
    """
    name = f"{__name__}{module}" if module.startswith(".") else module
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, name],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe({}, f"no answer within {timeout:.0f} s")
    if done.returncode < 0:
        return Probe({}, f"the process was ended by signal {-done.returncode} (a crash)")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        return Probe({}, lines[-1].strip() if lines else f"exit code {done.returncode}")
    try:
        return Probe(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        return Probe({}, "gave no answer")


def describe(error: Exception) -> str:
    """An error's kind and text."""
    return f"{type(error).__name__}: {error}"
