"""The cache: whether it can be written, and its entries: whole, damaged, or of which models."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from stremn_ros.doctor.probes import describe
from stremn_ros.files import sha256
from stremn_ros.model_folder import WEIGHTS, model_folders
from stremn_ros.runtime.building.cache import KEY, SCRATCH, cache_folder, is_being_built


def values() -> dict[str, Any]:
    folder = cache_folder()
    roots = model_folders()
    weights = {sha256(path) for root in roots for path in root.glob("*/" + WEIGHTS)}
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        "folder": str(folder),
        "unwritable": _unwritable(folder),
        "roots": [str(root) for root in roots],
        "entries": {entry.name: _entry(entry, weights) for entry in entries if entry.is_dir()},
    }


def _unwritable(folder: Path) -> str:
    """Why no file can be made in the folder, or the folder not be made; empty where they can."""
    try:
        while not (folder.exists() or folder.is_symlink()):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):  # leaves nothing behind
            return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _entry(folder: Path, weights: set[str]) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    temporary = folder.name.startswith(".")
    built_now = temporary and is_being_built(folder)
    note = {
        "error": "",
        "built_now": built_now,
        "stale": temporary and not built_now,
        "scratch": folder.name.startswith(SCRATCH) and not (folder / KEY).is_file(),
        "elsewhere": False,
        "mib": round(size / 2**20, 1),
    }
    if temporary or note["scratch"]:
        return note
    try:
        values = json.loads((folder / KEY).read_text())
        note["elsewhere"] = values["key"].get("weights") not in weights
        for name, digest in values["files"].items():
            if sha256(folder / name) != digest:
                raise ValueError(f"{name} is cut short or altered")
    except Exception as error:
        note["error"] = describe(error)
    return note
