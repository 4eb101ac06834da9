"""What a run of `stremn label` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stremn_ros.recordings.passes import Settings


@dataclass(frozen=True)
class Job:
    """What is to be labelled.

    Attributes:
        recordings: paths as they were given. seeds: a seeds file, or a topic of the recordings.
        topics: cameras; none stands for all that have seeds. formats: of ``exporting.FORMATS``.
        resume: go on with the run that is in the folder.
    """

    recordings: tuple[str, ...]
    seeds: str
    out: Path
    topics: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("davis",)
    settings: Settings = field(default_factory=Settings)
    resume: bool = False

    @property
    def seed_topic(self) -> str:
        """The topic that holds the seeds; empty where they are in a file."""
        return self.seeds if self.seeds.startswith("/") and not Path(self.seeds).is_file() else ""
