"""Runs a Segmenter over DAVIS or YouTube-VOS and scores its masks by the official definition.

The protocol is the semi-supervised one. DAVIS: the mask of the first frame is given, the first and
the last frame are not scored. YouTube-VOS: each object's mask is given in the first frame that has
it, and it is scored in the annotated frames after that one. Scores are averaged over the frames of
an object and then over all objects (with one object per sequence that is the mean over sequences).
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stremn_ros
from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis_data import Davis, DavisSequence, Truth
from stremn_ros.evaluation.davis_pictures import draw, strip
from stremn_ros.evaluation.davis_result import DavisResult, ObjectScore, SequenceScore
from stremn_ros.evaluation.machine import machine, peak_memory
from stremn_ros.evaluation.metrics import score_frame, statistics
from stremn_ros.imaging.listing import list_images
from stremn_ros.imaging.pictures import stored_size
from stremn_ros.imaging.video import read_image
from stremn_ros.imaging.visualization import write_label_png

if TYPE_CHECKING:
    from stremn_ros.segmenter import Segmenter

log = logging.getLogger(__name__)


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
    a sequence, which holds no picture yet; they have the pixel values that the annotations have.
    pictures: folder for worst_sequences.png (the five worst with their masks) and scores.png.
    settings: goes into the result as it is. on_sequence: given the result so far after each
    sequence, marked as partial but after the last, when the pictures are not drawn yet. All files
    are looked at before the first sequence is segmented. Raises InputError for data that cannot be
    scored, CapacityError for more objects than the segmenter takes (Davis.max_objects says how many
    there are).
    """
    if every < 1:
        raise InputError(f"every {every}: 1 (all frames) or more is needed")
    if masks is not None:
        _check_free([Path(masks) / sequence.name for sequence in dataset.sequences])
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
                "machine": machine(),
            },
            partial,
            peak_memory(),
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
    if on_sequence is not None:
        on_sequence(result)
    if pictures is not None:
        draw(result, Path(pictures))
    return result


def _check_free(folders: Sequence[Path]) -> None:
    """InputError where the masks would mix with those of another run, or with the data set."""
    for folder in folders:
        if folder.is_dir() and list_images(folder):
            raise InputError(f"{folder}: holds pictures already; give another folder for the masks")


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
    taken: Sequence[int] = range(0, len(sequence.images), every)
    try:
        truth = sequence.truth()
        taken = _taken(sequence, truth, every)
        if not truth.given:
            found.append(_nothing_given(sequence))
        else:
            shape = next(labels.shape for labels in truth.labels if labels is not None)
        if not any(index % every == 0 for index in _scored(sequence, truth)):
            found.append(f"{sequence.name}: no frame left to score with every {every}")
    except InputError as error:
        found.append(str(error))
    for path in (sequence.images[index] for index in taken):
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


def _taken(sequence: DavisSequence, truth: Truth, every: int) -> Sequence[int]:
    """The images that are segmented: where an object is given, that one is never left out."""
    return sorted({*range(0, len(sequence.images), every), *truth.given.values()})


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
        log.warning(
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
    for index in _taken(sequence, truth, every):
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
        score.picture = strip(sequence, truth, shown, dict(zip(scored_at, frame_j)))
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


def _progress_bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="frame", disable=not shown, dynamic_ncols=True)
