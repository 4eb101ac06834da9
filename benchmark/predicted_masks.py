"""Masks ahead of their image (`~/predicted_mask`): IoU with the ground truth of that later frame.

    python benchmark/predicted_masks.py --root DAVIS_DEV --split val --json ahead.json

The model follows each sequence from its first mask. At every frame its mask is predicted some time
ahead, in four ways:

- last: the mask as it is;
- flow: each pixel carried on by the optical flow (DIS) of the last two frames;
- motion: what the node publishes (`imaging/mask_motion.py`);
- read: the memory reads a predicted frame. That frame comes from the optical flow, or with
  `--predictor` from a prediction model. Only with `--read`, on every fourth frame: it is slow.

Mean IoU in percent; the spread is the standard error over the sequences.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.cli.options import add_model_options, load_segmenter
from stremn_ros.errors import StremnError
from stremn_ros.evaluation.davis_data import DavisSequence, open_davis
from stremn_ros.files import write_json
from stremn_ros.imaging.mask_motion import MaskMotion
from stremn_ros.imaging.masks import iou
from stremn_ros.imaging.motion import FlowExtrapolation
from stremn_ros.imaging.video import read_image
from stremn_ros.predictor import Predictor
from stremn_ros.segmenter import Segmenter

WARM = 6  # frames before the first prediction
READ_EVERY = 4


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder in DAVIS' layout")
    parser.add_argument("--split", default="val")
    parser.add_argument("--sequences", nargs="+", help="only these")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--rate", type=float, default=24.0, help="frames per second of the data")
    parser.add_argument("--read", action="store_true", help="read predicted frames, too")
    parser.add_argument("--predictor", help="model that predicts those frames, not the flow")
    add_model_options(parser)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def carried_by_flow(
    labels: NDArray[np.uint8], flow: NDArray[np.float32], steps: int
) -> NDArray[np.uint8]:
    """Labels whose pixels each go on by the flow of the last two frames, `steps` times."""
    height, width = labels.shape
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    ahead = flow * np.float32(steps)
    back = ahead
    for _ in range(3):  # where the pixel came from, by fixed-point iteration
        back = cv2.remap(
            ahead,
            columns - back[:, :, 0],
            rows - back[:, :, 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    moved = cv2.remap(labels, columns - back[:, :, 0], rows - back[:, :, 1], cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8)


def overlap(labels: NDArray[np.uint8], truth: NDArray[np.uint8], ids: list[int]) -> float:
    """Mean IoU of objects."""
    return float(np.mean([iou(labels == number, truth == number) for number in ids]))


def measure(
    sequence: DavisSequence,
    segmenter: Segmenter,
    predictor: Predictor | None,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Mean IoU, by seconds ahead and way."""
    truth = sequence.truth()
    steps = {f"{seconds:g}": round(seconds * options.rate) for seconds in options.seconds}
    found: dict[str, dict[str, list[float]]] = {seconds: {} for seconds in steps}
    flow = cv2.DISOpticalFlow_create(  # type: ignore[attr-defined]
        cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    )
    motion, extrapolate = MaskMotion(), FlowExtrapolation()
    segmenter.reset()
    before = gray_before = None
    for number, path in enumerate(sequence.images):
        rgb = read_image(path)
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if number == 0:
            mask = truth.labels[0]
            assert mask is not None
            segmenter.seed(rgb, mask)
            before, gray_before = rgb, gray
            continue
        result = segmenter.step(rgb)
        motion.update(result.objects, number / options.rate)
        reads = options.read and number % READ_EVERY == 0
        coming = None
        if predictor is not None:
            coming = predictor.step(rgb, max(steps.values()) if reads else 1)
        if number >= WARM:
            assert before is not None
            forward = flow.calc(gray_before, gray, None)
            for seconds, count in steps.items():
                later = number + count
                if later >= len(truth.labels) or truth.labels[later] is None:
                    continue
                ways = {
                    "last": result.labels,
                    "flow": carried_by_flow(result.labels, forward, count),
                    "motion": motion.ahead(result.labels, result.objects, count / options.rate),
                }
                if reads:
                    if predictor is None:
                        coming = extrapolate(before, rgb, count)
                    if coming is not None:
                        ways["read"] = segmenter.segment(coming[count - 1]).labels
                for way, labels in ways.items():
                    value = overlap(labels, truth.labels[later], truth.ids)
                    found[seconds].setdefault(way, []).append(value)
        before, gray_before = rgb, gray
    return {
        seconds: {way: round(100 * float(np.mean(values)), 1) for way, values in ways.items()}
        for seconds, ways in found.items()
        if ways
    }


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    results: dict[str, Any] = {}
    try:
        sequences = open_davis(options.root, options.split, sequences=options.sequences).sequences
        segmenter = load_segmenter(options, max_objects=8)
        predictor = Predictor.load(options.predictor) if options.predictor else None
        for sequence in sequences:
            results[sequence.name] = found = measure(sequence, segmenter, predictor, options)
            print(sequence.name, found, flush=True)
    except StremnError as error:
        print(f"predicted_masks: {error}", file=sys.stderr)
        return 2
    for seconds in sorted({each for found in results.values() for each in found}, key=float):
        told = [found[seconds] for found in results.values() if seconds in found]
        for way in told[0]:
            values = np.array([each[way] for each in told])
            gain = values - np.array([each["last"] for each in told])
            spread = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
            print(
                f"| {seconds} s | {way} | {values.mean():.1f} | "
                f"{gain.mean():+.1f} ±{spread:.1f} against last |"
            )
    if options.json:
        write_json(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
