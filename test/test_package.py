"""The package's own names: what they are, when they are loaded, and that the README's lines run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from command_helpers import ROOT, printed, run_python
from shapes import DISC, TINY_MODEL, scene

import stremn_ros
from stremn_ros.imaging.video import VideoWriter, open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.predictor import Predictor
from stremn_ros.segmenter import Segmenter

HEAVY = {"torch", "cv2", "numpy", "PIL", "onnxruntime", "rclpy"}


def in_fresh_python(code: str, folder: Path = ROOT, **changes: str) -> str:
    """What a Python of its own prints."""
    return printed(run_python("-c", code, cwd=folder, **changes))


def test_the_names_are_those_of_their_modules() -> None:
    assert stremn_ros.Segmenter is Segmenter
    assert stremn_ros.Predictor is Predictor
    assert stremn_ros.open_frames is open_frames
    assert stremn_ros.read_label_png is read_label_png
    assert set(stremn_ros.__all__) <= set(dir(stremn_ros))
    assert all(hasattr(stremn_ros, name) for name in stremn_ros.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = stremn_ros.Segmentor
    with pytest.raises(ImportError, match="Segmentor"):
        exec("from stremn_ros import Segmentor")


@pytest.mark.parametrize(
    ("statement", "loads"),
    [
        ("import stremn_ros; dir(stremn_ros); stremn_ros.__version__", set()),
        ("from stremn_ros import open_frames", {"cv2", "numpy"}),
        ("from stremn_ros import HintMasks", {"cv2", "numpy", "torch"}),
        ("from stremn_ros import read_label_png", {"cv2", "numpy"}),
        ("from stremn_ros import Segmenter", {"cv2", "numpy", "torch"}),
    ],
)
def test_only_what_is_used_is_loaded(statement: str, loads: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*({HEAVY} & sys.modules.keys()))"
    assert set(in_fresh_python(code).split()) == loads


def test_the_first_python_of_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    code = textwrap.dedent(next(block for block in blocks if "    from stremn_ros import" in block))
    shutil.copytree(TINY_MODEL, tmp_path / "models" / "segment_lite0")
    ys, xs = np.nonzero(scene(0)[1] == DISC)
    box = (xs.min() - 4, ys.min() - 4, np.ptp(xs) + 9, np.ptp(ys) + 9)
    assert code.count("box=(210, 120, 90, 110)") == 1
    code = code.replace("(210, 120, 90, 110)", str(tuple(map(int, box))))
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for step in range(4):
            writer.write(scene(step)[0])
    said = in_fresh_python(code, tmp_path, STREMN_MODELS=str(tmp_path / "models"))
    lines = said.splitlines()
    assert len(lines) == 3, said
    assert all(re.match(r"1 (TRACKED|OCCLUDED|LOST) \d\.\d\d ", line) for line in lines), said


def test_the_types_are_shipped_and_every_module_with_them(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "stremn_ros" / "py.typed").is_file()
    built, source = (
        {str(path.relative_to(root)) for path in (root / "stremn_ros").rglob("*.py")}
        for root in (tmp_path, ROOT)
    )
    assert built == source


def test_ci_runs_the_linters_before_the_tests() -> None:
    lines = [line.split() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    steps = [words[-1] for words in lines if "make" in words[:2]]
    assert steps == ["lint", "test"]


def test_the_old_names_of_modules_are_the_new_modules_and_say_so() -> None:
    code = """
import importlib, sys, warnings
import stremn_ros
from stremn_ros.moved import MOVED, install
install()
for old, new in MOVED.items():
    if new == "stremn_ros.client.launching":  # it needs launch, which has no wheels
        continue
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    ours = [str(each.message) for each in said if "the old name goes" in str(each.message)]
    assert ours == [f"{old} is now {new}; the old name goes with the next release"], (old, said)
    assert module is sys.modules[new] is sys.modules[old]
    assert module.__name__ == module.__spec__.name == new
    importlib.reload(module)
from stremn_ros.video import open_frames
assert open_frames is sys.modules["stremn_ros.imaging.video"].open_frames
try:
    import stremn_ros.nodes.nothing
except ModuleNotFoundError:
    print("done")
"""
    assert in_fresh_python(code) == "done\n"


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed")
def test_the_client_is_public() -> None:
    code = """
import sys
import stremn_ros.client
assert "rclpy" not in sys.modules
from stremn_ros.client import SegmentClient
assert SegmentClient.__module__ == "stremn_ros.client.segment_client"
try:
    from stremn_ros.client import Nothing
except ImportError:
    print("done")
"""
    assert in_fresh_python(code) == "done\n"


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed")
def test_an_old_name_is_run_as_a_program_too() -> None:
    """Launch files of users may start it so."""
    said = printed(run_python("-m", "stremn_ros.nodes.bring_up", "--help"))
    assert "usage" in said.lower()
