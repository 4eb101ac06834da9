"""Composed clips: a real object cut out and moved over a real video, so that its mask is known.

Two questions that ordinary sequences hardly ask: does the mask stay empty while the object is away
and come back with it (``leaving``), and is the object still the same one after it met its twin
(``twins``)?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.clip import affine, paste, warp
from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis_data import Davis
from stremn_ros.evaluation.metrics import region_similarity
from stremn_ros.imaging.mask_reading import VOID, Mask, has_void, read_mask
from stremn_ros.imaging.video import read_image
from stremn_ros.segmenter import ObjectState, Segmenter

Frame = NDArray[np.uint8]
Pair = tuple[Path, Path | None]  # an image and its mask

SEEN, AWAY, BACK, GRACE = 12, 20, 15, 5  # frames of a leaving clip
TWINS = 48  # frames of a twin clip


def cutouts(dataset: Davis) -> list[list[Pair]]:
    """The frames with masks of sequences, of which objects are cut out."""
    return [list(zip(each.images, each.masks)) for each in dataset.sequences]


def check_composed(dataset: Davis, every_mask: bool) -> None:
    """InputError where no clips can be composed of a data set.

    Args:
        every_mask: they show an object as it is in all frames, not in the first alone.
    """
    if len(dataset.sequences) < 2:
        raise InputError(
            f"{dataset.root}: clips are composed of an object of one sequence and the frames of "
            f"another, so two or more are needed, not {len(dataset.sequences)}"
        )
    for sequence in dataset.sequences:
        if sequence.late or (every_mask and None in sequence.masks):
            raise InputError(
                f"{dataset.root}: {sequence.name}: for clips to be composed of it, every frame "
                "needs a mask, in DAVIS' layout"
            )


def to_and_fro(n: int, count: int) -> int:
    """Index of frame n of a sequence of ``count`` that is played back and forth."""
    turn = n % max(1, 2 * count - 2)
    return min(turn, 2 * count - 2 - turn) if count > 1 else 0


class _Cutout:
    """The largest object of a sequence's first mask, as it is in any of its frames."""

    def __init__(self, thing: Sequence[Pair]) -> None:
        self.thing = thing
        mask = self._mask(0)
        areas = np.bincount(mask.values.ravel(), minlength=256)
        areas[0] = 0
        if has_void(mask.ids):
            areas[VOID] = 0
        self.number = int(areas.argmax())
        self.box = cv2.boundingRect((mask.values == self.number).astype(np.uint8))

    def _mask(self, n: int) -> Mask:
        path = self.thing[n][1]
        assert path is not None  # see check_composed
        return read_mask(path)

    def place(
        self, frame: Frame, n: int, target: tuple[float, float], scale: float, angle: float
    ) -> tuple[Frame, Frame]:
        """Pastes the object as in its frame n over ``frame``; returns that and the mask."""
        rows, columns = frame.shape[:2]
        side = max(rows, columns)
        at = to_and_fro(n, len(self.thing))
        image = read_image(self.thing[at][0])
        only = (self._mask(at).values == self.number).astype(np.uint8)
        if len(self.thing) > 1 and only.any():  # a moving object is held by its own box
            self.box = cv2.boundingRect(only)
        x, y, w, h = self.box
        matrix = affine((x + w / 2, y + h / 2), target, scale, angle)
        cutout = warp(image, matrix, side, None, border=cv2.BORDER_CONSTANT)
        mask = warp(only, matrix, side, None, nearest=True, border=cv2.BORDER_CONSTANT)
        mask = mask[:rows, :columns]
        alpha = np.asarray(cv2.GaussianBlur(mask * 255, (3, 3), 0), np.uint8)
        return paste(frame, cutout[:rows, :columns], alpha), mask


def leaving_clip(
    rng: Generator, background: Sequence[Path], thing: Sequence[Pair]
) -> tuple[list[Frame], list[Frame]]:
    """Frames and true masks: 12 frames in the picture, 20 away, 15 back at another place."""
    cutout = _Cutout(thing)
    frames, truths = [], []
    rows, columns = read_image(background[0]).shape[:2]
    scale = rows * rng.uniform(0.3, 0.5) / max(cutout.box[2:])
    places = rng.uniform(0.25, 0.75, (2, 2)) * [columns, rows]
    velocity = rng.normal(0.0, 0.008, 2) * rows
    for n in range(SEEN + AWAY + BACK):
        frame = read_image(background[to_and_fro(n, len(background))])
        truth = np.zeros((rows, columns), np.uint8)
        if not SEEN <= n < SEEN + AWAY:
            shown = n if n < SEEN else n - AWAY  # it comes back about as it left
            phase = 0 if n < SEEN else 1
            target = places[phase] + velocity * (n - phase * (SEEN + AWAY))
            frame, truth = cutout.place(
                frame, shown, (target[0], target[1]), scale, 2.0 * np.sin(n / 3.0)
            )
        frames.append(frame)
        truths.append(truth)
    return frames, truths


def twin_clip(
    rng: Generator, background: Sequence[Path], thing: Sequence[Pair]
) -> tuple[list[Frame], list[Frame]]:
    """Frames and labels: two copies of one picture, of which 1 is to be followed and 2 is not.

    They start apart, change places on paths that cross or nearly touch, and either may be in
    front.
    """
    cutout = _Cutout(thing[:1])
    rows, columns = read_image(background[0]).shape[:2]
    scale = rows * rng.uniform(0.3, 0.45) / max(cutout.box[2:])
    width = scale * cutout.box[2]
    gap = max(1.1 * width, 0.35 * columns)
    middle = np.array([columns / 2, rows * rng.uniform(0.4, 0.6)])
    # at the middle of the clip they pass each other at this distance (up and down)
    apart = rng.uniform(0.0, 0.9) * scale * cutout.box[3] * rng.choice([-1.0, 1.0])
    side = rng.choice([-1.0, 1.0])
    in_front = rng.random() < 0.5
    bend, turn = rng.uniform(-0.05, 0.05, 2) * rows, rng.uniform(2.0, 6.0)
    frames, labels = [], []
    for n in range(TWINS):
        share = n / (TWINS - 1)  # 0..1
        frame = read_image(background[to_and_fro(n, len(background))])
        label = np.zeros((rows, columns), np.uint8)
        near = np.sin(np.pi * share)
        offset = np.array([side * gap * (0.5 - share), 0.5 * apart * near])
        drift = bend * np.sin(2.0 * np.pi * share)
        order = ((2, -1.0), (1, 1.0)) if in_front else ((1, 1.0), (2, -1.0))
        for number, sign in order:
            target = middle + sign * offset + drift
            angle = turn * np.sin(n / 4.0 + number)
            frame, mask = cutout.place(frame, 0, (target[0], target[1]), scale, angle)
            label[mask > 0] = number
        frames.append(frame)
        labels.append(label)
    return frames, labels


@dataclass
class ComposedResult:
    """Of each clip, whether it went well; ``rates`` gives percent."""

    outcomes: dict[str, list[float]] = field(default_factory=dict)  # name -> 0..1 for each clip
    shown: list[tuple[Frame, Frame, str]] = field(default_factory=list, repr=False)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.outcomes.setdefault(name, []).append(float(value))

    def rates(self) -> dict[str, float]:
        return {name: 100.0 * float(np.mean(values)) for name, values in self.outcomes.items()}


def _draws(
    things: list[list[Pair]], clips: int, seed: int
) -> Iterator[tuple[int, Generator, list[Path], list[Pair], str]]:
    """For each clip its number, a generator, a background, a thing of another video, a title."""
    rng = np.random.default_rng(seed)
    for number in range(clips):
        background = things[int(rng.integers(len(things)))]
        others = [thing for thing in things if thing is not background]
        thing = others[int(rng.integers(len(others)))]
        title = f"{thing[0][0].parent.name} on {background[0][0].parent.name}"
        yield number, rng, [image for image, _ in background], thing, title


def follow_leaving(
    segmenter: Segmenter, things: list[list[Pair]], clips: int, seed: int = 0, pictures: int = 0
) -> ComposedResult:
    """Follows objects that leave and come back.

    Of each clip: ``empty_while_away`` 1 where the mask is empty and the state OCCLUDED or LOST
    within 5 frames of leaving and until the return; ``frames_empty`` the share of these frames;
    ``found_again`` 1 where the IoU passes 0.5 within 5 frames of the return.
    """
    result = ComposedResult()
    for number, rng, background, thing, title in _draws(things, clips, seed):
        frames, truths = leaving_clip(rng, background, thing)
        segmenter.reset()
        segmenter.seed(frames[0], truths[0])
        empty, overlap = [], []
        for n in range(1, len(frames)):
            found = segmenter.step(frames[n])
            if SEEN + GRACE - 1 <= n < SEEN + AWAY:
                state = found.objects[0].state
                empty.append(not found.labels.any() and state is not ObjectState.TRACKED)
            if SEEN + AWAY <= n < SEEN + AWAY + GRACE:
                overlap.append(region_similarity(found.labels, truths[n]))
            if number < pictures and n in (
                1,
                SEEN - 1,
                SEEN + 6,
                SEEN + AWAY - 1,
                SEEN + AWAY + 4,
            ):
                result.shown.append((frames[n], found.labels, f"{title}, frame {n}"))
        result.add(
            empty_while_away=all(empty),
            frames_empty=float(np.mean(empty)),
            found_again=max(overlap) > 0.5,
        )
    return result


def follow_twins(
    segmenter: Segmenter, things: list[list[Pair]], clips: int, seed: int = 0, pictures: int = 0
) -> ComposedResult:
    """Follows one of two copies of an object that change places.

    Of each clip: ``exchanged`` 1 where, over the last 5 frames, the mask overlaps the twin more
    than the object; ``j`` the mean IoU with the object over all frames.
    """
    result = ComposedResult()
    for number, rng, background, thing, title in _draws(things, clips, seed):
        frames, labels = twin_clip(rng, background, thing)
        segmenter.reset()
        segmenter.seed(frames[0], labels[0], ids=[1])
        own, other = [], []
        for n in range(1, len(frames)):
            found = segmenter.step(frames[n])
            own.append(region_similarity(found.labels, labels[n] == 1))
            other.append(region_similarity(found.labels, labels[n] == 2))
            if number < pictures and n in (1, TWINS // 4, TWINS // 2, 3 * TWINS // 4, TWINS - 1):
                result.shown.append((frames[n], found.labels, f"{title}, frame {n}"))
        result.add(exchanged=np.mean(own[-5:]) < np.mean(other[-5:]), j=float(np.mean(own)))
    return result
