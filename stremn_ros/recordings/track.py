"""One camera of one recording on its way to being labelled: its folder of work, and what is in it.

track.json          what is labelled: recording, topic, names, seeds
index.npz           the stamps, and where each frame is in a bag
seeds/000012.png    the mask that was given of frame 12
passes/NAME/        the stretches of a pass; see `passes`
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.files import write_bytes, write_json
from stremn_ros.imaging.checks import name_of
from stremn_ros.imaging.masks import decode_mask, encode_mask
from stremn_ros.mappings import build
from stremn_ros.recordings.plan import Pass, Section, SeedPoint, make_sections
from stremn_ros.recordings.seeds import Labels, Seed
from stremn_ros.recordings.sources import Index, Source, open_source
from stremn_ros.text_files import read_text

TRACK = "track.json"
_INDEX = "index.npz"


@dataclass(frozen=True)
class Track:
    """A camera that is labelled.

    Attributes:
        name: of its files. recording: the path; topic: empty for a video.
        called: what people call the recording: its path, or its URL.
        seeds: the frames that are given. names: of the objects, [(id, name), ...].
        camera: a word for the topic, where several of a recording are labelled; else empty.
        fps: of a video. scanned: the bag is damaged.
        problems: what could not be read, or not be used of the seeds.
    """

    name: str
    recording: str
    topic: str
    seeds: list[SeedPoint]
    names: list[tuple[int, str]]
    camera: str = ""
    fps: float = 0.0
    scanned: bool = False
    problems: list[str] = field(default_factory=list)
    called: str = ""
    folder: Path = field(default=Path(), init=False)

    @classmethod
    def create(
        cls,
        folder: Path,
        name: str,
        recording: str,
        index: Index,
        seeds: Sequence[Seed],
        names: dict[int, str],
        notes: Sequence[str],
        camera: str = "",
        called: str = "",
    ) -> Track:
        """Writes the folder of work; ``track.json``, the last file, says that it is whole."""
        points = [SeedPoint(seed.frame, tuple(seed.ids), seed.accepted) for seed in seeds]
        used = {object_id for point in points for object_id in point.ids}
        track = cls(
            name,
            recording,
            index.topic,
            points,
            sorted((n, text) for n, text in names.items() if n in used),
            camera,
            index.fps,
            index.scanned,
            [text.replace(recording, called or recording) for text in (*index.problems, *notes)],
            called or recording,
        )
        for seed in seeds:
            write_mask(folder / "seeds" / f"{seed.frame:06d}.png", seed.labels)
        packed = io.BytesIO()
        np.savez_compressed(
            packed, stamps=index.stamps, recorded=index.recorded, places=index.places
        )
        write_bytes(folder / _INDEX, packed.getvalue())
        values: dict[str, Any] = {
            "name": track.name,
            "recording": track.recording,
            "topic": track.topic,
            "seeds": [{"frame": p.frame, "ids": p.ids, "accepted": p.accepted} for p in points],
            "names": track.names,
            "camera": track.camera,
            "fps": track.fps,
            "scanned": track.scanned,
            "problems": track.problems,
            "called": track.called,
        }
        write_json(folder / TRACK, values, durable=True)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Track:
        """What ``create`` wrote.

        Raises:
            InputError: it is not there, or damaged.
        """
        path = folder / TRACK
        try:
            values = json.loads(read_text(path))
        except ValueError as error:
            raise InputError(f"{path}: is damaged ({error})") from None
        track = build(cls, values, str(path))
        object.__setattr__(track, "folder", folder)
        return track

    def told(self, text: str) -> str:
        """A text that names the recording, as it is told to people."""
        return text.replace(self.recording, self.called)

    @cached_property
    def index(self) -> Index:
        """The frames' stamps and places; InputError where the file is damaged."""
        path = self.folder / _INDEX
        try:
            with np.load(path) as parts:
                stamps, recorded, places = (parts[n] for n in ("stamps", "recorded", "places"))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: is damaged ({error})") from None
        scanned, fps, problems = self.scanned, self.fps, self.problems
        return Index(self.topic, stamps, recorded, places, scanned, fps, problems)

    @cached_property
    def sections(self) -> list[Section]:
        """See `plan`."""
        return make_sections(len(self.index.stamps), self.seeds)

    @property
    def passes(self) -> list[Pass]:
        """Of all sections."""
        return [each for section in self.sections for each in section.passes()]

    @cached_property
    def ids(self) -> list[int]:
        """Of all objects, sorted."""
        return sorted({object_id for point in self.seeds for object_id in point.ids})

    def name_of(self, object_id: int) -> str:
        """See ``imaging.checks.name_of``."""
        return name_of(object_id, self._names)

    @cached_property
    def _names(self) -> dict[int, str]:
        return dict(self.names)

    @cached_property
    def _seeded(self) -> set[int]:
        """Frames that have a seed."""
        return {point.frame for point in self.seeds}

    def seed(self, frame: int) -> Labels | None:
        """The labels that are given of a frame, uint8 [H, W]; None where nothing is."""
        if frame not in self._seeded:
            return None
        return read_mask(self.folder / "seeds" / f"{frame:06d}.png")

    def check(self) -> None:
        """InputError where a file that ``create`` wrote is damaged."""
        self.index  # noqa: B018  it is read here
        for point in self.seeds:
            self.seed(point.frame)

    def open(self) -> Source:
        """The camera's frames."""
        return open_source(Path(self.recording), self.index)


def write_mask(path: Path, labels: NDArray[np.uint8]) -> None:
    """Writes a label mask for ``read_mask``."""
    write_bytes(path, encode_mask(labels))


def read_mask(path: Path) -> Labels:
    """A label mask, uint8 [H, W]."""
    try:
        return decode_mask(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
