"""Both packages build with colcon in a workspace laid out as the README says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"stremn_ros": "ros.ament_python", "stremn_interfaces": "ros.ament_cmake"}
EXECUTABLES = (
    "predict_node",
    "segment_node",
    "segment_predict_node",
    "stremn",
    "video_source_node",
)
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "install", "log", "out", "*.egg-info", "__pycache__", ".*_cache"
)


def clean_environment() -> dict[str, str]:
    """This Python first, no import path inherited, and the marker of the ROS wheels taken off, as
    their libraries must be found again by each Python."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLCON_PREFIX_PATH")}
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    before = env.get("AMENT_PREFIX_PATH", "")
    if sys.prefix not in before.split(os.pathsep):
        env["AMENT_PREFIX_PATH"] = os.pathsep.join(filter(None, [before, sys.prefix]))
    return env


def run(command: list[str], folder: Path, limit: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def listed(output: str) -> dict[str, str]:
    rows = [line.split("\t") for line in output.splitlines()]
    return {name: kind.strip("()") for name, _, kind in rows}


def test_at_the_root_of_a_clone_colcon_finds_both() -> None:
    done = run(["colcon", "list", "--base-paths", ".", "stremn_interfaces"], ROOT)
    assert done.returncode == 0, done.stderr
    assert listed(done.stdout) == PACKAGES


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """src/stremn_ros, the link beside it, and what colcon built of them."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(ROOT, folder / "src" / "stremn_ros", ignore=LEFT_OUT)
    (folder / "src" / "stremn_interfaces").symlink_to("stremn_ros/stremn_interfaces")
    found = run(["colcon", "list"], folder)
    assert listed(found.stdout) == PACKAGES, found.stderr
    done = run(
        [
            "colcon",
            "build",
            "--event-handlers",
            "console_direct+",
            "--cmake-args",
            "-DBUILD_TESTING=OFF",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ],
        folder,
        limit=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


def sourced(workspace: Path, command: str) -> subprocess.CompletedProcess[str]:
    return run(["bash", "-c", f". install/setup.bash && {command}"], workspace, limit=240)


def files_below(folder: Path) -> set[str]:
    """Their paths in the folder, without what Python left there."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_executables_are_where_ros2_run_looks(workspace: Path) -> None:
    folder = workspace / "install" / "stremn_ros" / "lib" / "stremn_ros"
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXECUTABLES)
    assert all(os.access(folder / name, os.X_OK) for name in EXECUTABLES)
    share = workspace / "install" / "stremn_ros" / "share"
    assert (share / "ament_index/resource_index/packages/stremn_ros").is_file()
    for name in ("launch", "config"):
        assert files_below(share / "stremn_ros" / name) == files_below(ROOT / name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_interfaces_and_the_package_import_from_the_install_space(workspace: Path) -> None:
    code = (
        "import stremn_interfaces.msg as m, stremn_interfaces.srv as s; "
        "import stremn_ros.nodes.segment_node as n; "
        "from rclpy.serialization import deserialize_message as d, serialize_message as e; "
        "t = m.ObjectArray(objects=[m.TrackedObject(id=7, state=m.TrackedObject.LOST)]); "
        "assert d(e(t), m.ObjectArray) == t; "
        "s.SeedMask.Request, s.SeedObject.Request, s.RemoveObject, s.SaveMemory, s.LoadMemory; "
        "print(m.__file__); print(n.__file__)"
    )
    done = sourced(workspace, f'python -c "{code}"')
    assert done.returncode == 0, done.stderr
    install = str(workspace / "install")
    assert [line.startswith(install) for line in done.stdout.split()] == [True, True], done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_installed_executables_run(workspace: Path) -> None:
    folder = "install/stremn_ros/lib/stremn_ros"
    command = sourced(workspace, f"{folder}/stremn --help")
    assert command.returncode == 0, command.stderr
    assert "segment" in command.stdout
    source = sourced(workspace, f"{folder}/video_source_node")
    assert source.returncode == 1
    assert "path is empty" in source.stderr + source.stdout
