"""What the memory of a prediction network is worth where background comes into view again.

An object (an ellipse with the texture of one video) moves steadily over a still picture (a frame of
another). It is as long as it moves in a few frames, so what it uncovers was seen before, but in
neither of the last two frames. The error is measured on those pixels alone, with the memory and
without it, beside the optical flow.

python benchmark/predict_uncovered.py --root DAVIS_DEV/JPEGImages/480p --json OUT.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stremn_ros.clip_state import forecast
from stremn_ros.data.prediction_clips import find_videos, video_clips
from stremn_ros.evaluation.prediction import optical_flow, to_tensor
from stremn_ros.files import write_json
from stremn_ros.model_folder import find_model, load_prediction_network


class Clip(NamedTuple):
    """A drawn clip."""

    frames: NDArray[np.uint8]  # [T, H, W, 3]
    covered: NDArray[np.bool_]  # [T, H, W], by the object


def draw_clip(
    rng: np.random.Generator,
    background: NDArray[np.uint8],
    texture: NDArray[np.uint8],
    observe: int,
    count: int,
) -> Clip:
    """An object that moves over a still picture and is in its middle at the last frame seen.

    Args:
        background, texture: [H, W, 3]; observe: frames seen, of ``count`` in all.
    """
    height, width = background.shape[:2]
    speed = rng.uniform(0.03, 0.05) * width  # pixels in a frame
    length = rng.uniform(2.2, 3.2) * speed  # its pixels are covered for two to three frames
    angle = rng.uniform(0.0, 2.0 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    across = rng.uniform(0.15, 0.3) * height
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames, covered = [], []
    for n in range(count):
        moved = (n - observe + 1) * speed * way
        center = np.array([width, height]) / 2.0 + moved
        along = (x - center[0]) * way[0] + (y - center[1]) * way[1]
        aside = (y - center[1]) * way[0] - (x - center[0]) * way[1]
        inside = (2.0 * along / length) ** 2 + (2.0 * aside / across) ** 2 < 1.0
        shift = np.column_stack([np.eye(2), moved])
        picture = cv2.warpAffine(texture, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames.append(np.where(inside[..., None], picture, background))
        covered.append(inside)
    return Clip(np.stack(frames).astype(np.uint8), np.stack(covered))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="predict_rgb")
    parser.add_argument("--root", type=Path, required=True, help="folders of frames, or videos")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--observe", type=int, default=9)
    parser.add_argument("--json")
    options = parser.parse_args()
    network, _ = load_prediction_network(find_model(options.model))
    horizon, observe = network.config.horizon, options.observe
    pictures = [
        next(iter(video_clips([video], options.size, 1, 1))).frames[0]
        for video in find_videos(options.root)
    ]
    rng = np.random.default_rng(0)
    flow = optical_flow()
    errors: dict[str, list[float]] = {"flow": [], "memory": [], "no memory": [], "share": []}
    for n in tqdm(range(options.clips), unit="clip"):
        background, texture = (pictures[(n + k) % len(pictures)] for k in (0, 1 + n % 3))
        clip = draw_clip(rng, background, texture, observe, observe + horizon)
        seen, coming = clip.frames[None, :observe], clip.frames[observe:]
        before = ~clip.covered[: observe - 2].all(axis=0)
        again = clip.covered[observe - 2 : observe].all(axis=0) & before & ~clip.covered[observe:]
        errors["share"].append(float(again.mean()))
        predictions = {"flow": flow(seen, horizon)[0]}
        for name, with_memory in (("memory", True), ("no memory", False)):
            future = forecast(network, to_tensor(seen), horizon, with_memory=with_memory)
            predictions[name] = future.frames[0]
        truth = to_tensor(coming[None])[0]
        for name, predicted in predictions.items():
            squares = (predicted.clamp(0.0, 1.0) - truth).square().mean(dim=1).numpy()
            errors[name].append(float(squares[again].mean()))
    memory, without = (-10.0 * np.log10(errors[name]) for name in ("memory", "no memory"))
    result = {
        "model": options.model,
        "clips": options.clips,
        "size": options.size,
        "observe": observe,
        "share_of_pixels": round(float(np.mean(errors.pop("share"))), 4),
        "psnr_db": {
            name: round(float(-10.0 * np.log10(each).mean()), 2) for name, each in errors.items()
        },
        "memory_db": round(float((memory - without).mean()), 3),
        "memory_db_standard_error": round(float((memory - without).std() / len(memory) ** 0.5), 3),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    with torch.no_grad():
        main()
