"""Generated sequences with known masks, and a small segmenter of the contract (by color)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from PIL import Image

from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png

COLORS = np.array([[60, 60, 60], [220, 40, 40], [40, 200, 60], [60, 80, 230], [230, 210, 40]])


def moving_shapes(frames=8, height=72, width=128, objects=2, seed=0):
    """RGB frames uint8 [T, H, W, 3] of colored discs that move, and their labels [T, H, W]."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((frames, height, width), np.uint8)
    rows, columns = np.ogrid[:height, :width]
    for label in range(1, objects + 1):
        y, x = height * rng.uniform(0.3, 0.7), width * (0.15 + 0.7 * label / (objects + 1))
        speed, radius = rng.uniform(-2, 2, 2), rng.uniform(0.12, 0.2) * height
        for t in range(frames):
            inside = (rows - y - speed[0] * t) ** 2 + (columns - x - speed[1] * t) ** 2
            labels[t][inside <= radius**2] = label
    noise = rng.integers(-10, 11, (frames, height, width, 1))
    return np.clip(COLORS[labels] + noise, 0, 255).astype(np.uint8), labels


def write_davis(root, sequences, image_set="2017", split="val", values=None):
    """Writes {name: (frames, labels)} in DAVIS' layout; values maps ids to other pixel values."""
    for name, (frames, labels) in sequences.items():
        for index, (frame, mask) in enumerate(zip(frames, labels)):
            write_image(root / "JPEGImages" / "480p" / name / f"{index:05d}.jpg", frame)
            path = root / "Annotations" / "480p" / name / f"{index:05d}.png"
            if values is None:
                write_label_png(path, mask)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.array(values, np.uint8)[mask]).save(path)
    write_split(root, list(sequences), image_set, split)
    return root


def write_split(root, lines, image_set="2017", split="val"):
    path = root / "ImageSets" / image_set / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n\n")


class ColorSegmenter:
    """Takes each object to be where its color at the seed is nearest; a few rows are off."""

    runtime_name = "test"
    update_rule = "none"
    processing_size = None
    memory = SimpleNamespace(slots=0)

    def __init__(self, shift=0, max_objects=8):
        self.shift = shift
        self.max_objects = max_objects
        self.reset()

    def reset(self):
        self.colors = {}
        self.calls = []

    def seed(self, frame, mask, *, ids=None, replace=False):
        self.calls.append("seed")
        found = [int(label) for label in np.unique(mask) if label]
        self.colors = {label: frame[mask == label].mean(0) for label in found}
        self.colors[0] = frame[mask == 0].mean(0)
        return found

    def step(self, frame):
        self.calls.append("step")
        labels = np.array(sorted(self.colors), np.uint8)
        distances = [np.abs(frame - self.colors[label]).sum(2) for label in sorted(self.colors)]
        found = labels[np.argmin(distances, axis=0)]
        return SimpleNamespace(labels=np.roll(found, self.shift, 1), objects=[])
