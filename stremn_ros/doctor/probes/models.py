"""Models that are found, and whether their weights can be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stremn_ros.doctor.probes import describe
from stremn_ros.model_folder import (
    CLICKS,
    CONFIG,
    PREDICTION,
    WEIGHTS,
    load_click_network,
    load_network,
    load_prediction_network,
    model_folders,
    read_task,
)


def values() -> dict[str, Any]:
    models: dict[str, Any] = {}
    for folder in model_folders():
        for path in sorted(folder.glob("*/" + CONFIG)):
            if path.parent.name not in models:
                models[path.parent.name] = _entry(path)
    return {"folders": [str(folder) for folder in model_folders()], "models": models}


def _entry(config: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"where": str(config.parent), "error": "", "trained": False}
    try:
        weights = config.parent / WEIGHTS
        if weights.is_file():
            entry["trained"] = True
            entry["mib"] = round(weights.stat().st_size / 2**20, 1)
            load = {PREDICTION: load_prediction_network, CLICKS: load_click_network}
            load.get(read_task(config), load_network)(config.parent)
    except Exception as error:
        entry["error"] = describe(error)
    return entry
