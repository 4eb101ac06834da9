"""Objects of photos and videos with hints as people give them, to train the click network on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.data.clip import large, motion_blur, recolor
from stremn_ros.data.files import draw, pattern_weight
from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.schedule import Schedule
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.imaging.hints import (
    BOX,
    INSIDE,
    OUTSIDE,
    PADDING,
    PLANES,
    Window,
    cut,
    draw_box,
    draw_points,
)

HELD_OUT = 50  # one photo in so many is kept for tuning and never trained on
SMALLEST = 200  # pixels of an object


def held_out(name: str) -> bool:
    """Whether a photo is of those kept for tuning: by a fixed hash (CRC-32) of its name."""
    return zlib.crc32(name.encode(errors="surrogateescape")) % HELD_OUT == 0


@dataclass(frozen=True)
class ClickPhase:
    """How objects are drawn during a part of the training.

    Attributes:
        iterations: length of the phase.
        size: of the crops, pixels squared; batch: objects.
        video_share: part of the objects that come from videos, 0..1.
        background: part of the points that lie on no labelled object: they teach the predicted
            IoU that there is nothing to find.
    """

    iterations: int
    size: int = 192
    batch: int = 8
    video_share: float = 0.3
    background: float = 0.05


ClickBatch = tuple[Tensor, Tensor, Tensor, Tensor]


class HintedObjects(Schedule[ClickPhase, ClickBatch]):
    """Batches of objects with hints.

    Items are (crops uint8 [B, S, S, 3], true masks uint8 [B, S, S], hint planes uint8
    [B, PLANES, S, S], bool [B]: False where the points lie on no object and the mask is empty).
    """

    def __init__(
        self,
        phases: list[ClickPhase],
        seed: int,
        photos: PhotoClips,
        videos: VideoClips | None,
        photo_weights: Mapping[str, float],
        rank: int = 0,
    ) -> None:
        super().__init__(phases, seed, rank)
        self.photos, self.videos = photos, videos
        shares = np.array(
            [0.0 if held_out(n) else pattern_weight(n, photo_weights) for n in photos.names]
        )
        if not shares.any():
            raise InputError(
                "there is no photo to train on: photo_weights gives each the weight 0, or all of "
                "them are kept for measuring"
            )
        self._photo_shares = np.cumsum(shares / shares.sum())

    def __getitem__(self, iteration: int) -> ClickBatch:
        phase, rng = self.drawn(iteration)

        def row() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], bool] | None:
            if self.videos is not None and rng.random() < phase.video_share:
                drawn = self.videos.frame(rng)
            else:
                index = int(np.searchsorted(self._photo_shares, rng.random()))
                drawn = self.photos.photo(min(index, len(self.photos) - 1))
            return None if drawn is None else _hinted(rng, *drawn, phase)

        rows = draw(phase.batch, row)
        images, masks, planes, real = zip(*rows, strict=True)
        return (
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(masks)),
            torch.from_numpy(np.stack(planes)),
            torch.tensor(real),
        )


def _hinted(
    rng: Generator, image: NDArray[np.uint8], labels: NDArray[np.uint8], phase: ClickPhase
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], bool] | None:
    """A crop with hints on one object of a frame, or, at times, on none; None: nothing fits."""
    if rng.random() < 0.5:
        image, labels = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    height, width = labels.shape
    if rng.random() < phase.background:
        far = cv2.distanceTransform((labels == 0).astype(np.uint8), cv2.DIST_L2, 5)
        ys, xs = np.nonzero(far > 0.12 * max(height, width))
        if not len(ys):
            return None
        picked = int(rng.integers(len(ys)))
        point = np.array([[xs[picked], ys[picked]]], np.float64)
        side = max(height, width) * np.exp(rng.uniform(np.log(0.2), 0.0))
        window = _window(rng, point[0], side, width, height)
        mask, box, inside, outside = np.zeros_like(labels), None, point, np.empty((0, 2))
    else:
        ids = large(labels, SMALLEST)
        if not len(ids):
            return None
        mask = (labels == int(rng.choice(ids))).astype(np.uint8)
        if mask.mean() > 0.9:
            return None
        left, top, across, down = cv2.boundingRect(mask)
        extent = max(across, down)
        middle = np.array([left + across / 2.0, top + down / 2.0])
        kind = rng.random()
        box = _box(rng, left, top, across, down, width, height) if kind < 0.5 else None
        inside = outside = np.empty((0, 2))
        if kind >= 0.35:
            inside, outside = _points(rng, mask, extent)
        # the window as `hint_masks` chooses it: with a box, or in a second pass, just
        # around the object, in the first pass of points of any size around the points
        if box is not None:
            side, center = max(box[1] - box[0]) * rng.uniform(1.2, 1.7), box.mean(axis=0)
        elif rng.random() < 0.5:
            side, center = extent * rng.uniform(1.2, 1.8), middle
        else:
            largest = max(height, width, 1.3 * extent)
            side = np.exp(rng.uniform(np.log(1.2 * extent), np.log(largest)))
            center = inside.mean(axis=0)
        window = _window(rng, center, side, width, height)
    crop = recolor(rng, cut(image, window, phase.size, PADDING), 0.15)
    if rng.random() < 0.1:
        crop = motion_blur(rng, crop, int(rng.integers(3, 7)))
    truth = cut(mask, window, phase.size, 0)
    real = bool(mask.any())
    if real and truth.sum() < 30:
        return None
    planes = np.zeros((PLANES, phase.size, phase.size), np.uint8)
    draw_points(planes[INSIDE], window.to_crop(inside, phase.size))
    draw_points(planes[OUTSIDE], window.to_crop(outside, phase.size))
    if box is not None:
        draw_box(planes[BOX], window.to_crop(box, phase.size))
    return crop, truth, planes, real


def _window(
    rng: Generator, center: NDArray[np.float64], side: float, width: int, height: int
) -> Window:
    x, y = center + rng.normal(0.0, 0.05, 2) * side
    return Window.around((float(x), float(y)), float(side), width, height)


def _box(
    rng: Generator, left: int, top: int, across: int, down: int, width: int, height: int
) -> NDArray[np.float64]:
    """Corners [2, 2] of a box as people draw it: a little too large, seldom too small."""
    loose = 0.0 if rng.random() < 0.3 else 0.08
    moved = rng.uniform(-0.25, 1.0, 4) * loose * np.array([across, down, across, down])
    corners = np.array([left, top, left + across - 1, top + down - 1], np.float64)
    corners += moved * [-1, -1, 1, 1]
    return corners.clip(0, [width - 1, height - 1, width - 1, height - 1]).reshape(2, 2)


def _points(
    rng: Generator, mask: NDArray[np.uint8], extent: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First points (x, y) inside [N, 2] and outside [M, 2] of an object."""
    depth = inner_depth(mask)
    count = int(rng.choice([1, 2, 3, 4, 5], p=(0.55, 0.12, 0.2, 0.08, 0.05)))
    ys, xs = np.nonzero(depth > 0.3 * depth.max())
    inside: list[NDArray[np.float64]] = []
    for _ in range(count):
        if not inside and rng.random() < 0.5:
            inside.append(deepest(depth))
            continue
        # of some candidates the one farthest from the points there are: people spread them
        picked = rng.integers(len(ys), size=1 if not inside else 4)
        candidates = np.column_stack([xs[picked], ys[picked]]).astype(np.float64)
        if inside:
            distance = np.min([np.hypot(*(candidates - p).T) for p in inside], axis=0)
            candidates = candidates[[int(np.argmax(distance))]]
        inside.append(candidates[0])
    outside: list[NDArray[np.float64]] = []
    if rng.random() < 0.15:
        away = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
        ys, xs = np.nonzero((away > 0.04 * extent) & (away < 0.5 * extent))
        if len(ys):
            picked = rng.integers(len(ys), size=int(rng.integers(1, 3)))
            outside = list(np.column_stack([xs[picked], ys[picked]]).astype(np.float64))
    return np.array(inside).reshape(-1, 2), np.array(outside).reshape(-1, 2)


def inner_depth(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance [H, W] of a mask's pixels to the nearest one outside of it or to the border."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.asarray(depth, np.float32)


def deepest(depth: NDArray[np.float32]) -> NDArray[np.float64]:
    """The pixel (x, y) of the greatest depth."""
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return np.array([x, y], np.float64)


def next_click(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    clicked: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], bool] | None:
    """Where the standard protocol clicks next: in the middle of the largest error.

    Args:
        predicted, truth: [H, W]. clicked: the points (x, y) [N, 2] so far, which the next one keeps
            away from: what made the mask may have left them out.

    Returns:
        The point (x, y), and whether it is on the object (which the prediction lacks there); None
        where the masks are the same.
    """
    errors = [(truth & ~predicted).astype(np.uint8), (predicted & ~truth).astype(np.uint8)]
    if clicked is not None:
        columns, rows = clicked.astype(int).T
        for error in errors:
            error[rows, columns] = 0
    missed, wrong = (inner_depth(error) for error in errors)
    if max(missed.max(), wrong.max()) <= 0.0:
        return None
    inside = bool(missed.max() >= wrong.max())
    return deepest(missed if inside else wrong), inside
