"""TensorRT, or TensorRT for RTX."""

from __future__ import annotations

from typing import Any

from stremn_ros.runtime.tensorrt.backend import find_tensorrt, is_rtx


def values() -> dict[str, Any]:
    module = find_tensorrt()
    return {"name": module.__name__, "version": module.__version__, "rtx": is_rtx(module)}
