"""Makes test/data/tiny_model: a network small enough for any test that follows colored shapes.

    python test/make_tiny_model.py

Trained for a minute on drawn shapes, so the weights carry nobody's licence but ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from stremn_ros.data.mixture import Phase
from stremn_ros.training.segment import SegmentTraining, train


def draw_photo(rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A blurred background with three plain shapes, and their labels."""
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((size, size), np.uint8)
    for number in (1, 2, 3):
        shape = np.zeros((size, size), np.uint8)
        centre = tuple(int(v) for v in rng.integers(size // 5, size - size // 5, 2))
        if rng.random() < 0.5:
            axes = tuple(int(v) for v in rng.integers(10, 26, 2))
            cv2.ellipse(shape, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            half = rng.integers(9, 24, 2)
            low, high = np.array(centre) - half, np.array(centre) + half
            cv2.rectangle(shape, low.tolist(), high.tolist(), 1, -1)
        image[shape > 0] = rng.integers(0, 256, 3)
        labels[shape > 0] = number
    noise = rng.normal(0.0, 6.0, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), labels


def main() -> None:
    """Draws photos, trains on them and leaves the model in test/data."""
    from PIL import Image

    target = Path(__file__).parent / "data" / "tiny_model"
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("images", "masks"):
            (Path(folder) / name).mkdir()
        for number in range(300):
            image, labels = draw_photo(rng)
            Image.fromarray(image).save(Path(folder) / "images" / f"{number:03}.jpg", quality=95)
            Image.fromarray(labels).save(Path(folder) / "masks" / f"{number:03}.png")
        config = SegmentTraining(
            run=f"{folder}/run",
            photos=folder,
            phases=[
                Phase(900, frames=3, size=96, batch=8, video_share=0.0, two_objects=0.5),
                Phase(300, frames=5, size=96, batch=8, slots=3, video_share=0.0, two_objects=0.5),
            ],
            network={
                "read_cells": 16,
                "encoder": "tiny",
                "template_channels": 32,
                "key_channels": 16,
                "value_channels": 32,
                "query_channels": 16,
                "decoder_channels": [32, 24, 16],
            },
            defaults={"slots": 4, "processing_size": 96},
            encoder_weights=None,
            learning_rate=2e-3,
            encoder_learning_rate=2e-3,
            decay=400,
            threads=1,
            checkpoint_every=10_000,
        )
        model = train(config)
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "weights.safetensors"):
            (target / name).write_bytes((model / name).read_bytes())


if __name__ == "__main__":
    main()
