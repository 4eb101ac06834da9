"""How soon the prediction's surprise flags something that enters the scene.

Clips with masks are played twice: as they are, and with an object of another clip that comes in
from the edge. The threshold is the lowest one with at most one alarm a minute on the clips as they
are (alarms less than a second apart are one). An event counts as flagged when the surprise is above
it on one of the two frames from the first on that shows a tenth of the object.

    python benchmark/surprise.py --root DAVIS --json OUT.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.imaging.listing import list_folders, list_images
from stremn_ros.imaging.mask_reading import read_mask
from stremn_ros.imaging.video import read_image
from stremn_ros.predictor import Predictor

WARM_UP = 10  # frames before anything counts
WITHIN = 2  # frames
SHOWN = 0.1  # part of the object that makes an event
STEPS = 8  # frames in which the object comes in


def shrunk(image: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    columns = round(image.shape[1] * rows / image.shape[0])
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def cut_out(image: Path, mask: Path, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An object's picture and its opacity, scaled to a height."""
    rgb, own = read_image(image), read_mask(mask).labels()[0] > 0
    rows, columns = np.nonzero(own)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    width = max(4, round(height * (columns.max() - columns.min() + 1) / np.ptp(rows).clip(1)))
    size = (min(width, 2 * height), height)
    picture = cv2.resize(rgb[box], size, interpolation=cv2.INTER_AREA)
    opacity = cv2.resize(own[box].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, np.uint8), np.asarray(opacity, np.float32)


def entered(
    frames: list[NDArray[np.uint8]],
    thing: tuple[NDArray[np.uint8], NDArray[np.float32]],
    begin: int,
    from_left: bool,
    top: int,
) -> tuple[list[NDArray[np.uint8]], int]:
    """The frames with the object coming in from ``begin`` on, and the frame of the event."""
    picture, opacity = thing
    height, width = opacity.shape
    columns = frames[0].shape[1]
    result, event = list(frames[:begin]), -1
    for n, frame in enumerate(frames[begin:], begin):
        inside = round(width * min(1.0, (n - begin + 1) / STEPS))
        if event < 0 and opacity[:, width - inside :].sum() >= SHOWN * opacity.sum():
            event = n
        shown = frame.astype(np.float32)
        place = slice(0, inside) if from_left else slice(columns - inside, columns)
        part = slice(width - inside, width) if from_left else slice(0, inside)
        alpha = opacity[:, part, None]
        area = shown[top : top + height, place]
        area[:] = alpha * picture[:, part] + (1.0 - alpha) * area
        result.append(np.rint(shown).astype(np.uint8))
    return result, event


def scores(predictor: Predictor, frames: list[NDArray[np.uint8]]) -> list[float]:
    """The surprise of each frame; 0 where there is none."""
    predictor.reset()
    result = []
    for frame in frames:
        predictor.step(frame)
        result.append(predictor.surprise or 0.0)
    return result


def alarms(values: list[float], threshold: float, rate: float) -> int:
    """How many separate alarms a stream gives after the warm-up."""
    count, last = 0, -rate
    for n, value in enumerate(values[WARM_UP:]):
        if value > threshold:
            count += n - last >= rate
            last = n
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="DAVIS' layout")
    parser.add_argument("--model", default="predict_rgb")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rate", type=float, default=24.0, help="frames a second")
    parser.add_argument("--frames", type=int, default=60, help="of each clip at most")
    parser.add_argument("--events", type=int, default=2, help="for each clip")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor.load(options.model, device="cpu", processing_size=options.rows)
    images, masks = (options.root / part / "480p" for part in ("JPEGImages", "Annotations"))
    names = [folder.name for folder in list_folders(masks)]
    rng = np.random.default_rng(0)
    clean: dict[str, list[float]] = {}
    flagged: list[tuple[str, float]] = []
    begun = time.monotonic()
    for name, other in zip(names, itertools.islice(itertools.cycle(names), 3, None), strict=False):
        paths = list_images(images / name)[: options.frames]
        frames = [shrunk(read_image(path), options.rows) for path in paths]
        clean[name] = scores(predictor, frames)
        source = list(zip(list_images(images / other), list_images(masks / other), strict=False))
        for _ in range(options.events):
            height = int(rng.integers(options.rows // 4, options.rows // 2))
            thing = cut_out(*source[int(rng.integers(len(source)))], height)
            begin = int(rng.integers(WARM_UP + 2, len(frames) - STEPS))
            top = int(rng.integers(0, options.rows - height))
            clip, event = entered(frames, thing, begin, bool(rng.random() < 0.5), top)
            clip = clip[: event + WITHIN]
            flagged.append((name, max(scores(predictor, clip)[event : event + WITHIN])))
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    minutes = sum(len(values) - WARM_UP for values in clean.values()) / options.rate / 60.0
    candidates = sorted({value for values in clean.values() for value in values})
    threshold = next(
        value
        for value in candidates
        if sum(alarms(values, value, options.rate) for values in clean.values()) <= minutes
    )
    rows = {
        name: {
            "largest_without": max(values[WARM_UP:]),
            "events": [value for own, value in flagged if own == name],
        }
        for name, values in clean.items()
    }
    result = {
        "model": options.model,
        "minutes_without_events": minutes,
        "threshold": threshold,
        "events": len(flagged),
        "flagged": float(np.mean([value > threshold for _, value in flagged])),
        "clips": rows,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "clips"}))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
