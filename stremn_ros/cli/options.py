"""What several subcommands share: options, checks before long work, results."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError, StremnError
from stremn_ros.options import TUNABLES
from stremn_ros.runtime.table import LISTED

_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME"}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="segment_lite0",
        help="name of a model or path of a model folder (default: %(default)s)",
    )
    for name, tunable in TUNABLES.items():
        if name == "max_objects":  # as many as the masks show
            continue
        kind = size if name == "processing_size" else type(tunable.default)
        way: dict[str, Any] = {"type": kind, "metavar": _METAVARS.get(kind, "SIDE|HxW")}
        if kind is bool:
            way = {"action": argparse.BooleanOptionalAction}
        among = f"{tunable.range_text}; " if tunable.range_text else ""
        text = f"{tunable.text.rstrip('.')} ({among}default: the model's)"
        group.add_argument(f"--{name.replace('_', '-')}", default=None, help=text, **way)
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    group.add_argument(
        "--runtime",
        default="auto",
        help=f"{LISTED} (default: auto)",
    )
    group.add_argument(
        "--auto-build",
        action="store_true",
        help="export the model first, or build its plans, if the runtime needs that",
    )


def size(text: str) -> int | tuple[int, int]:
    try:
        sides = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a side (240) nor HxW (240x432)")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def listed(text: str | None) -> list[str]:
    """The names of ``A,B,...``, without those that are empty."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(math.isfinite(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas")
    return values


def _box(text: str) -> tuple[int, int, int, int]:
    values = _numbers(text)
    if len(values) != 4 or any(value != int(value) or value < 0 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,WIDTH,HEIGHT in whole pixels")
    x, y, width, height = (int(value) for value in values)
    return x, y, width, height


def _points(text: str) -> list[tuple[float, float]]:
    pairs = [_numbers(part) for part in text.split(";") if part.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y;X,Y in pixels")
    return [(x, y) for x, y in pairs]


def add_hints(parser: argparse.ArgumentParser) -> None:
    """Where an object is, typed by hand."""
    parser.add_argument("--box", type=_box, metavar="X,Y,W,H", help="box around the object")
    parser.add_argument(
        "--polygon", type=_points, metavar="X,Y;X,Y;X,Y", help="outline of the object"
    )
    parser.add_argument("--points", type=_points, metavar="X,Y;X,Y", help="points on the object")
    parser.add_argument(
        "--not", dest="outside", type=_points, metavar="X,Y;X,Y", help="points beside the object"
    )


def add_click_model(parser: argparse.ArgumentParser) -> None:
    """Which model makes masks of boxes and points."""
    parser.add_argument(
        "--click-model",
        default="clicks_lite0",
        help="name or folder of the model that makes masks of boxes and points (default: "
        "%(default)s); '' takes GrabCut",
    )


def announce(text: str) -> None:
    """Says on a terminal what takes some seconds, before it begins. Scripts get no such line."""
    if sys.stderr.isatty():
        print(f"stremn: {text} ...", file=sys.stderr, flush=True)


def load_hint_masks(options: argparse.Namespace) -> Any:
    if options.click_model:
        announce(f"loading {options.click_model}")
    from stremn_ros.hint_masks import HintMasks

    return HintMasks.load(options.click_model, device=options.device, auto_build=options.auto_build)


def hint_names(options: argparse.Namespace) -> list[str]:
    """The options of `add_hints` that were given."""
    hints = {
        "--box": options.box,
        "--polygon": options.polygon,
        "--points": options.points,
        "--not": options.outside,
    }
    return [name for name, value in hints.items() if value]


def load_davis(options: argparse.Namespace) -> Any:
    """The sequences that --root, --split, --year, --resolution and --sequences name."""
    from stremn_ros.evaluation.davis_data import open_davis

    return open_davis(
        options.root,
        options.split,
        year=options.year,
        resolution=options.resolution,
        sequences=None if options.sequences is None else listed(options.sequences),
    )


def load_segmenter(options: argparse.Namespace, max_objects: int) -> Any:
    announce(f"loading {options.model}")
    from stremn_ros.segmenter import Segmenter

    return Segmenter.load(
        options.model,
        device=options.device,
        runtime=options.runtime,
        auto_build=options.auto_build,
        **{**tuned(options), "max_objects": max_objects},
    )


def tuned(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the segmenter's options; None: the model's own."""
    return {name: getattr(options, name, None) for name in TUNABLES}


def first_mask(path: str, source: Any) -> Any:
    """The mask of a source's first frame, uint8 [H, W]; what was done to it is in the log.

    Raises:
        InputError: no mask, one without an object, or one of another size than the frames.
    """
    from stremn_ros.imaging.pictures import TURNS
    from stremn_ros.imaging.visualization import read_label_png

    mask = read_label_png(path)
    if not mask.any():
        raise InputError(f"{path}: is empty (all zero); it must show at least one object")
    if mask.shape != source.size:
        turned = TURNS.get(source.orientation)
        hint = ""
        if turned is not None and mask.shape == source.size[::-1]:
            hint = (
                f" as they are stored: a mask of the image {turned}, as its orientation tag "
                f"({source.orientation}) asks viewers to show it, does not fit"
            )
        raise InputError(
            f"{path}: is {mask.shape[0]}x{mask.shape[1]} (rows x columns), the frames are "
            f"{source.size[0]}x{source.size[1]}; the mask must have the size of the frames{hint}"
        )
    return mask


def model_name(model: str) -> str:
    """How results call a model: by its folder's name, which "." has not."""
    return os.path.basename(os.path.abspath(model))


def empty_folder(folder: Path, overwrite: bool) -> Path:
    """Makes a folder for PNGs; those of an earlier, longer run must not stay among the new."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, a folder is needed")
    old = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if old and not overwrite:
        raise InputError(
            f"{folder}: holds {counted(len(old), 'mask')} already; choose another folder, or "
            "--overwrite"
        )
    for path in old:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_writable(path: str | os.PathLike[str] | None, file: bool = False) -> None:
    """Fails before the long work where its result could not be written after it.

    Args:
        path: of a folder, or with ``file`` of a file; None: nothing is written.
    """
    if path is None:
        return
    folder = Path(path).absolute()
    if file:
        if folder.is_dir():
            raise InputError(f"{str(path)!r}: is a folder, the name of a file is needed")
        folder = folder.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        where = "" if folder == Path(path).absolute() else f": {folder}"
        raise InputError(f"{path}{where}: is a file, a folder is needed")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: no permission to write there")


def check_apart(source: str, *results: Path) -> None:
    """Fails where a result would replace what is read, or be taken for a part of it next time.

    Args:
        source: a video or a folder of images. results: files and folders that are written.
    """
    for path in results:
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise InputError(f"{source}: is read, so no results can go there: give another --out")


def folder(text: str) -> str:
    """The type of an option with a folder: an empty one, of a shell's variable, is none."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is needed, it is empty")
    return text


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def without_ros(error: ImportError) -> StremnError:
    """What a command says that needs ROS 2 where it cannot be imported."""
    return StremnError(
        f"ROS 2 is not there for this ({error}): `make setup` and use .venv/bin/stremn, or "
        "source a ROS distribution and the workspace; `stremn doctor` says more"
    )
