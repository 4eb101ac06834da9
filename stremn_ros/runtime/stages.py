"""The stages of a segmentation network that a runtime runs, and how one is chosen."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ModelError, RuntimeUnavailableError
from ..network import Query, SegmentationConfig, SegmentationNetwork
from .onnx_export import checked_files, export_onnx
from .onnx_stages import OnnxStages
from .torch_stages import TorchStages

RUNTIMES = ("torch", "onnxruntime")

log = logging.getLogger(__name__)


class Stages(Protocol):
    """What the segmenter asks of a runtime. Shapes as in ``network.SegmentationNetwork``.

    Tensors lie on ``device``; none is kept between calls, and a result may be overwritten by the
    next call of the same stage.
    """

    config: SegmentationConfig
    device: torch.device
    name: str

    def scope(self) -> AbstractContextManager[None]:
        """Entered around a frame's work: settings for what PyTorch does between the stages."""
        ...

    def encode_query(self, image: Tensor) -> Query: ...

    def encode_memory(self, image: Tensor, masks: Tensor, stride16: Tensor) -> Tensor: ...

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]: ...

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor: ...

    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]: ...

    def read(
        self, query_key: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor: ...

    def decode(self, read: Tensor, query: Query) -> Tensor: ...


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where PyTorch has one, else the CPU.

    Raises:
        RuntimeUnavailableError: a device that is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    if chosen.type not in ("cpu", "cuda"):
        raise RuntimeUnavailableError(f"device {device!r} is not supported; use cpu or cuda")
    return chosen


def make_stages(
    network: SegmentationNetwork,
    runtime: str,
    device: str,
    model: Path | None = None,
    auto_build: bool = False,
) -> Stages:
    """A network on a runtime.

    ``auto`` takes PyTorch on a GPU, and on a CPU ONNX Runtime where it is installed and the model
    was exported, else PyTorch; the log says which and why.

    Args:
        network: with its weights; model: the folder it came from, which names its export.
        auto_build: export the model where the runtime wants an export that is missing or damaged
            (with ``auto``, where ONNX Runtime is installed). It takes a minute.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown or not there. ModelError:
        ``onnxruntime`` was asked for, but the export is missing or damaged.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is unknown; use one of {('auto', *RUNTIMES)}"
        )
    chosen = choose_device(device)
    if runtime == "torch" or (runtime == "auto" and (chosen.type != "cpu" or model is None)):
        return TorchStages(network, chosen)
    if chosen.type != "cpu" or model is None:
        raise RuntimeUnavailableError(
            "runtime onnxruntime runs a model folder on the CPU; use device cpu, or runtime torch"
        )
    try:
        if auto_build:
            _build(model)
        stages: Stages = OnnxStages(network, model)
    except (ModelError, RuntimeUnavailableError) as error:
        if runtime != "auto":
            raise
        log.info("runtime auto takes PyTorch: %s", error)
        return TorchStages(network, chosen)
    log.info("runtime auto takes %s: it is the fastest on a CPU", stages.name)
    return stages


def _build(model: Path) -> None:
    try:
        checked_files(model)
    except ModelError as error:
        log.info("%s; exporting now, which takes a minute", error)
        export_onnx(model)
