"""Deterministic streams of training batches for prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stremn_ros.data.moving_mnist import draw_paths, draw_sequences
from stremn_ros.data.prediction_clips import FrameStore
from stremn_ros.imaging.motion import FlowExtrapolation, candidates


@dataclass(frozen=True)
class PredictPhase:
    """How clips are drawn during a part of the training.

    Attributes:
        iterations: length of the phase; batch: clips, 0 for a phase of paths alone.
        paths: of digits without the digits, for the head ``layers`` to learn how they move (Moving
            MNIST); they cost a hundredth of a clip.
        observe: how many frames are seen; each batch draws one of these numbers.
        reference: how many frames before the newest is the one that the head ``layers`` divides;
            each batch draws one of these numbers.
        one_digit: part of the batches with a single digit (Moving MNIST).
        size: pixels squared of the crops (videos); max_gap: largest distance between neighboring
            frames of a clip (videos).
        coarse: weight of the loss at lower resolutions, instead of the loss's own.
    """

    iterations: int
    batch: int = 16
    paths: int = 0
    observe: tuple[int, ...] = (10,)
    reference: tuple[int, ...] = (0,)
    one_digit: float = 0.0
    size: int = 128
    max_gap: int = 1
    coarse: float | None = None


@dataclass(frozen=True)
class PredictBatch:
    """What one step learns from.

    Attributes:
        frames: uint8 [B, observe + horizon, C, H, W]; candidates: uint8 [B, horizon, N, C, H, W].
        paths: see moving_mnist.Paths; reference: see PredictPhase.
    """

    frames: Tensor
    observe: int
    candidates: Tensor | None = None
    paths: tuple[Tensor, ...] | None = None
    reference: int = 0


class PredictBatches(Dataset[PredictBatch]):
    """Batch n of a schedule: the same for the same seed, whatever was drawn before it.

    Args:
        phases: the schedule; seed, rank: of the random numbers, a stream for each process.
        horizon: frames to predict.
        digits: of Moving MNIST, [n, 28, 28]; or store: frames of real videos.
        with_candidates: also what the head ``blend`` starts from.
    """

    def __init__(
        self,
        phases: list[PredictPhase],
        seed: int,
        horizon: int,
        digits: NDArray[np.uint8] | None = None,
        store: FrameStore | None = None,
        with_candidates: bool = False,
        rank: int = 0,
    ) -> None:
        if (digits is None) == (store is None):
            raise ValueError("prediction trains on digits or on videos")
        self.phases, self.seed, self.rank, self.horizon = phases, seed, rank, horizon
        self.digits, self.store, self.with_candidates = digits, store, with_candidates
        self._flow: FlowExtrapolation | None = None

    def __len__(self) -> int:
        return sum(phase.iterations for phase in self.phases)

    def phase_of(self, iteration: int) -> PredictPhase:
        """The phase that holds ``iteration``; beyond the end, the last one."""
        for phase in self.phases:
            if iteration < phase.iterations:
                return phase
            iteration -= phase.iterations
        return self.phases[-1]

    def __getitem__(self, iteration: int) -> PredictBatch:
        phase = self.phase_of(iteration)
        rng = np.random.default_rng((self.seed, iteration, self.rank))
        observe = int(rng.choice(phase.observe))
        length = observe + self.horizon
        if self.digits is not None:
            count = 1 if rng.random() < phase.one_digit else 2
            drawn = draw_sequences(rng, self.digits, phase.batch, length, count)
            paths: tuple[Tensor, ...] | None = None
            if phase.paths:
                parts = draw_paths(rng, phase.paths, observe, self.horizon)
                paths = tuple(torch.from_numpy(part) for part in parts)
            reference = int(rng.choice(phase.reference))
            frames = torch.from_numpy(drawn[:, :, None])
            return PredictBatch(frames, observe, paths=paths, reference=reference)
        assert self.store is not None
        clips = np.stack(
            [self.store.sample(rng, length, phase.size, phase.max_gap) for _ in range(phase.batch)]
        )
        frames = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 1, 4, 2, 3)))
        if not self.with_candidates:
            return PredictBatch(frames, observe)
        if self._flow is None:  # made here: it does not travel to a loader's process
            self._flow = FlowExtrapolation()
        given = np.stack(
            [
                candidates(self._flow, clip[observe - 2], clip[observe - 1], self.horizon)
                for clip in clips
            ]
        )
        given = np.ascontiguousarray(given.transpose(0, 1, 2, 5, 3, 4))
        return PredictBatch(frames, observe, torch.from_numpy(given))
