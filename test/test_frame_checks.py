"""A frame is uint8 [H, W, 3]: everything that takes one says the same of what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_helpers import tiny_prediction_model
from shapes import TINY_MODEL, scene

from stremn_ros.errors import InputError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.resize import resize
from stremn_ros.imaging.seeding import make_mask
from stremn_ros.imaging.video import VideoWriter, read_image, write_image
from stremn_ros.imaging.visualization import (
    contact_sheet,
    overlay,
    read_label_png,
    write_label_png,
)
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


def read_only(frame: np.ndarray) -> np.ndarray:
    frame = frame.copy()
    frame.flags.writeable = False
    return frame


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "BGR as RGB": lambda frame: frame[..., ::-1],
    "mirrored": lambda frame: frame[:, ::-1],
    "turned": np.rot90,
    "transposed": lambda frame: frame.transpose(1, 0, 2),
    "a part": lambda frame: frame[4:68, 8:120],
    "gray": lambda frame: np.broadcast_to(frame[..., :1], frame.shape),
    "read-only": read_only,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("exact", [True, False], ids=["processing size", "another size"])
def test_a_view_is_a_frame_as_good_as_its_copy(view: str, exact: bool, tmp_path: Path) -> None:
    """PyTorch takes no negative strides and warns of read-only arrays, OpenCV refuses others."""
    model = tiny_prediction_model(tmp_path / "model")
    made = [scene(number, (96, 128)) for number in range(3)]
    frames = [VIEWS[view](frame) for frame, _ in made]
    truth = VIEWS[view](np.repeat(made[0][1][..., None], 3, axis=2))[..., 0]
    size = frames[0].shape[:2] if exact else (64, 80)  # a frame of this size is not resized
    found = []
    for kind in (lambda frame: frame, lambda frame: np.array(frame, order="C")):
        segmenter = Segmenter.load(TINY_MODEL, device="cpu", processing_size=size)
        segmenter.seed(kind(frames[0]), kind(truth))
        labels = [segmenter.step(kind(frame)).labels for frame in frames[1:]]
        labels.append(segmenter.find(kind(frames[1])))
        predictor = Predictor.load(model, device="cpu", processing_size=size, observe=3)
        for frame in frames:
            future = predictor.step(kind(frame), 1)
        shown = overlay(kind(frames[0]), kind(truth))
        write_image(tmp_path / "frame.png", kind(frames[0]))
        write_label_png(tmp_path / "mask.png", kind(truth))
        read = [read_image(tmp_path / "frame.png"), read_label_png(tmp_path / "mask.png")]
        found.append([*labels, future, shown, *read])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


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
