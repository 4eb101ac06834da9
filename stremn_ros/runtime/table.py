"""The runtimes, for all texts, choices and checks; nothing heavy is imported for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """What a runtime is.

    Attributes:
        text: for people. device: the only kind of device that it runs on, cpu or cuda; empty: any.
        folder: it wants a model's folder, which its export or plans belong to.
    """

    text: str
    device: str = ""
    folder: bool = False


RUNTIMES = {
    "torch": Runtime("PyTorch, eager; CPU or GPU"),
    "onnxruntime": Runtime(
        "encoders, value head, read, decoder and Fusion Cell on ONNX Runtime's CPU provider",
        "cpu",
        folder=True,
    ),
    "onnxruntime_int8": Runtime(
        "the same with the largest convolutions in int8, calibrated on your recordings",
        "cpu",
        folder=True,
    ),
    "cudagraphs": Runtime(
        "PyTorch on a GPU: fp16 encoders and decoder, fp32 fusion, CUDA graphs", "cuda"
    ),
    "tensorrt": Runtime(
        "encoders, value head and decoder as TensorRT plans, the rest as `cudagraphs`",
        folder=True,
    ),
}
"""By name; ``choose`` has how each of them is made."""

PREDICTION_RUNTIMES = ("auto", "torch", "onnxruntime")
"""Those that prediction knows."""


def listed(names: Sequence[str]) -> str:
    """Names for a text: a, b or c."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


LISTED = listed(("auto", *RUNTIMES))
"""For texts: all that a parameter or option `runtime` may be."""
