"""Child processes that are forked (multiprocessing, servers that fork their workers)."""

from __future__ import annotations

import os

import torch

_used = False


def note_use() -> None:
    """PyTorch is used in this process from now on."""
    global _used
    _used = True


def _in_child() -> None:
    """PyTorch keeps to one thread in a child of a process that used it.

    The threads of its pool stayed in the parent, and GNU OpenMP would wait for them for ever.
    """
    if _used:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_in_child)
