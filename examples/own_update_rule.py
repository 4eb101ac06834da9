"""Try your own update rule: which two slots are fused when the memory of an object is full?

python examples/own_update_rule.py clip.mp4 --mask first_frame_mask.png

It follows the objects twice, with your rule and with the model's own, and compares the masks. To
keep a rule, add it to stremn_ros/memory/rules.py: then the node, the command line and the training
have it.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from stremn_ros import Segmenter, open_frames, read_label_png
from stremn_ros.memory.rules import RULES, Rule


def two_oldest(similarity: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Fuses the two oldest slots, so that the recent ones stay as they are.

    similarity: float32 [n, n] of the unlocked slots, oldest first. The seed's slot is locked: it is
    not among them. Each pair (i, j) fuses slot i into slot j. The first pair's i becomes free for
    the new template.
    """
    assert similarity.shape[0] >= 2
    return [(0, 1)]


RULES["two_oldest"] = Rule("fuse the two oldest slots", two_oldest)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare an update rule with the model's own.")
    parser.add_argument("video", help="video file, or folder of images")
    parser.add_argument("--mask", required=True, help="label mask of the first frame")
    parser.add_argument("--model", default="segment_lite0")
    options = parser.parse_args()

    own = Segmenter.load(options.model, update_rule="two_oldest")
    default = Segmenter.load(options.model)
    segmenters = (own, default)
    frames = iter(open_frames(options.video))  # RGB uint8 [H, W, 3]
    first, labels = next(frames), read_label_png(options.mask)
    for segmenter in segmenters:
        segmenter.seed(first, labels)

    count, agreement = 0, 0.0
    for frame in frames:
        mine, usual = (segmenter.step(frame).labels for segmenter in segmenters)
        either = (mine > 0) | (usual > 0)
        agreement += float((mine == usual)[either].mean()) if either.any() else 1.0
        count += 1
    print(f"two_oldest against {default.options.update_rule}, {count} frames:")
    print(f"the masks agree in {100 * agreement / max(1, count):.1f} % of the objects' pixels")
    for memory in own.look_inside():
        print(f"object {memory.id}: {memory.text()}")


if __name__ == "__main__":
    main()
