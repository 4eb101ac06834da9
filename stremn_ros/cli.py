"""The command `stremn`. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stremn_ros import __version__
from stremn_ros.errors import InputError, StremnError

MASK_DIGITS = 5
CONTACT_TILES = 12  # frames of a long video that are on the contact sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0: done; 1: doctor found that the main job cannot run; 2: a wrong argument or input, with one
    line on stderr that says which; 130: interrupted.
    """
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not getattr(options, "forwards", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    logging.basicConfig(level=logging.WARNING, format="stremn: %(message)s")
    try:
        return int(options.run(options) or 0)
    except StremnError as error:
        if options.debug:
            raise
        return _complain(str(error))
    except OSError as error:
        if options.debug:
            raise
        if isinstance(error, BrokenPipeError):  # `stremn ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _complain(str(error))
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("stremn: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"stremn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand that this installation can run."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser = argparse.ArgumentParser(
        prog="stremn",
        description="Follow objects in video from one mask each, with a memory of fixed size.",
    )
    parser.add_argument("--version", action="version", version=f"stremn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_segment(commands, common)
    _add_evaluate(commands, common)
    _add_bench(commands, common)
    _add_export(commands, common)
    if _exists("stremn_ros.training.segment"):
        _add_train(commands, common)
    if _exists("stremn_ros.nodes.demo"):
        _add_demo(commands)
    _add_doctor(commands, common)
    return parser


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="segment_lite0",
        help="name of a model or path of a model folder (default: %(default)s)",
    )
    group.add_argument(
        "--slots", type=int, metavar="K", help="memory slots per object, 2..16 (default: model's)"
    )
    group.add_argument(
        "--update-rule", metavar="RULE", help="how a full memory makes room (default: model's)"
    )
    group.add_argument(
        "--processing-size",
        type=_size,
        metavar="ROWS|HxW",
        help="size the network works at: rows, or rows x columns (default: model's); masks come "
        "out at the size of the frames",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    group.add_argument(
        "--runtime", default="auto", help="auto, torch or onnxruntime (default: auto)"
    )
    group.add_argument(
        "--auto-build",
        action="store_true",
        help="export the model first where the runtime wants an export that is not there",
    )


def _size(text: str) -> int | tuple[int, int]:
    try:
        sides = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is neither rows (240) nor HxW (240x432)")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _load_segmenter(options: argparse.Namespace, max_objects: int) -> Any:
    from stremn_ros.segmenter import Segmenter

    return Segmenter.load(
        options.model,
        device=options.device,
        runtime=options.runtime,
        auto_build=options.auto_build,
        slots=options.slots,
        update_rule=options.update_rule,
        processing_size=options.processing_size,
        max_objects=max_objects,
    )


# segment


def _add_segment(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "segment",
        parents=[common],
        help="follow the objects of a first mask through a video",
        description="Follows every object of the first frame's mask through a video or a folder "
        "of images. Writes OUT/masks/*.png (indexed, pixel value = object id), OUT/overlay.mp4, "
        "OUT/contact_sheet.png and OUT/summary.json.",
    )
    parser.add_argument("video", metavar="VIDEO_OR_FOLDER", help="video, or folder of images")
    parser.add_argument(
        "--mask",
        required=True,
        metavar="FIRST.png",
        help="mask of the first frame, of its size; each value 1..255 is one object (a mask of "
        "0 and 255 is one object)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame, the mask's (default: 0)"
    )
    parser.add_argument("--end", type=int, metavar="N", help="stop before this frame")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace masks that are in the folder already"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_model_options(parser)
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from stremn_ros.video import VideoWriter, open_frames, write_image
    from stremn_ros.visualization import contact_sheet, overlay, read_label_png, write_label_png

    source = open_frames(options.video, options.start, options.end)
    mask = read_label_png(options.mask)
    ids = [int(label) for label in np.unique(mask) if label]
    if not ids:
        raise InputError(f"{options.mask}: is empty (all zero); it must show at least one object")
    if mask.shape != source.size:
        raise InputError(
            f"{options.mask}: is {mask.shape[0]}x{mask.shape[1]} (rows x columns), the frames are "
            f"{source.size[0]}x{source.size[1]}; the mask must have the size of the frames"
        )
    segmenter = _load_segmenter(options, len(ids))
    out = Path(options.out)
    masks = _empty_folder(out / "masks", options.overwrite)
    names = [Path(name).stem for name in source.names] if Path(options.video).is_dir() else []
    if len(set(names)) < len(names):
        names = []  # a.jpg beside a.png: their masks would have one name
    sheet = _ContactFrames()
    busy, objects, labels = 0.0, [], mask
    begin = time.perf_counter()
    bar = tqdm(source, total=source.count or None, unit="frame", disable=options.quiet)
    count = 0
    with VideoWriter(out / "overlay.mp4", source.fps) as video:
        for count, frame in enumerate(bar, 1):
            started = time.perf_counter()
            if count == 1:
                segmenter.seed(frame, mask)
            else:
                result = segmenter.step(frame)
                labels, objects = result.labels, result.objects
            busy += time.perf_counter() - started if count > 1 else 0.0
            index = options.start + count - 1
            name = names[count - 1] if names else f"{index:0{MASK_DIGITS}d}"
            write_label_png(masks / f"{name}.png", labels)
            drawn = overlay(frame, labels)
            if drawn.shape[:2] != source.size:  # a folder may mix sizes, a video cannot
                import cv2

                drawn = cv2.resize(drawn, (source.size[1], source.size[0]))
            video.write(drawn)
            sheet.add(frame, labels, _caption(name, count == 1, objects))
    write_image(
        out / "contact_sheet.png", contact_sheet(sheet.frames, sheet.labels, None, sheet.captions)
    )
    elapsed = time.perf_counter() - begin
    states = {str(item.id): item.state.name for item in objects}
    summary = {
        "frames": count,
        "objects": ids,
        "states_at_end": states,
        "frames_per_second": round((count - 1) / busy, 2) if busy else None,
        "frames_per_second_with_files": round(count / elapsed, 2),
        "model": options.model,
        "runtime": segmenter.runtime_name,
        "processing_size": segmenter.processing_size,
        "memory_bytes": segmenter.memory_bytes,
    }
    _write_json(out / "summary.json", summary)
    size = "x".join(str(side) for side in segmenter.processing_size or ())
    gone = [label for label, state in states.items() if state != "TRACKED"]
    speed = summary["frames_per_second"]
    print(
        f"{_count(count, 'frame')}, {_count(len(ids), 'object')}"
        + (f" (not seen at the end: {', '.join(gone)})" if gone else "")
        + (f", {speed:.1f} frames per second" if speed else "")
        + f" ({summary['frames_per_second_with_files']:.1f} with files) on "
        f"{segmenter.runtime_name} at {size}; results are in {out}"
    )
    return 0


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _caption(name: str, given: bool, objects: Sequence[Any]) -> str:
    if given:
        return f"{name}  given"
    if len(objects) > 3:
        seen = sum(item.state.name == "TRACKED" for item in objects)
        return f"{name}  {seen} of {len(objects)} seen"
    return f"{name}  " + "  ".join(
        f"{item.id}: {item.score:.2f}"
        if item.state.name == "TRACKED"
        else f"{item.id}: {item.state.name.lower()}"
        for item in objects
    )


class _ContactFrames:
    """Evenly spread frames of a video of unknown length, the first and the last among them."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Any, Any, str]] = []
        self._last: tuple[int, Any, Any, str] | None = None
        self._step = 1
        self._count = 0

    def add(self, frame: Any, labels: Any, caption: str) -> None:
        import cv2

        height = max(1, round(frame.shape[0] * 480 / frame.shape[1]))
        item = (
            self._count,
            cv2.resize(frame, (480, height), interpolation=cv2.INTER_AREA),
            cv2.resize(labels, (480, height), interpolation=cv2.INTER_NEAREST),
            caption,
        )
        if self._count % self._step == 0:
            self._kept.append(item)
        if len(self._kept) >= 2 * CONTACT_TILES:
            self._kept = self._kept[::2]
            self._step *= 2
        self._last = item
        self._count += 1

    def _all(self) -> list[tuple[int, Any, Any, str]]:
        if self._last is None:
            return []
        items = self._kept
        if items[-1][0] != self._last[0]:
            items = [*items, self._last]
        if len(items) <= CONTACT_TILES:
            return items
        share = (len(items) - 1) / (CONTACT_TILES - 1)
        return [items[round(n * share)] for n in range(CONTACT_TILES)]

    @property
    def frames(self) -> list[Any]:
        return [item[1] for item in self._all()]

    @property
    def labels(self) -> list[Any]:
        return [item[2] for item in self._all()]

    @property
    def captions(self) -> list[str]:
        return [item[3] for item in self._all()]


def _empty_folder(folder: Path, overwrite: bool) -> Path:
    """Makes a folder for PNGs; masks of an earlier, longer run must not stay among the new."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, a folder is needed")
    old = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if old and not overwrite:
        raise InputError(
            f"{folder}: holds {len(old)} masks already; choose another folder, or --overwrite"
        )
    for path in old:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check_writable(path: str | None) -> None:
    """Fails before the long work where its result could not be written after it."""
    if path is None:
        return
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: no permission to write there")


def _write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# evaluate


def _add_evaluate(commands: Any, common: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="score a model on a data set", description="Scores a model on a data set."
    )
    sets = evaluate.add_subparsers(title="data sets", metavar="DATA_SET", required=True)
    parser = sets.add_parser(
        "davis",
        parents=[common],
        help="J, F and J&F on DAVIS 2016 or 2017",
        description="Scores J, F and J&F (percent) by the official semi-supervised definition, on "
        "the official folder layout: JPEGImages/480p, Annotations/480p, ImageSets.",
    )
    parser.add_argument("--root", required=True, metavar="DAVIS", help="folder of the data set")
    parser.add_argument(
        "--split",
        default="val",
        help='a list in ImageSets, or "all" for every annotated folder (default: %(default)s)',
    )
    parser.add_argument(
        "--year",
        default="auto",
        choices=("auto", "2016", "2017"),
        help="which list of that name; auto takes the longest (default: %(default)s). With the "
        "lists of 2016 all objects of a mask are one",
    )
    parser.add_argument("--resolution", default="480p", help="sub-folder (default: %(default)s)")
    parser.add_argument("--sequences", metavar="A,B,...", help="only these sequences of the split")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="use only every N-th frame, for a quick look; the result is marked as partial",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the result as JSON")
    parser.add_argument("--masks", metavar="DIR", help="write the predicted masks as label PNGs")
    parser.add_argument(
        "--pictures", metavar="DIR", help="draw the five worst sequences and all scores"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_model_options(parser)
    parser.set_defaults(run=_evaluate_davis)


def _evaluate_davis(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation.davis import evaluate_davis, open_davis

    names = None
    if options.sequences is not None:
        names = [name.strip() for name in options.sequences.split(",") if name.strip()]
    dataset = open_davis(
        options.root,
        options.split,
        year=options.year,
        resolution=options.resolution,
        sequences=names,
    )
    for path in (options.json, options.masks, options.pictures):
        _check_writable(path)
    segmenter = _load_segmenter(options, dataset.max_objects)
    result = evaluate_davis(
        dataset,
        segmenter,
        every=options.every,
        masks=options.masks,
        pictures=options.pictures,
        progress=not options.quiet,
        settings={
            "model": Path(options.model).name,
            "processing_size": options.processing_size or "the model's default",
        },
    )
    print(result.table())
    if options.json is not None:
        _write_json(options.json, result.as_dict())
    return 0


# bench


def _add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
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
        type=_size,
        default=(480, 640),
        metavar="HxW",
        help="size of the frames given (default: 480x640)",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the result as JSON")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_model_options(parser)
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.evaluation.bench import measure, plot, scene

    if isinstance(options.frame_size, int):
        raise InputError(f"frame size {options.frame_size}: HxW is needed, for instance 480x640")
    for path in (options.json, options.plot):
        _check_writable(path)
    video, labels = scene(options.objects, options.frame_size)
    segmenter = _load_segmenter(options, options.objects)
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
        f"\n{_count(options.objects, 'object')}, "
        f"{1000 / result.stages['frame']['median']:.1f} frames per second on "
        f"{segmenter.runtime_name}; memory after the first frame {first} bytes, at the "
        f"end {last} bytes: {verdict}"
    )
    if options.json is not None:
        _write_json(options.json, result.as_dict())
    if options.plot is not None:
        plot(
            result, options.plot, f"{Path(options.model).name}, {_count(options.objects, 'object')}"
        )
    return 0


# export


def _add_export(commands: Any, common: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from stremn_ros.runtime.models import find_model
    from stremn_ros.runtime.onnx_export import entry_folder, export_onnx

    folder = find_model(options.model)
    differences = export_onnx(
        folder, progress=lambda line: print(line, file=sys.stderr, flush=True)
    )
    worst = max(differences.values())
    print(
        f"{_count(len(differences), 'stage')} in {entry_folder(folder)}; the largest difference "
        f"from PyTorch is {worst:.2g}"
    )
    return 0


# train, demo, doctor


def _add_train(commands: Any, common: argparse.ArgumentParser) -> None:
    train = commands.add_parser("train", help="train a model", description="Trains a model.")
    tasks = train.add_subparsers(title="tasks", metavar="TASK", required=True)
    # Its own options, --config among them, are those of the training; --help shows them
    parser = tasks.add_parser(
        "segment", parents=[common], add_help=False, help="train the segmentation network"
    )
    parser.set_defaults(run=_train_segment, forwards=True)


def _train_segment(options: argparse.Namespace) -> int:
    from stremn_ros.training.segment import main as train

    return int(train(options.rest) or 0)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", add_help=False, help="the whole chain on a real video, through real ROS nodes"
    )
    parser.set_defaults(run=_demo, forwards=True)


def _demo(options: argparse.Namespace) -> int:
    from stremn_ros.nodes.demo import main as demo

    run: Callable[[Sequence[str]], int | None] = demo
    return int(run(options.rest) or 0)


def _add_doctor(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="what is installed, what would be used, what is wrong",
        description="Examines this installation. The exit code is 0 only when the segmentation "
        "node can run here.",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the findings as JSON")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from stremn_ros.doctor import examine

    _check_writable(options.json)
    report = examine()
    print(report.text())
    if options.json is not None:
        _write_json(options.json, report.as_dict())
    return 0 if report.ready else 1


if __name__ == "__main__":
    sys.exit(main())
