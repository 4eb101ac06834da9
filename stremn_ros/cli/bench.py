"""`stremn bench`: what a frame costs, and that memory does not grow."""

from __future__ import annotations

import argparse
from typing import Any

from stremn_ros.cli.options import (
    add_model_options,
    check_writable,
    counted,
    listed,
    load_segmenter,
    model_name,
    size,
)
from stremn_ros.errors import InputError
from stremn_ros.files import write_json
from stremn_ros.runtime.table import RUNTIMES


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "bench",
        parents=[common],
        help="measure the time of each stage, and the bytes of the memory",
        description="Follows drawn objects for many frames and measures the time of each stage "
        "and the bytes of the memory. "
        "On a GPU the times are upper bounds, because it waits for each stage to end.",
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
    parser.add_argument(
        "--against",
        choices=("linear", *RUNTIMES),
        help="a runtime's name: time --runtime and that one in turns, stage by stage, and compare "
        "their masks. linear: "
        "time beside a memory that grows by a template every 5 frames, with 1 to --objects "
        "objects: the first --frames frames are played with one object and 40 with more, and at "
        "each frame of --at the growing memory is filled to its length there",
    )
    parser.add_argument(
        "--at",
        default="120,180,300,500,1000",
        metavar="N,N,...",
        help="with --against: frames beyond those played (default: %(default)s)",
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
    if options.objects < 1:
        raise InputError(f"--objects is {options.objects}; it must be at least 1")
    for path in (options.json, options.plot):
        check_writable(path, file=True)
    if options.against == "linear":
        return _run_against(options)
    if options.against is not None:
        return _compare_runtimes(options)
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
            settings={"model": model_name(options.model)},
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
            f"{model_name(options.model)}, {counted(options.objects, 'object')}",
        )
    return 0


def _compare_runtimes(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.evaluation.bench import scene
    from stremn_ros.evaluation.machine import machine
    from stremn_ros.evaluation.runtimes import compare_runtimes, table

    if options.plot is not None:
        raise InputError("--plot does not go with the comparison of runtimes; use --json")
    if options.runtime == options.against:
        raise InputError(f"--runtime and --against are both {options.against}: name two")

    def load(name: str) -> Any:
        return load_segmenter(
            argparse.Namespace(**{**vars(options), "runtime": name}), options.objects
        )

    video, labels = scene(options.objects, options.frame_size)
    with tqdm(total=options.frames, unit="frame", disable=options.quiet) as bar:
        result = compare_runtimes(
            load,
            [options.against, options.runtime],
            list(video),
            labels[0],
            options.frames,
            on_frame=lambda _: bar.update(),
        )
    print(table(result))
    if options.json is not None:
        write_json(
            options.json,
            {
                **result,
                "objects": options.objects,
                "model": model_name(options.model),
                "machine": machine(),
            },
        )
    return 0


def _run_against(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.evaluation.growth import SAMPLE, compare_growth, plot
    from stremn_ros.evaluation.machine import machine

    try:
        points = [int(part) for part in listed(options.at)]
    except ValueError:
        raise InputError(f"--at {options.at}: frame numbers, as 300,500,1000") from None
    rule = options.update_rule
    runtime = ""

    def load(other: str | None, objects: int) -> Any:
        nonlocal runtime
        segmenter = load_segmenter(
            argparse.Namespace(**{**vars(options), "update_rule": other or rule}), objects
        )
        runtime = segmenter.runtime_name
        return segmenter

    results = []
    for objects in range(1, options.objects + 1):
        frames = options.frames if objects == 1 else min(options.frames, 40)
        beyond = [point for point in points if point >= frames + SAMPLE]
        with tqdm(total=frames + SAMPLE * len(beyond), unit="frame", disable=options.quiet) as bar:
            bar.set_description(counted(objects, "object"))
            results.append(
                compare_growth(
                    load,
                    objects,
                    frames,
                    points=beyond,
                    size=options.frame_size,
                    on_frame=lambda _, bar=bar: bar.update(),  # type: ignore[misc]
                )
            )
        print(results[-1].table() + "\n")
    if options.json is not None:
        values = {
            "model": model_name(options.model),
            "runtime": runtime,
            "processing_size": options.processing_size or "the model's default",
            "slots": options.slots or "the model's default",
            "update_rule": rule or "the model's default",
            "machine": machine(),
            "results": [result.as_dict() for result in results],
        }
        write_json(options.json, values)
    if options.plot is not None:
        plot(results, options.plot, f"{model_name(options.model)}, {runtime}")
    return 0
