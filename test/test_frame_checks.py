"""A frame is uint8 [H, W, 3]: everything that takes one says the same of what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_helpers import tiny_prediction_model
from shapes import TINY_MODEL

from stremn_ros.errors import InputError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.resize import resize
from stremn_ros.imaging.seeding import make_mask
from stremn_ros.imaging.video import VideoWriter
from stremn_ros.imaging.visualization import contact_sheet, overlay
from stremn_ros.predictor import Predictor
from stremn_ros.segmenter import Segmenter

WRONG = {
    "gray": (np.zeros((8, 8), np.uint8), r"must have the shape \[H, W, 3\], not \[8, 8\]"),
    "alpha": (np.zeros((8, 8, 4), np.uint8), r"not \[8, 8, 4\]"),
    "empty": (np.zeros((0, 8, 3), np.uint8), r"not \[0, 8, 3\]"),
    "float": (np.zeros((8, 8, 3), np.float32), r"must be a uint8 array \[H, W, 3\], not float32"),
    "a list": ([[[0, 0, 0]]], "not list"),
    "none": (None, "not NoneType"),
}


@pytest.fixture(scope="module")
def takers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Any], Any]]:
    segmenter = Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch")
    predictor = Predictor.load(tiny_prediction_model(tmp_path_factory.mktemp("model")))
    writer = VideoWriter(tmp_path_factory.mktemp("video") / "a.mp4")
    labels = np.zeros((8, 8), np.uint8)
    return {
        "check_frame": check_frame,
        "Segmenter.seed": lambda frame: segmenter.seed(frame, labels),
        "Segmenter.step": segmenter.step,
        "Predictor.step": predictor.step,
        "make_mask": lambda frame: make_mask(frame, box=(1, 1, 4, 4)),
        "overlay": lambda frame: overlay(frame, labels),
        "contact_sheet": lambda frame: contact_sheet([frame]),
        "VideoWriter.write": writer.write,
    }


@pytest.mark.parametrize("kind", WRONG)
def test_everything_that_takes_frames_says_what_is_wrong(
    takers: dict[str, Callable[[Any], Any]], kind: str
) -> None:
    frame, said = WRONG[kind]
    for name, take in takers.items():
        with pytest.raises(InputError, match=said):
            pytest.fail(f"{name} took it: {take(frame)}")


def test_a_frame_is_taken() -> None:
    check_frame(np.zeros((1, 1, 3), np.uint8))


def test_no_other_module_checks_frames() -> None:
    root = Path(__file__).resolve().parent.parent / "stremn_ros"
    found = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if "must have the shape [H, W, 3]" in path.read_text()
        or "frame.dtype != np.uint8" in path.read_text()
    ]
    assert found == ["imaging/checks.py"]


def test_resizing_averages_where_it_shrinks() -> None:
    lines = np.zeros((16, 16, 3), np.uint8)
    lines[::2] = 200
    assert np.unique(resize(lines, (8, 8))).tolist() == [100]
    assert resize(lines, (16, 16)) is lines
    larger = resize(lines[..., 0], (32, 32))
    assert larger.shape == (32, 32)
    assert {50, 150} <= set(np.unique(larger).tolist())  # halfway between: linear
