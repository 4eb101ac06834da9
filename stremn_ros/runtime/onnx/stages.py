"""The stages on ONNX Runtime's CPU provider."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from stremn_ros.network import Decoded, Query, Seen, SegmentationNetwork
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.tensorrt.graphs import decoded_of

_lock = threading.Lock()
_inside = 0  # scopes entered; segmenters of several threads may be in theirs at a time
_threads = 1  # of PyTorch before the first of them


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: its others would spin after each small operation, on the cores that
    ONNX Runtime wants next, and cost a third of the frame's time on two cores."""
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


class OnnxStages(TorchStages):
    """Runs a network on ONNX Runtime's CPU provider; see ``stages.Stages``.

    Tensors go in and out without a copy: inputs are bound to PyTorch's memory, outputs lie in ONNX
    Runtime's arena, which uses them again once PyTorch let go of them. What is small beside the
    convolutions (choice of the pair, softmax of the masks) stays in PyTorch.

    Args:
        network: its heads are used; model: the folder whose export is loaded.
        threads: of ONNX Runtime; 0 takes PyTorch's number.
        files: the stages' files, checked already, where they are not the model's export;
            kind: what they are, for the name.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported.
        ModelError: there is no export of this model, or one that is damaged.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        model: Path,
        threads: int = 0,
        files: Mapping[str, Path] | None = None,
        kind: str = "cpu",
    ) -> None:
        super().__init__(network, torch.device("cpu"))
        onnxruntime = check_onnxruntime()
        self._sessions = {
            name: new_session(onnxruntime, path, threads or torch.get_num_threads(), True)
            for name, path in (files or checked_files(model)).items()
        }
        self._value = onnxruntime.OrtValue
        self._no_bias = _zeros(0)
        self.name = f"onnxruntime {onnxruntime.__version__} ({kind})"

    def scope(self) -> AbstractContextManager[None]:
        return _one_thread()

    def _run(self, stage: str, **inputs: Tensor) -> list[Tensor]:
        feeds: dict[str, Any] = {
            name: self._value.ortvalue_from_numpy(tensor.contiguous().numpy())
            for name, tensor in inputs.items()
        }
        results = self._sessions[stage].run_with_ort_values(None, feeds)
        return [torch.from_numpy(result.numpy()) for result in results]

    def _each(self, stage: str, **inputs: Tensor) -> list[Tensor]:
        """A stage for each object, that is for each row of the inputs; one of one row serves all.

        The graphs take one object: a batch of them would be no faster on a CPU.
        """
        rows = max(tensor.shape[0] for tensor in inputs.values())
        parts = [
            self._run(
                stage,
                **{
                    name: tensor if tensor.shape[0] == 1 else tensor[n : n + 1]
                    for name, tensor in inputs.items()
                },
            )
            for n in range(rows)
        ]
        return parts[0] if rows == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]

    def _memory(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        if mask is None:
            if self._no_bias.shape[-1] != keys.shape[1]:
                self._no_bias = _zeros(1, 1, keys.shape[1])
            mask = self._no_bias
        return {"keys": keys, "values": values, "bias": mask}

    def encode_query(self, image: Tensor) -> Query:
        return Query(*self._run("query_encoder", image=_planes(image)))

    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor:
        maps = {name: getattr(seen, name) for name in self.network.memory_maps}
        if self.network.memory_encoder is not None:
            maps["image"] = _planes(image)
        return self._each("memory_encoder", masks=masks, **maps)[0]

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        value, *key = self._each("heads", template=template)
        return key[0] if key else image_key[:, : self.config.memory_key_channels], value

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self._each("fusion", x_i=x_i, x_j=x_j)[0]

    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.key_channels
        forward, backward = self._each(
            "compare", own=own[..., :channels], others=others[..., :channels]
        )
        return forward, backward

    def segment(
        self,
        image: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        previous: Tensor | None,
        hidden: Tensor | None,
    ) -> tuple[Seen, Decoded] | None:
        inputs = self._memory(keys, values, mask)
        if previous is not None:
            inputs["previous"] = previous
        if hidden is not None:
            inputs["hidden"] = hidden
        if keys.shape[0] == 1:
            key, *rest = self._run("segment", image=_planes(image), **inputs)
            names = self.network.memory_maps
            maps = dict(zip(names, rest[: len(names)], strict=True))
            seen = Seen(key, maps["stride16"], maps.get("stride8"), maps.get("stride4"))
            return seen, decoded_of(self.config, rest[len(names) :])
        query = self.encode_query(image)
        maps = {name: getattr(query, name) for name in ("key", "value", "skip8", "skip4")}
        return query.seen, decoded_of(self.config, self._each("object", **maps, **inputs))


def new_session(onnxruntime: Any, path: Path, threads: int, denormal_as_zero: bool = False) -> Any:
    """A session of a checked file on the CPU provider.

    Args:
        denormal_as_zero: faster with the tails of a softmax, which are denormal; it holds for all
            that the calling thread computes from then on.
    """
    for kind_of_number in (np.float32, np.float64):
        np.finfo(kind_of_number)  # asked later it would warn that denormal numbers are zero
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
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _zeros(*shape: int) -> Tensor:
    """float32 on the CPU, whatever another library has made PyTorch's default."""
    return torch.zeros(*shape, dtype=torch.float32, device="cpu")


def _planes(image: Tensor) -> Tensor:
    """[1, 3, H, W], contiguous: by OpenCV, which is several times as fast at it as PyTorch."""
    if image.is_contiguous():
        return image
    result = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    cv2.split(image[0].permute(1, 2, 0).numpy(), list(result[0].numpy()))
    return result
