"""PyTorch, and whether it can compute on a GPU."""

from __future__ import annotations

from typing import Any

import torch


def values() -> dict[str, Any]:
    values: dict[str, Any] = {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "available": torch.cuda.is_available(),
        "threads": torch.get_num_threads(),
    }
    if values["available"]:
        devices = range(torch.cuda.device_count())
        values["devices"] = [torch.cuda.get_device_name(index) for index in devices]
        values["capability"] = list(torch.cuda.get_device_capability(0))
        ones = torch.ones(64, 64, device="cuda")
        values["sum"] = float((ones @ ones).sum())
    return values
