"""The parts of a job that any process can do which sees the files.

Tasks share nothing but files, so it does not matter where each runs. A task whose worker died is
simply done again: a pass goes on where it was, the others start again.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stremn_ros.files import write_json
from stremn_ros.recordings.finishing import finish_track
from stremn_ros.recordings.labelled_bag import write_bags
from stremn_ros.recordings.manifest import hash_of
from stremn_ros.recordings.passes import Settings, run_pass
from stremn_ros.recordings.sources import Index, read_indexes
from stremn_ros.recordings.track import Track
from stremn_ros.text_files import read_text

Tell = Callable[[int], None]


class Task(ABC):
    """A task. It can be pickled, and its paths may be relative to the folder the job began in.

    Attributes:
        name: for people. uses_device: it runs the network.
    """

    name: str
    uses_device: ClassVar[bool] = False

    @abstractmethod
    def run(self, tell: Tell) -> Any:
        """Does it.

        Args:
            tell: gets the number of frames that were done since it was last called.

        Returns:
            What the job needs of it; small, as it goes between machines.

        Raises:
            StremnError: it cannot be done; what was done stays.
        """


@dataclass(frozen=True)
class HashTask(Task):
    """The bytes and SHA-256 of a recording: ``manifest.hash_of``."""

    name: str
    recording: str

    def run(self, tell: Tell) -> dict[str, Any]:
        return hash_of(Path(self.recording))


@dataclass(frozen=True)
class IndexTask(Task):
    """The indexes of a recording's cameras: ``sources.read_indexes``."""

    name: str
    recording: str
    topics: tuple[str, ...]

    def run(self, tell: Tell) -> dict[str, Index]:
        return read_indexes(Path(self.recording), self.topics)


@dataclass(frozen=True)
class PassTask(Task):
    """A pass of a track. folder: of the track; number: of the pass."""

    name: str
    folder: str
    number: int
    settings: Settings
    uses_device: ClassVar[bool] = True

    def run(self, tell: Tell) -> None:
        track = Track.load(Path(self.folder))
        run_pass(track, track.passes[self.number], self.settings, tell)


@dataclass(frozen=True)
class FilesTask(Task):
    """The files of a track, when its passes are done: ``finishing.finish_track``."""

    name: str
    folder: str
    out: str
    formats: tuple[str, ...]
    stretch: int

    def run(self, tell: Tell) -> None:
        track = Track.load(Path(self.folder))
        finish_track(track, Path(self.out), self.formats, self.stretch, tell)


@dataclass(frozen=True)
class BagTask(Task):
    """A recording written again with its labels, when the files of its tracks are done.

    Attributes:
        folders: of its tracks. word: the name of the bag. work: a folder for what is not whole
            yet, and for a note that the bag is written, so that no resumed run writes it again.
    """

    name: str
    recording: str
    folders: tuple[str, ...]
    word: str
    out: str
    formats: tuple[str, ...]
    work: str

    def run(self, tell: Tell) -> str:
        """Why the labels were written alone; empty where the recording was written again."""
        note = Path(self.work) / f"{self.word}.json"
        if note.is_file():
            return str(json.loads(read_text(note))["problem"])
        tracks = [Track.load(Path(folder)) for folder in self.folders]
        work = Path(self.work) / self.word
        problem = write_bags(tracks, self.word, Path(self.out), self.formats, work)
        write_json(note, {"problem": problem}, durable=True)
        return problem
