"""`stremn export`: the files with which another runtime runs a model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError

from .options import counted, size


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
    parser.add_argument(
        "--runtime", required=True, choices=("onnx", "tensorrt"), help="what to export for"
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="HxW",
        help="tensorrt only, whose plans have one size: rows x columns that the network works at, "
        "multiples of 16 (default: the model's rows at 16:9)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.runtime.models import find_model

    folder = find_model(options.model)
    if options.runtime == "tensorrt":
        return _tensorrt(folder, options.size)
    if options.size is not None:
        raise InputError("--size is for tensorrt: an ONNX export works at every size")
    from stremn_ros.runtime.builder import build_onnx
    from stremn_ros.runtime.onnx_export import STAGES, checked_files, entry_folder

    build_onnx(folder, _tell)
    checked_files(folder)
    found = json.loads((entry_folder(folder) / "key.json").read_text())
    worst = max(found["differences"].values())
    print(
        f"{counted(len(STAGES), 'stage')} in {entry_folder(folder)}; the largest difference "
        f"from PyTorch is {worst:.2g}"
    )
    return 0


def _tensorrt(folder: Path, wanted: int | tuple[int, int] | None) -> int:
    from stremn_ros.runtime.builder import build_tensorrt
    from stremn_ros.runtime.models import read_config
    from stremn_ros.runtime.tensorrt_stages import PLANS, plan_folder
    from stremn_ros.segmenter import fitted_size

    if wanted is None:
        wanted = read_config(folder).defaults.get("processing_size", 240)
    size = fitted_size(wanted, (9, 16))
    build_tensorrt(folder, size, _tell)
    print(
        f"{counted(len(PLANS), 'plan')} for {size[0]}x{size[1]} in {plan_folder(folder, size)}; "
        "plans are for this GPU and this TensorRT only"
    )
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
