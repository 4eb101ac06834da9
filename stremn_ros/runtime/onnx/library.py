"""ONNX Runtime as a library: imported here and nowhere else, with its telemetry off."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from stremn_ros import privacy
from stremn_ros.errors import RuntimeUnavailableError

log = logging.getLogger(__name__)


def import_onnxruntime(module: str = "") -> Any:
    """ONNX Runtime, or one of its modules.

    Args:
        module: such as ``quantization``; empty for the package.

    Raises:
        ImportError: it is not installed, or damaged.
    """
    privacy.switch_off()
    onnxruntime = importlib.import_module("onnxruntime")
    if privacy.too_late:
        onnxruntime.disable_telemetry_events()
        log.warning(
            "onnxruntime was imported before stremn_ros, so its telemetry has begun: import "
            "stremn_ros first, or start the process with ORT_DISABLE_TELEMETRY=1"
        )
        privacy.too_late = False  # warned once
    return importlib.import_module(f"onnxruntime.{module}") if module else onnxruntime


def check_onnxruntime() -> Any:
    """The package; RuntimeUnavailableError where it cannot be imported."""
    try:
        return import_onnxruntime()
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"runtime onnxruntime was asked for and cannot be imported ({error}); "
            "pip install onnxruntime, or use runtime torch"
        ) from None


def check_export() -> Any:
    """ONNX Runtime, where everything that an export needs can be imported.

    Raises:
        RuntimeUnavailableError: something is missing; the message has the line that brings it.
    """
    try:
        # the exporter's own message is long and late
        importlib.import_module("onnx")
        importlib.import_module("onnxscript")
        return import_onnxruntime()
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"exporting needs onnx, onnxscript and onnxruntime ({error}); "
            "pip install onnx onnxscript onnxruntime"
        ) from None
