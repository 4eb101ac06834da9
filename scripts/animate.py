"""Makes an animated picture (WebP) of videos, one after the other: docs/follow.webp is made so.

    stremn demo
    stremn segment box.mp4 --id 4 --out out/box \\
      --polygon "356,22;598,78;580,160;544,242;300,165;300,80"
    python scripts/animate.py out/demo/overlay.mp4 out/box/overlay.mp4 --out docs/follow.webp

box.mp4 is one of OpenCV's sample videos (opencv/samples, Apache-2.0).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stremn_ros import open_frames
from stremn_ros.errors import InputError


def sampled(path: Path, count: int, size: tuple[int, int]) -> list[Image.Image]:
    """`count` frames, evenly spread over a video, cut to the aspect of `size` (width, height).

    The first twentieth is left out: a live node segments no frame before its seed.
    """
    frames = list(open_frames(path))
    frames = frames[len(frames) // 20 :]
    if not frames:
        raise InputError(f"{path} has no frames")
    width, height = size
    chosen = []
    for index in np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int):
        frame = frames[index]
        rows, columns = frame.shape[:2]
        scale = max(width / columns, height / rows)
        cut_rows, cut_columns = round(height / scale), round(width / scale)
        top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
        part = frame[top : top + cut_rows, left : left + cut_columns]
        chosen.append(Image.fromarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA)))
    return chosen


def animate(videos: list[Path], out: Path, count: int, size: tuple[int, int], rate: float) -> int:
    """Writes the picture; how many bytes it has. The quality falls until it has at most 3 MB."""
    frames = [frame for video in videos for frame in sampled(video, count, size)]
    for quality in (70, 60, 50, 40, 30, 20):
        frames[0].save(
            out,
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / rate),
            loop=0,
            quality=quality,
            method=6,
        )
        if out.stat().st_size <= 3_000_000:
            return out.stat().st_size
    raise InputError(
        f"{out} has more than 3 MB at the lowest quality: take fewer or smaller frames"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=40, help="of each video (default: 40)")
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=300)
    parser.add_argument("--rate", type=float, default=8.0, help="frames a second (default: 8)")
    options = parser.parse_args()
    size = (options.width, options.height)
    try:
        written = animate(options.videos, options.out, options.frames, size, options.rate)
    except InputError as error:
        print(f"animate: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {written} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
