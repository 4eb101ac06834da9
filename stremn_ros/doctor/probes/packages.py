"""Python packages that the library needs, and matplotlib."""

from __future__ import annotations

import importlib
from typing import Any

from stremn_ros.doctor.probes import describe

NAMES = ("numpy", "yaml", "safetensors", "tqdm", "PIL", "matplotlib")


def values() -> dict[str, Any]:
    versions, errors = {}, {}
    for name in NAMES:
        try:
            module = importlib.import_module(name)
            versions[name] = str(getattr(module, "__version__", "?"))
        except Exception as error:
            errors[name] = describe(error)
    return {"versions": versions, "errors": errors}
