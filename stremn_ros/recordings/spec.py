"""What a run of `stremn label` is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stremn_ros.recordings.passes import Settings
from stremn_ros.recordings.seeds import topic_of


@dataclass(frozen=True)
class Job:
    """What is to be labelled.

    Attributes:
        recordings: paths on this machine. seeds: a seeds file, or a topic of the recordings.
        topics: cameras; none stands for all that have seeds. formats: of ``exporting.FORMATS``.
        resume: go on with the run that is in the folder.
        called: what people call a path, where that is another word: its URL.
        url: where the results are sent when all is done; else empty.
    """

    recordings: tuple[str, ...]
    seeds: str
    out: Path
    topics: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("davis",)
    settings: Settings = field(default_factory=Settings)
    resume: bool = False
    called: Mapping[str, str] = field(default_factory=dict)
    url: str = ""

    @property
    def seed_topic(self) -> str:
        """The topic that holds the seeds; empty where they are in a file."""
        return topic_of(self.seeds)

    @property
    def place(self) -> str:
        """Of the results, as people know it."""
        return self.url or str(self.out)

    def name_of(self, path: str) -> str:
        """What people call a path."""
        return self.called.get(path, path)

    def told(self, text: str) -> str:
        """A text that names recordings or seeds, as it is told to people."""
        for path in sorted(self.called, key=len, reverse=True):  # one may begin with another
            text = text.replace(path, self.called[path])
        return text
