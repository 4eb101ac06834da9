"""What figures are taken on: the machine, and the memory of this process."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path


def machine() -> str:
    """For the record: where the figures were taken."""
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def resident_bytes() -> int:
    """Memory of this process that lies in RAM now; 0 where /proc is not there."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> dict[str, float]:
    """Largest memory so far, in MiB: of the whole process, and of torch on the GPU if used."""
    found = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found
