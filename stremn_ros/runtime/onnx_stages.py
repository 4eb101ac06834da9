"""The stages on ONNX Runtime: encoders, decoder and fusion as sessions, the read in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RuntimeUnavailableError
from ..network import Query, SegmentationNetwork
from .onnx_export import checked_files
from .torch_stages import TorchStages


class OnnxStages(TorchStages):
    """Runs a network on ONNX Runtime's CPU provider; see ``stages.Stages``.

    Tensors go in and out without a copy: inputs are bound to PyTorch's memory, outputs come back
    as arrays that PyTorch takes over. What is small beside the convolutions (the read, the 1x1
    value head) stays in PyTorch.

    Args:
        network: its heads are used; model: the folder whose export is loaded.
        threads: of ONNX Runtime; 0 takes PyTorch's number.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported. ModelError: there is no export of
        this model, or one that is damaged.
    """

    def __init__(self, network: SegmentationNetwork, model: Path, threads: int = 0) -> None:
        super().__init__(network, torch.device("cpu"))
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"runtime onnxruntime was asked for and cannot be imported ({error}); "
                "pip install onnxruntime, or use runtime torch"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # PyTorch's threads run between two calls; ones that spin here would take their cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            for name, path in checked_files(model).items()
        }
        self._value = onnxruntime.OrtValue
        self.name = f"onnxruntime {onnxruntime.__version__} (cpu)"

    def _run(self, stage: str, **inputs: Tensor) -> list[Tensor]:
        feeds: dict[str, Any] = {
            name: self._value.ortvalue_from_numpy(tensor.contiguous().numpy())
            for name, tensor in inputs.items()
        }
        results = self._sessions[stage].run_with_ort_values(None, feeds)
        return [torch.from_numpy(result.numpy()) for result in results]

    def encode_query(self, image: Tensor) -> Query:
        return Query(*self._run("query_encoder", image=image))

    def encode_memory(self, image: Tensor, masks: Tensor, stride16: Tensor) -> Tensor:
        return self._run("memory_encoder", image=image, masks=masks, stride16=stride16)[0]

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self._run("fusion", x_i=x_i, x_j=x_j)[0]

    def decode(self, read: Tensor, query: Query) -> Tensor:
        return self._run(
            "decoder", read=read, value=query.value, skip8=query.skip8, skip4=query.skip4
        )[0]
