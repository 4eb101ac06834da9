"""A run of `stremn label`: from recordings and seeds to labels, safe to stop at any moment.

The folder of the results holds:

manifest.json       what it is made from and what came of it
work/TRACK/         what goes on (``track``); removed at the end
objects.csv, report.html, davis/, coco/, ...
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import write_text
from stremn_ros.hint_masks import HintMasks
from stremn_ros.recordings import manifest
from stremn_ros.recordings.exporting import BAG_FORMATS, CSV_HEADER, EXPORTERS, assemble
from stremn_ros.recordings.finishing import FINISHED
from stremn_ros.recordings.labelled_bag import (
    Storage,
    check_messages,
    copy_bag,
    sidecar_folder,
    storage_of,
    write_again,
)
from stremn_ros.recordings.passes import loaded_segmenter
from stremn_ros.recordings.report import write_report
from stremn_ros.recordings.seeds import (
    Seed,
    SeedEntry,
    make_seeds,
    matches,
    names_of,
    read_seeds,
    recorded_seeds,
)
from stremn_ros.recordings.sources import image_topics, open_source, read_indexes
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.track import TRACK, Track
from stremn_ros.recordings.workers import Runner, run_serially
from stremn_ros.text_files import read_text

log = logging.getLogger(__name__)

WORK = "work"


@dataclass(frozen=True)
class _Planned:
    """A track before its recording is read."""

    name: str
    recording: str
    topic: str
    camera: str
    entries: tuple[SeedEntry, ...]


def label(job: Job, run: Runner = run_serially, quiet: bool = True) -> dict[str, Any]:
    """Does a job, or goes on with one.

    Args:
        run: does the tasks of the tracks; see ``workers``.

    Returns:
        The manifest, when all is written.

    Raises:
        InputError: something given is wrong, or cannot be read or written; what was done stays, and
            the same job with ``resume`` goes on from there.
        StremnError: a package is missing.
    """
    if not job.recordings:
        raise InputError("no recording is given")
    check_formats(job.formats)
    planned, errors = _plan(job)
    before = manifest.read_manifest(job.out)
    if before is None and job.out.exists() and not _is_free(job.out):
        raise InputError(f"{job.out}: is no empty folder; choose another --out")
    if before is not None and not job.resume:
        raise InputError(
            f"{job.out}: holds a run already: --resume goes on with it; for a new one choose "
            "another --out"
        )
    origin = _origin(job)
    if before is not None:
        manifest.check_same(job.out, before["run"], origin)
        if before["state"] == manifest.COMPLETE:
            _clean(job.out)
            return before
    else:  # of a run that ended before it was one: a seed was wrong, perhaps
        shutil.rmtree(job.out / WORK, ignore_errors=True)
    tracks = _prepare(job, planned, errors)
    if before is None:
        manifest.write_manifest(job.out, manifest.RUNNING, origin, [], errors)
    errors |= run(job, tracks, quiet)
    done = [track for track in tracks if (track.folder / FINISHED).is_file()]
    if errors:
        results = [_result(track) for track in done]
        manifest.write_manifest(job.out, manifest.RUNNING, origin, results, errors)
        first = next(iter(errors.values()))
        raise InputError(
            f"{len(errors)} of {len(done) + len(errors)} cameras could not be labelled: {first}"
            + ("" if len(errors) == 1 else f" (all are in {job.out / manifest.MANIFEST})")
            + "; --resume goes on with the same command"
        )
    return _assemble(job, origin, done)


def _plan(job: Job) -> tuple[list[_Planned], dict[str, str]]:
    """The cameras that are labelled, with the entries of each; recordings that cannot be read."""
    errors: dict[str, str] = {}
    entries = [] if job.seed_topic else read_seeds(Path(job.seeds))
    planned: list[_Planned] = []
    used: set[str] = set()
    for recording in dict.fromkeys(job.recordings):
        path = Path(recording)
        own = [entry for entry in entries if matches(entry, path)]
        if unnamed := [e for e in own if e.recording is None and len(set(job.recordings)) > 1]:
            raise InputError(
                f"{unnamed[0].where}: recording is missing, as {len(set(job.recordings))} "
                "recordings are given"
            )
        try:
            images, cameras = image_topics(path)
        except InputError as error:
            if len(set(job.recordings)) == 1:
                raise
            errors[recording] = str(error)
            used |= {entry.where for entry in own}
            continue
        by_topic: dict[str, list[SeedEntry]] = {}
        if job.seed_topic:
            by_topic = {_only_camera(job, path, cameras, job.seed_topic): []}
        for entry in own:
            used.add(entry.where)
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
        for topic, chosen in sorted(by_topic.items()):
            names_of(chosen)
            name = _name(path, topic if len(by_topic) > 1 else "", [p.name for p in planned])
            camera = _word(topic) if len(by_topic) > 1 else ""
            planned.append(_Planned(name, recording, topic, camera, tuple(chosen)))
    if unused := [entry for entry in entries if entry.where not in used]:
        log.warning(
            "%s is of the recording %s, which is not labelled (%d such seeds)",
            unused[0].where,
            unused[0].recording,
            len(unused),
        )
    return planned, errors


def _is_free(out: Path) -> bool:
    """Whether a folder without a manifest may be used: it is empty but for a folder of work."""
    return out.is_dir() and all(path.name == WORK for path in out.iterdir())


def _only_camera(job: Job, path: Path, cameras: Sequence[str], where: str) -> str:
    """The topic of what names none; empty for a video."""
    chosen = list(job.topics) or list(cameras)
    if len(chosen) > 1:
        raise InputError(
            f"{where}: the topic is missing, as {path} has the cameras {', '.join(chosen)}; give "
            "--topic or the seed's topic"
        )
    return chosen[0] if chosen else ""


def _name(path: Path, topic: str, taken: Sequence[str]) -> str:
    """A name for the files of a track: letters that every file system and tool takes."""
    stem = path.stem if path.is_file() else path.name or path.resolve().name
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{stem}_{_word(topic)}" if topic else stem)
    name = name.strip("._") or "recording"
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _word(topic: str) -> str:
    """A topic's name as one word of another topic's."""
    return re.sub(r"[^A-Za-z0-9]+", "_", topic.strip("/")).strip("_")


def _origin(job: Job) -> dict[str, Any]:
    """All that the result depends on."""
    runtime = loaded_segmenter(job.settings, 1).runtime_name
    return manifest.described(
        {
            "model": manifest.model_hash(job.settings.model),
            "runtime": runtime,
            "options": dict(job.settings.options),
            "stretch": job.settings.stretch,
            "formats": list(job.formats),
            "topics": list(job.topics),
            "seeds": manifest.seeds_hash(job.seeds),
            "recordings": [
                {"path": recording, **manifest.hash_of(Path(recording))}
                for recording in dict.fromkeys(job.recordings)
            ],
        }
    )


def _prepare(job: Job, planned: Sequence[_Planned], errors: dict[str, str]) -> list[Track]:
    """The folders of work of all tracks; errors gets why there is none of some."""
    tracks: list[Track] = []
    by_recording: dict[str, list[_Planned]] = {}
    for each in planned:
        by_recording.setdefault(each.recording, []).append(each)
    for recording, group in by_recording.items():
        missing = [p for p in group if not (job.out / WORK / p.name / TRACK).is_file()]
        try:
            topics = [p.topic for p in missing if p.topic]
            indexes = read_indexes(Path(recording), topics) if missing else {}
        except InputError as error:
            if len(by_recording) == 1 and not errors:
                raise
            errors.update({p.name: str(error) for p in missing})
            continue
        for each in group:
            folder = job.out / WORK / each.name
            if each in missing:
                tracks.append(_track(job, each, folder, indexes[each.topic]))
            else:
                tracks.append(Track.load(folder))
    return tracks


def _track(job: Job, each: _Planned, folder: Path, index: Any) -> Track:
    shutil.rmtree(folder, ignore_errors=True)
    path = Path(each.recording)
    notes: list[str] = []
    names: dict[int, str] = {}
    source = open_source(path, index)
    try:
        if job.seed_topic:
            shape = source.frame(0).shape
            seeds, notes = recorded_seeds(path, job.seed_topic, index, (shape[0], shape[1]))
        else:
            masks = partial(HintMasks.load, job.settings.click_model, device=job.settings.device)
            seeds = make_seeds(each.entries, source, masks)
            names = names_of(each.entries)
    finally:
        source.close()
    notes += _left_out(seeds)
    return Track.create(folder, each.name, each.recording, index, seeds, names, notes, each.camera)


def _left_out(seeds: Sequence[Seed]) -> list[str]:
    """Objects that an accepted frame ends, as it is accepted without them."""
    known: set[int] = set()
    notes = []
    for seed in seeds:
        if seed.accepted and (ended := sorted(known - set(seed.ids))):
            notes.append(
                f"frame {seed.frame} is accepted without the objects {ended}, which were seeded "
                "before: they are not in it, and are followed after it only from seeds after it"
            )
        known |= set(seed.ids)
    return notes


def _result(track: Track) -> dict[str, Any]:
    return json.loads(read_text(track.folder / FINISHED))


def _assemble(job: Job, origin: dict[str, Any], tracks: Sequence[Track]) -> dict[str, Any]:
    """Puts together what is of all tracks; the manifest, the last file, says that all is there."""
    results = [_result(track) for track in tracks]
    files = [track.folder / "objects.csv" for track in tracks]
    lines = (line for file in files for line in file.open(encoding="utf-8", newline=""))
    assemble(job.out / "objects.csv", (text for text in (f"{CSV_HEADER}\n", *lines)))
    if "davis" in job.formats:
        sets = job.out / "davis" / "ImageSets"
        names = "".join(f"{track.name}\n" for track in tracks)
        write_text(sets / "2017" / "train.txt", names)
        accepted = "".join(
            f"{track.name} {seed.frame}\n"
            for track in tracks
            for seed in track.seeds
            if seed.accepted
        )
        write_text(sets / "accepted.txt", accepted)
    if {"mcap", "bag"} & set(job.formats):
        for result, problem in _write_again(job, tracks, results):
            result["problems"].append(problem)
    facts = [
        ("recordings", len(origin["recordings"])),
        ("cameras", len(tracks)),
        ("frames", sum(result["labelled"] for result in results)),
        ("not decodable", sum(result["undecodable"] for result in results)),
        ("model", f"{origin['model']['name']} on {origin['runtime']}"),
        ("seeds", job.seeds),
        ("version", origin["version"]),
    ]
    parts = [track.folder / "report.part" for track in tracks]
    write_report(job.out / "report.html", "stremn label", facts, parts)
    manifest.write_manifest(job.out, manifest.COMPLETE, origin, results, {})
    _clean(job.out)
    found = manifest.read_manifest(job.out)
    assert found is not None
    return found


def _write_again(
    job: Job, tracks: Sequence[Track], results: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], str]]:
    """Writes the recordings again with the labels added; (result of a track, why not)."""
    problems = []
    by_recording: dict[str, list[int]] = {}
    for number, track in enumerate(tracks):
        by_recording.setdefault(track.recording, []).append(number)
    for recording, numbers in by_recording.items():
        own = [tracks[number] for number in numbers]
        name = _name(Path(recording), "", []) if own[0].camera else own[0].name
        path, work = Path(recording), job.out / WORK / "bags"
        why = ""
        if "mcap" in job.formats:
            why = write_again(path, own, job.out / "mcap" / name, work)
        if "bag" in job.formats and not why:
            storage = storage_of(path)
            ending = ".bag" if storage is Storage.ROS1 else ""
            why = write_again(path, own, job.out / "bag" / f"{name}{ending}", work, storage)
        if not why:
            continue
        for number in numbers:
            problems.append((results[number], why))
            target = sidecar_folder(tracks[number], job.out, alone=True)
            copy_bag(sidecar_folder(tracks[number], job.out, alone=False), target)
    return problems


def _clean(out: Path) -> None:
    """Removes what is of use only until all is written, and what a killed process left."""
    shutil.rmtree(out / WORK, ignore_errors=True)
    for leftover in out.rglob(".*.part*"):
        leftover.unlink(missing_ok=True)


def check_formats(formats: Sequence[str]) -> None:
    """StremnError where what a format needs is missing, before the long work."""
    if "coco" in formats:
        try:
            import pycocotools.mask  # noqa: F401
        except ImportError as error:
            raise StremnError(
                f"--format coco needs the package pycocotools ({error}): pip install "
                "'stremn_ros[recordings]'"
            ) from None
    if set(BAG_FORMATS) & set(formats):
        check_messages()
    assert set(formats) - set(BAG_FORMATS) <= set(EXPORTERS)
