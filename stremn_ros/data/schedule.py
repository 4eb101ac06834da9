"""A training run as batches: phases one after another, and batch n the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.random import Generator
from torch.utils.data import Dataset


class _Phase(Protocol):
    @property
    def iterations(self) -> int: ...


_P = TypeVar("_P", bound=_Phase)
_Batch = TypeVar("_Batch", covariant=True)


class Schedule(Dataset[_Batch], Generic[_P, _Batch]):
    """Batch n is the same for the same seed, whatever was drawn before it.

    Args:
        phases: the parts of the run, one after another.
        seed, rank: of the random numbers; each of several training processes has its own stream.
    """

    def __init__(self, phases: Sequence[_P], seed: int, rank: int) -> None:
        self.phases, self.seed, self.rank = phases, seed, rank

    def __len__(self) -> int:
        return sum(phase.iterations for phase in self.phases)

    def phase_of(self, iteration: int) -> _P:
        """The phase that holds ``iteration``; beyond the end, the last one."""
        for phase in self.phases:
            if iteration < phase.iterations:
                return phase
            iteration -= phase.iterations
        return self.phases[-1]

    def drawn(self, iteration: int) -> tuple[_P, Generator]:
        """The phase of a batch, and the random numbers that it is drawn with."""
        rng = np.random.default_rng((self.seed, iteration, self.rank))
        return self.phase_of(iteration), rng
