"""The stages of a segmentation network that a runtime runs, and how one is chosen."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ModelError, RuntimeUnavailableError
from ..network import Decoded, Query, Seen, SegmentationConfig, SegmentationNetwork
from .allocator import keep_freed_memory
from .builder import build_onnx, build_tensorrt
from .cuda_stages import CudaStages
from .onnx_export import checked_files
from .onnx_library import check_onnxruntime
from .onnx_stages import OnnxStages
from .quantizing import int8_files
from .table import RUNTIMES
from .tensorrt_stages import TensorRTStages
from .torch_stages import TorchStages
from .trial import outcomes

log = logging.getLogger(__name__)


class Stages(Protocol):
    """What the segmenter asks of a runtime. Shapes as in ``network.SegmentationNetwork``.

    Tensors lie on ``device``; none is kept between calls, and a result may be overwritten by the
    next call of the same stage.
    """

    config: SegmentationConfig
    device: torch.device
    name: str

    def prepare(self, size: tuple[int, int]) -> None:
        """Before frames come: makes ready what this processing size, (rows, columns), wants."""
        ...

    def scope(self) -> AbstractContextManager[None]:
        """Entered around a frame's work: settings for what PyTorch does between the stages."""
        ...

    def encode_query(self, image: Tensor) -> Query: ...

    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor: ...

    def start(self, template: Tensor) -> Tensor:
        """The sensory memory of objects that were just seeded; for a network that has one."""
        ...

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]: ...

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor: ...

    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]: ...

    def read(
        self, query_key: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor: ...

    def decode(
        self, read: Tensor, query: Query, previous: Tensor | None, hidden: Tensor | None
    ) -> Decoded: ...

    def segment(
        self,
        image: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        previous: Tensor | None,
        hidden: Tensor | None,
    ) -> tuple[Seen, Decoded] | None:
        """``encode_query``, ``read`` and ``decode`` in one, where the runtime gains by it.

        Returns:
            What is remembered of the frame, and the masks; None where the three are to be called.
        """
        ...


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where PyTorch has one, else the CPU, whose allocator is set for it.

    Raises:
        RuntimeUnavailableError: a device that is unknown or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
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
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeUnavailableError(
            f"device {device!r} was asked for, but the GPUs here are cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    if chosen.type not in ("cpu", "cuda"):
        raise RuntimeUnavailableError(f"device {device!r} is not supported; use cpu or cuda")
    if chosen.type == "cpu":
        keep_freed_memory()
    return chosen


def make_stages(
    network: SegmentationNetwork,
    runtime: str,
    device: str,
    model: Path | None = None,
    auto_build: bool = False,
) -> Stages:
    """A network on a runtime; the log says which and why.

    ``auto`` takes ONNX Runtime on a CPU, where it is installed and the model was exported, else
    PyTorch. On a GPU it takes the fastest of ``tensorrt`` (where the model has plans),
    ``cudagraphs`` and ``torch`` that works: they are tried (``trial``). ``onnxruntime_int8`` is
    taken only when it is named: its masks are not quite the same.

    Args:
        network: with its weights; model: the folder it came from, which names its export.
        auto_build: make what the runtime needs where that is missing or damaged (with ``auto``,
            where ONNX Runtime is installed), in a process of its own. An export takes a minute,
            TensorRT's plans several.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown or not there. ModelError: the
        runtime was asked for, but its export is missing or damaged.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is unknown; use one of {('auto', *RUNTIMES)}"
        )
    chosen = choose_device(device)
    if runtime == "auto":
        return _fastest(network, chosen, model, auto_build)
    if runtime == "torch":
        return TorchStages(network, chosen)
    if runtime == "onnxruntime":
        return _onnx(network, chosen, model, auto_build)
    if runtime == "onnxruntime_int8":
        model = _on_cpu(runtime, chosen, model)
        check_onnxruntime()
        # not built by itself: it wants recordings
        return OnnxStages(network, model, files=int8_files(model), kind="cpu, int8")
    if runtime == "cudagraphs":
        if chosen.type != "cuda":
            raise RuntimeUnavailableError(
                f"runtime cudagraphs wants a GPU, and the device is {chosen}; use runtime auto"
            )
        return CudaStages(network, chosen)
    if model is None:
        raise RuntimeUnavailableError("runtime tensorrt runs a model folder; use runtime torch")
    return TensorRTStages(network, model, chosen, build_tensorrt if auto_build else None)


def _fastest(
    network: SegmentationNetwork, device: torch.device, model: Path | None, auto_build: bool
) -> Stages:
    if device.type != "cpu":
        return _fastest_on_gpu(network, device, model)
    try:
        stages: Stages = _onnx(network, device, model, auto_build)
    except (ModelError, RuntimeUnavailableError) as error:
        if auto_build:  # somebody asked for it and is to know that it is slower
            log.warning("nothing was built, so runtime auto takes PyTorch: %s", error)
        else:
            log.info("runtime auto takes PyTorch: %s", error)
        return TorchStages(network, device)
    log.info("runtime auto takes %s: it is the fastest on a CPU", stages.name)
    return stages


def _fastest_on_gpu(
    network: SegmentationNetwork, device: torch.device, model: Path | None
) -> Stages:
    """What the trials found to work and to be the fastest."""
    if model is None:
        log.info("runtime auto takes PyTorch: without a model folder nothing else is tried")
        return TorchStages(network, device)
    try:
        found = outcomes(model, device)
    except ModelError as error:
        log.warning("runtime auto takes PyTorch, as nothing else can be tried: %s", error)
        return TorchStages(network, device)
    for outcome in found:
        log.info("%s", outcome)
    good = sorted(
        (outcome for outcome in found if outcome.good), key=lambda each: each.milliseconds
    )
    for outcome in good:
        try:
            if outcome.runtime == "tensorrt":
                # of another size, CUDA graphs run it
                stages: Stages = TensorRTStages(network, model, device, strict=False)
            else:
                stages = CudaStages(network, device)
        except (RuntimeUnavailableError, RuntimeError) as error:
            log.warning("%s worked when it was tried and does not now: %s", outcome.runtime, error)
            continue
        log.info("runtime auto takes %s: it is the fastest that works here", stages.name)
        return stages
    log.info("runtime auto takes PyTorch on %s: nothing faster works here", device)
    return TorchStages(network, device)


def _onnx(
    network: SegmentationNetwork, device: torch.device, model: Path | None, auto_build: bool
) -> Stages:
    model = _on_cpu("onnxruntime", device, model)
    check_onnxruntime()
    if auto_build:
        try:
            checked_files(model)
        except ModelError as error:
            log.info("%s; exporting now, which takes a minute", error)
            build_onnx(model)
    return OnnxStages(network, model)


def _on_cpu(runtime: str, device: torch.device, model: Path | None) -> Path:
    if device.type != "cpu" or model is None:
        raise RuntimeUnavailableError(
            f"runtime {runtime} runs a model folder on the CPU; use device cpu, or runtime torch"
        )
    return model
