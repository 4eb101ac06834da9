"""CUDA graphs: a function of tensors of fixed shapes, recorded once and played again.

A frame of the small network is some hundred kernels of a few microseconds each; started one by one
from Python they cost more than they compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARM = 3  # runs before the recording, in which cuDNN chooses its algorithms
MOST = 64  # recordings kept of one function; what comes after runs plainly

Shapes = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class Graphed:
    """Records ``function`` for each combination of input shapes and plays the recording.

    On a CPU, and where recording fails, the function is simply called. The results lie in memory
    of the recording: the next call with the same shapes overwrites them.

    Args:
        function: of CUDA tensors; returns a tensor or a (named) tuple of them, and neither waits
            for the GPU nor looks at values.
        device: where it runs.
        recorder: makes a recording; for tests, which have no GPU.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        recorder: Callable[[Callable[..., Any], list[Tensor]], Callable[[], Any]] | None = None,
    ) -> None:
        self._function = function
        self._recorder = recorder or (_record if device.type == "cuda" else None)
        self._recorded: dict[Shapes, tuple[list[Tensor], Callable[[], Any]]] = {}

    @property
    def recordings(self) -> int:
        """How many combinations of shapes were recorded."""
        return len(self._recorded)

    def __call__(self, *tensors: Tensor) -> Any:
        if self._recorder is None:
            return self._function(*tensors)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        found = self._recorded.get(shapes)
        if found is None:
            if len(self._recorded) >= MOST:
                return self._function(*tensors)
            inputs = [tensor.clone() for tensor in tensors]
            try:
                found = inputs, self._recorder(self._function, inputs)
            except RuntimeError as error:
                log.warning("no CUDA graph can be recorded (%s); running without", error)
                self._recorder = None
                return self._function(*tensors)
            self._recorded[shapes] = found
        inputs, play = found
        for mine, given in zip(inputs, tensors, strict=True):
            mine.copy_(given, non_blocking=True)
        return play()


def _record(function: Callable[..., Any], inputs: list[Tensor]) -> Callable[[], Any]:
    """Never executed on the machine it was written on, which has no GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*inputs)

    def play() -> Any:
        graph.replay()
        return results

    return play
