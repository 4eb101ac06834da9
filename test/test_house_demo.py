"""`stremn demo` through real nodes, with a model small enough to keep up anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stremn_ros.demo import assets as demo
from stremn_ros.demo import summary
from stremn_ros.imaging.video import open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.resources import shared_file

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "test" / "data" / "tiny_model"
FRAMES = 24


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTDDS_", "FASTRTPS_"))}
    env.pop("ROS_DOMAIN_ID", None)  # the demo takes one of its own
    command = [sys.executable, "-m", "stremn_ros.cli", "demo", "--out", str(out), *words]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    end = demo.START_FRAME + FRAMES
    done = run(out, "--model", str(TINY), "--rate", "6", "--end", str(end))
    log = out / "segment_node.log"
    assert (out / "summary.json").is_file(), done.stdout + done.stderr + log.read_text()
    return out, done.stdout


@pytest.mark.slow
def test_every_published_frame_is_accounted_for(finished: tuple[Path, str]) -> None:
    summary = json.loads((finished[0] / "summary.json").read_text())
    frames = summary["frames"]
    assert frames["published"] == FRAMES
    assert frames["segmented"] + frames["dropped"] == FRAMES
    assert frames["received"] == frames["segmented"] > 0
    # whether the object is still found is for a model trained on real objects to show
    others = {text: good for text, good in summary["checks"].items() if "tracked" not in text}
    assert len(others) >= 5
    assert all(others.values()), summary["checks"]
    assert 0 < summary["frames_per_second"] < 12
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert summary["latency_ms"]["p50"] <= summary["end_to_end_latency_ms"]["p50"]


@pytest.mark.slow
def test_the_pictures_are_whole_and_the_seed_is_in_them(finished: tuple[Path, str]) -> None:
    out, text = finished
    pictures = list(open_frames(out / "overlay.mp4"))
    assert len(pictures) == FRAMES
    assert pictures[0].shape == (360, 640, 3)
    source = next(iter(open_frames(demo.demo_video(), demo.START_FRAME, size=(360, 640))))
    difference = np.abs(pictures[0].astype(int) - source).mean(axis=2)
    inside = read_label_png(shared_file("demo_seed.png")) > 0
    assert difference[inside].mean() > 3 * difference[~inside].mean()  # the tint
    raw = open_frames(demo.demo_video(), demo.START_FRAME, size=(360, 640))
    for picture, frame in zip(pictures, raw, strict=False):  # nor does a dropped frame blink
        assert (np.abs(picture.astype(int) - frame).max(axis=2) > 40).mean() > 0.01
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 1000
    for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
        assert str(out / name) in text


@pytest.mark.slow
def test_a_model_that_does_not_exist_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    done = run(tmp_path, "--model", "no_such_model")
    assert done.returncode == 2
    assert "no model 'no_such_model'" in done.stderr
    assert not (tmp_path / "summary.json").exists()
    running = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True)
    assert "no_such_model" not in running.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--video", "x.mp4"], "--video needs --mask"),
        (["--rate", "0"], "frames per second, more than 0"),
        (["--start", "3"], "the demo's mask is of frame 16"),
    ],
)
def test_wrong_arguments_are_said(tmp_path: Path, words: list[str], says: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert says in done.stderr


def test_the_drawn_masks_fit_the_video() -> None:
    frames = list(open_frames(demo.demo_video(), demo.START_FRAME, size=(360, 640)))
    for name, frame in (("demo_seed.png", frames[0]), ("demo_last.png", frames[-1])):
        mask = read_label_png(shared_file(name))
        assert mask.shape == frame.shape[:2] == (360, demo.WIDTH)
        assert np.unique(mask).tolist() == [0, 1]
        # the rabbit is grey, and around it is grass: the edge of the mask is where colors change
        ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - mask
        saturation = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1]
        assert saturation[ring > 0].mean() > 1.5 * saturation[mask > 0].mean(), name


def test_iou_of_two_masks() -> None:
    right = np.zeros((4, 4), np.uint8)
    right[:2] = 1
    right[3] = 2
    assert summary._iou(right, right) == 1.0
    found = np.zeros_like(right)
    found[:1] = 1
    found[3] = 2
    assert summary._iou(found, right) == pytest.approx((0.5 + 1.0) / 2)
