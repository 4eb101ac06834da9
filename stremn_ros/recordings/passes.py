"""A pass: the segmenter goes through frames in one direction and leaves masks on disk.

The frames are done in stretches of a fixed number. A stretch is one file, `000003.zip`, which
appears when it is whole: a PNG for each frame, and the objects' states and scores. Beside it is
what the segmenter remembered at its end, `000003.memory`, from which a process goes on that was
stopped. Every stretch begins from that file, also without a stop, so both give the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.files import NewFile
from stremn_ros.imaging.masks import decode_mask, encode_mask, ids_in
from stremn_ros.recordings.plan import Pass, SeedPoint
from stremn_ros.recordings.seeds import Labels
from stremn_ros.recordings.sources import Frame, Source
from stremn_ros.recordings.track import Track
from stremn_ros.results import TrackedObject
from stremn_ros.segmenter import ObjectState, Segmenter

_T = TypeVar("_T")
_OBJECTS = "objects.json"
SCORE_DIGITS = 4
_ZERO_TIME = (1980, 1, 1, 0, 0, 0)  # of zip entries: the same frames give the same bytes


@dataclass(frozen=True)
class Settings:
    """How passes are done.

    Attributes:
        model, device, runtime, auto_build: as in ``Segmenter.load``; options: its keywords.
        stretch: frames of one file.
        click_model: makes the masks of boxes and points, as in ``HintMasks.load``.
    """

    model: str = "segment_lite0"
    device: str = "auto"
    runtime: str = "auto"
    auto_build: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    stretch: int = 200
    click_model: str = "clicks_lite0"

    def __post_init__(self) -> None:
        if self.stretch < 1:
            raise InputError(f"stretch is {self.stretch}; it must be at least 1 frame")


@dataclass(frozen=True)
class Seen:
    """An object in a frame of a pass. score: 0..1, of ``SCORE_DIGITS`` digits."""

    state: ObjectState
    score: float


@dataclass(frozen=True, eq=False)
class PassFrame:
    """A frame of a pass: labels uint8 [H, W], None where the frame could not be decoded."""

    labels: Labels | None
    objects: dict[int, Seen]


class PassFolder:
    """The files of a pass.

    Attributes: track, each (the pass), folder.
    """

    def __init__(self, track: Track, each: Pass, stretch: int) -> None:
        self.track, self.each, self.stretch = track, each, stretch
        self.folder = track.folder / "passes" / each.name
        self._open: tuple[int, zipfile.ZipFile, dict[str, Any]] | None = None

    @property
    def parts(self) -> int:
        """How many stretches there are."""
        return -(-len(self.each) // self.stretch)

    def part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.zip"

    def memory(self, number: int) -> Path:
        return self.folder / f"{number:06d}.memory"

    def done(self) -> int:
        """How many stretches are done, from the first on."""
        count = 0
        while count < self.parts and self.part(count).is_file():
            count += 1
        # the memory is there before the stretch; without it only a whole pass is of use
        while 0 < count < self.parts and not self.memory(count - 1).is_file():
            count -= 1
        return count

    def frames_done(self) -> int:
        return min(len(self.each), self.done() * self.stretch)

    def objects(self, frame: int) -> dict[int, Seen] | None:
        """The objects of a frame of the pass by id; None where the pass does not have the frame.

        Raises:
            InputError: the file is damaged.
        """
        return self._entry(frame, lambda archive, objects: objects)

    def read(self, frame: int) -> PassFrame | None:
        """A frame of the pass; None where the pass does not have it.

        Raises:
            InputError: the file is damaged.
        """

        def of(archive: zipfile.ZipFile, objects: dict[int, Seen]) -> PassFrame:
            name = f"{frame:06d}.png"
            there = name in archive.NameToInfo
            return PassFrame(decode_mask(archive.read(name), name) if there else None, objects)

        return self._entry(frame, of)

    def _entry(
        self, frame: int, use: Callable[[zipfile.ZipFile, dict[int, Seen]], _T]
    ) -> _T | None:
        place = self.each.position(frame)
        if place is None:
            return None
        number = place // self.stretch
        path = self.part(number)
        try:
            if self._open is None or self._open[0] != number:
                self.close()
                archive = zipfile.ZipFile(path)
                self._open = number, archive, json.loads(archive.read(_OBJECTS))
            _, archive, objects = self._open
            found = {
                int(n): Seen(ObjectState(state), score)
                for n, (state, score) in objects[str(frame)].items()
            }
            return use(archive, found)
        except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); remove it and go on with --resume"
            ) from None

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class Given:
    """What a person gave of the frames of a pass, in the pass's order.

    An object learns its next seed at the seed before it: so it knows the frames between from both
    of its ends, and what is far back does not stay for ever.
    """

    def __init__(self, track: Track, each: Pass) -> None:
        seeds = track.sections[each.section].seeds
        self._points = list(seeds) if each.forward else list(reversed(seeds))
        self._places = {point.frame: n for n, point in enumerate(self._points)}
        self._track = track
        self._source: Source | None = None

    def labels(self, frame: int) -> Labels | None:
        """The labels that are given of a frame, uint8 [H, W]; None where nothing is."""
        return self._track.seed(frame)

    def next(self, frame: int, ids: Iterable[int]) -> Iterator[tuple[Frame, Labels, list[int]]]:
        """The seeds that come next for objects of a seed's frame: picture, labels, ids."""
        found: dict[int, list[int]] = {}
        after: list[SeedPoint] = self._points[self._places[frame] + 1 :]
        for object_id in ids:
            at = next((point.frame for point in after if object_id in point.ids), None)
            if at is not None:
                found.setdefault(at, []).append(object_id)
        for at, own in found.items():
            labels = self._track.seed(at)
            # not that of the pass, which is read in order meanwhile
            self._source = self._source or self._track.open()
            with contextlib.suppress(InputError):  # it cannot be decoded, so its seed is not used
                picture = self._source.frame(at)
                assert labels is not None
                yield picture, labels, own

    def close(self) -> None:
        """Closes the files."""
        if self._source is not None:
            self._source.close()


_loaded: tuple[Any, Segmenter] | None = None


def loaded_segmenter(settings: Settings, max_objects: int) -> Segmenter:
    """A segmenter that has seen nothing; the last one is kept, as loading takes a moment."""
    global _loaded
    key = settings, max_objects
    if _loaded is None or _loaded[0] != key:
        _loaded = None  # its memory is free before the next is made
        made = Segmenter.load(
            settings.model,
            device=settings.device,
            runtime=settings.runtime,
            auto_build=settings.auto_build,
            **{**dict(settings.options), "max_objects": max_objects},
        )
        _loaded = key, made
    segmenter = _loaded[1]
    segmenter.reset()
    return segmenter


def run_pass(
    track: Track, each: Pass, settings: Settings, tell: Callable[[int], None] = lambda count: None
) -> None:
    """Does the stretches of a pass that are not done yet.

    Args:
        tell: gets the number of frames that were done since it was last called.

    Raises:
        InputError: a file cannot be read or written (disk full); the stretches that are done stay.
    """
    files = PassFolder(track, each, settings.stretch)
    done = files.done()
    if done == files.parts:
        return
    segmenter = loaded_segmenter(settings, len(track.ids))
    source = track.open()
    given = Given(track, each)
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*files.folder.glob(".*.part"), *files.folder.glob(".*.tmp")]:
            leftover.unlink()
        if done:
            segmenter.load_memory(files.memory(done - 1))
        first = done * settings.stretch
        if each.forward:
            frames = source.frames(each.start + first, each.end)
        else:
            frames = source.backwards(each.start - first, each.end)
        for number in range(done, files.parts):
            _run_stretch(files, number, segmenter, frames, given, tell)
    except OSError as error:
        raise InputError(f"{files.folder}: cannot be written ({error.strerror or error})") from None
    finally:
        segmenter.reset()  # nobody needs what it remembers, and the writers need the room
        given.close()
        source.close()


def _run_stretch(
    files: PassFolder,
    number: int,
    segmenter: Segmenter,
    frames: Iterator[tuple[int, Frame | None]],
    given: Given,
    tell: Callable[[int], None],
) -> None:
    count = min(files.stretch, len(files.each) - number * files.stretch)
    objects: dict[str, Any] = {}
    with (
        NewFile(files.part(number), suffix=".zip.part") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for _ in range(count):
            try:
                at, frame = next(frames)
            except StopIteration:
                raise InputError(
                    f"{files.track.recording}: ended before frame {files.each.end}, which it had "
                    "when it was first read: was it changed meanwhile?"
                ) from None
            found: dict[int, Seen] = {}
            if frame is not None:
                labels, found = segmented(segmenter, frame, at, given)
                entry = zipfile.ZipInfo(f"{at:06d}.png", _ZERO_TIME)
                archive.writestr(entry, encode_mask(labels))
            objects[str(at)] = {str(n): [int(s.state), s.score] for n, s in found.items()}
            tell(1)
        archive.writestr(zipfile.ZipInfo(_OBJECTS, _ZERO_TIME), json.dumps(objects))
        archive.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if number + 1 < files.parts:
            # both sides of a stretch's end go through this file, or a stop would change the bits
            segmenter.save(files.memory(number))
            segmenter.load_memory(files.memory(number))
    if number:
        with contextlib.suppress(OSError):
            files.memory(number - 1).unlink(missing_ok=True)


def _seen(objects: Iterable[TrackedObject]) -> dict[int, Seen]:
    """Objects by id. The last bits of a score depend on the number of threads, so they are cut."""
    return {o.id: Seen(o.state, round(o.score, SCORE_DIGITS)) for o in objects}


def segmented(
    segmenter: Segmenter, frame: Frame, at: int, given: Given
) -> tuple[Labels, dict[int, Seen]]:
    """The next frame of a pass: labels uint8 [H, W], and the objects by id.

    Objects that are given in it start here, or go on from there as they are given, and get to know
    their next seed; others go on beside them.
    """
    seed = given.labels(at)
    if seed is None:
        result = segmenter.step(frame)
        return result.labels, _seen(result.objects)
    ids = ids_in(seed)
    followed = [n for n in ids if n in segmenter.ids]
    labels = seed
    found: dict[int, Seen] = {}
    if segmenter.ids:
        result = segmenter.segment(frame)
        others = np.where(np.isin(result.labels, ids), 0, result.labels)
        labels = np.where(seed, seed, others).astype(np.uint8)
        found = _seen(result.objects)
    if new := [n for n in ids if n not in followed]:
        segmenter.seed(frame, seed, ids=new)
    if followed:
        segmenter.correct(frame, seed, ids=followed, learn=False)
    for picture, next_labels, own in given.next(at, ids):
        segmenter.learn(picture, next_labels, ids=own)
    segmenter.remember()
    found.update({n: Seen(ObjectState.TRACKED, 1.0) for n in ids})
    return labels, dict(sorted(found.items()))
