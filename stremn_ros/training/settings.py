"""What the training files of all tasks have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.mappings import build
from stremn_ros.text_files import read_yaml

_T = TypeVar("_T", bound="TrainingSettings")

Range = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether one is that."""
FROM_0: Range = ("0 or more", lambda value: value >= 0)
FROM_1: Range = ("1 or more", lambda value: value >= 1)
_ABOVE_0: Range = ("more than 0", lambda value: value > 0)
_SHARE: Range = ("0 to 1", lambda value: 0 <= value <= 1)
_NOT_EMPTY: Range = ("a list of one number or more", bool)
_WEIGHTS: Range = (
    "a mapping of patterns to numbers of 0 or more",
    lambda value: all(type(weight) in (int, float) and weight >= 0 for weight in value.values()),
)
_PROCESSES: Range = ("0 to 1024", lambda value: 0 <= value <= 1024)
# Of the entries of all tasks: what is of the right type and yet ends a training hours later, or
# makes it train nothing.
RANGES: Mapping[str, Range] = {
    "seed": ("0 to 4294967295", lambda value: 0 <= value < 2**32),
    "learning_rate": _ABOVE_0,
    "encoder_learning_rate": FROM_0,
    "weight_decay": FROM_0,
    "clip_norm": _ABOVE_0,
    "warmup": FROM_0,
    "decay": FROM_0,
    "ema_decay": _SHARE,
    "checkpoint_every": FROM_1,
    "validate_every": FROM_0,
    "time_limit": FROM_0,
    "threads": _PROCESSES,
    "workers": _PROCESSES,
    "video_weights": _WEIGHTS,
    "photo_weights": _WEIGHTS,
    "presence_weight": FROM_0,
    "quality_weight": FROM_0,
    "matching_weight": FROM_0,
    "key_scale": _ABOVE_0,
    "validate_frames": FROM_1,
    "validate_clips": FROM_1,
    "rows": FROM_0,
    "horizon": FROM_1,
    "slots": ("2 or more", lambda value: value >= 2),
    "update_every": FROM_1,
}
PHASE_RANGES: Mapping[str, Range] = {
    "iterations": FROM_1,
    "size": ("a multiple of 16, 32 or more", lambda value: value >= 32 and value % 16 == 0),
    "batch": FROM_1,
    "paths": FROM_0,
    "observe": _NOT_EMPTY,
    "reference": _NOT_EMPTY,
    "slots": RANGES["slots"],
    "update_every": FROM_1,
    "max_gap": FROM_1,
    "shrink": FROM_1,
    "coarse": ("0 or more, or null", lambda value: value is None or value >= 0),
    **dict.fromkeys(
        (
            "video_share",
            "two_objects",
            "leaving",
            "composed",
            "late",
            "twins",
            "damage",
            "background",
            "one_digit",
        ),
        _SHARE,
    ),
}


# what may change while a run is under way: it shapes nothing that is learned, or only its end
_FREE = {
    *("run", "device", "threads", "workers", "time_limit", "checkpoint_every", "decay"),
    *("validate_every", "validate_frames", "validate_clips", "export_dtype"),
}


def check_ranges(settings: object, ranges: Mapping[str, Range], where: str = "") -> None:
    """InputError where one of the attributes is not what it must be."""
    for name, value in vars(settings).items():
        words, fits = ranges.get(name, ("", lambda _: True))
        if not fits(value):
            raise InputError(f"{where}{name} is {value!r}; it must be {words}")


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

    phase_ranges: ClassVar[Mapping[str, Range]] = PHASE_RANGES

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

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        for n, phase in enumerate(getattr(self, "phases", ())):
            check_ranges(phase, self.phase_ranges, f"phases[{n}]: ")

    @classmethod
    def read(cls: type[_T], path: Path) -> _T:
        """From YAML; InputError names the file and the entry that is unknown, missing or wrong."""
        return build(cls, read_yaml(path), str(path))

    def changed(self, before: Mapping[str, Any], iteration: int) -> list[str]:
        """The entries that shape what is learned and were others so far, in words.

        Args:
            before: as ``dataclasses.asdict``, and through JSON. iteration: the next one. Phases
                that have not begun may change, and so may the end of the one that it is in.
        """
        now = json.loads(json.dumps(asdict(self)))
        old = {key: value for key, value in before.items() if key not in _FREE}
        found = list(_differences({**old, "phases": None}, {**now, "phases": None}))
        for n, phases in enumerate(zip(old.get("phases", ()), now.get("phases", ()))):
            was, own = (dict(phase) for phase in phases)
            length = was["iterations"]
            if iteration <= length:  # it goes on: its end may move
                own["iterations"] = length
            found += _differences(was, own, f"phases[{n}]")
            iteration -= length
            if iteration <= 0:
                break
        return found


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs, in words; what only one of two mappings has is left out."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() & now.keys()):
            yield from _differences(before[key], now[key], f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {json.dumps(before)} and is {json.dumps(now)}"


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
        super().__post_init__()
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
