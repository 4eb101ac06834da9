"""What the training files of all tasks have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.mappings import build
from stremn_ros.text_files import read_yaml

_T = TypeVar("_T", bound="TrainingSettings")


@dataclass(kw_only=True)
class TrainingSettings:
    """The entries of every training file.

    Attributes:
        run: folder of checkpoints, log and exported model.
        network, defaults: those parts of the exported model's config.yaml.
        start: name or folder of a model whose weights are taken, or null. What it lacks, or has in
            another shape, begins untrained, and the log names it, and what of it is left out.
        seed: of all that is drawn.
        learning_rate, weight_decay, clip_norm: of AdamW.
        warmup, decay: iterations of linear warm-up and of the final cosine decay; between them
            the rate is constant, so that the end can be moved while a run is under way.
        ema_decay: of the averaged weights, which are the ones exported.
        checkpoint_every: iterations; time_limit: seconds for this piece, 0 for none.
        validate_every: iterations between checks on what is held out, 0 for none.
        device: ``auto``, ``cpu``, ``cuda``, ...; threads: of PyTorch, 0 for its own choice.
        workers: processes that make the batches.
    """

    run: str
    network: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    seed: int = 0
    learning_rate: float = 4e-4
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    warmup: int = 100
    decay: int = 500
    ema_decay: float = 0.998
    checkpoint_every: int = 200
    validate_every: int = 0
    time_limit: float = 0.0
    device: str = "auto"
    threads: int = 0
    workers: int = 1

    @classmethod
    def read(cls: type[_T], path: Path) -> _T:
        """From YAML; InputError names the file and the entry that is unknown, missing or wrong."""
        return build(cls, read_yaml(path), str(path))


@dataclass(kw_only=True)
class PictureSettings(TrainingSettings):
    """The entries where clips of photos and videos are trained on.

    Attributes:
        photos, videos: roots of the data sources, one or several, or null.
        video_weights: pattern of sequences' names -> how often they are drawn, beside 1.
        exclude: sequences held out.
        broken: ``raise`` or ``skip``, for files that cannot be read.
        encoder_learning_rate: of the parameters that begin with ImageNet's weights.
        export_dtype: ``float32``, or ``float16`` for a file of half the size.
    """

    photos: str | list[str] | None = None
    videos: str | list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    video_weights: dict[str, float] = field(default_factory=dict)
    broken: str = "raise"
    encoder_learning_rate: float = 1e-4
    export_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.export_dtype not in ("float32", "float16"):
            raise InputError("export_dtype must be float32 or float16")

    def open_photos(self) -> PhotoClips | None:
        """The photos, if there are any."""
        return PhotoClips(roots_of(self.photos), self.broken) if self.photos else None

    def open_videos(self) -> VideoClips | None:
        """The videos without those held out, if there are any."""
        if not self.videos:
            return None
        return VideoClips(roots_of(self.videos), self.exclude, self.broken, self.video_weights)


def roots_of(given: str | list[str]) -> list[Path]:
    """The folders that an entry of a training file names: one or several."""
    return [Path(root) for root in ([given] if isinstance(given, str) else given)]
