"""The last step of a track: its passes are joined, and every file of it is written."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.files import write_json
from stremn_ros.recordings.exporting import BAG_FORMATS, EXPORTERS, Csv, Exporter, Target
from stremn_ros.recordings.joining import Joining
from stremn_ros.recordings.labelled_bag import Sidecar, sidecar_folder
from stremn_ros.recordings.report import Report
from stremn_ros.recordings.track import Track
from stremn_ros.segmenter import ObjectState

FINISHED = "finished.json"
_MOST_NAMED = 100  # frames that cannot be decoded, named one by one


def finish_track(
    track: Track,
    out: Path,
    formats: tuple[str, ...],
    stretch: int,
    tell: Callable[[int], None] = lambda count: None,
) -> None:
    """Joins the passes of a track and writes its files; ``finished.json``, the last, says so.

    A step that was stopped is done again from the start; files are replaced by the same.

    Raises:
        InputError: a file cannot be read or written.
        StremnError: a package is missing.
    """
    if (track.folder / FINISHED).is_file():
        return
    work = track.folder / "export"
    shutil.rmtree(work, ignore_errors=True)
    joining = Joining(track, stretch)
    source = track.open()
    try:
        target = Target(track, out, work)
        report = Report(track, joining)
        exporters: list[Exporter] = [Csv(target), report]
        exporters += [EXPORTERS[name](target) for name in formats if name in EXPORTERS]
        bag = _bag_exporter(target, formats)
        if bag is not None:
            exporters.append(bag)
        summary = _Summary(track)
        frames = source.frames(0, len(source) - 1)
        for item, found in itertools.zip_longest(joining.frames(), frames):
            if item is None or found is None:
                raise InputError(
                    f"{track.recording}: has not as many frames as when it was first read: was it "
                    "changed meanwhile?"
                )
            number, frame = found
            assert item.frame == number
            for exporter in exporters:
                exporter.add(item, frame)
            summary.add(item, frame is not None)
            tell(1)
        summary.problems += source.problems[:_MOST_NAMED]
        for exporter in exporters:
            exporter.finish()
        if bag is not None:
            summary.problems += bag.problems
        os.sync()  # a power cut after the next line loses none of the files before it
        write_json(track.folder / FINISHED, summary.values(joining), durable=True)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        joining.close()
        source.close()


def _bag_exporter(target: Target, formats: tuple[str, ...]) -> Sidecar | None:
    """Of the labels as ROS messages; the recording is written again when all tracks are done."""
    if not set(formats) & set(BAG_FORMATS):
        return None
    alone = "mcap-sidecar" in formats
    return Sidecar(target.track, sidecar_folder(target.track, target.out, alone))


class _Summary:
    """What the manifest tells of a track."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self.problems: list[str] = []
        self._labelled = self._undecodable = 0
        self._objects: dict[int, dict[str, float]] = {
            n: {"score": 0.0, **dict.fromkeys((state.name for state in ObjectState), 0)}
            for n in track.ids
        }

    def add(self, item: Any, decoded: bool) -> None:
        self._labelled += decoded
        self._undecodable += not decoded
        for found in item.objects:
            values = self._objects[found.id]
            values[found.state.name] += 1
            values["score"] += found.score

    def values(self, joining: Joining) -> dict[str, Any]:
        track = self._track
        objects = {}
        for n, values in self._objects.items():
            seen = int(sum(values[state.name] for state in ObjectState))
            objects[str(n)] = {
                "name": track.name_of(n),
                "frames": seen,
                **{state.name.lower(): int(values[state.name]) for state in ObjectState},
                "mean_score": round(values["score"] / seen, 4) if seen else None,
            }
        return {
            "name": track.name,
            "recording": track.called,
            "topic": track.topic,
            "frames": len(track.index.stamps),
            "labelled": self._labelled,
            "undecodable": self._undecodable,
            "first_stamp": int(track.index.stamps[0]),
            "last_stamp": int(track.index.stamps[-1]),
            "seeds": [
                {"frame": seed.frame, "ids": list(seed.ids), "accepted": seed.accepted}
                for seed in track.seeds
            ],
            "objects": objects,
            "joins": [
                {
                    "id": join.id,
                    "seeds": list(join.seeds),
                    "at": join.at,
                    "agreement": round(join.agreement, 4),
                    "worst": round(join.worst, 4),
                    "worst_frame": join.worst_frame,
                }
                for joins in joining.joins.values()
                for join in joins
            ],
            "problems": [*track.problems, *map(track.told, self.problems)],
        }
