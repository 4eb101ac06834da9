"""The stages of a segmentation network that a runtime runs, and how one is chosen."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..errors import RuntimeUnavailableError
from ..network import Query, SegmentationConfig, SegmentationNetwork
from .torch_stages import TorchStages

RUNTIMES = ("torch",)


class Stages(Protocol):
    """What the segmenter asks of a runtime. Shapes as in ``network.SegmentationNetwork``.

    Tensors lie on ``device``; none is kept between calls, and a result may be overwritten by the
    next call of the same stage.
    """

    config: SegmentationConfig
    device: torch.device
    name: str

    def encode_query(self, image: Tensor) -> Query: ...

    def encode_memory(self, image: Tensor, masks: Tensor, stride16: Tensor) -> Tensor: ...

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]: ...

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor: ...

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


def make_stages(network: SegmentationNetwork, runtime: str, device: str) -> Stages:
    """A network on a runtime.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown or not there.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is unknown; use one of {('auto', *RUNTIMES)}"
        )
    return TorchStages(network, choose_device(device))
