"""`stremn export`: the files with which another runtime runs a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import announce, counted, first_mask, size
from stremn_ros.errors import InputError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "export",
        parents=[common],
        help="make the files that a faster runtime needs",
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
        help="only for tensorrt, whose plans have one size: rows x columns of the network's input, "
        "multiples of 16 (default: the model's rows at 16:9)",
    )
    int8 = parser.add_argument_group(
        "int8",
        "onnx only: beside the export one whose largest convolutions are in int8, for runtime "
        "onnxruntime_int8. What they are given is recorded first: best with your own camera's "
        "videos, some hundred frames in all.",
    )
    int8.add_argument(
        "--int8", nargs="+", metavar="VIDEO", help="videos or folders of images to play"
    )
    int8.add_argument(
        "--mask", nargs="+", metavar="MASK", help="mask of the first frame of each video"
    )
    int8.add_argument(
        "--frames",
        type=int,
        default=60,
        metavar="N",
        help="frames of each video (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    announce(f"loading {options.model}")
    from stremn_ros.imaging.video import open_frames
    from stremn_ros.model_folder import CONFIG, SEGMENTATION, find_model, read_task, weights_of

    folder = find_model(options.model)
    weights_of(folder)
    # all that can be wrong is looked at before the minutes that an export takes
    task = read_task(folder / CONFIG)
    if task != SEGMENTATION and (options.runtime == "tensorrt" or options.int8):
        raise InputError(
            f"{options.model} is a model for {task}: plans of TensorRT and int8 are for those that "
            "follow objects; leave out --int8, and export it with --runtime onnx"
        )
    videos, masks = options.int8 or [], options.mask or []
    if options.frames < 1:
        raise InputError(f"--frames is {options.frames}; it must be 1 or more")
    if len(videos) != len(masks):
        raise InputError(
            f"--int8 names {counted(len(videos), 'video')}, --mask {counted(len(masks), 'mask')}: "
            "each video needs the mask of its first frame"
        )
    for path in (*videos, *masks):
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file or folder")
    if options.runtime == "tensorrt":
        if videos:
            raise InputError("--int8 is for onnx: TensorRT's plans are in half precision")
        return _tensorrt(folder, options.size)
    if options.size is not None:
        raise InputError("--size is for tensorrt: an ONNX export works at every size")
    clips = [
        (video, first_mask(mask, open_frames(video)))
        for video, mask in zip(videos, masks, strict=True)
    ]
    from stremn_ros.runtime.building.builder import build_onnx
    from stremn_ros.runtime.onnx.export import checked_files, entry_folder

    build_onnx(folder, _tell)
    files = checked_files(folder)
    found = json.loads((entry_folder(folder) / "key.json").read_text())
    worst = max(found["differences"].values())
    print(
        f"{counted(len(files), 'stage')} in {entry_folder(folder)}; the largest difference "
        f"from PyTorch is {worst:.2g}"
    )
    if clips:
        _int8(folder, clips, options.frames)
    return 0


def _int8(folder: Path, clips: list[tuple[str, Any]], frames: int) -> None:
    """clips: videos, each with the mask of its first frame."""
    import itertools

    from stremn_ros.imaging.video import WhatComes, open_frames
    from stremn_ros.model_folder import load_network
    from stremn_ros.runtime.onnx.int8 import RecordingStages, export_int8, int8_folder
    from stremn_ros.segmenter import Segmenter

    # every update fuses or writes: as many samples of the memory's stages as there can be
    segmenter = Segmenter.load(str(folder), device="cpu", runtime="onnxruntime", update_every=1)
    network, _ = load_network(folder)
    recording = segmenter.wrap_stages(lambda _: RecordingStages(network, folder))
    for video, mask in clips:
        _tell(f"recording {video}")
        readable = WhatComes(open_frames(video))
        images = itertools.islice(readable, frames)
        segmenter.reset()
        segmenter.seed(next(images), mask)
        for image in images:
            segmenter.step(image)
        if readable.error is not None:
            _tell(f"{video} ended early, what came of it is used: {readable.error}")
    differences = export_int8(
        folder, recording.samples, _tell, recordings=[Path(video).name for video, _ in clips]
    )
    worst = max(differences, key=lambda stage: differences[stage])
    print(
        f"{counted(len(differences), 'stage')} in int8 in {int8_folder(folder)}; the largest "
        f"difference is {100 * differences[worst]:.2g} % ({worst})"
    )


def _tensorrt(folder: Path, wanted: int | tuple[int, int] | None) -> int:
    from stremn_ros.imaging.sizes import fitted_size
    from stremn_ros.model_folder import read_config
    from stremn_ros.runtime.building.builder import build_tensorrt
    from stremn_ros.runtime.tensorrt.stages import PLANS, plan_folder

    size = fitted_size(wanted or read_config(folder).options().processing_size, (9, 16))
    build_tensorrt(folder, size, _tell)
    print(
        f"{counted(len(PLANS), 'plan')} for {size[0]}x{size[1]} in {plan_folder(folder, size)}; "
        "plans are for this GPU and this TensorRT only"
    )
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
