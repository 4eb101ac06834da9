"""Deterministic streams of training batches for prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.data.moving_mnist import draw_paths, draw_sequences
from stremn_ros.data.prediction_clips import FrameStore
from stremn_ros.data.schedule import Schedule
from stremn_ros.imaging.motion import HalfFlow


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
        size: pixels squared of the crops (videos); shrink: they are cut out up to this many times
            larger; max_gap: largest distance between neighboring frames of a clip (videos).
        coarse: weight of the loss at lower resolutions, instead of the loss's own.
    """

    iterations: int
    batch: int = 16
    paths: int = 0
    observe: tuple[int, ...] = (10,)
    reference: tuple[int, ...] = (0,)
    one_digit: float = 0.0
    size: int = 128
    shrink: float = 1.0
    max_gap: int = 1
    coarse: float | None = None


@dataclass(frozen=True)
class PredictBatch:
    """What one step learns from.

    Attributes:
        frames: uint8 [B, observe + horizon, C, H, W].
        paths: see moving_mnist.Paths; reference: see PredictPhase.
        flows: float32 [B, observe - 1, 2, H/2, W/2], between the frames seen.
    """

    frames: Tensor
    observe: int
    paths: tuple[Tensor, ...] | None = None
    reference: int = 0
    flows: Tensor | None = None


class PredictBatches(Schedule[PredictPhase, PredictBatch]):
    """Batches of clips whose last frames are to be predicted.

    Args:
        phases, seed, rank: as ``Schedule``.
        horizon: frames to predict.
        digits: of Moving MNIST, [n, 28, 28]; or store: frames of real videos.
        with_flows: also the optical flow between the frames seen.
    """

    def __init__(
        self,
        phases: list[PredictPhase],
        seed: int,
        horizon: int,
        digits: NDArray[np.uint8] | None = None,
        store: FrameStore | None = None,
        with_flows: bool = False,
        rank: int = 0,
    ) -> None:
        if (digits is None) == (store is None):
            raise ValueError("prediction trains on digits or on videos")
        super().__init__(phases, seed, rank)
        self.horizon = horizon
        self.digits, self.store, self.with_flows = digits, store, with_flows
        self._flow: HalfFlow | None = None

    def __getitem__(self, iteration: int) -> PredictBatch:
        phase, rng = self.drawn(iteration)
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
            [
                self.store.sample(rng, length, phase.size, phase.max_gap, phase.shrink)
                for _ in range(phase.batch)
            ]
        )
        frames = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 1, 4, 2, 3)))
        if not self.with_flows:
            return PredictBatch(frames, observe)
        if self._flow is None:  # made here: it does not travel to a loader's process
            self._flow = HalfFlow()
        flows = np.stack(
            [np.stack([self._flow(*clip[n : n + 2]) for n in range(observe - 1)]) for clip in clips]
        )
        return PredictBatch(frames, observe, flows=torch.from_numpy(flows))
