"""ONNX Runtime: what it runs on, what it would report, and whether exports can be made."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from stremn_ros.doctor.probes import describe
from stremn_ros.privacy import SWITCHES
from stremn_ros.runtime.onnx.library import import_onnxruntime


def values() -> dict[str, Any]:
    onnxruntime = import_onnxruntime()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    left = base / "Microsoft" / "DeveloperTools" / ".onnxruntime"
    errors = {}
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except Exception as error:
            errors[name] = describe(error)
    return {
        "switches": {name: os.environ.get(name, "") for name in SWITCHES},
        "left": str(left) if left.is_dir() else "",
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "errors": errors,
    }
