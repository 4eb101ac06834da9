"""`stremn inspect`: what the memory holds while a video goes by."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import (
    add_model_options,
    check_apart,
    check_writable,
    counted,
    first_mask,
    folder,
    load_segmenter,
    model_name,
)
from stremn_ros.files import write_json


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "inspect",
        parents=[common],
        help="draw what each slot of the memory holds over a video",
        description="Follows the objects of a first mask and draws for each what its slots hold "
        "over time: which frame each came from, what was fused into what, the attention that "
        "each gets, and how similar they are. Writes OUT/object_N.png and OUT/memory.json.",
    )
    parser.add_argument("video", metavar="VIDEO_OR_FOLDER", help="video, or folder of images")
    parser.add_argument(
        "--mask", required=True, metavar="FIRST.png", help="mask of the first frame, of its size"
    )
    parser.add_argument(
        "--out", type=folder, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame, the mask's (default: 0)"
    )
    parser.add_argument("--end", type=int, metavar="N", help="stop before this frame")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.evaluation.inspection import draw, record
    from stremn_ros.imaging.masks import ids_in
    from stremn_ros.imaging.video import WhatComes, open_frames

    source = open_frames(options.video, options.start, options.end)
    mask = first_mask(options.mask, source)
    out = Path(options.out)
    check_apart(options.video, out)
    check_writable(out)
    check_writable(out / "memory.json", file=True)
    segmenter = load_segmenter(options, len(ids_in(mask)))
    readable = WhatComes(source)
    bar = tqdm(readable, total=source.count or None, unit="frame", disable=options.quiet)
    histories, pictures = record(segmenter, bar, mask, options.start)
    size = "x".join(str(side) for side in segmenter.processing_size or ())
    shared = (
        f"{model_name(options.model)}, {segmenter.update_rule}, "
        f"{counted(segmenter.memory.slots, 'slot')}, {size}"
    )
    for old in out.glob("object_*.png"):  # an earlier run may have had more objects
        if old.stem.removeprefix("object_").isdecimal():
            old.unlink()
    for history in histories:
        draw(history, pictures, out / f"object_{history.id}.png", f"object {history.id}: {shared}")
    write_json(
        out / "memory.json",
        {
            "model": options.model,
            "update_rule": segmenter.update_rule,
            "slots": segmenter.memory.slots,
            "update_every": segmenter.update_every,
            "memory_bytes": segmenter.memory_bytes,
            "ended_early": str(readable.error) if readable.error else None,
            "objects": [history.as_dict() for history in histories],
        },
    )
    for history in histories:
        if history.final is not None:
            print(f"object {history.id}: {history.final.text()}")
    print(f"pictures and memory.json are in {out}")
    if readable.error is not None:
        raise readable.error
    return 0
