"""Which runtime a network runs on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.network import SegmentationNetwork
from stremn_ros.network.flow_prediction import FlowPredictionNetwork
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.building.builder import build_onnx, build_tensorrt
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.runtime.device import choose_device
from stremn_ros.runtime.flow_stages import FlowStages
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.flow_stages import OnnxFlowStages
from stremn_ros.runtime.onnx.int8 import int8_files
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.onnx.stages import OnnxStages
from stremn_ros.runtime.table import PREDICTION_RUNTIMES, RUNTIMES, listed
from stremn_ros.runtime.tensorrt.stages import TensorRTStages
from stremn_ros.runtime.trial import outcomes

log = logging.getLogger(__name__)


def make_stages(
    network: SegmentationNetwork,
    runtime: str,
    device: str,
    model: Path | None = None,
    auto_build: bool = False,
) -> TorchStages:
    """A network on a runtime; the log says which and why.

    ``auto`` takes ONNX Runtime on a CPU, where it is installed and the model was exported, else
    PyTorch. On a GPU it takes the fastest of ``tensorrt`` (where the model has plans),
    ``cudagraphs`` and ``torch`` that works: they are tried (``trial``). ``onnxruntime_int8`` is
    taken only when it is named: its masks are not quite the same.

    Args:
        network: with its weights; model: the folder it came from, which names its export.
        auto_build: make what the runtime needs where that is missing or damaged (with ``auto``,
            where ONNX Runtime is installed), in a separate process. An export takes a minute,
            TensorRT's plans several.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown or not there.
        ModelError: the runtime was asked for, but its export is missing or damaged.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is unknown; use one of {('auto', *RUNTIMES)}"
        )
    chosen = choose_device(device)
    if runtime == "auto":
        return _fastest(network, chosen, model, auto_build)
    wanted = RUNTIMES[runtime]
    if wanted.device == "cpu" and (chosen.type != "cpu" or model is None):
        raise RuntimeUnavailableError(
            f"runtime {runtime} runs a model folder on the CPU; use device cpu, or runtime torch"
        )
    if wanted.device == "cuda" and chosen.type != "cuda":
        raise RuntimeUnavailableError(
            f"runtime {runtime} wants a GPU, and the device is {chosen}; use runtime auto"
        )
    if wanted.folder and model is None:
        raise RuntimeUnavailableError(f"runtime {runtime} runs a model folder; use runtime torch")
    return MAKERS[runtime](network, chosen, model or Path(), auto_build)


def check_prediction_runtime(runtime: str) -> None:
    """RuntimeUnavailableError where prediction does not know a runtime of this name."""
    if runtime not in PREDICTION_RUNTIMES:
        raise RuntimeUnavailableError(
            f"prediction has no runtime {runtime!r}; use {listed(PREDICTION_RUNTIMES)}"
        )


def make_flow_stages(
    network: FlowPredictionNetwork,
    runtime: str,
    device: str,
    model: Path,
    auto_build: bool = False,
) -> FlowStages:
    """A prediction network on a runtime; the log says which and why.

    ``auto`` takes ONNX Runtime on a CPU, where it is installed and the model was exported, else
    PyTorch.

    Args:
        network: with its weights; model: the folder it came from, which names its export.
        auto_build: export it where that was not done (with ``auto``, where ONNX Runtime is
            installed), in a separate process.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown, not there, or not for prediction.
        ModelError: the runtime was asked for, but the export is missing or damaged.
    """
    check_prediction_runtime(runtime)
    chosen = choose_device(device)
    if runtime == "onnxruntime" and chosen.type != "cpu":
        raise RuntimeUnavailableError(
            f"runtime onnxruntime runs on the CPU, and the device is {chosen}; use device cpu, or "
            "runtime torch"
        )
    if runtime == "torch" or chosen.type != "cpu":
        return FlowStages(network, chosen)
    try:
        _exported(model, auto_build)
        stages = OnnxFlowStages(network, model)
    except (ModelError, RuntimeUnavailableError) as error:
        if runtime != "auto":
            raise
        say = log.warning if auto_build else log.info  # who asked for it is to know it is slower
        say("runtime auto takes PyTorch for prediction: %s", error)
        return FlowStages(network, chosen)
    log.info("prediction runs on %s", stages.name)
    return stages


def _fastest(
    network: SegmentationNetwork, device: torch.device, model: Path | None, auto_build: bool
) -> TorchStages:
    if device.type != "cpu":
        return _fastest_on_gpu(network, device, model)
    try:
        stages = make_stages(network, "onnxruntime", "cpu", model, auto_build)
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
) -> TorchStages:
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
                stages: TorchStages = TensorRTStages(network, model, device, strict=False)
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
    network: SegmentationNetwork, device: torch.device, model: Path, auto_build: bool
) -> TorchStages:
    _exported(model, auto_build)
    return OnnxStages(network, model)


def _exported(model: Path, auto_build: bool) -> None:
    """Makes a model's export where it is wanted and missing."""
    check_onnxruntime()
    if not auto_build:
        return
    try:
        checked_files(model)
    except ModelError as error:
        log.info("%s; exporting now, which takes a minute", error)
        build_onnx(model)


def _int8(
    network: SegmentationNetwork, device: torch.device, model: Path, auto_build: bool
) -> TorchStages:
    check_onnxruntime()
    # not built by itself: it wants recordings
    return OnnxStages(network, model, files=int8_files(model), kind="cpu, int8")


def _tensorrt(
    network: SegmentationNetwork, device: torch.device, model: Path, auto_build: bool
) -> TorchStages:
    return TensorRTStages(network, model, device, build_tensorrt if auto_build else None)


# how each runtime of the table is made, once it was found that device and folder are right
MAKERS: dict[str, Callable[[SegmentationNetwork, torch.device, Path, bool], TorchStages]] = {
    "torch": lambda network, device, *_: TorchStages(network, device),
    "onnxruntime": _onnx,
    "onnxruntime_int8": _int8,
    "cudagraphs": lambda network, device, *_: CudaStages(network, device),
    "tensorrt": _tensorrt,
}
