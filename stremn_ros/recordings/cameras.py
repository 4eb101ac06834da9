"""Which cameras of the recordings are labelled, what they are called, and whose seeds are whose."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stremn_ros.errors import InputError
from stremn_ros.recordings.bags import is_bag
from stremn_ros.recordings.seeds import SeedEntry, names_of, read_seeds, recordings_of
from stremn_ros.recordings.sources import image_topics
from stremn_ros.recordings.spec import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """A track before its recording is read.

    Attributes: bag, what the bag of its recording is called in the results.
    """

    name: str
    bag: str
    recording: str
    topic: str
    camera: str
    entries: tuple[SeedEntry, ...]


def plan_cameras(job: Job) -> tuple[list[Planned], dict[str, str]]:
    """The cameras that are labelled, with the entries of each; recordings that cannot be read."""
    errors: dict[str, str] = {}
    entries = [] if job.seed_topic else read_seeds(Path(job.seeds))
    planned: list[Planned] = []
    recordings = list(dict.fromkeys(job.recordings))
    if len(recordings) > 1 and (unnamed := [e for e in entries if e.recording is None]):
        raise InputError(
            f"{unnamed[0].where}: recording is missing, as {len(recordings)} recordings are given"
        )
    entries_of: dict[str, list[SeedEntry]] = {recording: [] for recording in recordings}
    places = {recording: Path(recording).resolve() for recording in recordings}
    for entry in entries:
        for recording in recordings_of(entry, places):
            entries_of[recording].append(entry)
    used = {entry.where for own in entries_of.values() for entry in own}
    bases: dict[str, str] = {}
    for recording in recordings:
        # also of one that cannot be read yet, so that the others keep their names when it can
        bases[recording] = _name(Path(recording), "", bases.values())
    for recording, own in entries_of.items():
        path = Path(recording)
        try:
            images, cameras = image_topics(path)
        except InputError as error:
            if len(recordings) == 1:
                raise
            errors[recording] = str(error)
            continue
        by_topic: dict[str, list[SeedEntry]] = {}
        if job.seed_topic:
            if not is_bag(path):
                raise InputError(
                    f"{path}: is a video or a folder of images, which has no topics, and there is "
                    f"no seeds file {job.seeds}"
                )
            by_topic = {_only_camera(job, path, cameras, job.seed_topic): []}
        for entry in own:
            topic = entry.topic or _only_camera(job, path, cameras, entry.where)
            if topic and topic not in images:
                raise InputError(
                    f"{entry.where}: {path} has no image topic {topic}; its image topics are "
                    f"{', '.join(images) or 'none'}"
                )
            if not job.topics or topic in job.topics:
                by_topic.setdefault(topic, []).append(entry)
        if not by_topic:
            where = f" on {', '.join(job.topics)}" if job.topics and own else ""
            raise InputError(f"{job.seeds}: has no seed of {recording}{where}")
        cameras_of: list[str] = []
        for topic, chosen in sorted(by_topic.items()):
            names_of(chosen)
            name, camera = bases[recording], ""
            if len(by_topic) > 1:
                camera = _free(_word(topic) or "camera", cameras_of, "_")
                name = _name(path, camera, [*bases.values(), *(p.name for p in planned)])
            cameras_of.append(camera)
            bag = bases[recording]
            planned.append(Planned(name, bag, recording, topic, camera, tuple(chosen)))
    if unused := [entry for entry in entries if entry.where not in used]:
        log.warning(
            "%s is of the recording %s, which is not labelled (%d such seeds)",
            unused[0].where,
            unused[0].recording,
            len(unused),
        )
    return planned, errors


def _only_camera(job: Job, path: Path, cameras: Sequence[str], where: str) -> str:
    """The topic of what names none; empty for a video."""
    chosen = list(job.topics) or list(cameras)
    if len(chosen) > 1:
        raise InputError(
            f"{where}: the topic is missing, as {path} has the cameras {', '.join(chosen)}; give "
            "--topic or the seed's topic"
        )
    return chosen[0] if chosen else ""


def _name(path: Path, camera: str, taken: Collection[str]) -> str:
    """A name for the files of a track: letters that every file system and tool takes."""
    stem = (path.name or path.resolve().name) if path.is_dir() else path.stem
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{stem}_{camera}" if camera else stem)
    return _free(name.strip("._") or "recording", taken, "-")


def _free(name: str, taken: Collection[str], joint: str) -> str:
    """A name, with a number after it where it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}{joint}{number}", number + 1
    return free


def _word(topic: str) -> str:
    """A topic's name as one word of another topic's, which must not begin with a digit."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", topic.strip("/")).strip("_")
    return f"camera_{word}" if word[:1].isdigit() else word
