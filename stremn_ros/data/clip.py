"""A training clip, and how one is warped, recolored and composed. NumPy and OpenCV only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [T, H, W, 3] RGB and labels uint8 [T, H, W]: 0 background, 1..n objects.

    Object 1 is visible in frame 0, the others in frame 0 or, where late ones were asked for, in
    another frame before the last.
    """

    frames: Frames
    labels: Frames
    source: str

    @property
    def objects(self) -> int:
        return int(self.labels.max())


def affine(
    center: tuple[float, float],
    target: tuple[float, float],
    scale: float,
    angle: float = 0.0,
    shear: float = 0.0,
    flip: bool = False,
) -> Matrix:
    """Matrix [2, 3] that takes ``center`` of a source image to ``target`` of the result.

    ``angle`` in degrees, ``shear`` as a slope; points are (x, y) in pixels.
    """
    radians = np.deg2rad(angle)
    rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    linear = scale * rotation @ np.array([[1.0, shear], [0.0, 1.0]])
    if flip:
        linear = linear @ np.diag([-1.0, 1.0])
    offset = np.asarray(target) - linear @ np.asarray(center)
    return np.column_stack([linear, offset])


def smooth_field(rng: Generator, size: int, strength: float) -> NDArray[np.float32]:
    """A smooth displacement field float32 [size, size, 2] in pixels (in place of thin plates)."""
    coarse = rng.normal(0.0, strength, (4, 4, 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def warp(
    image: NDArray[np.uint8],
    matrix: Matrix,
    size: int,
    field: NDArray[np.float32] | None,
    nearest: bool = False,
    border: int = cv2.BORDER_REFLECT_101,
) -> NDArray[np.uint8]:
    """Image [h, w(, 3)] through an affine matrix and then a displacement field -> [size, size]."""
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    if field is None:
        flat = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=border)
        return np.asarray(flat, np.uint8)
    inverse = cv2.invertAffineTransform(matrix)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    x, y = x + field[..., 0], y + field[..., 1]
    map_x = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]).astype(np.float32)
    map_y = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]).astype(np.float32)
    return np.asarray(cv2.remap(image, map_x, map_y, flags, borderMode=border), np.uint8)


def recolor(rng: Generator, frame: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Random gain, offset per channel and gamma; ``strength`` 0 leaves the frame as it is."""
    gain = 1.0 + rng.uniform(-strength, strength) + rng.uniform(-strength, strength, 3) * 0.4
    offset = rng.uniform(-60.0, 60.0) * strength
    gamma = np.exp(rng.uniform(-strength, strength))
    ramp = np.linspace(0.0, 1.0, 256)[:, None] ** gamma * 255.0
    table = np.clip(ramp * gain + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(frame, table[None]), np.uint8)


def motion_blur(rng: Generator, frame: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Blur along a random direction over ``length`` pixels."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1.0
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), rng.uniform(0, 180), 1.0)
    line = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
    line /= max(float(line.sum()), 1e-6)
    return np.asarray(cv2.filter2D(frame, -1, line), np.uint8)


def paste(
    frame: NDArray[np.uint8], cutout: NDArray[np.uint8], alpha: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Cut-out [H, W, 3] over frame [H, W, 3] with alpha uint8 [H, W] (255 opaque)."""
    weight = (alpha.astype(np.float32) / 255.0)[..., None]
    return (frame * (1.0 - weight) + cutout * weight).astype(np.uint8)


def twin(
    rng: Generator, shown: list[Frames], labels: list[Frames], number: int
) -> tuple[list[Frames], list[Frames]]:
    """Adds a copy of an object that goes its own way, so that exchanges can be learned from.

    Args:
        shown: frames [size, size, 3]; labels: [size, size]; number: the object's in frame 0.

    Returns:
        New frames and labels; the copy's number is one above the largest. It is in front of the
        object or behind it, turned around at times, and at times ahead of it or late by a frame
        or two, so that the two poses differ.
    """
    size, count = len(shown[0]), len(shown)
    new = min(254, max(int(part.max()) for part in labels) + 1)
    x, y, w, h = cv2.boundingRect((labels[0] == number).astype(np.uint8))
    direction = rng.uniform(0.0, 2.0 * np.pi)
    distance = rng.uniform(0.4, 1.5) * max(w, h, 8)
    offset = distance * np.array([np.cos(direction), np.sin(direction)])
    velocity = rng.normal(0.0, 0.03, 2) * size
    if rng.random() < 0.5:  # towards the object, and past it
        velocity -= 1.5 * offset / max(2, count) * rng.uniform(0.5, 1.0)
    scale, flip = float(np.exp(rng.normal(0.0, 0.15))), bool(rng.random() < 0.5)
    ahead, behind = int(rng.integers(-2, 3)), bool(rng.random() < 0.5)
    center = (x + w / 2.0, y + h / 2.0)
    frames, combined = [], []
    for n, (frame, part) in enumerate(zip(shown, labels, strict=True)):
        source = min(max(n + ahead, 0), count - 1)
        only = (labels[source] == number).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(only)
        if w:
            center = (x + w / 2.0, y + h / 2.0)
        target = np.asarray(center) + offset + n * velocity
        matrix = affine(center, (target[0], target[1]), scale, flip=flip)
        cutout = warp(shown[source], matrix, size, None, border=cv2.BORDER_CONSTANT)
        mask = warp(only, matrix, size, None, nearest=True, border=cv2.BORDER_CONSTANT)
        if behind:
            mask[part == number] = 0
        alpha = np.asarray(cv2.GaussianBlur(mask * 255, (3, 3), 0), np.uint8)
        frames.append(paste(frame, cutout, alpha))
        combined.append(np.where(mask > 0, np.uint8(new), part))
    return frames, combined


def compact(
    labels: Frames, wanted: int, rng: Generator, smallest: int, late: bool = False
) -> Frames | None:
    """Keeps up to ``wanted`` objects and renumbers them 1..n, the first from frame 0 on.

    Args:
        labels: [T, H, W]; smallest: pixels an object must have in the frame that first shows it.
        late: after the first object, prefer those that frame 0 does not show and an earlier frame
            than the last does; otherwise all are visible in frame 0.

    Returns:
        The new labels, or None when no object is large enough in frame 0.
    """
    ids = large(labels[0], smallest)
    if not len(ids):
        return None
    chosen = rng.choice(ids, min(wanted, len(ids)), replace=False)
    if late and wanted > 1:
        before: set[int] = set(np.unique(labels[0]).tolist())
        comers: list[int] = []
        for frame in labels[1:-1]:
            comers += sorted(set(large(frame, smallest).tolist()) - before)
            before |= set(np.unique(frame).tolist())
        if comers:
            new = rng.choice(comers, min(wanted - 1, len(comers)), replace=False)
            chosen = np.concatenate([chosen[: wanted - len(new)], new])
    table = np.zeros(256, np.uint8)
    table[chosen] = np.arange(1, len(chosen) + 1)
    return table[labels]


def large(labels: NDArray[np.uint8], smallest: int) -> NDArray[np.intp]:
    """Ids of the objects with at least ``smallest`` pixels."""
    areas = np.bincount(labels.ravel(), minlength=256)[:256]
    areas[0] = 0
    return np.flatnonzero(areas >= smallest)
