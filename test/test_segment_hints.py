"""`stremn segment` from a box, points or a polygon, where there is no mask of the first frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shapes import DISC, TINY_MODEL, iou, scene

from stremn_ros.cli import main
from stremn_ros.imaging.video import VideoWriter
from stremn_ros.imaging.visualization import read_label_png

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 20) as writer:
        for number in range(4):
            writer.write(scene(number)[0])
    return path


def test_segment_takes_a_box_points_or_a_polygon(clip: Path, tmp_path: Path) -> None:
    truth = scene(0)[1] == DISC
    ys, xs = np.nonzero(truth)
    box = f"{xs.min() - 6},{ys.min() - 6},{np.ptp(xs) + 12},{np.ptp(ys) + 12}"
    # the colored shapes are what GrabCut is made for
    tiny = ["--model", str(TINY_MODEL), "--runtime", "torch", "--click-model", ""]
    left, top, width, height = (int(value) for value in box.split(","))
    right, bottom = left + width, top + height
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    for words in (
        ["--box", box],
        ["--points", f"{xs.mean():.0f},{ys.mean():.0f}", "--not", "5,5"],
        ["--polygon", ";".join(f"{x},{y}" for x, y in corners)],
    ):
        out = tmp_path / words[0].strip("-")
        done = main(
            ["segment", str(clip), *words, "--out", str(out), "--end", "3", "--quiet", *tiny]
        )
        assert done == 0
        masks = [read_label_png(path) for path in sorted((out / "masks").glob("*.png"))]
        assert len(masks) == 3
        assert iou(masks[0], truth, 1) > 0.85, words
        assert iou(masks[2], scene(2)[1] == DISC, 1) > 0.5, words


def test_segment_says_which_hints_are_wrong(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["segment", str(clip), "--out", str(tmp_path / "out"), "--model", str(TINY_MODEL)]
    for words, says in (
        ([], "say where the object is in the first frame"),
        (["--not", "5,5"], "say where the object is in the first frame"),
        (["--mask", "m.png", "--box", "1,2,3,4"], "leave out --box"),
        (["--box", "1,2,3000,4"], "box"),
        (["--points", "900,2"], "outside the image"),
    ):
        assert main([*base, *words]) == 2
        assert says in capsys.readouterr().err
    for words in (["--box", "inf,1,2,3"], ["--box", "nan,1,2,3"], ["--points", "inf,1"]):
        with pytest.raises(SystemExit) as ended:
            main([*base, *words])
        assert ended.value.code == 2
        assert "is not numbers with commas" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
