"""A model's ONNX files as sessions on ONNX Runtime's CPU provider, fed with PyTorch's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor

from stremn_ros.errors import RuntimeUnavailableError
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.threads import denormals_as_zero


def new_session(path: Path, threads: int, denormal_as_zero: bool = False) -> Any:
    """A session of a checked file on the CPU provider.

    Args:
        denormal_as_zero: its threads take denormal numbers for zero, and from now on so does the
            calling thread; see ``threads.denormals_as_zero``.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported, or not load the file.
    """
    onnxruntime = check_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for name, value in (
        # its threads wait busily within a call, not between two, where others need the cores
        ("session.force_spinning_stop", "1"),
        # work in small portions: a core that another process takes away delays only one
        ("session.dynamic_block_base", "4"),
        ("session.set_denormal_as_zero", str(int(denormal_as_zero))),
    ):
        options.add_session_config_entry(name, value)
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has its own, of no common kind
        raise RuntimeUnavailableError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path} "
            f"({' '.join(str(error).split())}): a newer one made it, perhaps; install that, or "
            f"remove {path.parent} and export the model again"
        ) from None


class Rows(Protocol):
    """Inputs of objects that are made one after another, each [1, ...]."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Tensor: ...


class Sessions:
    """The stages of one model.

    Tensors go in and out without a copy: inputs are bound to PyTorch's memory, outputs lie in ONNX
    Runtime's arena, which uses them again once PyTorch let go of them.

    Args:
        files: of the stages, by name, checked already.
        threads: of ONNX Runtime; 0 takes PyTorch's number.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported, or not load a file.
    """

    def __init__(self, files: Mapping[str, Path], threads: int = 0) -> None:
        onnxruntime = check_onnxruntime()
        with denormals_as_zero():
            self._sessions = {
                name: new_session(path, threads or torch.get_num_threads(), denormal_as_zero=True)
                for name, path in files.items()
            }
        self._value = onnxruntime.OrtValue
        self._no_bias = zeros(0)
        self.version: str = onnxruntime.__version__

    def run(self, stage: str, **inputs: Tensor) -> list[Tensor]:
        """Outputs of a stage, in the graph's order."""
        feeds: dict[str, Any] = {
            name: self._value.ortvalue_from_numpy(tensor.contiguous().numpy())
            for name, tensor in inputs.items()
        }
        results = self._sessions[stage].run_with_ort_values(None, feeds)
        return [torch.from_numpy(result.numpy()) for result in results]

    def each(self, stage: str, **inputs: Tensor | Rows) -> list[Tensor]:
        """A stage for each object, that is for each row of the inputs; one of one row serves all.

        The graphs take one object: a batch of them would be no faster on a CPU.
        """
        rows = max(len(each) for each in inputs.values())

        def row(each: Tensor | Rows, n: int) -> Tensor:
            if not isinstance(each, Tensor):
                return each[n]
            return each if len(each) == 1 else each[n : n + 1]

        parts = [
            self.run(stage, **{name: row(each, n) for name, each in inputs.items()})
            for n in range(rows)
        ]
        return parts[0] if rows == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]

    def memory(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """The inputs that are the memory's; without a mask one that hides nothing."""
        if mask is None:
            if self._no_bias.shape[-1] != keys.shape[1]:
                self._no_bias = zeros(1, 1, keys.shape[1])
            mask = self._no_bias
        return {"keys": keys, "values": values, "bias": mask}


def zeros(*shape: int) -> Tensor:
    """float32 on the CPU, whatever another library has made PyTorch's default."""
    return torch.zeros(*shape, dtype=torch.float32, device="cpu")


def planes(image: Tensor) -> Tensor:
    """[1, 3, H, W], contiguous: by OpenCV, which is several times as fast at it as PyTorch."""
    if image.is_contiguous():
        return image
    result = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    cv2.split(image[0].permute(1, 2, 0).numpy(), list(result[0].numpy()))
    return result
