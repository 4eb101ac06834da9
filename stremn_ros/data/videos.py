"""Clips from videos with masks, in the folder layouts of DAVIS and YouTube-VOS."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.clip import Clip, affine, compact, large, recolor, twin, warp
from stremn_ros.data.files import BrokenFiles, pattern_weight
from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import list_folders, list_images
from stremn_ros.imaging.mask_reading import VOID, read_mask, video_labels
from stremn_ros.imaging.video import read_image

Images = list[NDArray[np.uint8]]
Compose = Callable[[Generator, Images, Images], tuple[Images, Images]]


class VideoClips:
    """Samples clips of sequences in JPEGImages/[480p/]NAME and Annotations/[480p/]NAME.

    DAVIS has the folder 480p and a mask for every frame; YouTube-VOS has neither, and only the
    frames that have a mask are used. A mask of 0 and 255 is one object (DAVIS 2016).

    Args:
        roots: the folder that holds both, or several; a name in two of them is two sequences.
        exclude: names of sequences to leave out (held out for validation).
        broken: as in ``photos.PhotoClips``; it also holds for masks without a frame.
        weights: pattern of names (as of a shell) -> how often such a sequence is drawn, beside 1.

    Raises:
        InputError: no sequence is left, or (with ``raise``) a mask has no frame.
    """

    def __init__(
        self,
        roots: Path | Sequence[Path],
        exclude: Collection[str] = (),
        broken: str = "raise",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.broken = BrokenFiles(broken)
        self.sequences: dict[str, list[tuple[Path, Path]]] = {}
        for root in [roots] if isinstance(roots, Path) else roots:
            self._find(root, exclude)
        self.names = list(self.sequences)
        shares = np.array([pattern_weight(Path(name).name, weights or {}) for name in self.names])
        if not shares.any():
            raise InputError("the weights leave no sequence to draw")
        self.weights = shares / shares.sum()

    def _find(self, root: Path, exclude: Collection[str]) -> None:
        """Adds the sequences of a root; InputError where it has none."""
        inner = "480p" if (root / "Annotations" / "480p").is_dir() else ""
        images, masks = root / "JPEGImages" / inner, root / "Annotations" / inner
        before = len(self.sequences)
        for folder in list_folders(masks) if masks.is_dir() else []:
            if folder.name in exclude:
                continue
            pairs = []
            own = images / folder.name
            frames = {path.stem: path for path in list_images(own)} if own.is_dir() else {}
            for mask in list_images(folder):
                with self.broken.handled() as handled:
                    if mask.stem not in frames:
                        raise InputError(f"{mask}: there is no frame {own / mask.stem}.jpg")
                if not handled.failed:
                    pairs.append((frames[mask.stem], mask))
            if pairs:
                name = folder.name if folder.name not in self.sequences else str(folder)
                self.sequences[name] = pairs
        if len(self.sequences) == before:
            raise InputError(f"{masks}: no sequences (NAME/*.png) beside those excluded")

    def frame(self, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """One frame uint8 [H, W, 3] with its labels [H, W]; None when a file is broken."""
        pairs = self.sequences[self.names[int(rng.choice(len(self.names), p=self.weights))]]
        image_path, mask_path = pairs[int(rng.integers(len(pairs)))]
        with self.broken.handled() as handled:
            image, (labels,) = read_image(image_path), _labels(pairs, [mask_path])
            if image.shape[:2] != labels.shape:
                raise InputError(
                    f"{mask_path}: image {image.shape[:2]} and mask {labels.shape} differ"
                )
        return None if handled.failed else (image, labels)

    def sample(
        self,
        rng: Generator,
        frames: int,
        size: int,
        objects: int,
        gap: int,
        compose: Compose | None = None,
        late: bool = False,
        twins: float = 0.0,
        zoom: tuple[float, float] = (0.8, 1.8),
    ) -> Clip | None:
        """A clip whose frames are 1..gap apart, forwards or backwards in time, one crop for all.

        Args:
            compose: puts an object in front of the cropped frames and labels.
            late: prefer objects that come later, as ``clip.compact``.
            twins: how often an object of the clip gets a copy that goes its own way, 0..1.
            zoom: least and most; at 1 the crop is as high as the frame.

        None when no object is large enough in the window drawn, or a file is broken.
        """
        name = self.names[int(rng.choice(len(self.names), p=self.weights))]
        pairs = self.sequences[name]
        step = min(gap, (len(pairs) - 1) // max(1, frames - 1))
        steps = rng.integers(1, max(1, step) + 1, frames - 1)
        offsets = np.concatenate([[0], np.cumsum(steps)])
        start = int(rng.integers(max(1, len(pairs) - int(offsets[-1]))))
        indices = np.minimum(start + offsets, len(pairs) - 1)
        if rng.random() < 0.5:
            indices = indices[::-1]
        with self.broken.handled() as handled:
            images = [read_image(pairs[i][0]) for i in indices]
            masks = _labels(pairs, [pairs[i][1] for i in indices])
            shapes = {image.shape[:2] for image in images} | {mask.shape for mask in masks}
            if len(shapes) > 1:
                raise InputError(f"{name}: frames and masks of different sizes {sorted(shapes)}")
        if handled.failed:
            return None
        height, width = masks[0].shape
        ys, xs = np.nonzero(masks[0])
        if not len(ys):
            return None
        picked = int(rng.integers(len(ys)))
        # the window is most often larger than the object and shows a part of the scene around it
        scale = size / height * np.exp(rng.uniform(*np.log(zoom)))
        squeeze = np.exp(rng.uniform(-0.2, 0.2))
        half = size / 2.0 / scale
        center = np.array([xs[picked], ys[picked]]) + rng.normal(0.0, 0.3 * half, 2)
        center = np.clip(
            center,
            [min(half, width / 2), min(half, height / 2)],
            [max(width - half, width / 2), max(height - half, height / 2)],
        )
        matrix = affine(
            tuple(center),
            (size / 2.0, size / 2.0),
            scale,
            rng.normal(0.0, 5.0),
            flip=bool(rng.random() < 0.5),
        )
        matrix[0] *= squeeze
        matrix[0, 2] += size / 2.0 * (1.0 - squeeze)
        shown = [warp(image, matrix, size, None) for image in images]
        labels = [warp(mask, matrix, size, None, nearest=True) for mask in masks]
        if twins and rng.random() < twins:
            ids = large(labels[0], size * size // 200)
            if len(ids):
                shown, labels = twin(rng, shown, labels, int(rng.choice(ids)))
        if compose is not None:
            shown, labels = compose(rng, shown, labels)
        kept = compact(np.stack(labels), objects, rng, size * size // 200, late)
        if kept is None:
            return None
        state = rng.bit_generator.state
        recolored = []
        for frame in shown:  # the same change of color for the whole clip
            rng.bit_generator.state = state
            recolored.append(recolor(rng, frame, 0.15))
        return Clip(np.stack(recolored), kept, name)


def _labels(pairs: Sequence[tuple[Path, Path]], paths: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """The labels of some masks of a sequence.

    Where one has 255, the first mask shows as well what that is: in it most objects are there.
    """
    masks = [read_mask(path) for path in paths]
    if not any(VOID in mask.ids for mask in masks):
        return [mask.values for mask in masks]
    return video_labels([read_mask(pairs[0][1]), *masks])[1:]
