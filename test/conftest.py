"""Fixtures of many test files."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """The network's sums in one order: here, in a node and in another run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
