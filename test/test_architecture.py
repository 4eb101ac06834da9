"""docs/architecture.md names the files to touch for what people add: a toy of each is added to a
copy of the package, by changes to those files alone."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import TINY_MODEL

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"

# of each task: the files, a text in each, and what is put before that text
ROWS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "An update rule": (
        (
            "stremn_ros/memory/rules.py",
            '    "first_and_previous": Rule(',
            '    "toy": Rule("the second oldest goes", lambda t: [(1, len(t) - 1)]),\n',
        ),
    ),
    "A runtime": (
        (
            "stremn_ros/runtime/table.py",
            '    "cudagraphs": Runtime(',
            '    "toy": Runtime("a toy"),\n',
        ),
        (
            "stremn_ros/runtime/choose.py",
            '    "cudagraphs": lambda',
            '    "toy": lambda network, device, *_: TorchStages(network, device),\n',
        ),
    ),
    "An output topic": (
        (
            "stremn_ros/nodes/outputs.py",
            '    Output("overlay", Image',
            '    Output("toy", Image, _mask),\n',
        ),
    ),
    "A backbone": (
        (
            "stremn_ros/network/encoders.py",
            '    "tiny": TinyEncoder,',
            '    "toy": type("Toy", (TinyEncoder,), {"mean": (0.0, 0.0, 0.0)}),\n',
        ),
    ),
    "An image encoding": (
        (
            "stremn_ros/messages/image_read.py",
            '    "nv12": Encoding(',
            '    "toy": Encoding(lambda rows: 255 - rows, channels=3),\n',
        ),
    ),
}

USES = {
    "An update rule": """
from stremn_ros.nodes.parameters import UPDATE_RULES
from stremn_ros.segmenter import Segmenter
assert "toy" in UPDATE_RULES
segmenter = Segmenter.load(MODEL, runtime="torch", update_rule="toy", update_every=1, slots=4)
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
segmenter.seed(frame, np.ones((96, 128), np.uint8))
for _ in range(6):
    assert segmenter.step(frame).labels.shape == (96, 128)
assert segmenter.update_rule == "toy"
""",
    "A runtime": """
from stremn_ros.runtime.table import LISTED
assert " toy" in LISTED
from stremn_ros.segmenter import Segmenter
segmenter = Segmenter.load(MODEL, runtime="toy")
frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
segmenter.seed(frame, np.ones((96, 128), np.uint8))
assert segmenter.step(frame).labels.any()
""",
    "An output topic": """
import rclpy
from rclpy.lifecycle import LifecycleNode
from stremn_ros.nodes.outputs import Outputs
from stremn_ros.stream.settings import Settings
rclpy.init()
node = LifecycleNode("toy_node")
Outputs(node, "~/", Settings(), {})
names = [publisher.topic_name for publisher in node.publishers]
assert "/toy_node/toy" in names, names
""",
    "A backbone": """
import torch
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
config = SegmentationConfig(encoder="toy", template_channels=32, key_channels=16,
                            value_channels=32, query_channels=32, decoder_channels=(32, 16, 16))
query = SegmentationNetwork(config).encode_query(torch.zeros(1, 3, 64, 96))
assert query.key.shape == (1, 16, 4, 6)
""",
    "An image encoding": """
from types import SimpleNamespace
from stremn_ros.messages.reading import decode
image = SimpleNamespace(height=2, width=2, encoding="toy", step=6, is_bigendian=0, data=bytes(12))
assert (decode(image) == 255).all()
""",
}


def named_files(task: str) -> list[str]:
    """The files of the package that the page names below a task's heading."""
    text = PAGE.read_text()
    found = re.search(rf"^### {task}\n(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"docs/architecture.md has no part '{task}'"
    return re.findall(r"`(stremn_ros/[\w/]+\.py)`", found[1])


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which each toy was added."""
    root = tmp_path_factory.mktemp("extended")
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "stremn_ros", root / "stremn_ros", ignore=leave)
    shutil.copytree(ROOT / "models", root / "models", ignore=leave)
    shutil.copytree(ROOT / "config", root / "config", ignore=leave)
    for task, rows in ROWS.items():
        for name, before, row in rows:
            assert name in named_files(task)
            path = root / name
            text = path.read_text()
            assert text.count(before) == 1, f"{name}: {before}"
            path.write_text(text.replace(before, row + before))
    return root


@pytest.mark.parametrize("task", ROWS)
def test_a_toy_works_with_the_named_files_touched_alone(extended: Path, task: str) -> None:
    if task == "An output topic" and importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed")
    code = f"import numpy as np\nMODEL = {str(TINY_MODEL)!r}\n{USES[task]}\nprint('works')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code]
        if sys.version_info >= (3, 11)
        else [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"},
        cwd=extended,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "works\n", done.stderr
