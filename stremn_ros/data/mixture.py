"""A deterministic stream of training batches from several sources of clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .photos import PhotoClips
from .videos import VideoClips


@dataclass(frozen=True)
class Phase:
    """How clips are drawn during a part of the training.

    Attributes:
        iterations: length of the phase.
        frames: per clip; size: pixels squared; batch: clips.
        slots: of the memory while training (fusion begins when ``frames`` exceeds it by one).
        video_share: part of the clips that come from videos, 0..1.
        max_gap: largest distance between neighbouring frames of a video clip.
        two_objects: part of the batches that follow two objects at once.
    """

    iterations: int
    frames: int = 3
    size: int = 192
    batch: int = 4
    slots: int = 5
    video_share: float = 0.4
    max_gap: int = 8
    two_objects: float = 0.3


class Mixture(Dataset[tuple[Tensor, Tensor]]):
    """Batch n of a schedule: the same for the same seed, whatever was drawn before it.

    Each of several training processes (``rank``) has a stream of its own. Items are (frames uint8
    [B, T, H, W, 3], labels uint8 [B, T, H, W] with 0..O, where O is the same for the whole batch).
    """

    def __init__(
        self,
        phases: list[Phase],
        seed: int,
        photos: PhotoClips | None,
        videos: VideoClips | None,
        rank: int = 0,
    ) -> None:
        if photos is None and videos is None:
            raise ValueError("a mixture needs photos, videos or both")
        self.phases, self.seed, self.rank = phases, seed, rank
        self.photos, self.videos = photos, videos

    def __len__(self) -> int:
        return sum(phase.iterations for phase in self.phases)

    def phase_of(self, iteration: int) -> Phase:
        """The phase that holds ``iteration``; beyond the end, the last one."""
        for phase in self.phases:
            if iteration < phase.iterations:
                return phase
            iteration -= phase.iterations
        return self.phases[-1]

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        phase = self.phase_of(iteration)
        rng = np.random.default_rng((self.seed, iteration, self.rank))
        objects = 2 if rng.random() < phase.two_objects else 1
        frames: list[NDArray[np.uint8]] = []
        labels: list[NDArray[np.uint8]] = []
        while len(frames) < phase.batch:
            use_video = self.photos is None or rng.random() < phase.video_share
            if use_video and self.videos is not None:
                wanted = 1 if objects == 1 else 2
                clip = self.videos.sample(rng, phase.frames, phase.size, wanted, phase.max_gap)
            elif self.photos is not None:
                clip = self.photos.sample(rng, phase.frames, phase.size, objects)
            else:
                clip = None
            if clip is not None:
                frames.append(clip.frames)
                labels.append(clip.labels)
        return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(labels))
