"""Runs a Segmenter over DAVIS 2016 or 2017 and scores its masks by the official definition.

The protocol is the semi-supervised one: the mask of the first frame is given, the first and the
last frame are not scored, scores are averaged over the frames of an object and then over all
objects (with one object per sequence that is the mean over sequences).
"""

from __future__ import annotations

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
from stremn_ros.listing import list_folders, list_images
from stremn_ros.mask_reading import VOID, has_void, read_mask
from stremn_ros.pictures import stored_size
from stremn_ros.text_files import read_lines
from stremn_ros.video import read_image, write_image
from stremn_ros.visualization import contact_sheet, overlay, write_label_png

if TYPE_CHECKING:
    from stremn_ros.segmenter import Segmenter

_log = logging.getLogger(__name__)

YEARS = ("2017", "2016", "480p")  # folders of ImageSets, the one preferred at a tie first


@dataclass
class DavisSequence:
    """One sequence: its images in order, and the annotation of each image that has one.

    binary: every object is one (DAVIS 2016, also when read from the masks of 2017).
    """

    name: str
    images: list[Path]
    masks: list[Path | None]
    binary: bool = False

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
        first = clean[0]
        given = set() if first is None else set(np.unique(first).tolist()) - {0}
        ids = {1} if whole or self.binary else values - ({VOID} if unscored else set())
        drawn_as = VOID if whole else None
        return Truth(clean, void, sorted(given), sorted(ids - given), drawn_as)


@dataclass
class Truth:
    """Annotations of a sequence: labels uint8 [H, W] or None for each image, and where void.

    ids: the objects of the first frame, which are given and scored. late_ids: others, which the
    protocol never gives and nothing scores. drawn_as: 255 where the files have the one object
    (id 1 here) under that value, None where they have ids.
    """

    labels: list[np.ndarray | None]
    void: list[np.ndarray | None]
    ids: list[int]
    late_ids: list[int]
    drawn_as: int | None


@dataclass
class Davis:
    """Sequences of a split on disk. year: the folder of ImageSets it came from, or "folders"."""

    root: Path
    split: str
    year: str
    resolution: str
    sequences: list[DavisSequence]
    selected: bool = False  # a filter left some sequences of the split out

    @property
    def max_objects(self) -> int:
        """The largest number of objects in a first frame (for Segmenter.load)."""
        most = 1
        for sequence in self.sequences:
            first = sequence.masks[0]
            if first is not None and not sequence.binary:
                ids = read_mask(first).ids
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
    """
    root = Path(root)
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


def _find_sequence(name: str, images: Path, annotations: Path, binary: bool) -> DavisSequence:
    for folder in (images / name, annotations / name):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder, but the split has the sequence {name}")
    frames = list_images(images / name)
    masks = {path.stem: path for path in list_images(annotations / name)}
    lost = sorted(set(masks) - {path.stem for path in frames})
    if lost:
        raise InputError(f"{masks[lost[0]]}: there is no image of this name in {images / name}")
    if not frames or frames[0].stem not in masks:
        raise InputError(f"{annotations / name}: the first frame has no annotation")
    if len(masks) < 3:
        raise InputError(
            f"{annotations / name}: {len(masks)} annotations; scoring needs at least 3, as the "
            "first and the last are not scored (the test splits of DAVIS come without)"
        )
    return DavisSequence(name, frames, [masks.get(path.stem) for path in frames], binary)


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
        first = truth.labels[0]
        if not truth.ids or first is None:
            found.append(f"{sequence.masks[0]}: the first annotation is empty, nothing to follow")
        else:
            shape = first.shape
        annotated = [index for index, labels in enumerate(truth.labels) if labels is not None]
        if not any(index % every == 0 for index in annotated[1:-1]):
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


def _evaluate_sequence(
    sequence: DavisSequence,
    segmenter: Segmenter,
    every: int,
    masks: Path | None,
    draw: bool,
    bar: Any,
) -> SequenceScore:
    truth = sequence.truth()
    first = truth.labels[0]
    if not truth.ids or first is None:
        raise InputError(f"{sequence.masks[0]}: the first annotation is empty, nothing to follow")
    if truth.late_ids:
        _log.warning(
            "%s: objects %s are not in the first frame; they are not given and not scored",
            sequence.name,
            truth.late_ids,
        )
    annotated = [index for index, labels in enumerate(truth.labels) if labels is not None]
    scored = set(annotated[1:-1])
    shown: dict[int, np.ndarray] = {}
    j: list[np.ndarray] = []
    f: list[np.ndarray] = []
    scored_at: list[int] = []
    calibration: list[tuple[float, float]] = []
    seconds, steps = 0.0, 0
    segmenter.reset()
    for index in range(0, len(sequence.images), every):
        frame = read_image(sequence.images[index])
        if frame.shape[:2] != first.shape:
            raise InputError(
                f"{sequence.images[index]}: is {list(frame.shape[:2])}, its annotation is "
                f"{list(first.shape)}"
            )
        if index == 0:
            segmenter.seed(frame, first)
            labels = first
        else:
            begin = time.perf_counter()
            result = segmenter.step(frame)
            seconds += time.perf_counter() - begin
            steps += 1
            labels = result.labels
        right = truth.labels[index]
        if index in scored and right is not None:
            scores = score_frame(labels, right, truth.ids, truth.void[index])
            j.append(scores[0])
            f.append(scores[1])
            scored_at.append(index)
            score_of = {item.id: item.score for item in result.objects}
            calibration += [
                (score_of.get(label, 0.0), float(scores[0][column]))
                for column, label in enumerate(truth.ids)
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
    frame_j = all_j.mean(1)
    score = SequenceScore(
        sequence.name,
        {
            label: ObjectScore(statistics(all_j[:, column]), statistics(all_f[:, column]))
            for column, label in enumerate(truth.ids)
        },
        steps,
        seconds,
        frame_j.tolist(),
        segmenter.processing_size,
        calibration,
    )
    if draw:
        score.picture = _strip(sequence, truth, shown, dict(zip(scored_at, frame_j)))
    return score


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
    for index in sorted({0, worst} | chosen):
        frame = overlay(read_image(sequence.images[index]), shown[index], outline=False)
        thickness = max(1, round(frame.shape[1] / 430))
        right = truth.labels[index]
        if right is not None and index:
            for label in truth.ids:
                contours, _ = cv2.findContours(
                    (right == label).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(frame, contours, -1, (255, 255, 255), thickness)
        frames.append(frame)
        name = sequence.images[index].stem
        if not index:
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
