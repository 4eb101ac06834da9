"""Exports a network's stages to ONNX and keeps them in a cache that is checked before use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.files import sha256
from stremn_ros.model_folder import (
    CLICKS,
    CONFIG,
    PREDICTION,
    WEIGHTS,
    load_click_network,
    load_network,
    load_prediction_network,
    read_task,
)
from stremn_ros.network.flow_prediction import FlowPredictionNetwork
from stremn_ros.runtime.building.cache import checked_entry, keyed_folder, new_entry, write_key
from stremn_ros.runtime.building.export_stage import OPSET, StageSpec, difference, export_stage
from stremn_ros.runtime.onnx import flow_graphs
from stremn_ros.runtime.onnx.graphs import click_specs, cpu_specs
from stremn_ros.runtime.onnx.library import check_export

log = logging.getLogger(__name__)

FORMAT = 11  # raise it when the graphs change
FLOW_SIZE = (128, 160)  # of the comparison of a prediction network
SIZE = (240, 432)  # of the comparison of a segmentation network
STAGES = (
    "query_encoder",
    "segment",
    "affinity",
    "object",
    "template_skip",
    "memory_encoder",
    "heads",
    "fusion",
    "compare",
)


def wanted_key(model: Path) -> dict[str, Any]:
    """What an export of this model folder must have been made of."""
    return {
        "format": FORMAT,
        "opset": OPSET,
        "weights": sha256(model / WEIGHTS),
        "config": sha256(model / CONFIG),
    }


def stages_of(model: Path) -> tuple[str, ...]:
    """Names of the stages that a model is exported as; ModelError where its config is damaged."""
    stages = {PREDICTION: flow_graphs.STAGES, CLICKS: (CLICKS,)}
    return stages.get(read_task(model / CONFIG), STAGES)


def _specs(model: Path, size: tuple[int, int] | None) -> dict[str, StageSpec]:
    task = read_task(model / CONFIG)
    if task == CLICKS:
        return click_specs(*load_click_network(model))
    if task != PREDICTION:
        return cpu_specs(load_network(model)[0], size or SIZE)
    network, spec = load_prediction_network(model)
    if not isinstance(network, FlowPredictionNetwork):
        raise ModelError(
            f"{model.name} runs on PyTorch only: of prediction models those of the architecture "
            f"'flow' can be exported, and this one's is {spec.architecture!r}"
        )
    return flow_graphs.flow_specs(network, size or FLOW_SIZE)


def entry_folder(model: Path) -> Path:
    """The cache folder of a model's ONNX files."""
    return keyed_folder(f"{model.name}-onnx", wanted_key(model))


def checked_files(model: Path) -> dict[str, Path]:
    """The stages' ONNX files of a model, compared with their key before anything is parsed.

    Raises:
        ModelError: there is no export, or it is incomplete, altered or of other weights; the
            message names both keys where they differ, and the command that makes a new one.
    """
    folder = entry_folder(model)
    names = {stage: f"{stage}.onnx" for stage in stages_of(model)}
    checked_entry(
        folder,
        wanted_key(model),
        list(names.values()),
        f"{model.name} has no ONNX export",
        f"make it with: stremn export {model} --runtime onnx",
    )
    return {stage: folder / name for stage, name in names.items()}


def export_onnx(
    model: Path,
    size: tuple[int, int] | None = None,
    progress: Callable[[str], None] = log.info,
) -> dict[str, float]:
    """Exports a model's stages into the cache and compares each with PyTorch.

    Args:
        model: the model's folder. size: rows and columns of the comparison, None for the task's; a
            click network does not ask for it. progress: receives what is going on, a line a stage.

    Returns:
        The largest absolute difference of any output, for each stage.

    Raises:
        ModelError: the model cannot be loaded, or its kind cannot be exported.
        RuntimeUnavailableError: onnx, onnxscript or onnxruntime are not installed, or a stage
            differs by more than 1e-2.
    """
    onnxruntime = check_export()
    specs = _specs(model, size)
    differences: dict[str, float] = {}
    with new_entry(entry_folder(model)) as folder:
        for number, (name, spec) in enumerate(specs.items(), 1):
            progress(f"{model.name}: exporting {name} ({number} of {len(specs)})")
            path = folder / f"{name}.onnx"
            export_stage(spec, path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences[name] = difference(spec, session)
            progress(
                f"{model.name}: {name} differs from PyTorch by at most {differences[name]:.2g}"
            )
            if not differences[name] < 1e-2:
                raise RuntimeUnavailableError(
                    f"the export of {name} differs from PyTorch by {differences[name]:.3g}"
                )
        write_key(
            folder,
            wanted_key(model),
            [f"{name}.onnx" for name in specs],
            torch=torch.__version__,
            onnxruntime=onnxruntime.__version__,
            differences=differences,
        )
    return differences
