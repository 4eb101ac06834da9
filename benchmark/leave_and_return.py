"""How a segmenter takes it when its object leaves the picture and comes back.

    python benchmark/leave_and_return.py --videos DAVIS --sequences bear,boat,hike \\
        --clips 40 --json OUT.json --picture OUT.png

Each clip is a real video (the background) and in front of it the object of another one, cut out by
its masks, which plays on while it wanders: 12 frames in the picture, 20 frames away, then back at
another place for 15, going on from the frame with which it left. Counted are the clips in which the
mask is empty and the state OCCLUDED or LOST within 5 frames of leaving and stays so until the
return, and those in which the object is found (IoU over 0.5) within 5 frames of it. With --photos
the objects are cut out of photos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.clip import affine, paste, warp
from stremn_ros.segmenter import ObjectState, Segmenter
from stremn_ros.video import read_image
from stremn_ros.visualization import contact_sheet, read_label_png

SEEN, AWAY, BACK, GRACE = 12, 20, 15, 5
Pair = tuple[Path, Path]  # an image and its mask


def to_and_fro(n: int, count: int) -> int:
    """Index of frame n of a sequence of ``count`` that is played back and forth."""
    turn = n % max(1, 2 * count - 2)
    return min(turn, 2 * count - 2 - turn) if count > 1 else 0


def clip(
    rng: Generator, background: Sequence[Path], thing: Sequence[Pair]
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Frames and truth of one composed clip."""
    labels = read_label_png(thing[0][1])
    areas = np.bincount(labels.ravel(), minlength=256)
    areas[0] = 0
    number = int(areas.argmax())
    x, y, w, h = cv2.boundingRect((labels == number).astype(np.uint8))
    frames, truths = [], []
    rows, columns = read_image(background[0]).shape[:2]
    side = max(rows, columns)
    scale = rows * rng.uniform(0.3, 0.5) / max(w, h)
    places = rng.uniform(0.25, 0.75, (2, 2)) * [columns, rows]
    velocity = rng.normal(0.0, 0.008, 2) * rows
    for n in range(SEEN + AWAY + BACK):
        frame = read_image(background[to_and_fro(n, len(background))])
        truth = np.zeros((rows, columns), np.uint8)
        if not SEEN <= n < SEEN + AWAY:
            shown = n if n < SEEN else n - AWAY  # it comes back about as it left
            image_path, mask_path = thing[to_and_fro(shown, len(thing))]
            image = read_image(image_path)
            only = (read_label_png(mask_path) == number).astype(np.uint8)
            if len(thing) > 1 and only.any():  # a moving object is held by its own box
                x, y, w, h = cv2.boundingRect(only)
            phase = 0 if n < SEEN else 1
            step = n - phase * (SEEN + AWAY)
            target = places[phase] + velocity * step
            matrix = affine((x + w / 2, y + h / 2), tuple(target), scale, 2.0 * np.sin(n / 3.0))
            cutout = warp(image, matrix, side, None, border=cv2.BORDER_CONSTANT)
            mask = warp(only, matrix, side, None, nearest=True, border=cv2.BORDER_CONSTANT)
            truth = mask[:rows, :columns]
            alpha = np.asarray(cv2.GaussianBlur(truth * 255, (3, 3), 0), np.uint8)
            frame = paste(frame, cutout[:rows, :columns], alpha)
        frames.append(frame)
        truths.append(truth)
    return frames, truths


def main() -> None:
    """Runs the clips and prints the two rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--sequences", default="", help="names, separated by commas; empty: all")
    parser.add_argument("--photos", type=Path, help="cut the objects out of these instead")
    parser.add_argument("--prefix", default="", help="only photos whose name begins so")
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--min-score", type=float)
    parser.add_argument("--processing-size", type=int, metavar="ROWS")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    folder = options.videos / "JPEGImages" / "480p"
    names = (
        options.sequences.split(",")
        if options.sequences
        else sorted(path.name for path in folder.iterdir())
    )
    masks = options.videos / "Annotations" / "480p"
    things: list[list[Pair]] = [
        [(image, masks / name / f"{image.stem}.png") for image in sorted((folder / name).glob("*"))]
        for name in names
    ]
    if options.photos:
        things = [
            [(image, options.photos / "masks" / f"{image.stem}.png")]
            for image in sorted((options.photos / "images").glob(f"{options.prefix}*.jpg"))
        ]
    rng = np.random.default_rng(options.seed)
    gone = found = 0
    gone_frames = []
    shown: list[tuple[NDArray[np.uint8], NDArray[np.uint8], str]] = []
    scores: dict[str, list[float]] = {"there": [], "away": []}
    for number in range(options.clips):
        name = names[int(rng.integers(len(names)))]
        others = [thing for thing in things if thing[0][0].parent.name != name]
        thing = others[int(rng.integers(len(others)))]
        frames, truths = clip(rng, sorted((folder / name).glob("*.jpg")), thing)
        title = thing[0][0].stem if options.photos else thing[0][0].parent.name
        segmenter = Segmenter.load(
            options.model, min_score=options.min_score, processing_size=options.processing_size
        )
        segmenter.seed(frames[0], truths[0])
        empty, overlap = [], []
        for n, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
            if n == 0:
                continue
            result = segmenter.step(frame)
            away = SEEN <= n < SEEN + AWAY
            scores["away" if away else "there"].append(result.objects[0].score)
            if away and n >= SEEN + GRACE - 1:
                state = result.objects[0].state
                empty.append(not result.labels.any() and state is not ObjectState.TRACKED)
            if SEEN + AWAY <= n < SEEN + AWAY + GRACE:
                both = ((result.labels > 0) & (truth > 0)).sum()
                either = ((result.labels > 0) | (truth > 0)).sum()
                overlap.append(both / max(1, either))
            if number < 6 and n in (1, SEEN - 1, SEEN + 6, SEEN + AWAY - 1, SEEN + AWAY + 4):
                shown.append((frame, result.labels, f"{title} on {name}, frame {n}"))
        gone += all(empty)
        gone_frames.append(float(np.mean(empty)))
        found += max(overlap) > 0.5
    figures = {
        "clips": options.clips,
        "empty_while_away_percent": 100.0 * gone / options.clips,
        "frames_empty_while_away_percent": 100.0 * float(np.mean(gone_frames)),
        "found_again_percent": 100.0 * found / options.clips,
        "away_frames": AWAY,
        "grace_frames": GRACE,
        "objects": "photos" if options.photos else "videos",
        "model": Path(options.model).name,
        "score_percentiles_5_50_95": {
            when: [round(float(value), 3) for value in np.percentile(values, (5, 50, 95))]
            for when, values in scores.items()
        },
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    if options.picture:
        sheet = contact_sheet(
            [frame for frame, _, _ in shown],
            [labels for _, labels, _ in shown],
            columns=5,
            captions=[text for _, _, text in shown],
        )
        cv2.imwrite(str(options.picture), sheet[..., ::-1])


if __name__ == "__main__":
    main()
