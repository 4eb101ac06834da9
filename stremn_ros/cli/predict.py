"""`stremn predict`: predict the coming frames of a video."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import (
    announce,
    check_apart,
    check_writable,
    empty_folder,
    folder,
    size,
)
from stremn_ros.errors import InputError
from stremn_ros.files import write_json


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "predict",
        parents=[common],
        help="predict the coming frames of a video",
        description="Shows the first frames of a video to the prediction network and writes the "
        "frames that it expects next: OUT/predicted/*.png, OUT/sheet.png (past, ground truth, "
        "prediction and difference, beside copy-last-frame and optical flow) and "
        "OUT/summary.json. A video that is shorter than observe + horizon has no ground truth to "
        "compare with.",
    )
    parser.add_argument("video", metavar="VIDEO_OR_FOLDER", help="video, or folder of images")
    parser.add_argument(
        "--out", type=folder, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument("--observe", type=int, default=10, help="frames seen (default: 10)")
    parser.add_argument("--horizon", type=int, default=10, help="frames predicted (default: 10)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default 0)")
    parser.add_argument("--model", default="predict_rgb", help="model (default: %(default)s)")
    parser.add_argument("--slots", type=int, metavar="K", help="memory slots, 2..16")
    parser.add_argument(
        "--update-rule", metavar="RULE", help="which slots are fused when the memory is full"
    )
    parser.add_argument(
        "--processing-size",
        type=size,
        metavar="SIDE|HxW",
        help="size the network works at: the shorter side, or rows x columns (default: model's)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    announce(f"loading {options.model}")
    import cv2
    import numpy as np

    from stremn_ros.evaluation.prediction import Scores, to_tensor
    from stremn_ros.evaluation.prediction_pictures import prediction_sheet
    from stremn_ros.imaging.motion import FlowExtrapolation
    from stremn_ros.imaging.sizes import whole_number
    from stremn_ros.imaging.video import WhatComes, open_frames, write_image
    from stremn_ros.network.prediction import STACK
    from stremn_ros.predictor import MAX_HORIZON, Predictor

    out = Path(options.out)
    for each in (out, out / "predicted"):
        check_writable(each)
        check_apart(options.video, each)
    for name in ("sheet.png", "summary.json"):
        check_writable(out / name, file=True)
    observe = whole_number(options.observe, "--observe", STACK)
    horizon = whole_number(options.horizon, "--horizon", 1, MAX_HORIZON)
    start = whole_number(options.start, "--start", 0)
    predictor = Predictor.load(
        options.model,
        device=options.device,
        slots=options.slots,
        update_rule=options.update_rule,
        processing_size=options.processing_size,
        observe=observe,
    )
    frames: list[Any] = []
    readable = WhatComes(open_frames(options.video, start, start + observe + horizon))
    for frame in readable:
        if frames and frame.shape != frames[0].shape:
            raise InputError(f"{options.video}: the frames are not all of one size")
        frames.append(frame)
    if len(frames) < observe:
        if readable.error is not None:
            raise readable.error
        raise InputError(
            f"{options.video}: has {len(frames)} frames from {options.start} on; --observe asks "
            f"for {observe}"
        )
    future = None
    for frame in frames[:observe]:
        future = predictor.step(frame, horizon)
    assert future is not None
    predicted = empty_folder(out / "predicted", overwrite=True)
    for n, image in enumerate(future, 1):
        write_image(predicted / f"{n:03d}.png", image)
    past, known = np.stack(frames[:observe]), len(frames) - observe
    shown = {"prediction": future}
    summary: dict[str, Any] = {
        "observe": observe,
        "horizon": horizon,
        "model": options.model,
        "processing_size": predictor.processing_size,
        "memory_bytes": predictor.memory_bytes,
        "ended_early": str(readable.error) if readable.error else None,
    }
    truth = None
    if known:
        truth = np.stack(frames[observe:])
        flow = FlowExtrapolation()
        shown = {
            "prediction": future[:known],
            "copy last": np.repeat(past[-1:], known, axis=0),
            "optical flow": flow(past[-2], past[-1], known),
        }
        rows, columns = predictor.processing_size or past.shape[1:3]

        def small(images: Any) -> Any:
            """At the processing size, where the methods are compared."""
            area = cv2.INTER_AREA
            return np.stack([cv2.resize(i, (columns, rows), interpolation=area) for i in images])

        summary["steps_with_truth"] = known
        for name, images in shown.items():
            scores = Scores(known, needs_ssim=False)
            pair = to_tensor(small(images))[None], to_tensor(small(truth))[None]
            scores.add(*pair, None)
            key = name.replace(" ", "_")
            summary[key] = {"psnr": round(scores.mean("psnr"), 3)}
            if "ssim" in scores.sums:
                summary[key]["ssim"] = scores.mean("ssim")
    title = f"{Path(options.video).name} from frame {options.start}"
    write_image(out / "sheet.png", prediction_sheet(past, truth, shown, title))
    write_json(out / "summary.json", summary)
    figures = ", ".join(
        f"{name} {summary[name.replace(' ', '_')]['psnr']:.2f} dB" for name in shown if known
    )
    print(f"{horizon} frames predicted{': PSNR ' + figures if figures else ''}; results in {out}")
    if readable.error is not None:
        raise readable.error
    return 0
