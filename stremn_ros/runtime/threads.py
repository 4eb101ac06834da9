"""What holds for the threads that a frame is worked on, and is put back afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import torch

_DENORMAL = np.array([1e-45], np.float32)
for _kind in (np.float32, np.float64):
    np.finfo(_kind)  # first asked where denormal numbers are zero, it would warn
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


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """The calling thread takes denormal numbers for zero, as ONNX Runtime's own threads do.

    The tails of a softmax are denormal, and take many times as long. Afterwards the thread is as it
    was: the program that calls us may need them.
    """
    if not (_DENORMAL * np.float32(1.0)).any():  # it does so already
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def frame_scope() -> Iterator[None]:
    """Around the work on a frame where ONNX Runtime runs the stages."""
    with one_thread(), denormals_as_zero():
        yield
