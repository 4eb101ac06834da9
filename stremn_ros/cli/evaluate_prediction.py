"""`stremn evaluate moving-mnist|kth|human36m|video`: judge predictions."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stremn_ros.cli.options import check_writable, listed, model_name
from stremn_ros.errors import InputError
from stremn_ros.files import write_json

if TYPE_CHECKING:
    from stremn_ros.evaluation.prediction import PredictionResult

WRITE_EVERY = 10.0  # seconds between two writings of a result that is not complete yet
# data set -> model, frames seen, frames predicted
DEFAULTS = {
    "moving-mnist": ("predict_mnist", 10, 10),
    "kth": ("predict_rgb", 10, 20),
    "human36m": ("predict_rgb", 4, 4),
    "video": ("predict_rgb", 10, 4),
}
TEXTS = {
    "moving-mnist": "ROOT holds MNIST's idx files (t10k-images-idx3-ubyte.gz), of whose test "
    "digits 10,000 sequences are drawn, or the published mnist_test_seq.npy.",
    "kth": "ROOT/ACTION/person17_ACTION_d1_uncomp/image_0001.jpg ..., or .avi files; persons 17 to "
    "25 are judged, gray, 128 x 128.",
    "human36m": "ROOT/test.txt with lines PREFIX,NUMBER and the frames PREFIX + six digits + .jpg, "
    "every fifth, 128 x 128.",
    "video": "ROOT is a video, a folder of videos or of folders of images, or a .txt with one path "
    "a line; the middle square of each frame is scaled to --size.",
}


def add(sets: Any, common: argparse.ArgumentParser) -> None:
    for name, (model, observe, horizon) in DEFAULTS.items():
        parser = sets.add_parser(
            name,
            parents=[common],
            help=f"predicted frames: MSE, MAE, SSIM, PSNR ({name})",
            description="Scores predicted frames by MSE, MAE (sums over a frame), SSIM in both "
            "conventions, PSNR and LPIPS, beside copy-last-frame and optical-flow extrapolation. "
            + TEXTS[name],
        )
        parser.add_argument("--root", required=True, metavar="DIR", help="folder of the data")
        parser.add_argument(
            "--model",
            default=model,
            metavar="A,B,...",
            help='models to score, names or folders; "" for the baselines alone (default: '
            "%(default)s)",
        )
        parser.add_argument("--observe", type=int, default=observe, help="frames seen")
        parser.add_argument("--horizon", type=int, default=horizon, help="frames predicted")
        parser.add_argument(
            "--count", type=int, metavar="N", help="only the first N clips; marked as partial"
        )
        parser.add_argument("--batch", type=int, default=50, help="clips at a time (default: 50)")
        if name == "video":
            parser.add_argument("--size", type=int, default=128, help="pixels squared")
            parser.add_argument(
                "--stride", type=int, default=4, help="frames between clips (default: 4)"
            )
            parser.add_argument("--videos", metavar="A,B,...", help="only these, by name")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
        parser.add_argument(
            "--lpips-backbone", metavar="FILE", help="torchvision's weights of AlexNet, for LPIPS"
        )
        parser.add_argument(
            "--lpips-layers", metavar="FILE", help="alex.pth of the package lpips, for LPIPS"
        )
        parser.add_argument("--json", metavar="OUT.json", help="write the result as JSON")
        parser.add_argument("--pictures", metavar="DIR", help="draw the first clips")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        parser.set_defaults(run=_run, data=name)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation.prediction import (
        COPY,
        FLOW,
        copy_last,
        evaluate_prediction,
        in_batches,
        model_method,
        optical_flow,
    )

    check_writable(options.json, file=True)
    check_writable(options.pictures)
    if options.observe < 3 or options.horizon < 1 or options.batch < 1:
        raise InputError("--observe must be 3 or more, --horizon and --batch at least 1")
    if options.count is not None and options.count < 1:
        raise InputError("--count must be at least 1")
    colors = 1 if options.data in ("moving-mnist", "kth") else 3
    models = listed(options.model)
    short = [model_name(name) for name in models]
    methods = {
        name if short.count(called) > 1 else called: model_method(name, colors, options.device)
        for name, called in zip(models, short)
    }
    methods |= {COPY: copy_last, FLOW: optical_flow()}
    lpips = _lpips(options)
    clips, total, source = _clips(options)
    if options.data == "moving-mnist":
        batches = clips
    else:
        if options.count is not None:
            clips = _first(clips, options.count)
        batches = in_batches(clips, options.batch)
    last = time.monotonic()

    def write(result: PredictionResult, always: bool = False) -> None:
        nonlocal last
        if options.json is None or not (always or time.monotonic() - last > WRITE_EVERY):
            return
        last = time.monotonic()
        write_json(options.json, _values(options, result))

    result = evaluate_prediction(
        batches,
        methods,
        options.observe,
        options.horizon,
        lpips=lpips,
        total=total,
        by_video=options.data == "video",
        pictures=Path(options.pictures) if options.pictures else None,
        progress=not options.quiet,
        settings={
            "data": options.data,
            "source": source,
            "partial": options.count is not None,
            "lpips": "AlexNet, version 0.1" if lpips else "not computed: no weights were given",
        },
        on_batch=write,
    )
    print(result.table())
    if lpips is None:
        print(
            "LPIPS was not computed: it needs --lpips-backbone (torchvision's AlexNet weights) and "
            "--lpips-layers (alex.pth of the package lpips)",
            file=sys.stderr,
        )
    write(result, always=True)
    return 0


def _values(options: argparse.Namespace, result: PredictionResult) -> dict[str, Any]:
    values = result.as_dict()
    if options.data == "human36m":  # as the tables give them
        for scores in values["methods"].values():
            scores["mse_10"] = round(scores["mse"] / 10.0, 4)
            scores["mae_100"] = round(scores["mae"] / 100.0, 4)
    return values


def _lpips(options: argparse.Namespace) -> Any:
    given = (options.lpips_backbone, options.lpips_layers)
    if given == (None, None):
        return None
    if None in given:
        raise InputError("LPIPS needs both --lpips-backbone and --lpips-layers")
    from stremn_ros.evaluation.prediction_metrics import Lpips

    return Lpips(Path(given[0]), Path(given[1]))


def _clips(options: argparse.Namespace) -> tuple[Any, int | None, str]:
    """Clips (for Moving MNIST batches of them), how many if that is known, and where from."""
    from stremn_ros.data.moving_mnist import TEST_COUNT, MovingMnistTest
    from stremn_ros.data.prediction_clips import find_videos, video_clips
    from stremn_ros.data.prediction_sets import human36m_clips, kth_clips

    root, observe, horizon = Path(options.root), options.observe, options.horizon
    if options.data == "moving-mnist":
        if observe + horizon > 20:
            raise InputError("the sequences have 20 frames; --observe + --horizon is more")
        test = MovingMnistTest(root, options.count or TEST_COUNT)
        return _mnist_batches(test, options.batch, observe + horizon), len(test), test.source
    if options.data == "kth":
        clips = kth_clips(root, observe, horizon)
    elif options.data == "human36m":
        clips = human36m_clips(root, observe, horizon)
    else:
        if options.size < 32 or options.size % 8 or options.stride < 1:
            raise InputError("--size must be a multiple of 8 from 32 on, --stride at least 1")
        only = listed(options.videos)
        if options.videos is not None and not only:
            raise InputError("--videos names no video: leave it out for all of them")
        videos = find_videos(root, only=only)
        clips = video_clips(videos, options.size, observe + horizon, options.stride)
    return ((clip.name, clip.frames) for clip in clips), options.count, root.name


def _mnist_batches(test: Any, size: int, length: int) -> Iterable[tuple[list[str], Any]]:
    first = 0
    for frames in test.batches(size):
        names = [f"sequence:{first + n}" for n in range(len(frames))]
        first += len(frames)
        yield names, frames[:, :length, :, :, None]


def _first(clips: Iterable[Any], count: int) -> Iterable[Any]:
    for n, clip in enumerate(clips):
        if n == count:
            return
        yield clip
