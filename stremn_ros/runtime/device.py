"""The device of PyTorch, and glibc's allocator set for it on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

import torch

from stremn_ros.errors import RuntimeUnavailableError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 512 << 20  # bytes that the process may hold on to, free
# Larger blocks are mapped one by one. Some versions of glibc refuse the first and take the second.
LARGEST = (1 << 30, 32 << 20)
# of somebody who has chosen for himself: of the environment, and within GLIBC_TUNABLES
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
TUNABLES = ("glibc.malloc.trim_threshold", "glibc.malloc.mmap_threshold", "glibc.malloc.top_pad")


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep up to ``KEPT`` bytes that were freed, for the next frame's maps.

    PyTorch allocates each map again. By default glibc returns it to the system as soon as it is
    free, and the next one's pages are faults that the kernel fills with zeros: 13,364 of them in a
    frame of 240x432 with its update, a fifth of the frame's time. Process-wide; nothing is done
    where there is no glibc, or where the environment sets its allocator already (mallopt(3)).

    Returns:
        Whether it was set.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(os.environ.get(name) for name in VARIABLES) or any(t in tunables for t in TUNABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    taken = any(mallopt(_M_MMAP_THRESHOLD, size) for size in LARGEST)
    return bool(taken and mallopt(_M_TRIM_THRESHOLD, KEPT))


def return_freed_memory() -> None:
    """Gives what was freed back to the system; between two pieces of work, not between frames.

    Nothing is done where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where PyTorch has one, else the CPU, whose allocator is set for it.

    Raises:
        RuntimeUnavailableError: a device that is unknown or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RuntimeUnavailableError(
            f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N"
        ) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeUnavailableError(
            f"device {device!r} was asked for, but PyTorch {torch.__version__} sees no GPU; "
            "use device auto or cpu"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeUnavailableError(
            f"device {device!r} was asked for, but the GPUs here are cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    if chosen.type not in ("cpu", "cuda"):
        raise RuntimeUnavailableError(f"device {device!r} is not supported; use cpu or cuda")
    if chosen.type == "cpu":
        keep_freed_memory()
    return chosen
