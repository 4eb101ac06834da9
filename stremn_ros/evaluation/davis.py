"""Runs a Segmenter over DAVIS or YouTube-VOS and scores its masks by the official definition.

The protocol is the semi-supervised one. DAVIS: the mask of the first frame is given, the first and
the last frame are not scored. YouTube-VOS: each object's mask is given in the first frame that has
it, and it is scored in the annotated frames after that one. Scores are averaged over the frames of
an object and then over all objects (with one object per sequence that is the mean over sequences).
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import stremn_ros
from stremn_ros.errors import InputError, StremnError
from stremn_ros.evaluation.metrics import Statistics, score_frame, statistics
from stremn_ros.imaging.listing import list_folders, list_images
from stremn_ros.imaging.mask_reading import VOID, has_void, read_mask
from stremn_ros.imaging.pictures import stored_size
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import contact_sheet, overlay, write_label_png
from stremn_ros.text_files import read_lines, read_text

if TYPE_CHECKING:
    from stremn_ros.segmenter import Segmenter

_log = logging.getLogger(__name__)

YEARS = ("2017", "2016", "480p")  # folders of ImageSets, the one preferred at a tie first


@dataclass
class DavisSequence:
    """One sequence: its images in order, and the annotation of each image that has one.

    binary: every object is one (DAVIS 2016, also when read from the masks of 2017). late: objects
    may come in later frames and are given there (YouTube-VOS). given_in: the names of the frames in
    which objects are given, by id, where that is known; else it is the first that shows them.
    """

    name: str
    images: list[Path]
    masks: list[Path | None]
    binary: bool = False
    late: bool = False
    given_in: dict[int, str] = field(default_factory=dict)

    def truth(self) -> Truth:
        """Reads all annotations; InputError names one that is damaged or of another size."""
        read: list[np.ndarray | None] = []
        values: set[int] = set()
        shape: tuple[int, ...] | None = None
        notes: list[str] = []
        for path in self.masks:
            if path is None:
                read.append(None)
                continue
            mask = read_mask(path)
            if shape is not None and mask.values.shape != shape:
                raise InputError(
                    f"{path}: is {list(mask.values.shape)}, the sequence's first annotation is "
                    f"{list(shape)}"
                )
            shape = mask.values.shape
            values |= set(mask.ids)
            notes += [f"{path.name} {note}" for note in mask.notes]
            read.append(mask.values)
        if notes:
            _log.warning("%s: %s (%d such notes)", self.name, notes[0], len(notes))
        # 255 is the object where it stands alone (DAVIS 2016); beside ids it means "not scored"
        whole, unscored = values == {VOID}, has_void(values)
        void: list[np.ndarray | None] = []
        clean: list[np.ndarray | None] = []
        for item in read:
            outside = None
            if item is not None and unscored and (item == VOID).any():
                outside = item == VOID
            if item is not None and (whole or self.binary):
                item = ((item != 0) if outside is None else (item != 0) & ~outside).astype(np.uint8)
            elif item is not None and outside is not None:
                item = np.where(outside, 0, item).astype(np.uint8)
            clean.append(item)
            void.append(outside)
        ids = {1} if whole or self.binary else values - ({VOID} if unscored else set())
        given = self._given(clean, ids)
        drawn_as = VOID if whole else None
        return Truth(clean, void, given, sorted(ids - given.keys()), drawn_as)

    def _given(self, labels: list[np.ndarray | None], ids: set[int]) -> dict[int, int]:
        """The image in which each object is given, by id."""
        places = {path.stem: index for index, path in enumerate(self.images)}
        first: dict[int, int] = {}
        for index, item in enumerate(labels if self.late else labels[:1]):
            if item is None:
                continue
            for number in set(np.unique(item).tolist()) & ids - first.keys():
                if index >= places.get(self.given_in.get(number, ""), 0):
                    first[number] = index
        return dict(sorted(first.items()))


@dataclass
class Truth:
    """Annotations of a sequence: labels uint8 [H, W] or None for each image, and where void.

    given: the objects that are given and scored, with the image in which they are given. left_out:
    others, which the protocol never gives and nothing scores. drawn_as: 255 where the files have
    the one object (id 1 here) under that value, None where they have ids.
    """

    labels: list[np.ndarray | None]
    void: list[np.ndarray | None]
    given: dict[int, int]
    left_out: list[int]
    drawn_as: int | None

    @property
    def ids(self) -> list[int]:
        return list(self.given)


@dataclass
class Davis:
    """Sequences of a split on disk.

    year: the folder of ImageSets it came from, "folders", or "YouTube-VOS".
    """

    root: Path
    split: str
    year: str
    resolution: str
    sequences: list[DavisSequence]
    selected: bool = False  # a filter left some sequences of the split out

    @property
    def max_objects(self) -> int:
        """The largest number of objects that a sequence gives (for Segmenter.load)."""
        most = 1
        for sequence in self.sequences:
            if sequence.binary:
                continue
            ids: set[int] = set()
            for path in sequence.masks if sequence.late else sequence.masks[:1]:
                if path is not None:
                    ids.update(read_mask(path).ids)
            most = max(most, len(ids) - has_void(ids))
        return most


def open_davis(
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    year: str = "auto",
    resolution: str = "480p",
    sequences: Sequence[str] | None = None,
) -> Davis:
    """Finds the sequences of a split in the official folder layout.

    root holds JPEGImages/RESOLUTION, Annotations/RESOLUTION and ImageSets. split: the name of a
    list (ImageSets/2016/val.txt, ImageSets/2017/val.txt or ImageSets/480p/val.txt), or "all" for
    every annotated folder, which needs no list. year: "2016", "2017" or "auto", the list with
    the most sequences. With the 2016 lists several objects in a mask count as one, as in that
    benchmark. sequences: only these. Raises InputError for anything that is missing.

    YouTube-VOS' layout is taken as well, where it is found: JPEGImages/NAME, Annotations/NAME with
    masks of some of the frames, and meta.json, which says in which frame each object is given.
    """
    root = Path(root)
    if _is_youtube_vos(root, resolution):
        return _open_youtube_vos(root, sequences)
    images, annotations = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    for folder in (images, annotations):
        if not folder.is_dir():
            inner = [path for path in (root / "DAVIS", root / "DAVIS2017") if path.is_dir()]
            hint = f"; did you mean {inner[0]}?" if inner else ""
            raise InputError(
                f"{folder}: no such folder. DAVIS' layout is JPEGImages/{resolution}/NAME/*.jpg, "
                f"Annotations/{resolution}/NAME/*.png and ImageSets/YEAR/{split}.txt{hint}"
            )
    if year not in ("auto", "2016", "2017"):
        raise InputError(f'year {year!r}: "2016", "2017" or "auto" is needed')
    if split == "all":
        names = [path.name for path in list_folders(annotations) if list_images(path)]
        source = "2016" if year == "2016" else "folders"
    else:
        source, names = _read_split(root, split, year)
    if not names:
        raise InputError(f"{root}: the split {split} has no sequences")
    wanted = names
    if sequences is not None:
        unknown = [name for name in sequences if name not in names]
        if unknown or not sequences:
            raise InputError(
                f"sequences {', '.join(unknown) or '(none)'}: not in the split {split} "
                f"({source}), which has {', '.join(names)}"
            )
        wanted = [name for name in names if name in set(sequences)]
    binary = source in ("2016", "480p")
    found = [_find_sequence(name, images, annotations, binary) for name in wanted]
    return Davis(root, split, source, resolution, found, len(wanted) < len(names))


def _is_youtube_vos(root: Path, resolution: str) -> bool:
    folders = [root / name for name in ("JPEGImages", "Annotations")]
    return all(folder.is_dir() and not (folder / resolution).exists() for folder in folders) and (
        (root / "meta.json").is_file() or any(list_images(f) for f in list_folders(folders[1]))
    )


def _open_youtube_vos(root: Path, sequences: Sequence[str] | None) -> Davis:
    """All annotated sequences, or those named, in YouTube-VOS' layout."""
    annotations = root / "Annotations"
    given = _read_meta(root / "meta.json") if (root / "meta.json").is_file() else {}
    names = [path.name for path in list_folders(annotations) if list_images(path)]
    if not names:
        raise InputError(f"{annotations}: no sequences (NAME/*.png)")
    chosen = names if sequences is None else list(sequences)
    if unknown := [name for name in chosen if name not in names]:
        raise InputError(f"sequences {', '.join(unknown)}: not in {annotations}")
    found = []
    for name in chosen:
        sequence = _find_sequence(name, root / "JPEGImages", annotations, False, late=True)
        sequence.given_in = given.get(name, {})
        found.append(sequence)
    return Davis(root, "all", "YouTube-VOS", "", found, len(chosen) < len(names))


def _read_meta(path: Path) -> dict[str, dict[int, str]]:
    """Of meta.json: the frame in which each object is given, by sequence and id."""
    try:
        videos = json.loads(read_text(path))["videos"]
        return {
            name: {
                int(number): min(item["frames"])
                for number, item in video["objects"].items()
                if item.get("frames")
            }
            for name, video in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: is not of YouTube-VOS, which has videos, their objects, and of each object "
            f"its frames ({type(error).__name__}: {error})"
        ) from None


def _read_split(root: Path, split: str, year: str) -> tuple[str, list[str]]:
    lists = {}
    for name in YEARS:
        path = root / "ImageSets" / name / f"{split}.txt"
        # The lists under 480p are those of DAVIS 2016, one line per frame
        if (year == "auto" or year == name or (year == "2016" and name == "480p")) and (
            path.is_file()
        ):
            lists[name] = list(dict.fromkeys(_sequence_names(path)))
    if not lists:
        there = sorted(f"{path.parent.name}/{path.stem}" for path in root.glob("ImageSets/*/*.txt"))
        raise InputError(
            f"{root / 'ImageSets'}: no list {split}.txt for year {year} (there is "
            f'{", ".join(there) or "nothing"}); split "all" takes every annotated folder'
        )
    source = max(lists, key=lambda name: len(lists[name]))
    return source, lists[source]


def _sequence_names(path: Path) -> Iterator[str]:
    """Lines are "bear", or "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png"."""
    for line in read_lines(path):
        first = line.split()[0]
        yield first.rstrip("/").split("/")[-2] if first.strip("/").count("/") else line.strip("/")


def _find_sequence(
    name: str, images: Path, annotations: Path, binary: bool, late: bool = False
) -> DavisSequence:
    for folder in (images / name, annotations / name):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder, but the split has the sequence {name}")
    frames = list_images(images / name)
    masks = {path.stem: path for path in list_images(annotations / name)}
    lost = sorted(set(masks) - {path.stem for path in frames})
    if lost:
        raise InputError(f"{masks[lost[0]]}: there is no image of this name in {images / name}")
    if late and len(masks) < 2:
        raise InputError(
            f"{annotations / name}: {len(masks)} annotations; scoring needs at least 2, one that "
            "is given and one to compare with (the validation set of YouTube-VOS comes with the "
            "first only: its server scores)"
        )
    if not late and (not frames or frames[0].stem not in masks):
        raise InputError(f"{annotations / name}: the first frame has no annotation")
    if not late and len(masks) < 3:
        raise InputError(
            f"{annotations / name}: {len(masks)} annotations; scoring needs at least 3, as the "
            "first and the last are not scored (the test splits of DAVIS come without)"
        )
    return DavisSequence(name, frames, [masks.get(path.stem) for path in frames], binary, late)


@dataclass
class ObjectScore:
    """Scores of one object of one sequence, in the range 0..1."""

    j: Statistics
    f: Statistics


@dataclass
class SequenceScore:
    """Scores of one sequence. frames: those segmented; seconds: spent in the segmenter's steps."""

    name: str
    objects: dict[int, ObjectScore]
    frames: int
    seconds: float
    frame_j: list[float] = field(repr=False)  # mean over objects, for each scored frame
    processing_size: tuple[int, int] | None = None  # rows and columns the network worked at
    # of each object in each scored frame, the segmenter's score and the J of its mask, both 0..1
    calibration: list[tuple[float, float]] = field(default_factory=list, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)

    @property
    def j(self) -> float:
        return float(np.mean([score.j.mean for score in self.objects.values()]))

    @property
    def f(self) -> float:
        return float(np.mean([score.f.mean for score in self.objects.values()]))


@dataclass
class DavisResult:
    """What evaluate_davis() found. as_dict() gives it in percent, ready for JSON."""

    sequences: list[SequenceScore]
    settings: dict[str, Any]
    partial: list[str]  # why this is not a result for the whole split; empty when it is
    peak_memory_mib: dict[str, float]

    def mean(self, measure: str) -> float:
        """Mean of "j" or "f" over all objects of all sequences, 0..1."""
        return float(
            np.mean(
                [
                    getattr(score, measure).mean
                    for sequence in self.sequences
                    for score in sequence.objects.values()
                ]
            )
        )

    @property
    def frames_per_second(self) -> float:
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.frames for sequence in self.sequences) / seconds if seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        def percent(value: float) -> float | None:
            return None if math.isnan(value) else round(100 * value, 3)

        def overall(measure: str, statistic: str) -> float | None:
            values = [
                getattr(getattr(score, measure), statistic)
                for sequence in self.sequences
                for score in sequence.objects.values()
            ]
            values = [value for value in values if not math.isnan(value)]
            return percent(float(np.mean(values))) if values else None

        j, f = self.mean("j"), self.mean("f")
        return {
            "j_and_f": percent((j + f) / 2),
            "j": percent(j),
            "f": percent(f),
            "j_recall": overall("j", "recall"),
            "j_decay": overall("j", "decay"),
            "f_recall": overall("f", "recall"),
            "f_decay": overall("f", "decay"),
            "sequences": {
                sequence.name: {
                    "j_and_f": percent((sequence.j + sequence.f) / 2),
                    "j": percent(sequence.j),
                    "f": percent(sequence.f),
                    "frames": sequence.frames,
                    "frames_per_second": _rate(sequence.frames, sequence.seconds),
                    "processing_size": sequence.processing_size,
                    "objects": {
                        str(label): {"j": percent(score.j.mean), "f": percent(score.f.mean)}
                        for label, score in sequence.objects.items()
                    },
                }
                for sequence in self.sequences
            },
            "frames_per_second": round(self.frames_per_second, 2),
            "peak_memory_mib": self.peak_memory_mib,
            "partial": bool(self.partial),
            "partial_because": self.partial,
            "settings": self.settings,
        }

    def table(self) -> str:
        """The scores as text, one line for each sequence, the mean last."""
        width = max([len(sequence.name) for sequence in self.sequences] + [8])
        lines = [f"{'sequence':{width}}  objects    J&F      J      F  frames/s"]
        for sequence in self.sequences:
            lines.append(
                f"{sequence.name:{width}}  {len(sequence.objects):7d}"
                f"  {50 * (sequence.j + sequence.f):5.1f}  {100 * sequence.j:5.1f}"
                f"  {100 * sequence.f:5.1f}  {_rate(sequence.frames, sequence.seconds):8.1f}"
            )
        j, f = self.mean("j"), self.mean("f")
        objects = sum(len(sequence.objects) for sequence in self.sequences)
        lines.append(
            f"{'mean':{width}}  {objects:7d}  {50 * (j + f):5.1f}  {100 * j:5.1f}  {100 * f:5.1f}"
            f"  {self.frames_per_second:8.1f}"
        )
        return "\n".join(lines + [f"partial result: {reason}" for reason in self.partial])


def _rate(frames: int, seconds: float) -> float:
    return round(frames / seconds, 2) if seconds else 0.0


def evaluate_davis(
    dataset: Davis,
    segmenter: Segmenter,
    *,
    every: int = 1,
    masks: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    progress: bool = False,
    settings: dict[str, Any] | None = None,
    on_sequence: Callable[[DavisResult], None] | None = None,
) -> DavisResult:
    """Follows the objects of each first mask through its sequence and scores the masks.

    every: 1 is the benchmark; n segments and scores only every n-th frame, for a quick look (the
    motion between frames grows with it). masks: folder for the predicted label PNGs, one folder
    a sequence, with the pixel values that the annotations have. pictures: folder for
    worst_sequences.png (the five worst with their masks) and scores.png. settings: goes into the
    result as it is. on_sequence: given the result so far, marked as partial, after each sequence
    but the last. All files are looked at before the first sequence is segmented. Raises InputError
    for data that cannot be scored, CapacityError for more objects than the segmenter takes
    (Davis.max_objects says how many there are).
    """
    if every < 1:
        raise InputError(f"every {every}: 1 (all frames) or more is needed")
    look_at_all(dataset, every, progress)
    scores: list[SequenceScore] = []

    def result_so_far() -> DavisResult:
        partial = []
        if every > 1:
            partial.append(f"only every {every}. frame was segmented and scored")
        if dataset.selected:
            partial.append("only some sequences of the split were taken")
        if len(scores) < len(dataset.sequences):
            partial.append(f"{len(scores)} of {len(dataset.sequences)} sequences are done")
        return DavisResult(
            list(scores),
            {
                "root": str(dataset.root.name),
                "split": dataset.split,
                "image_set": dataset.year,
                "resolution": dataset.resolution,
                "every": every,
                "runtime": segmenter.runtime_name,
                "slots": segmenter.memory.slots,
                "update_rule": segmenter.update_rule,
                "input_to_memory": getattr(segmenter.memory, "input_to_memory", False),
                **(settings or {}),
                "version": stremn_ros.__version__,
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            },
            partial,
            _peak_memory(),
        )

    frames = sum(len(sequence.images[::every]) for sequence in dataset.sequences)
    with _progress_bar(frames, progress) as bar:
        for sequence in dataset.sequences:
            bar.set_description(sequence.name)
            scores.append(
                _evaluate_sequence(
                    sequence,
                    segmenter,
                    every,
                    Path(masks) / sequence.name if masks is not None else None,
                    pictures is not None,
                    bar,
                )
            )
            if on_sequence is not None and len(scores) < len(dataset.sequences):
                on_sequence(result_so_far())
    result = result_so_far()
    if pictures is not None:
        _draw(result, Path(pictures))
    return result


def look_at_all(dataset: Davis, every: int = 1, progress: bool = False) -> None:
    """Looks at every file that an evaluation will read, so that none ends it after hours.

    Raises:
        InputError: files that are missing, cut short or damaged, sizes that differ, first masks
            without an object. The message names the first five, and how many there are.
    """
    problems: list[str] = []
    frames = sum(len(sequence.images[::every]) for sequence in dataset.sequences)
    with _progress_bar(frames, progress) as bar:
        bar.set_description("looking at all files")
        for sequence in dataset.sequences:
            problems += _problems(sequence, every, bar)
    if problems:
        shown = "; ".join(problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"nothing was evaluated, as it would fail later: {shown}{more}")


def _problems(sequence: DavisSequence, every: int, bar: Any) -> list[str]:
    found = []
    shape = None
    try:
        truth = sequence.truth()
        if not truth.given:
            found.append(_nothing_given(sequence))
        else:
            shape = next(labels.shape for labels in truth.labels if labels is not None)
        if not any(index % every == 0 for index in _scored(sequence, truth)):
            found.append(f"{sequence.name}: no frame left to score with every {every}")
    except InputError as error:
        found.append(str(error))
    for path in sequence.images[::every]:
        bar.update()
        try:
            size = stored_size(path.read_bytes()) or read_image(path).shape[:2]
        except (InputError, OSError) as error:
            text = str(error)
            found.append(text if str(path) in text else f"{path}: {text}")
            continue
        if shape is not None and size != shape:
            found.append(f"{path}: is {list(size)}, its annotation is {list(shape)}")
    return found


def _nothing_given(sequence: DavisSequence) -> str:
    if sequence.late:
        return f"{sequence.name}: its annotations are empty, nothing to follow"
    return f"{sequence.masks[0]}: the first annotation is empty, nothing to follow"


def _scored(sequence: DavisSequence, truth: Truth) -> dict[int, list[int]]:
    """The objects that are scored in each image, by its index; images with any."""
    annotated = [index for index, labels in enumerate(truth.labels) if labels is not None]
    if not sequence.late:
        return dict.fromkeys(annotated[1:-1], truth.ids)
    objects = {
        index: [number for number, given in truth.given.items() if given < index]
        for index in annotated
    }
    return {index: numbers for index, numbers in objects.items() if numbers}


def _evaluate_sequence(
    sequence: DavisSequence,
    segmenter: Segmenter,
    every: int,
    masks: Path | None,
    draw: bool,
    bar: Any,
) -> SequenceScore:
    truth = sequence.truth()
    if not truth.given:
        raise InputError(_nothing_given(sequence))
    if truth.left_out:
        _log.warning(
            "%s: objects %s are not in the first frame; they are not given and not scored",
            sequence.name,
            truth.left_out,
        )
    shape = next(labels.shape for labels in truth.labels if labels is not None)
    scored = _scored(sequence, truth)
    shown: dict[int, np.ndarray] = {}
    j: list[np.ndarray] = []  # one entry for each object, NaN where it is not scored
    f: list[np.ndarray] = []
    scored_at: list[int] = []
    calibration: list[tuple[float, float]] = []
    seconds, steps = 0.0, 0
    segmenter.reset()
    # where an object is given, that frame is never left out
    for index in sorted({*range(0, len(sequence.images), every), *truth.given.values()}):
        frame = read_image(sequence.images[index])
        if frame.shape[:2] != shape:
            raise InputError(
                f"{sequence.images[index]}: is {list(frame.shape[:2])}, its annotation is "
                f"{list(shape)}"
            )
        begin = time.perf_counter()
        scores_of, labels = _follow(segmenter, frame, truth, index)
        if index not in truth.given.values():
            seconds += time.perf_counter() - begin
            steps += 1
        right = truth.labels[index]
        if right is not None and (numbers := scored.get(index)):
            scores = score_frame(labels, right, truth.ids, truth.void[index])
            counted = np.isin(truth.ids, numbers)
            j.append(np.where(counted, scores[0], np.nan))
            f.append(np.where(counted, scores[1], np.nan))
            scored_at.append(index)
            calibration += [
                (scores_of.get(label, 0.0), float(scores[0][column]))
                for column, label in enumerate(truth.ids)
                if counted[column]
            ]
        if masks is not None:
            drawn = labels * np.uint8(truth.drawn_as or 1)
            write_label_png(masks / f"{sequence.images[index].stem}.png", drawn)
        if draw:
            shown[index] = labels
        bar.update()
    if not j:
        raise InputError(f"{sequence.name}: no frame left to score with every {every}")
    all_j, all_f = np.array(j), np.array(f)  # [frames, objects]
    frame_j = np.nanmean(all_j, axis=1)
    objects = {
        label: ObjectScore(*(statistics(m[~np.isnan(m[:, n]), n]) for m in (all_j, all_f)))
        for n, label in enumerate(truth.ids)
        if not np.isnan(all_j[:, n]).all()
    }
    score = SequenceScore(
        sequence.name,
        objects,
        steps,
        seconds,
        frame_j.tolist(),
        segmenter.processing_size,
        calibration,
    )
    if draw:
        score.picture = _strip(sequence, truth, shown, dict(zip(scored_at, frame_j)))
    return score


def _follow(
    segmenter: Segmenter, frame: np.ndarray, truth: Truth, index: int
) -> tuple[dict[int, float], np.ndarray]:
    """The segmenter's scores by id, and the labels of an image; objects given in it are seeded."""
    if index < min(truth.given.values()):
        return {}, np.zeros(frame.shape[:2], np.uint8)
    new = [number for number, given in truth.given.items() if given == index]
    right = truth.labels[index]
    if not new or right is None:
        result = segmenter.step(frame)
        return {item.id: item.score for item in result.objects}, result.labels
    own = np.where(np.isin(right, new), right, 0).astype(np.uint8)
    if index == min(truth.given.values()):
        segmenter.seed(frame, own)
        return {}, own
    result = segmenter.segment(frame)
    segmenter.seed(frame, own)
    segmenter.remember()
    return {item.id: item.score for item in result.objects}, np.where(own, own, result.labels)


def _strip(
    sequence: DavisSequence, truth: Truth, shown: dict[int, np.ndarray], frame_j: dict[int, float]
) -> np.ndarray:
    """The given mask, three frames on the way, the worst frame and the last scored, in a row."""
    worst = min(frame_j, key=lambda index: frame_j[index])
    times = sorted(frame_j)
    chosen = {times[round(share * (len(times) - 1))] for share in (0.25, 0.5, 0.75, 1.0)}
    if worst in chosen:
        chosen.add(times[round(0.1 * (len(times) - 1))])
    frames, captions = [], []
    for index in sorted({min(truth.given.values()), worst} | chosen):
        frame = overlay(read_image(sequence.images[index]), shown[index], outline=False)
        thickness = max(1, round(frame.shape[1] / 430))
        right = truth.labels[index]
        if right is not None and index in frame_j:
            for label in truth.ids:
                contours, _ = cv2.findContours(
                    (right == label).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(frame, contours, -1, (255, 255, 255), thickness)
        frames.append(frame)
        name = sequence.images[index].stem
        if index not in frame_j:
            captions.append(f"{sequence.name} {name} given")
        else:
            tag = " worst" if index == worst else ""
            captions.append(f"{sequence.name} {name}{tag}  J {100 * frame_j[index]:.1f}")
    while len(frames) < 6:  # a very short sequence
        frames.append(np.zeros_like(frames[0]))
        captions.append("")
    return contact_sheet(frames, None, 6, captions, tile_width=300)


def _draw(result: DavisResult, folder: Path) -> None:
    ranked = sorted(result.sequences, key=lambda sequence: sequence.j + sequence.f)
    strips: list[np.ndarray] = []
    for sequence in ranked[:5]:
        if sequence.picture is not None:
            head = np.full((34, sequence.picture.shape[1], 3), 24, np.uint8)
            text = (
                f"{sequence.name}   J&F {50 * (sequence.j + sequence.f):.1f}   "
                f"J {100 * sequence.j:.1f}   F {100 * sequence.f:.1f}"
            )
            if not strips:
                text += "   (tint: predicted, white line: true outline)"
            cv2.putText(
                head, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 220, 120), 1, cv2.LINE_AA
            )
            strips.append(np.concatenate([head, sequence.picture]))
    write_image(folder / "worst_sequences.png", np.concatenate(strips))
    _draw_bars(ranked, result, folder / "scores.png")


def _draw_bars(ranked: list[SequenceScore], result: DavisResult, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.32 * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(ranked))
    axes.barh(rows + 0.2, [100 * sequence.j for sequence in ranked], 0.38, label="J (region)")
    axes.barh(rows - 0.2, [100 * sequence.f for sequence in ranked], 0.38, label="F (contour)")
    axes.set_yticks(rows, [sequence.name for sequence in ranked])
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    mean = 50 * (result.mean("j") + result.mean("f"))
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean J&F {mean:.1f}")
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent")
    axes.set_title("Partial result" if result.partial else f"Split {result.settings['split']}")
    axes.legend(loc="lower right", fontsize=9)  # the worst, with the shortest bars, are below
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        FigureCanvasAgg(figure).print_png(str(path))
    except OSError as error:
        raise StremnError(f"{path}: cannot be written ({error})") from error


def _peak_memory() -> dict[str, float]:
    """Largest memory so far, in MiB: of the whole process, and of torch on the GPU if used."""
    found = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def _progress_bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="frame", disable=not shown, dynamic_ncols=True)
