"""A run of `stremn label`: from recordings and seeds to labels, safe to stop at any moment.

The folder of the results holds:

manifest.json       what it is made from and what came of it
work/TRACK/         what goes on (``track``); removed at the end
objects.csv, report.html, davis/, coco/, ...
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import write_text
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.mask_reading import VOID, has_void
from stremn_ros.recordings import manifest
from stremn_ros.recordings.cameras import Planned, plan_cameras
from stremn_ros.recordings.exporting import BAG_FORMATS, CSV_HEADER, EXPORTERS, assemble
from stremn_ros.recordings.finishing import FINISHED
from stremn_ros.recordings.labelled_bag import check_messages
from stremn_ros.recordings.passes import PassFolder, loaded_segmenter
from stremn_ros.recordings.report import check_pictures, write_report
from stremn_ros.recordings.seeds import (
    Seed,
    make_seeds,
    names_of,
    recorded_seeds,
)
from stremn_ros.recordings.sources import Index, open_source
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.tasks import BagTask, FilesTask, HashTask, IndexTask, PassTask, Task
from stremn_ros.recordings.track import Track
from stremn_ros.recordings.workers import Outcome, Runner, Serial
from stremn_ros.text_files import read_text

log = logging.getLogger(__name__)

WORK = "work"
_LOOK_EVERY = 0.5  # seconds


def label(job: Job, runner: Runner | None = None, quiet: bool = True) -> dict[str, Any]:
    """Does a job, or goes on with one.

    Args:
        runner: does the tasks; see ``workers``. None: this process does.

    Returns:
        The manifest, when all is written.

    Raises:
        InputError: something given is wrong, or cannot be read or written; what was done stays, and
            the same job with ``resume`` goes on from there.
        StremnError: a package is missing.
    """
    try:
        with runner or Serial() as workers:
            return _label(job, workers, quiet)
    except InputError as error:
        raise InputError(job.told(str(error))) from None


def _label(job: Job, runner: Runner, quiet: bool) -> dict[str, Any]:
    if not job.recordings:
        raise InputError("no recording is given")
    check_formats(job.formats)
    planned, errors = plan_cameras(job)
    before = manifest.read_manifest(job.out)
    if before is None and job.out.exists() and not _is_free(job.out):
        raise InputError(f"{job.place}: is no empty folder; choose another --out")
    if before is not None and not job.resume:
        raise InputError(
            f"{job.place}: holds a run already: --resume goes on with it; for a new one choose "
            "another --out"
        )
    origin, unread = _origin(job, runner, quiet)
    errors = {**unread, **errors}
    mended: set[str] = set()
    if before is not None:
        failed = _failed(job, planned, before["errors"])
        mended = manifest.check_same(job.place, before["run"], origin, failed)
        if before["state"] == manifest.COMPLETE:
            _clean(job.out)
            return before
    else:  # of a run that ended before it was one: a seed was wrong, perhaps
        shutil.rmtree(job.out / WORK, ignore_errors=True)
    planned = [each for each in planned if each.recording not in errors]
    again = {each.name for each in planned if job.name_of(each.recording) in mended}
    for name in again:  # what was made of a recording as it was
        shutil.rmtree(job.out / WORK / name, ignore_errors=True)
    tracks = _prepare(job, planned, errors, runner, quiet)
    if before is None:
        manifest.write_manifest(job.out, manifest.RUNNING, origin, [], _told(job, errors))
    elif mended:
        left = {n: text for n, text in before["errors"].items() if n not in again | mended}
        left.update(_told(job, errors))
        manifest.write_manifest(job.out, manifest.RUNNING, origin, before["tracks"], left)
    labelling = _Labelling(job, tracks, planned, errors)
    labelling.run(runner, quiet)
    if errors:
        done = [t for t in tracks if t.name not in errors and (t.folder / FINISHED).is_file()]
        results = [_result(track) for track in done]
        manifest.write_manifest(job.out, manifest.RUNNING, origin, results, _told(job, errors))
        first = next(iter(errors.values()))
        raise InputError(
            f"{len(errors)} of {len(done) + len(errors)} cameras could not be labelled: {first}"
            + ("" if len(errors) == 1 else f" (all are in {job.out / manifest.MANIFEST})")
            + "; --resume goes on with the same command"
        )
    return _assemble(job, origin, tracks, labelling.alone)


def _told(job: Job, errors: dict[str, str]) -> dict[str, str]:
    """Errors by the track or the recording, as they are told to people."""
    return {job.told(name): job.told(text) for name, text in errors.items()}


def _failed(job: Job, planned: Sequence[Planned], errors: Mapping[str, str]) -> set[str]:
    """Recordings, as people know them, of which a run that had these errors labelled nothing."""
    names: dict[str, list[str]] = {}
    for each in planned:
        names.setdefault(job.name_of(each.recording), []).append(each.name)
    whole = {name for name, tracks in names.items() if all(track in errors for track in tracks)}
    return whole | set(errors)


def _is_free(out: Path) -> bool:
    """Whether a folder without a manifest may be used: it is empty but for what a stop left."""
    left = WORK, f".{manifest.MANIFEST}.tmp"
    return out.is_dir() and all(path.name in left for path in out.iterdir())


@contextlib.contextmanager
def _bar(quiet: bool, total: int, unit: str, done: int = 0) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit=unit, disable=quiet, dynamic_ncols=True) as bar:
        yield bar


def _for_recordings(
    runner: Runner, tasks: Sequence[Task], use: Callable[[Any, Outcome], None], bar: Any
) -> None:
    """Does tasks of recordings, one for each; ``use`` gets what came of them as it comes."""

    def done(task: Task, outcome: Outcome) -> list[Task]:
        use(task, outcome)
        bar.update(1)
        return []

    runner.run(tasks, done, lambda running: None, lambda count: None)


def _origin(job: Job, runner: Runner, quiet: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """All that the result depends on; of several recordings, why some cannot be read."""
    runtime = loaded_segmenter(job.settings, 1).runtime_name
    recordings = list(dict.fromkeys(job.recordings))
    tasks = [HashTask(f"hash of {Path(each).name}", each) for each in recordings]
    hashes: dict[str, Any] = {}
    errors: dict[str, str] = {}

    def use(task: HashTask, outcome: Outcome) -> None:
        if outcome.error and len(recordings) == 1:
            raise InputError(outcome.error)
        if outcome.error:
            errors[task.recording] = outcome.error
        hashes[task.recording] = outcome.value or {}

    with _bar(quiet or len(tasks) == 1, len(tasks), "hash") as bar:
        _for_recordings(runner, tasks, use, bar)
    origin = manifest.described(
        {
            "model": manifest.model_hash(job.settings.model),
            "runtime": runtime,
            "options": dict(job.settings.options),
            "stretch": job.settings.stretch,
            "formats": list(job.formats),
            "topics": list(job.topics),
            "seeds": manifest.seeds_hash(job.seeds),
            "click_model": manifest.hint_maker(job.seeds, job.settings.click_model),
            "recordings": [{"path": job.name_of(each), **hashes[each]} for each in recordings],
        }
    )
    return origin, errors


def _prepare(
    job: Job, planned: Sequence[Planned], errors: dict[str, str], runner: Runner, quiet: bool
) -> list[Track]:
    """The folders of work of all tracks; errors gets why there is none of some."""
    missing: dict[str, list[Planned]] = {}
    for each in planned:
        if not _is_track_of(job.out / WORK / each.name, each):
            missing.setdefault(each.recording, []).append(each)
    tasks = []
    for recording, group in missing.items():
        topics = tuple(each.topic for each in group if each.topic)
        tasks.append(IndexTask(f"index of {Path(recording).name}", recording, topics))
    alone = len({each.recording for each in planned}) == 1 and not errors

    def use(task: IndexTask, outcome: Outcome) -> None:
        if outcome.error and alone:
            raise InputError(outcome.error)
        for each in missing[task.recording]:
            if outcome.error:
                errors[each.name] = outcome.error
                continue
            try:
                _write_track(job, each, outcome.value[each.topic])
            except InputError as error:
                # a wrong seeds file is put right before the long work; what was recorded cannot be
                if alone or not job.seed_topic:
                    raise
                errors[each.name] = str(error)

    with _bar(quiet or len(tasks) < 2, len(tasks), "index") as bar:
        _for_recordings(runner, tasks, use, bar)
    folders = {each.name: job.out / WORK / each.name for each in planned}
    return [Track.load(folder) for name, folder in folders.items() if name not in errors]


def _is_track_of(folder: Path, each: Planned) -> bool:
    """Whether a folder of work is there, and of this camera: a name may have been another's.

    One that a power cut left damaged is made again.
    """
    try:
        track = Track.load(folder)
        track.check()
    except InputError:
        return False
    return (track.recording, track.topic) == (each.recording, each.topic)


def _write_track(job: Job, each: Planned, index: Index) -> None:
    """Makes the folder of work of a track."""
    folder = job.out / WORK / each.name
    shutil.rmtree(folder, ignore_errors=True)
    path = Path(each.recording)
    names: dict[int, str] = {}
    source = open_source(path, index)
    try:
        if job.seed_topic:
            seeds, notes = recorded_seeds(source, job.seed_topic)
        else:
            masks = partial(HintMasks.load, job.settings.click_model, device=job.settings.device)
            seeds, notes = make_seeds(each.entries, source, masks)
            names = names_of(each.entries)
    finally:
        source.close()
    if "davis" in job.formats and has_void({n for seed in seeds for n in seed.ids}):
        raise InputError(
            f"{each.recording}: an object has the id {VOID}, and in masks of DAVIS {VOID} beside "
            "smaller ids marks pixels of no object: give it another id (1 to 254), or leave davis "
            "out of --format"
        )
    notes += _left_out(seeds)
    called = job.name_of(each.recording)
    Track.create(folder, each.name, each.recording, index, seeds, names, notes, each.camera, called)


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


class _Labelling:
    """The tasks of all tracks: the passes, then the files of each, then its recording's bag.

    Args:
        errors: why some of the planned tracks cannot be labelled; it gets what comes up.

    Attributes:
        alone: by recording, why its labels were written alone.
    """

    def __init__(
        self,
        job: Job,
        tracks: Sequence[Track],
        planned: Sequence[Planned],
        errors: dict[str, str],
    ) -> None:
        self._job, self._tracks, self._errors = job, tracks, errors
        self._names = {each.recording: each.bag for each in planned}
        self.alone: dict[str, str] = {}
        self._of_folder = {str(track.folder): track for track in tracks}
        self._left: dict[str, int] = {}  # passes of a track
        # tracks of a recording whose files are not written
        self._open: dict[str, set[str]] = {}
        for each in planned:
            self._open.setdefault(each.recording, set()).add(each.name)

    def run(self, runner: Runner, quiet: bool) -> None:
        """Does all tasks.

        Raises:
            InputError: the disk is full, or the workers die.
        """
        done, total = self._frames()
        with _bar(quiet, total, "frame", done) as bar:
            look = _Look(bar, None if runner.tells else lambda: self._frames()[0])
            runner.run(self._first(), self._done, look, bar.update)
            look.frames()

    def _first(self) -> list[Task]:
        job, tasks = self._job, list[Task]()
        for track in self._tracks:
            own: list[Task] = []
            for number, each in enumerate(track.passes):
                files = PassFolder(track, each, job.settings.stretch)
                if files.done() < files.parts and not (track.folder / FINISHED).is_file():
                    name = f"{track.name} {each.name}"
                    own.append(PassTask(name, str(track.folder), number, job.settings))
            self._left[track.name] = len(own)
            tasks += own or [self._files(track)]
        return tasks

    def _files(self, track: Track) -> Task:
        job = self._job
        where = str(track.folder), str(job.out)
        return FilesTask(f"{track.name} files", *where, job.formats, job.settings.stretch)

    def _done(self, task: Task, outcome: Outcome) -> list[Task]:
        """Notes what came of a task; the tasks that follow."""
        if outcome.error and _disk_is_full(self._job.out):
            raise InputError(outcome.error)  # so are all others going to end
        if isinstance(task, BagTask):
            for track in self._tracks:
                if outcome.error and track.recording == task.recording:
                    self._errors[track.name] = outcome.error
            if outcome.value:
                self.alone[task.recording] = outcome.value
            return []
        assert isinstance(task, (PassTask, FilesTask))
        track = self._of_folder[task.folder]
        if outcome.error:
            self._errors.setdefault(track.name, outcome.error)
        if isinstance(task, PassTask):
            self._left[track.name] -= 1
            ready = not self._left[track.name] and track.name not in self._errors
            return [self._files(track)] if ready else []
        if outcome.error:
            return []
        self._open[track.recording].discard(track.name)
        return [] if self._open[track.recording] else self._bag(track.recording)

    def _bag(self, recording: str) -> list[Task]:
        job, name = self._job, self._names[recording]
        if not {"mcap", "bag"} & set(job.formats):
            return []
        folders = tuple(str(t.folder) for t in self._tracks if t.recording == recording)
        where = str(job.out), job.formats, str(job.out / WORK / "bags")
        return [BagTask(f"{name} bag", recording, folders, name, *where)]

    def _frames(self) -> tuple[int, int]:
        """(done, all) frames of the passes and last steps."""
        done = total = 0
        for track in self._tracks:
            finished = (track.folder / FINISHED).is_file()
            count = len(track.index.stamps)
            total += count
            done += count if finished else 0
            for each in track.passes:
                total += len(each)
                files = PassFolder(track, each, self._job.settings.stretch)
                done += len(each) if finished else files.frames_done()
        return done, total


class _Look:
    """Keeps a progress bar right while tasks are done.

    Args:
        count: how many frames the files say are done; None where the bar is told each.
    """

    def __init__(self, bar: Any, count: Callable[[], int] | None) -> None:
        self._bar, self._count = bar, count
        self._next = 0.0

    def __call__(self, running: Collection[Task]) -> None:
        names = [task.name for task in running]
        self._bar.set_description(names[0] if len(names) == 1 else f"{len(names)} tasks", False)
        if time.monotonic() > self._next:
            self.frames()

    def frames(self) -> None:
        """Looks at the files."""
        began = time.monotonic()
        if self._count is not None:
            self._bar.update(self._count() - self._bar.n)
        # of many recordings on a slow disk a look takes long, and the tasks must not wait for it
        self._next = time.monotonic() + max(_LOOK_EVERY, 20 * (time.monotonic() - began))


def _disk_is_full(out: Path) -> bool:
    return shutil.disk_usage(out).free < 1 << 20


def _result(track: Track) -> dict[str, Any]:
    return json.loads(read_text(track.folder / FINISHED))


def _assemble(
    job: Job, origin: dict[str, Any], tracks: Sequence[Track], alone: Mapping[str, str]
) -> dict[str, Any]:
    """Puts together what is of all tracks; the manifest, the last file, says that all is there.

    Args:
        alone: by recording, why its labels were written alone.
    """
    results = [_result(track) for track in tracks]
    for track, result in zip(tracks, results):
        if track.recording in alone:
            result["problems"].append(alone[track.recording])
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
    facts = [
        ("recordings", len(origin["recordings"])),
        ("cameras", len(tracks)),
        ("frames", sum(result["labelled"] for result in results)),
        ("not decodable", sum(result["undecodable"] for result in results)),
        ("model", f"{origin['model']['name']} on {origin['runtime']}"),
        ("seeds", job.told(job.seeds)),
        ("version", origin["version"]),
    ]
    parts = [(result, track.folder / "report.part") for track, result in zip(tracks, results)]
    write_report(job.out / "report.html", "stremn label", facts, parts)
    manifest.write_manifest(job.out, manifest.COMPLETE, origin, results, {})
    _clean(job.out)
    found = manifest.read_manifest(job.out)
    assert found is not None
    return found


def _clean(out: Path) -> None:
    """Removes what is of use only until all is written, and what a killed process left."""
    shutil.rmtree(out / WORK, ignore_errors=True)
    for leftover in out.rglob(".*.part*"):
        leftover.unlink(missing_ok=True)


def check_formats(formats: Sequence[str]) -> None:
    """Loads what writes the results: StremnError where something is missing, before long work."""
    check_pictures()
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
