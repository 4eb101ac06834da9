"""`stremn label`: label recordings from a few seeds, every frame, with no ROS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import (
    add_click_model,
    add_model_options,
    announce,
    check_writable,
    counted,
    tuned,
)
from stremn_ros.errors import InputError, StremnError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "label",
        parents=[common],
        help="label recordings (bags, videos) from a few seeds",
        description="Labels every frame of recordings from seeds: masks, boxes, points or "
        "polygons of some frames. A seed acts forwards and backwards in time, a later one of the "
        "same object corrects it. Writes OUT/objects.csv, OUT/report.html, OUT/manifest.json and "
        "the formats asked for. A run that was stopped goes on with --resume. docs/recordings.md "
        "tells more.",
    )
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="RECORDING",
        help=".mcap, .db3 or .bag file, a rosbag2 folder, a video, or a folder of images; a path "
        "or a URL (s3://, gs://, https://, ...)",
    )
    parser.add_argument(
        "--seeds",
        required=True,
        metavar="SEEDS.yaml|/TOPIC",
        help="seeds file, or the topic of the recordings that holds masks (/stremn/seed)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the results, a path or a URL"
    )
    parser.add_argument(
        "--scratch",
        default="",
        metavar="DIR",
        help="folder for what is fetched from URLs (default: in the user's cache)",
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="T",
        help="camera to label; may be repeated (default: all that have seeds)",
    )
    parser.add_argument(
        "--format",
        default="davis",
        metavar="F,F",
        help="davis, coco, cvat, label-studio, mcap (the recording with the labels added), bag "
        "(the same in the recording's own format), mcap-sidecar (the labels alone); several with "
        "commas between (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="a Ray cluster that is there, in the place of --workers (default address: auto); its "
        "machines must see recordings, seeds and OUT under the same paths",
    )
    parser.add_argument(
        "--stretch",
        type=int,
        default=200,
        metavar="FRAMES",
        help="frames that are written at once; a stop costs less than this many (default: "
        "%(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    add_click_model(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not options.quiet:
        announce("loading")
    from stremn_ros.recordings.exporting import checked_formats
    from stremn_ros.recordings.job import check_formats, label
    from stremn_ros.recordings.passes import Settings
    from stremn_ros.recordings.remote import stage
    from stremn_ros.recordings.spec import Job
    from stremn_ros.recordings.workers import Processes, RayCluster, Runner, Serial

    formats = checked_formats(options.format)
    check_formats(formats)
    settings = Settings(
        options.model,
        options.device,
        options.runtime,
        options.auto_build,
        tuple((name, value) for name, value in tuned(options).items() if value is not None),
        options.stretch,
        options.click_model,
    )
    if options.workers < 1:
        raise InputError(f"--workers is {options.workers}; it must be at least 1")
    if options.ray is not None and options.workers > 1:
        raise InputError("--workers and --ray exclude each other")
    staged = stage(options.recordings, options.seeds, options.out, options.resume, options.scratch)
    out = staged.out
    check_writable(str(out))
    job = Job(
        staged.recordings,
        staged.seeds,
        out,
        tuple(options.topic),
        formats,
        settings,
        options.resume,
        staged.called,
        staged.url,
    )
    runner: Runner = Serial() if options.workers == 1 else Processes(options.workers)
    if options.ray is not None:
        runner = RayCluster(options.ray, options.device.startswith("cuda"))
    try:
        result = label(job, runner, options.quiet)
        staged.finish()
    except KeyboardInterrupt:
        _tell_how_to_go_on(out)
        raise
    except StremnError:
        _tell_how_to_go_on(out)
        raise
    frames = sum(track["labelled"] for track in result["tracks"])
    problems = sum(len(track["problems"]) for track in result["tracks"])
    print(
        f"{counted(frames, 'frame')} of {counted(len(result['tracks']), 'camera')} labelled"
        + (f", {counted(problems, 'problem')} (see report.html)" if problems else "")
        + f"; results are in {staged.url or out}"
    )
    return 0


def _tell_how_to_go_on(out: Path) -> None:
    """Where something is done already, how the rest is done."""
    if (out / "work").is_dir():
        print(
            f"stremn: what was done is kept in {out}; the same command with --resume goes on",
            file=sys.stderr,
        )
