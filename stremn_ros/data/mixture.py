"""A deterministic stream of training batches from several sources of clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stremn_ros.data.clip import Clip
from stremn_ros.data.files import draw
from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.schedule import Schedule
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.results import MAX_ID


@dataclass(frozen=True)
class Phase:
    """How clips are drawn during a part of the training.

    Attributes:
        iterations: length of the phase.
        frames: per clip; size: pixels squared; batch: clips.
        slots: of the memory while training; ``fuses`` says whether the clips fill it.
        video_share: part of the clips that come from videos, 0..1.
        max_gap: largest distance between neighboring frames of a video clip.
        zoom: least and most of the crops of videos; at 1 a crop is as high as the frame. Things are
            as large as at work where ``size`` times ``zoom`` is the processing size.
        two_objects: part of the batches that follow two or more objects at once.
        most_objects: of these.
        update_every: the memory takes in every n-th frame of a clip.
        leaving: part of the photos' objects in front of a clip that are away for some frames.
        twins: part of the photos' objects in front that come from the same photo, and of the
            video clips in which an object gets a copy.
        composed: part of the video clips that get such an object in front.
        late: part of the two-object clips whose second object is only there from a later frame on.
            Not where the memory is full before the clip ends: the bank of an object that came
            late is emptier than the others', which the unrolled memory cannot show.
        damage: share of the predicted masks that are damaged before the memory and the next frame
            see them (``training.damage``), so that the network learns to make mistakes good.
        run_in: frames at the start of a clip that are followed without a gradient. The memory then
            holds the network's own mistakes, as at work, and the clip takes less time and bytes.
    """

    iterations: int
    frames: int = 3
    size: int = 192
    batch: int = 4
    slots: int = 5
    video_share: float = 0.4
    max_gap: int = 8
    zoom: tuple[float, float] = (0.8, 1.8)
    two_objects: float = 0.3
    most_objects: int = 2
    update_every: int = 1
    leaving: float = 0.3
    composed: float = 0.0
    late: float = 0.0
    twins: float = 0.2
    damage: float = 0.0
    run_in: int = 0

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise InputError(f"frames is {self.frames}; a clip has 2 or more")
        if self.two_objects and not 2 <= self.most_objects <= MAX_ID:
            raise InputError(
                f"most_objects is {self.most_objects}; it must be 2 to {MAX_ID}, or two_objects 0"
            )
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise InputError(f"zoom is {list(self.zoom)}; it is [least, most], both above 0")
        if self.late and self.frames > self.slots + 1:
            raise InputError(
                f"a phase with late objects and clips of {self.frames} frames needs at least "
                f"{self.frames - 1} slots, not {self.slots}"
            )
        if not 0 <= self.run_in < self.frames - 1:
            raise InputError(
                f"run_in is {self.run_in}; it is 0 to frames - 2, here {self.frames - 2}, so that "
                "a frame is left to learn from"
            )

    @property
    def fuses(self) -> bool:
        """Whether its clips give the memory more templates than it has slots."""
        return -(-(self.frames - 1) // self.update_every) > self.slots


class Mixture(Schedule[Phase, tuple[Tensor, Tensor]]):
    """Batches of clips of photos and videos.

    Items are (frames uint8 [B, T, H, W, 3], labels uint8 [B, T, H, W] with 0..O, where O is the
    same for the whole batch).
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
            raise InputError("nothing to train on is named: give photos, videos or both")
        super().__init__(phases, seed, rank)
        self.photos, self.videos = photos, videos

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        phase, rng = self.drawn(iteration)
        objects = 1
        if rng.random() < phase.two_objects:
            objects = int(rng.integers(2, phase.most_objects + 1))

        def clip() -> Clip | None:
            use_video = self.photos is None or rng.random() < phase.video_share
            late = phase.late if objects > 1 else 0.0
            if use_video and self.videos is not None:
                compose = None
                if self.photos is not None and rng.random() < phase.composed:
                    compose = partial(self.photos.in_front, leaving=phase.leaving, late=late)
                return self.videos.sample(
                    rng,
                    phase.frames,
                    phase.size,
                    objects,
                    phase.max_gap,
                    compose,
                    late > 0.0,
                    phase.twins,
                    phase.zoom,
                )
            if self.photos is None:
                return None
            return self.photos.sample(
                rng, phase.frames, phase.size, objects, phase.leaving, late, phase.twins
            )

        clips = draw(phase.batch, clip)
        frames, labels = [each.frames for each in clips], [each.labels for each in clips]
        return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(labels))
