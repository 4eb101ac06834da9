"""All development sets in one table with a spread: what choices are made on.

A suite file (YAML) names the sets. Each object of each sequence gives one number, and the spread
is that of a bootstrap over the objects: the sets are drawn again 2,000 times, with replacement.
Two results are compared object by object, which cancels what makes one object harder than another.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.evaluation.composed import check_composed, cutouts, follow_leaving, follow_twins
from stremn_ros.evaluation.davis import evaluate_davis, look_at_all
from stremn_ros.evaluation.davis_data import Davis, DavisSequence, open_davis
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import contact_sheet
from stremn_ros.mappings import build
from stremn_ros.text_files import read_text, read_yaml

if TYPE_CHECKING:
    from stremn_ros.segmenter import Segmenter

DRAWS = 2000  # of the bootstrap
BINS = 10  # of the reliability diagram
COMPOSED = ("leaving", "twins")
KINDS = ("davis", "tracks", *COMPOSED)


@dataclass(frozen=True)
class SuiteSet:
    """One set of a suite.

    Attributes:
        name: of the set; kind: ``davis`` whole sequences, ``tracks`` short pieces of them,
            ``leaving`` and ``twins`` composed clips (``evaluation.composed``).
        root: folder in DAVIS' layout, relative to the data folder.
        split, year, sequences: as for ``open_davis``.
        ends: also the mean J of the first and of the last so many frames.
        length, starts: of ``tracks``: frames of a piece, pieces of a sequence in each direction.
        clips: of ``leaving`` and ``twins``.
    """

    name: str
    kind: str
    root: str
    split: str = "all"
    year: str = "auto"
    sequences: list[str] | None = None
    ends: int = 0
    length: int = 30
    starts: int = 3
    clips: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; use one of {KINDS}")
        for name, least in (("ends", 0), ("length", 3), ("starts", 1), ("clips", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {least} or more")

    def open(self, data: Path) -> Davis:
        """Its sequences, in the folder that the roots lie in."""
        return open_davis(data / self.root, self.split, year=self.year, sequences=self.sequences)


def read_suite(path: Path) -> list[SuiteSet]:
    """The sets of a suite file; InputError says what is wrong with it."""
    values = read_yaml(path)
    if not isinstance(values, dict) or not isinstance(values.get("sets"), dict):
        raise InputError(f"{path}: must be a mapping with the entry 'sets'")
    if not values["sets"]:
        raise InputError(f"{path}: 'sets' is empty; name at least one set, with kind and root")
    sets = []
    for name, entry in values["sets"].items():
        if not isinstance(entry, dict):
            raise InputError(f"{path}: sets: {name}: must be a mapping, with kind and root")
        sets.append(build(SuiteSet, {**entry, "name": str(name)}, f"{path}: sets: {name}"))
    return sets


def short_tracks(dataset: Davis, length: int, starts: int) -> Davis:
    """Pieces of a data set's sequences, forwards and backwards in time, as sequences.

    More evidence from the same frames: whether a mask survives depends much on the frame in which
    the object is given.

    Raises:
        InputError: no piece begins with a mask of an object and has three masks in all, as the
            first and the last are not scored.
    """
    pieces = []
    for sequence in dataset.sequences:
        count = len(sequence.images)
        size = min(length, count)
        firsts = sorted({round(at) for at in np.linspace(0, count - size, starts)})
        for first in firsts:
            for step in (1, -1):
                window = slice(first, first + size)
                images, masks = sequence.images[window][::step], sequence.masks[window][::step]
                piece = DavisSequence(
                    f"{sequence.name}@{first}{'+' if step > 0 else '-'}",
                    images,
                    masks,
                    sequence.binary,
                )
                scored = masks[0] is not None and len(masks) - masks.count(None) > 2
                if scored and piece.truth().ids:
                    pieces.append(piece)
    if not pieces:
        raise InputError(
            f"{dataset.root}: no piece of {length} frames begins with the mask of an object and "
            "has two more: give a greater length, or annotations of more frames"
        )
    return dataclasses.replace(dataset, sequences=pieces)


@dataclass
class SetResult:
    """What a set gave.

    Attributes:
        values: measure -> unit (an object, or a clip) -> percent.
        calibration: rows (score, J) of objects in frames, both 0..1.
        extra: other figures, percent.
    """

    name: str
    values: dict[str, dict[str, float]]
    seconds: float
    frames: int
    calibration: list[tuple[float, float]] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)

    def mean(self, measure: str) -> float:
        return float(np.mean(list(self.values[measure].values())))


def spread(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Standard error of the mean, and its 95 % interval, by bootstrap."""
    array = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(len(array), size=(DRAWS, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(means.std()), float(low), float(high)


def calibration_error(rows: Sequence[tuple[float, float]]) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error of the score as a prediction of the IoU, and the bins it is of.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, with the IoU for the accuracy.
    """
    scores, truth = np.asarray(rows, float).reshape(-1, 2).T
    bins, error = [], 0.0
    where = np.minimum((scores * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        inside = where == number
        if inside.any():
            score, iou = float(scores[inside].mean()), float(truth[inside].mean())
            bins.append({"score": score, "iou": iou, "share": float(inside.mean())})
            error += float(inside.mean()) * abs(score - iou)
    return error, bins


def run_suite(
    sets: Sequence[SuiteSet],
    data: Path,
    load: Callable[[int], Segmenter],
    *,
    pictures: Path | None = None,
    tell: Callable[[str], None] = print,
    on_set: Callable[[dict[str, SetResult]], None] = lambda results: None,
) -> dict[str, SetResult]:
    """Scores a model on all sets. All files are looked at first, so that none ends it after hours.

    Args:
        data: the folder that the sets' roots lie in.
        load: makes a segmenter for so many objects.
        pictures: a folder for the worst sequences and the composed clips, or None.
        tell: called with a line when a set is done; on_set: with all results until then.

    Raises:
        InputError: a set that is not there, or files of it that are missing or damaged; the
            message names the set and the files.
    """
    looked_at: list[Davis] = []
    ready: list[Davis] = []
    for each in sets:
        try:
            dataset = each.open(data)
            if dataset not in looked_at:
                look_at_all(dataset)
            looked_at.append(dataset)
            if each.kind in COMPOSED:
                check_composed(dataset, every_mask=each.kind == "leaving")
            if each.kind == "tracks":
                dataset = short_tracks(dataset, each.length, each.starts)
        except InputError as error:
            raise InputError(f"set {each.name}: {error}") from None
        ready.append(dataset)
    results: dict[str, SetResult] = {}
    for each, dataset in zip(sets, ready):
        begin = time.perf_counter()
        run = _composed if each.kind in COMPOSED else _sequences
        result = run(each, dataset, load, pictures)
        result.seconds = time.perf_counter() - begin
        results[each.name] = result
        tell(line(result))
        on_set(results)
    return results


def _sequences(
    each: SuiteSet, dataset: Davis, load: Callable[[int], Segmenter], pictures: Path | None
) -> SetResult:
    if each.kind == "tracks":
        pictures = None
    segmenter = load(dataset.max_objects)
    found = evaluate_davis(
        dataset, segmenter, pictures=pictures / each.name if pictures is not None else None
    )
    pieces: dict[str, dict[str, list[float]]] = {"j_and_f": {}, "j": {}, "f": {}}
    calibration: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for sequence in found.sequences:
        for label, score in sequence.objects.items():
            unit = f"{sequence.name.split('@')[0]}/{label}"
            j, f = 100.0 * score.j.mean, 100.0 * score.f.mean
            for measure, value in (("j_and_f", (j + f) / 2), ("j", j), ("f", f)):
                pieces[measure].setdefault(unit, []).append(value)
        calibration += sequence.calibration
        if each.ends:
            frames = sequence.frame_j
            ends.append((float(np.mean(frames[: each.ends])), float(np.mean(frames[-each.ends :]))))
    extra = {}
    if ends:
        first, last = 100.0 * np.mean(ends, axis=0)
        extra = {f"j_first_{each.ends}": float(first), f"j_last_{each.ends}": float(last)}
    return SetResult(
        each.name,
        {
            measure: {unit: float(np.mean(values)) for unit, values in units.items()}
            for measure, units in pieces.items()
        },
        0.0,
        sum(sequence.frames for sequence in found.sequences),
        calibration,
        extra,
    )


def _composed(
    each: SuiteSet, dataset: Davis, load: Callable[[int], Segmenter], pictures: Path | None
) -> SetResult:
    follow = follow_leaving if each.kind == "leaving" else follow_twins
    shown = 6 if pictures is not None else 0
    result = follow(load(1), cutouts(dataset), each.clips, pictures=shown)
    if pictures is not None:
        frames, labels, captions = (list(part) for part in zip(*result.shown, strict=True))
        write_image(pictures / f"{each.name}.png", contact_sheet(frames, labels, 5, captions))
    values = {
        name: {f"clip {n}": 100.0 * value for n, value in enumerate(outcomes)}
        for name, outcomes in result.outcomes.items()
    }
    return SetResult(each.name, values, 0.0, 0)


def line(result: SetResult) -> str:
    """A set's figures as a line of text."""
    parts = []
    for measure, units in result.values.items():
        error, low, high = spread(list(units.values()))
        parts.append(f"{measure} {result.mean(measure):.1f} ±{error:.1f} [{low:.1f}, {high:.1f}]")
    parts += [f"{name} {value:.1f}" for name, value in result.extra.items()]
    units = next(iter(result.values.values()))
    return f"{result.name:<14} {len(units):3d}  " + "  ".join(parts) + f"  ({result.seconds:.0f} s)"


def as_dict(
    results: dict[str, SetResult], settings: dict[str, Any], partial: bool = False
) -> dict[str, Any]:
    """Plain types for JSON. partial: sets are missing."""
    rows = [row for result in results.values() for row in result.calibration]
    out: dict[str, Any] = {"settings": settings, "partial": partial, "sets": {}}
    for name, result in results.items():
        measures = {}
        for measure, units in result.values.items():
            error, low, high = spread(list(units.values()))
            measures[measure] = {
                "mean": round(result.mean(measure), 3),
                "standard_error": round(error, 3),
                "interval_95": [round(low, 3), round(high, 3)],
                "units": {unit: round(value, 3) for unit, value in units.items()},
            }
        out["sets"][name] = {
            "measures": measures,
            "extra": {key: round(value, 3) for key, value in result.extra.items()},
            "seconds": round(result.seconds, 1),
            "frames": result.frames,
        }
    if rows:
        error, bins = calibration_error(rows)
        out["calibration"] = {
            "expected_calibration_error": round(error, 4),
            "rows": len(rows),
            "bins": [{key: round(value, 4) for key, value in each.items()} for each in bins],
        }
    return out


def compare(found: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Lines of text: what ``found`` has over ``other``, object by object, with its interval.

    Args:
        found, other: as ``as_dict`` gives them.
    """
    lines = []
    pooled: list[float] = []
    for name, entry in found["sets"].items():
        earlier = other["sets"].get(name, {"measures": {}})["measures"]
        units = [values["units"].keys() for values in entry["measures"].values()]
        if not any(before["units"].keys() in units for before in earlier.values()):
            lines.append(f"{name:<14} not compared: the earlier result has other objects, or none")
        for measure, values in entry["measures"].items():
            before = earlier.get(measure)
            if before is None or before["units"].keys() != values["units"].keys():
                continue
            change = [values["units"][unit] - before["units"][unit] for unit in values["units"]]
            error, low, high = spread(change)
            lines.append(
                f"{name:<14} {measure:<16} {np.mean(change):+6.2f} ±{error:.2f} "
                f"[{low:+.2f}, {high:+.2f}]"
            )
            if measure == "j_and_f":
                pooled += change
    if pooled:
        error, low, high = spread(pooled)
        lines.append(
            f"{'all objects':<14} {'j_and_f':<16} {np.mean(pooled):+6.2f} ±{error:.2f} "
            f"[{low:+.2f}, {high:+.2f}]  ({len(pooled)} objects)"
        )
    return lines


def read_result(path: Path) -> dict[str, Any]:
    """A result that was written as JSON; InputError where it is none."""
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict) or not _are_sets(values.get("sets")):
        raise InputError(f"{path}: is not a result of `stremn evaluate suite`, or is damaged")
    return values


def _are_sets(values: Any) -> bool:
    """Whether they have what ``compare`` looks at."""
    try:
        measures = [each for entry in values.values() for each in entry["measures"].values()]
        numbers = [value for each in measures for value in each["units"].values()]
    except (AttributeError, KeyError, TypeError):
        return False
    return all(isinstance(value, (int, float)) for value in numbers)
