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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.files import NewFile
from stremn_ros.recordings.plan import Pass
from stremn_ros.recordings.seeds import Labels
from stremn_ros.recordings.sources import Frame
from stremn_ros.recordings.track import Track, decode_mask, encode_mask
from stremn_ros.segmenter import ObjectState, Segmenter

_T = TypeVar("_T")
_OBJECTS = "objects.json"
_ZERO_TIME = (1980, 1, 1, 0, 0, 0)  # of zip entries: the same frames give the same bytes


@dataclass(frozen=True)
class Settings:
    """How passes are done.

    Attributes:
        model, device, runtime, auto_build: as in ``Segmenter.load``; options: its keywords.
        stretch: frames of one file.
    """

    model: str = "segment_lite0"
    device: str = "auto"
    runtime: str = "auto"
    auto_build: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    stretch: int = 200

    def __post_init__(self) -> None:
        if self.stretch < 1:
            raise InputError(f"stretch is {self.stretch}; it must be at least 1 frame")


@dataclass(frozen=True)
class Seen:
    """An object in a frame of a pass."""

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
            _run_stretch(files, number, segmenter, frames, tell)
    except OSError as error:
        raise InputError(f"{files.folder}: cannot be written ({error.strerror or error})") from None
    finally:
        source.close()


def _run_stretch(
    files: PassFolder,
    number: int,
    segmenter: Segmenter,
    frames: Iterator[tuple[int, Frame | None]],
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
                labels, found = segmented(segmenter, frame, files.track.seed(at))
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


def segmented(
    segmenter: Segmenter, frame: Frame, given: Labels | None
) -> tuple[Labels, dict[int, Seen]]:
    """The next frame of a pass: labels uint8 [H, W], and the objects by id.

    Args:
        given: labels of objects that start here, or start again; others go on beside them.
    """
    if given is None:
        result = segmenter.step(frame)
        return result.labels, {o.id: Seen(o.state, o.score) for o in result.objects}
    ids = [int(value) for value in np.unique(given) if value]
    labels = given
    found: dict[int, Seen] = {}
    if segmenter.ids:
        result = segmenter.segment(frame)
        others = np.where(np.isin(result.labels, ids), 0, result.labels)
        labels = np.where(given, given, others).astype(np.uint8)
        found = {o.id: Seen(o.state, o.score) for o in result.objects}
    segmenter.seed(frame, given)
    segmenter.remember()
    found.update({n: Seen(ObjectState.TRACKED, 1.0) for n in ids})
    return labels, dict(sorted(found.items()))
