"""What the README and docs tell people to type runs, or says what it needs.

A user's first commands are run here as they are written. For the rest a table names the test file
that runs the same command on small inputs, or what no test machine has.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_helpers import write_davis
from recordings_helpers import camera, file_of, seeds_file, write_bag
from test_docs_commands import PAGES, ROOT, commands

from stremn_ros.cli import main
from stremn_ros.imaging.video import VideoWriter
from stremn_ros.imaging.visualization import write_label_png

TINY = ROOT / "test" / "data" / "tiny_model"

# run here, word by word; capitals stand for a file of the desk
HERE = {
    "stremn --help": "",
    "stremn segment clip.mp4 --box 210,120,90,110 --out DIR": "DIR",
    "stremn segment clip.mp4 --box 210,120,90,110 --out out/clip": "out/clip",
    "stremn segment clip.mp4 --mask first_frame_mask.png --out out/clip": "out/clip",
    "stremn segment clip.mp4 --model my_model --box 210,120,90,110 --out out/clip": "out/clip",
    "stremn label drive.mcap --seeds seeds.yaml --out DIR": "DIR/manifest.json",
    "stremn label drive.mcap --seeds seeds.yaml --out labels": "labels/manifest.json",
    "stremn inspect VIDEO_OR_FOLDER --mask FIRST.png --out DIR": "DIR",
    "stremn predict VIDEO --observe 10 --horizon 4 --out out/predict": "out/predict",
    "stremn evaluate davis --root DAVIS --split val --json out.json --pictures out/": "out.json",
    "stremn train segment --help": "",
    "stremn train clicks --help": "",
}

# the beginning of a command: the test file that runs it, and what is to be found there
IN_TESTS = {
    "make lint": (".ci/run", "make lint"),
    "make test PYTEST_ARGS": ("Makefile", "PYTEST_ARGS"),
    "make test": (".ci/run", "make test"),
    "make setup": ("Makefile", "setup.sh"),
    "make tools": ("Makefile", "test: tools"),
    "make docs": ("test/test_docs_site.py", "mkdocs"),
    "make demo": ("test/test_house_demo.py", "demo"),
    "colcon build": ("test/test_colcon.py", '"build"'),
    "python -m pytest": ("Makefile", "-m pytest"),
    "python -m stremn_ros.nodes.parameters": ("test/test_docs.py", "parameters.md"),
    "python -m stremn_ros.training.averaging": ("test/test_training.py", "averaging"),
    "python -m stremn_ros.data.rendered": ("test/test_rendered.py", "rendered"),
    "python benchmark/longrun.py": ("test/test_evaluation_bench.py", "longrun.py"),
    "python benchmark/spatial.py": ("test/test_spatial.py", '"spatial.py"'),
    "python benchmark/spatial_node.py": ("test/test_spatial.py", '"spatial_node.py"'),
    "python benchmark/spatial_accuracy.py": ("test/test_spatial.py", '"spatial_accuracy.py"'),
    "python test/faults/storm.py": ("test/faults/test_faults_storm.py", "from storm import"),
    "python3 examples/follow_object.py": ("test/test_example_follow.py", "follow_object"),
    "stremn bench": ("test/test_evaluation_bench.py", "bench"),
    "stremn doctor": ("test/test_cli_doctor.py", "doctor"),
    "stremn evaluate clicks": ("test/test_clicks.py", '"clicks"'),
    "stremn evaluate davis": ("test/test_cli.py", '"davis"'),
    "stremn evaluate kth|human36m|video": ("test/test_prediction.py", '"kth", "human36m"'),
    "stremn evaluate moving-mnist": ("test/test_prediction.py", "moving-mnist"),
    "stremn evaluate suite": ("test/test_evaluation_suite.py", '"suite"'),
    "stremn evaluate video": ("test/test_prediction.py", '"video"'),
    "stremn export": ("test/test_cli.py", '"export"'),
    "stremn label": ("test/test_recordings_label.py", '"label"'),
    "stremn predict": ("test/test_prediction.py", '"predict"'),
    "stremn seed": ("test/test_nodes_client.py", '"seed"'),
    "stremn segment": ("test/test_cli.py", '"segment"'),
    "stremn sweep": ("test/test_evaluation_sweep.py", "sweep"),
    "stremn train": ("test/test_training.py", "train"),
    "stremn view": ("test/test_web_video.py", '"view"'),
    "segment_node": ("test/test_nodes_entry.py", "segment_node"),
}

# the beginning of a command: what it needs that no test machine has
NEEDS = {
    "cd": "a folder of the user's",
    "export": "a shell",
    "git clone": "a network",
    "make clean": "an installation to give up",
    "pip install": "a network; `make setup` installs the same from the pinned list",
    "sudo apt-get": "root, and a network",
    "rosdep": "ROS's own tools, and a network",
    "python3 -c": "a Jetson",
    "python benchmark/gpu_frame.py": "a GPU",
    "python benchmark/compare_trackers.py": "checkouts of other trackers, with their weights",
    "python benchmark/predicted_masks.py": "DAVIS",
    "python benchmark/precision_drift.py": "DAVIS",
    "python benchmark/predict_uncovered.py": "DAVIS",
    "python benchmark/clip_rate.py": "the training data",
    "python benchmark/compare_runtimes.py": "an idle machine: it measures times",
    "python benchmark/predict_longrun.py": "an idle machine: it measures times",
    "python benchmark/label_cost.py": "an idle machine: it measures times",
    "python benchmark/camera.py": "an idle machine: it measures times",
    "python benchmark/soak.py": "half an hour",
    "python benchmark/page.py": "an idle machine: it measures times",
    # ROS's own command line is not among the packages of `make setup`. The topics, services,
    # parameters and launch files that it is given are compared with the code.
    "ros2": "a ROS installation",
}

Commands = dict[str, list[str]]


def documented() -> Commands:
    """The commands of all pages, with the pages that have them."""
    programs = "stremn ros2 python python3 make pip sudo git colcon rosdep cd export segment_node"
    found: Commands = {}
    for page in PAGES:
        for words in commands(page.read_text()):
            if words[0] in programs.split():
                found.setdefault(" ".join(words), []).append(str(page.relative_to(ROOT)))
    return found


def covering(command: str, table: dict[str, object]) -> str | None:
    """The longest beginning in a table that a command has."""
    fitting = [start for start in table if f"{command} ".startswith((f"{start} ", f"{start}="))]
    return max(fitting, key=len, default=None)


def test_each_documented_command_is_run_or_says_what_it_needs() -> None:
    told = documented()
    tables = {**IN_TESTS, **NEEDS}
    open_ended = {
        command: pages
        for command, pages in told.items()
        if command not in HERE
        and covering(command, tables) is None
        # capitals stand for any of them, a name alone for the program
        and not re.fullmatch(r"stremn [A-Z]+ --help|stremn \w+|ros2 \w+ \w+", command)
    }
    assert open_ended == {}


def test_the_tables_name_no_command_that_is_documented_nowhere() -> None:
    told = documented()
    tables = {**IN_TESTS, **NEEDS}
    used = {covering(command, tables) for command in told}
    assert set(tables) - used == set()
    assert set(HERE) - set(told) == set()


@pytest.mark.parametrize("start", IN_TESTS)
def test_the_named_test_runs_the_command(start: str) -> None:
    file, word = IN_TESTS[start]
    assert word in (ROOT / file).read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name; ``segment_lite0`` is the tiny model."""
    folder = tmp_path_factory.mktemp("desk")
    labels = np.zeros((12, 240, 320), np.uint8)
    for n, label in enumerate(labels):  # a disc in the box that the commands name
        cv2.circle(label, (255 + n, 175), 45, 1, cv2.FILLED)
    noise = np.random.default_rng(0).integers(0, 20, (*labels.shape, 3))
    frames = np.where(labels[..., None], (230, 120, 40), (60, 90, 60)) + noise
    frames = frames.astype(np.uint8)
    with VideoWriter(folder / "clip.mp4", 10) as video:
        for frame in frames:
            video.write(frame)
    for name in ("VIDEO.mp4", "VIDEO_OR_FOLDER.mp4"):
        shutil.copy(folder / "clip.mp4", folder / name)
    for name in ("first_frame_mask.png", "FIRST.png"):
        write_label_png(folder / name, labels[0])
    bag = write_bag(folder / "bag", "mcap", camera("mcap", list(frames)))
    shutil.copy(file_of(bag), folder / "drive.mcap")
    seeds_file(folder, {"frame": 0, "id": 1, "name": "cup", "mask": np.asarray(labels[0])})
    write_davis(folder / "DAVIS", {"disc": (frames, labels)})
    for name in ("segment_lite0", "my_model"):
        shutil.copytree(TINY, folder / "models" / name)
    return folder


@pytest.mark.parametrize("command", HERE)
def test_the_command_runs_as_it_is_written(
    command: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setenv("STREMN_MODELS", str(desk / "models"))
    words = [f"{w}.mp4" if w in ("VIDEO", "VIDEO_OR_FOLDER") else w for w in command.split()[1:]]
    for name in ("DIR", "out", "labels", "out.json"):
        made = desk / name
        shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    try:
        code = main(words)
    except SystemExit as ended:  # of --help
        code = ended.code
    assert code in (0, None)
    result = desk / HERE[command]
    assert result.exists()
    if result.is_dir():
        assert any(result.iterdir())
