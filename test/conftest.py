"""Fixtures of many test files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from socket_guard import build, compiler, environment

import stremn_ros  # noqa: F401  first: it switches ONNX Runtime's telemetry off

# The suite tries the same examples at each run, so that a change passes or fails by what it is.
# `pytest --hypothesis-profile search` looks for others.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", settings.get_profile("default"), print_blob=True)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "test" / "data" / "tiny_model"


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that keeps a process's sockets on this machine (socket_guard)."""
    if not compiler():
        pytest.skip("no C compiler to build the guard with")
    return build(tmp_path_factory.mktemp("guard"))


class Exported(NamedTuple):
    """A run of `stremn export` on the tiny model: its folder, and the cache that it filled."""

    folder: Path
    cache: Path

    @property
    def said(self) -> str:
        return (self.folder / "said.txt").read_text()

    @property
    def progress(self) -> list[str]:
        return (self.folder / "progress.txt").read_text().splitlines()

    @property
    def differences(self) -> dict[str, float]:
        """From PyTorch, the largest of each stage."""
        (key,) = self.cache.glob("tiny_model-onnx-*/key.json")
        return json.loads(key.read_text())["differences"]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """For ONNX Runtime, which takes a minute: once for all tests and all workers of pytest-xdist.

    It runs under guard where there is a compiler. Tests that add to the cache make a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "tiny_export"
    made = Exported(folder, folder / "cache")
    with (root / "tiny_export.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said.txt").exists():
            folder.mkdir()
            own = {"PYTHONPATH": str(ROOT), "STREMN_CACHE": str(made.cache)}
            around = environment(build(folder), folder) if compiler() else dict(os.environ)
            done = subprocess.run(
                [sys.executable, "-m", "stremn_ros.cli", "export", str(TINY), "--runtime", "onnx"],
                env={**around, **own},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            (folder / "progress.txt").write_text(done.stderr)
            (folder / "said.txt").write_text(done.stdout)
    return made


@pytest.fixture(scope="module")
def one_thread():
    """The network's sums in one order: here, in a node and in another run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def half_the_threads():
    """As many as each of two worker processes has, so that the network's sums are the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which a test may spoil, of the cache that its file's ``exported`` made."""
    shutil.copytree(exported, tmp_path / "cache")
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
