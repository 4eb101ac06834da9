"""`stremn export`: the files with which another runtime runs a model."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .options import counted


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "export",
        parents=[common],
        help="make the files with which another runtime runs a model",
        description="Exports a model's stages, compares each with PyTorch and keeps them in the "
        "cache ($STREMN_CACHE, or stremn_ros in the user's cache folder), where the runtime "
        "finds them.",
    )
    parser.add_argument("model", metavar="MODEL", help="name of a model or path of its folder")
    parser.add_argument("--runtime", required=True, choices=("onnx",), help="what to export for")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.runtime.models import find_model
    from stremn_ros.runtime.onnx_export import entry_folder, export_onnx

    folder = find_model(options.model)
    differences = export_onnx(
        folder, progress=lambda line: print(line, file=sys.stderr, flush=True)
    )
    worst = max(differences.values())
    print(
        f"{counted(len(differences), 'stage')} in {entry_folder(folder)}; the largest difference "
        f"from PyTorch is {worst:.2g}"
    )
    return 0
