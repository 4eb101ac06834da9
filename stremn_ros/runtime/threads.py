"""How many threads PyTorch uses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_inside = 0  # scopes entered; segmenters of several threads may be in theirs at a time
_threads = 1  # of PyTorch before the first of them


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: its others would spin after each small operation, on the cores that
    other threads want next, and cost a third of the frame's time on two cores.

    It holds for the calling thread, and for those that begin to use PyTorch meanwhile.
    """
    global _inside, _threads
    with _lock:
        if not _inside:
            _threads = torch.get_num_threads()
        _inside += 1
    torch.set_num_threads(1)  # holds for the calling thread, too
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                torch.set_num_threads(_threads)
