"""`stremn bench`: what a frame costs, and that memory does not grow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError

from .options import add_model_options, check_writable, counted, load_segmenter, size, write_json


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "bench",
        parents=[common],
        help="what a frame costs, stage by stage, and that memory does not grow",
        description="Follows drawn objects for many frames and measures the time of each stage "
        "and the bytes of the memory. "
        "On a GPU it also waits for each stage to end, so the times are upper bounds.",
    )
    parser.add_argument(
        "--frames", type=int, default=200, metavar="N", help="frames (default: %(default)s)"
    )
    parser.add_argument(
        "--objects", type=int, default=1, metavar="O", help="objects (default: %(default)s)"
    )
    parser.add_argument(
        "--frame-size",
        type=size,
        default=(480, 640),
        metavar="HxW",
        help="size of the frames given (default: 480x640)",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the result as JSON")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.evaluation.bench import measure, plot, scene

    if isinstance(options.frame_size, int):
        raise InputError(f"frame size {options.frame_size}: HxW is needed, for instance 480x640")
    for path in (options.json, options.plot):
        check_writable(path)
    video, labels = scene(options.objects, options.frame_size)
    segmenter = load_segmenter(options, options.objects)
    with tqdm(total=options.frames, unit="frame", disable=options.quiet) as bar:
        result = measure(
            segmenter,
            video,
            labels,
            options.frames,
            windows=max(1, min(10, options.frames // 2)),
            on_frame=lambda _: bar.update(),
            settings={"model": Path(options.model).name},
        )
    print(result.table())
    first, last = result.memory_bytes
    verdict = "the same" if first == last else "NOT the same"
    print(
        f"\n{counted(options.objects, 'object')}, "
        f"{1000 / result.stages['frame']['median']:.1f} frames per second on "
        f"{segmenter.runtime_name}; memory after the first frame {first} bytes, at the "
        f"end {last} bytes: {verdict}"
    )
    if options.json is not None:
        write_json(options.json, result.as_dict())
    if options.plot is not None:
        plot(
            result,
            options.plot,
            f"{Path(options.model).name}, {counted(options.objects, 'object')}",
        )
    return 0
