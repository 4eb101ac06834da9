"""The driver of the GPU."""

from __future__ import annotations

import ctypes
import glob
from typing import Any

import torch


def values() -> dict[str, Any]:
    driver = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int()
    code = driver.cuInit(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return {
        "build": torch.version.cuda,
        "board": bool(glob.glob("/etc/nv_tegra_release")),
        "code": code,
        "driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }
