"""Follow an object through a video in your own Python program. No ROS is needed.

python examples/library_video.py clip.mp4 --box 210,120,90,110
python examples/library_video.py clip.mp4 --mask first_frame_mask.png --csv path.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from contextlib import nullcontext

from stremn_ros import Segmenter, open_frames, read_label_png
from stremn_ros.imaging.seeding import make_mask
from stremn_ros.results import ObjectState


def main() -> None:
    parser = argparse.ArgumentParser(description="Write where an object is in each frame.")
    parser.add_argument("video", help="video file, or folder of images")
    seed = parser.add_mutually_exclusive_group(required=True)
    seed.add_argument("--mask", help="label mask of the first frame: each value is an object")
    seed.add_argument("--box", help="X,Y,WIDTH,HEIGHT around one object in the first frame")
    parser.add_argument("--csv", help="file for the table (default: the terminal)")
    parser.add_argument("--model", default="segment_lite0")
    options = parser.parse_args()

    segmenter = Segmenter.load(options.model)
    frames = iter(open_frames(options.video))  # RGB uint8 [H, W, 3]
    first = next(frames)
    if options.mask:
        labels = read_label_png(options.mask)
    else:
        x, y, width, height = (int(part) for part in options.box.split(","))
        labels = make_mask(first, box=(x, y, width, height))  # 1 inside the object, else 0
    segmenter.seed(first, labels)

    with open(options.csv, "w", newline="") if options.csv else nullcontext(sys.stdout) as file:
        table = csv.writer(file)
        table.writerow(["frame", "id", "state", "score", "x", "y", "area"])
        for number, frame in enumerate(frames, 1):
            result = segmenter.step(frame)  # result.labels: uint8 [H, W], 0 or the id
            for item in result.objects:
                row = [number, item.id, item.state.name, f"{item.score:.3f}"]
                if item.state is ObjectState.TRACKED:
                    row += [f"{item.centroid[0]:.1f}", f"{item.centroid[1]:.1f}", item.area]
                else:
                    row += ["", "", 0]  # not visible in this frame: there is no position
                table.writerow(row)


if __name__ == "__main__":
    main()
