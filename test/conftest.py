"""Fixtures of many test files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


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
