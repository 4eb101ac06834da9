"""Builds a runtime's files in separate processes, with progress in the log.

An exporter takes hundreds of megabytes and may crash; a node that asks for one keeps neither. The
process that builds TensorRT plans does not import PyTorch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from stremn_ros.runtime.building.cache import one_builder
from stremn_ros.runtime.building.process import Progress, run

log = logging.getLogger(__name__)

DEFAULT_SIZE = (240, 432)


def build_onnx(model: Path, progress: Progress = log.info) -> None:
    """Exports a model for ONNX Runtime, unless another process did so meanwhile.

    Raises:
        RuntimeUnavailableError: it failed; the message says why.
    """
    from stremn_ros.runtime.onnx.export import checked_files, entry_folder

    with one_builder(entry_folder(model)):
        if not _good(lambda: checked_files(model)):
            run(["onnx", str(model)], f"export of {model.name}", progress)


def build_tensorrt(
    model: Path, size: tuple[int, int] = DEFAULT_SIZE, progress: Progress = log.info
) -> None:
    """Builds a model's TensorRT plans for one size, unless another process did so meanwhile.

    Raises:
        RuntimeUnavailableError: it failed; the message says why.
    """
    from stremn_ros.runtime.tensorrt.backend import find_tensorrt
    from stremn_ros.runtime.tensorrt.stages import (
        checked_onnx,
        checked_plans,
        plan_folder,
        plan_jobs,
    )

    trt = find_tensorrt()
    with one_builder(plan_folder(model, size)):
        if _good(lambda: checked_plans(model, size, trt)):
            return
        if not _good(lambda: checked_onnx(model, size)):
            words = ["onnx-fp16", str(model), str(size[0]), str(size[1])]
            run(words, f"fp16 export of {model.name}", progress)
        jobs = plan_jobs(model, size)
        run(["plans"], f"build of {model.name}'s plans", progress, json.dumps(jobs))


def _good(check: Callable[[], object]) -> bool:
    from stremn_ros.errors import ModelError

    try:
        check()
    except ModelError:
        return False
    return True
