"""Fixtures of many test files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from socket_guard import build, compiler, environment

import stremn_ros  # noqa: F401  first: it switches ONNX Runtime's telemetry off

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "test" / "data" / "tiny_model"


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that keeps a process's sockets on this machine (socket_guard)."""
    if not compiler():
        pytest.skip("no C compiler to build the guard with")
    return build(tmp_path_factory.mktemp("guard"))


class Exported(NamedTuple):
    """A run of `stremn export` under guard: what it said, its folder, and the cache it filled."""

    said: str
    folder: Path
    cache: Path


@pytest.fixture(scope="session")
def guarded_export(guard: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tiny model's export for ONNX Runtime, which takes a minute: once for all tests."""
    folder = tmp_path_factory.mktemp("export")
    cache = folder / "cache"
    done = subprocess.run(
        [sys.executable, "-m", "stremn_ros.cli", "export", str(TINY), "--runtime", "onnx"],
        env=environment(guard, folder, PYTHONPATH=str(ROOT), STREMN_CACHE=str(cache)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Exported(done.stdout, folder, cache)


class TinyExport(NamedTuple):
    """The tiny model's export by the library: its cache, what it said, and the differences."""

    cache: Path
    said: list[str]
    differences: dict[str, float]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> TinyExport:
    """Made once for all tests, as it takes half a minute; those that add to it make a copy."""
    from stremn_ros.runtime.onnx.export import export_onnx

    cache = tmp_path_factory.mktemp("tiny_export")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREMN_CACHE", str(cache))
        differences = export_onnx(TINY, (96, 128), said.append)
    return TinyExport(cache, said, differences)


@pytest.fixture(scope="module")
def one_thread():
    """The network's sums in one order: here, in a node and in another run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which a test may spoil, of the cache that its file's ``exported`` made."""
    shutil.copytree(exported, tmp_path / "cache")
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
