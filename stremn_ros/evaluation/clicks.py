"""How good masks of boxes and points are: IoU with true masks, by the usual protocol.

A box is the true mask's own. The first point lies in the middle of the object; each further one in
the middle of the largest error of the mask so far, on the object or beside it (Sofiiuk et al.,
RITM, 2021). "Middle" is the pixel farthest from the border of the region.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stremn_ros.data.clicks import SMALLEST, deepest, held_out, inner_depth, next_click
from stremn_ros.data.clip import large
from stremn_ros.data.photos import PhotoClips
from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.masks import iou
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import contact_sheet

BOX = "box"
WORST = 24  # masks in a picture
MARGIN = 1.6  # of what a picture shows, around the object's box


@dataclass(frozen=True, eq=False)
class TrueObject:
    """One object: the set and a name, the frame uint8 [H, W, 3] and the mask bool [H, W]."""

    set: str
    name: str
    frame: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Made:
    """A mask that was made of hints of an object.

    Attributes:
        hints: ``box``, or the number of points. iou: 0 where nothing was made, ``refusal`` says
            why. quality: predicted IoU, None where there is none. seconds: that it took.
        mask: bool [H, W]. points: (x, y, 1 on the object or 0 beside it).
    """

    of: TrueObject
    maker: str
    hints: str
    iou: float
    quality: float | None
    seconds: float
    refusal: str
    mask: NDArray[np.bool_]
    points: list[tuple[float, float, int]] = field(default_factory=list)


def photo_objects(roots: Sequence[Path], count: int) -> Iterator[TrueObject]:
    """One object of each photo that was held out, in an order that the names fix.

    Args:
        roots: as for ``data.photos.PhotoClips``; count: the most objects, 0 for all.
    """
    photos = PhotoClips(roots)
    order = sorted(
        (index for index, name in enumerate(photos.names) if held_out(name)),
        key=lambda index: zlib.crc32(photos.names[index][::-1].encode(errors="surrogateescape")),
    )
    found = 0
    for index in order:
        read, name = photos.photo(index), photos.names[index]
        if read is None:
            continue
        ids = large(read[1], SMALLEST)
        if not len(ids):
            continue
        if count and found == count:
            return
        chosen = ids[zlib.crc32(name.encode(errors="surrogateescape")) % len(ids)]
        found += 1
        yield TrueObject("photos", name, read[0], read[1] == chosen)


def video_objects(root: Path, frames: int) -> Iterator[TrueObject]:
    """The objects in some frames, evenly spread, of each sequence in DAVIS' layout."""
    for sequence in open_davis(root, "all").sequences:
        truth = sequence.truth()
        step = max(1, len(sequence.images) // frames)
        for number in range(0, len(sequence.images), step)[:frames]:
            labels = truth.labels[number]
            if labels is None:
                continue
            frame = read_image(sequence.images[number])
            for object_id in truth.ids:
                mask = labels == object_id
                if frame.shape[:2] == mask.shape and np.count_nonzero(mask) >= SMALLEST:
                    name = f"{sequence.name}/{sequence.images[number].stem}/{object_id}"
                    yield TrueObject(root.name, name, frame, mask)


def judge(of: TrueObject, maker: str, masks: HintMasks, clicks: int) -> list[Made]:
    """The masks of an object by a box and by 1 to ``clicks`` points."""
    x, y, width, height = cv2.boundingRect(of.mask.astype(np.uint8))
    made = [_make(of, maker, BOX, masks, [], box=(x, y, width, height))]
    first = deepest(inner_depth(of.mask.astype(np.uint8)))
    points = [(float(first[0]), float(first[1]), 1)]
    for number in range(1, clicks + 1):
        made.append(_make(of, maker, f"{number}", masks, list(points)))
        at = np.array([(x, y) for x, y, _ in points])
        click = next_click(made[-1].mask, of.mask, at)
        if click is not None:
            (x_next, y_next), inside = click
            points.append((float(x_next), float(y_next), int(inside)))
    return made


def _make(
    of: TrueObject,
    maker: str,
    hints: str,
    masks: HintMasks,
    points: list[tuple[float, float, int]],
    **more: Any,
) -> Made:
    begin = time.perf_counter()
    refusal, quality, mask = "", None, np.zeros_like(of.mask)
    try:
        found = masks.make(
            of.frame,
            inside=[(x, y) for x, y, on in points if on],
            outside=[(x, y) for x, y, on in points if not on],
            **more,
        )
        mask, quality = found.mask > 0, found.predicted
    except InputError as error:
        refusal = str(error)
    seconds = time.perf_counter() - begin
    return Made(of, maker, hints, iou(mask, of.mask), quality, seconds, refusal, mask, points)


def evaluate_clicks(
    objects: Callable[[], Iterator[TrueObject]],
    makers: dict[str, HintMasks],
    clicks: int = 3,
    progress: bool = True,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Judges makers of masks on objects.

    Args:
        objects: makes an iterator of them. makers: name -> what makes the masks.
        clicks: the most points. pictures: folder for the worst masks of each set.

    Returns:
        set -> maker -> hints (``box``, ``1``, ...) -> objects, iou and standard_error (percent),
        refused, seconds (median), quality_error (mean distance of the predicted IoU, percent).
    """
    kept: dict[tuple[str, str, str], list[Made]] = {}
    for each in tqdm(objects(), unit="object", disable=not progress):
        for name, masks in makers.items():
            for made in judge(each, name, masks, clicks):
                kept.setdefault((each.set, name, made.hints), []).append(made)
    if not kept:
        raise InputError("there is no object to judge: all are smaller than the least size")
    result: dict[str, Any] = {}
    for (of, maker, hints), rows in kept.items():
        result.setdefault(of, {}).setdefault(maker, {})[hints] = _figures(rows)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            write_image(pictures / f"{of}_{maker}_{hints}.png", worst_picture(rows))
    return result


def _figures(rows: Sequence[Made]) -> dict[str, Any]:
    values = 100.0 * np.array([made.iou for made in rows])
    errors = [abs(made.quality - made.iou) for made in rows if made.quality is not None]
    return {
        "objects": len(rows),
        "iou": round(float(values.mean()), 2),
        "standard_error": round(float(values.std() / np.sqrt(len(values))), 2),
        "refused": sum(bool(made.refusal) for made in rows),
        "seconds": round(float(np.median([made.seconds for made in rows])), 3),
        "quality_error": round(100.0 * float(np.mean(errors)), 1) if errors else None,
        "each": {
            made.of.name: [
                round(made.iou, 4),
                None if made.quality is None else round(made.quality, 4),
                made.refusal,
            ]
            for made in rows
        },
    }


def worst_picture(rows: Sequence[Made]) -> NDArray[np.uint8]:
    """The masks of the smallest IoU, RGB uint8 [H, W, 3]: tint: the mask; yellow: the true
    outline; points green on the object, red beside it."""
    shown, labels, captions = [], [], []
    for made in sorted(rows, key=lambda each: each.iou)[:WORST]:
        truth = made.of.mask.astype(np.uint8)
        frame = made.of.frame.copy()
        outlines, _ = cv2.findContours(truth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(frame, outlines, -1, (255, 255, 0), 1)
        for x, y, on in made.points:
            color = (0, 255, 0) if on else (255, 0, 0)
            cv2.circle(frame, (round(x), round(y)), 3, color, -1)
        left, top, width, height = cv2.boundingRect(truth)
        side = int(MARGIN * max(width, height))
        x0, y0 = max(0, left + (width - side) // 2), max(0, top + (height - side) // 2)
        part = slice(y0, y0 + side), slice(x0, x0 + side)
        shown.append(np.ascontiguousarray(frame[part]))
        labels.append(np.ascontiguousarray(made.mask[part].astype(np.uint8)))
        quality = "" if made.quality is None else f" q {made.quality:.2f}"
        captions.append(f"{made.iou:.2f}{quality}{' refused' if made.refusal else ''}")
    return contact_sheet(shown, labels, captions=captions, tile_width=200)


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    lines = [f"{'set':<12} {'made by':<14} {'hints':<9} {'IoU in percent':<16} refused   seconds"]
    for of, makers in result.items():
        for maker, by_hints in makers.items():
            for hints, row in by_hints.items():
                name = hints if hints == BOX else f"{hints} point{'s' if hints != '1' else ''}"
                spread = f"±{row['standard_error']:.1f}"
                lines.append(
                    f"{of:<12} {maker:<14} {name:<9} {row['iou']:5.1f} {spread:<10}"
                    f"{row['refused']:>3} of {row['objects']:<4} {row['seconds']:.2f}"
                )
    return "\n".join(lines)
