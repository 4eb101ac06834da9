"""Pseudo-clips from single photos with masks: each frame is the photo under another warp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.clip import (
    Clip,
    affine,
    compact,
    motion_blur,
    paste,
    recolor,
    smooth_field,
    warp,
)
from stremn_ros.data.files import BrokenFiles
from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import list_images
from stremn_ros.imaging.mask_reading import read_mask
from stremn_ros.imaging.video import read_image


class PhotoClips:
    """Makes clips of folders with images/NAME.jpg and masks/NAME.png, of whatever kind they are.

    A clip shows one photo under a camera that moves, and often the object of a second photo that
    moves on its own in front of it: sometimes as another object to follow, sometimes as an
    occluder or a look-alike (the second photo may be the first one again). At times it leaves and
    comes back, or is only there from a later frame on.

    Args:
        roots: the folder, or several; of a name in two of them the last one counts.
        broken: what a file that cannot be read does when it is drawn: ``raise`` an InputError
            that names it, or ``skip``, which logs it once, counts it and never draws it again.

    Raises:
        InputError: no photo with a mask was found.
    """

    def __init__(self, roots: Path | Sequence[Path], broken: str = "raise") -> None:
        self.broken = BrokenFiles(broken)
        self._images: dict[str, Path] = {}
        self._masks: dict[str, Path] = {}
        for root in [roots] if isinstance(roots, Path) else roots:
            images, masks = (
                {path.stem: path for path in list_images(folder)} if folder.is_dir() else {}
                for folder in (root / "images", root / "masks")
            )
            names = images.keys() & masks.keys()
            if not names:
                raise InputError(
                    f"{root}: no images/NAME.jpg (or .webp, .png) with a masks/NAME.png"
                )
            self._images |= {name: images[name] for name in names}
            self._masks |= {name: masks[name] for name in names}
        self.names = sorted(self._images)

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """A photo uint8 [H, W, 3] with its labels [H, W]; None when a file is broken."""
        with self.broken.handled() as handled:
            photo = self._read(index)
        return None if handled.failed else photo

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        name = self.names[index]
        image, (labels, _) = read_image(self._images[name]), read_mask(self._masks[name]).labels()
        if image.shape[:2] != labels.shape:
            raise InputError(f"{name}: image {image.shape[:2]} and mask {labels.shape} differ")
        return image, labels

    def sample(
        self,
        rng: Generator,
        frames: int,
        size: int,
        objects: int,
        leaving: float = 0.3,
        late: float = 0.0,
        twins: float = 0.2,
    ) -> Clip | None:
        """A clip of ``frames`` frames of ``size`` pixels squared with up to ``objects`` objects.

        Args:
            leaving: how often an object in front is away for some frames, 0..1.
            late: how often it is only there from a later frame on, 0..1.
            twins: how often it comes from the same photo, 0..1.

        None when the photo drawn shows no object large enough in the window drawn, or is broken.
        """
        index = int(rng.integers(len(self.names)))
        # most clips have one object in front, some none, a few a small crowd
        others = [
            index if rng.random() < twins else int(rng.integers(len(self.names)))
            for _ in range(int(rng.choice(4, p=(0.4, 0.35, 0.17, 0.08))))
        ]
        with self.broken.handled() as handled:
            image, labels = self._read(index)
            fronts = [self._read(other) for other in others]
        if handled.failed:
            return None
        shown, tracked = self._moving(rng, image, labels, frames, size, whole=True)
        for front in fronts:
            comes_late = rng.random() < late
            shown, tracked = self._compose(rng, shown, tracked, *front, size, leaving, comes_late)
        kept = compact(np.stack(tracked), objects, rng, size * size // 150, late > 0.0)
        if kept is None:
            return None
        strength = 0.04 if rng.random() < 0.7 else 0.15
        shown = [recolor(rng, frame, strength) for frame in shown]
        if rng.random() < 0.15:
            blurred = int(rng.integers(frames))
            shown[blurred] = motion_blur(rng, shown[blurred], int(rng.integers(3, 10)))
        return Clip(np.stack(shown), kept, self.names[index])

    def in_front(
        self,
        rng: Generator,
        shown: list[NDArray[np.uint8]],
        tracked: list[NDArray[np.uint8]],
        leaving: float,
        late: float = 0.0,
    ) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        """An object of a photo in front of frames [size, size, 3] of any clip; see ``sample``.

        Its number in the labels is one above theirs. A broken photo leaves the clip as it is.
        """
        index = int(rng.integers(len(self.names)))
        comes_late = rng.random() < late
        with self.broken.handled() as handled:
            photo = self._read(index)
        if handled.failed:
            return shown, tracked
        return self._compose(rng, shown, tracked, *photo, len(shown[0]), leaving, comes_late)

    def _moving(
        self,
        rng: Generator,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        frames: int,
        size: int,
        whole: bool,
    ) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        """The photo (or, not ``whole``, one object of it) under a random walk of warps."""
        height, width = labels.shape
        ys, xs = np.nonzero(labels)
        if len(ys):
            picked = int(rng.integers(len(ys)))
            center = np.array([xs[picked], ys[picked]], np.float64)
            middle = np.array([xs.mean(), ys.mean()])
            center = middle + (center - middle) * rng.uniform(0.0, 0.8)
        else:
            center = np.array([width / 2.0, height / 2.0])
        base = size / min(height, width) * np.exp(rng.uniform(np.log(0.85), np.log(1.9)))
        if not whole:
            extent = max(int(np.ptp(xs)), int(np.ptp(ys)), 8) if len(ys) else size
            base = size * rng.uniform(0.25, 0.75) / extent
        flip = bool(rng.random() < 0.5)
        pace = rng.choice([0.4, 1.0, 1.8])
        angle, shear, scale = rng.uniform(-15, 15), rng.uniform(-0.1, 0.1), base
        target = np.array([size / 2.0, size / 2.0])
        target += rng.normal(0.0, 0.1 if whole else 0.22, 2) * size
        velocity = rng.normal(0.0, 0.05, 2) * size * pace
        shown, tracked = [], []
        for _ in range(frames):
            matrix = affine(tuple(center), tuple(target), scale, angle, shear, flip)
            field = None
            if rng.random() < 0.6:
                field = smooth_field(rng, size, strength=rng.uniform(0.5, 3.5) * size / 192.0)
            border = cv2.BORDER_REFLECT_101 if whole else cv2.BORDER_CONSTANT
            shown.append(warp(image, matrix, size, field, border=border))
            tracked.append(warp(labels, matrix, size, field, nearest=True, border=border))
            angle += rng.normal(0.0, 6.0) * pace
            shear += rng.normal(0.0, 0.04) * pace
            scale *= np.exp(rng.normal(0.0, 0.07) * pace)
            target += velocity + rng.normal(0.0, 0.03, 2) * size * pace
        return shown, tracked

    def _compose(
        self,
        rng: Generator,
        shown: list[NDArray[np.uint8]],
        tracked: list[NDArray[np.uint8]],
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        size: int,
        leaving: float,
        comes_late: bool,
    ) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        """An object of another photo in front, moving on its own, and away at times."""
        areas = np.bincount(labels.ravel(), minlength=256)
        areas[0] = 0
        ids = np.flatnonzero(areas >= labels.size // 200)
        if not len(ids):
            return shown, tracked
        only = (labels == int(rng.choice(ids))).astype(np.uint8)
        front, masks = self._moving(rng, image, only, len(shown), size, whole=False)
        # at times it is gone for some frames, so that an empty mask and its return are learnt
        away: range = range(0)
        if len(shown) > 2 and comes_late:
            away = range(int(rng.integers(1, len(shown) - 1)))
        elif len(shown) > 2 and rng.random() < leaving:
            leaves = int(rng.integers(1, len(shown)))
            away = range(leaves, leaves + int(rng.integers(1, max(4, len(shown) // 2 + 2))))
        number = min(254, max(int(part.max()) for part in tracked) + 1)
        frames, combined = [], []
        for n, (frame, part, cutout, mask) in enumerate(
            zip(shown, tracked, front, masks, strict=True)
        ):
            if n in away:
                frames.append(frame)
                combined.append(part)
                continue
            alpha = np.asarray(cv2.GaussianBlur(mask * 255, (3, 3), 0), np.uint8)
            frames.append(paste(frame, cutout, alpha))
            combined.append(np.where(mask > 0, np.uint8(number), part))
        return frames, combined
