"""One reader of masks, with one meaning in all commands and messages.

A mask has a value for each pixel: 0 background, n = object n. Masks also come as people save them:

- 255 beside smaller ids marks pixels of no object (the border in PASCAL VOC, "not scored" in
  DAVIS); alone it is the one object, as DAVIS 2016 and drawing programs have it.
- Soft edges: values between background and object that only line its edge. They are cut at half;
  a thin object, whose one number lies beside small others, stays.
- JPEG, which changes values: those that are flat and frequent are the objects, the rest is noise.
- Color pictures in the colors of DAVIS (which are VOC's), and palettes whose order a tool changed.
- The mask in the alpha channel, where the colors under it say nothing.

Whatever is done beyond reading is said in words (``notes``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.palette import IDS
from stremn_ros.imaging.pictures import TURNS, orientation, without_turn

VOID = 255  # beside other ids: of no object
Labels = NDArray[np.uint8]

_AROUND = np.ones((3, 3), np.uint8)
# A value lines edges when this share of its pixels lies between a lower and a higher one
_LINES = 0.6
# of a lossy picture: what counts as flat, as the same value, and how sure a mask must be
_NOISE, _SAME, _CLEAR = 8, 3, 0.9
_MOST_LEVELS = 8  # of a lossy picture
_COLOR_NOISE = 24  # largest difference of a lossy picture's flat color from the palette's
_DARK = 32  # the largest value of a lossy picture below which its ids are lost
_MANY = 32  # values; a picture with more, of which little is flat, is no mask
_FLAT = 0.25
_FEW = 16  # pixels
_FEW_STEPS = 3  # values; a soft edge mostly has more
_GRAY = 64  # values from here on are levels of gray rather than numbers of objects


@dataclass(frozen=True)
class Mask:
    """A mask as it was read.

    Attributes:
        values: uint8 [H, W], 0 background, n = object n; what 255 means is still open.
        notes: what was done beyond reading, for people.
    """

    values: Labels
    notes: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    @property
    def ids(self) -> list[int]:
        """The values that occur, without 0, sorted."""
        return [int(value) for value in np.flatnonzero(np.bincount(self.values.ravel())) if value]

    def labels(self, alone: int = 1) -> tuple[Labels, tuple[str, ...]]:
        """The objects of a mask that stands for itself, and the notes.

        Args:
            alone: id of the object of a mask of 0 and 255 only.

        Raises:
            InputError: it is unclear what 255 stands for.
        """
        ids = self.ids
        if ids == [VOID]:
            labels = np.where(self.values == VOID, np.uint8(alone), np.uint8(0))
            return labels, (*self.notes, *_inverted(self.values))
        if not has_void(ids):
            return self.values, self.notes
        void = self.values == VOID
        here, others = int(np.count_nonzero(void)), int(np.count_nonzero(self.values))
        if here > 0.8 * others:
            raise InputError(
                f"{_where(self.path)}255 beside small ids marks pixels of no object, but it has "
                f"{here} pixels here and the ids {ids[:-1]} only {others - here}: if 255 is an "
                "object, give it another number, 1 to 254"
            )
        note = f"the {here} pixels of 255 beside the ids {ids[:-1]} are of no object"
        return np.where(void, np.uint8(0), self.values), (*self.notes, note)


def video_labels(masks: Sequence[Mask]) -> list[Labels]:
    """The objects of the masks of one video, in all of which a value means the same.

    A mask with nothing but the 255 that surrounds objects in the others holds no object.

    Raises:
        InputError: as ``Mask.labels``.
    """
    flat = np.concatenate([mask.values.ravel() for mask in masks])
    labels, _ = Mask(flat[None], path=masks[0].path).labels()
    ends = np.cumsum([mask.values.size for mask in masks])[:-1]
    parts = np.split(labels[0], ends)
    return [part.reshape(mask.values.shape) for part, mask in zip(parts, masks)]


def _inverted(values: Labels) -> tuple[str, ...]:
    """A note on a mask whose one object lies all around a hole, as the background does."""
    inside = values > 0
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    share = inside.mean() if inside.size else 0.0
    if not (0.5 < share < 1.0 and all(edge.all() for edge in edges)):
        return ()
    return (
        f"the object covers {share:.0%} of the picture and all of its border: if the mask is "
        "inverted (a black object on white), swap the two colors",
    )


def has_void(ids: Collection[int]) -> bool:
    """Whether 255 marks pixels of no object in a mask, or a sequence of masks, with these values.

    It does beside small numbers. Beside levels of gray (128 and 255) it is an object, too.
    """
    others = [value for value in ids if value not in (0, VOID)]
    return VOID in ids and bool(others) and min(others) < _GRAY


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """A mask file of any kind that Pillow reads.

    Indexed and gray images (8 or 16 bit) keep their values as ids, whatever their colors, unless
    something of what the module's text lists is the case.

    Raises:
        InputError: missing, cut short, damaged, or no mask; the message says what it is instead.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such mask file")
    from PIL import Image, UnidentifiedImageError  # here, so that a node does without Pillow

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(without_turn(data))) as image:
            image.load()
            lossy = image.format in ("JPEG", "MPO") or (data[8:12] == b"WEBP" and b"VP8 " in data)
            mask = _of_image(image, path, lossy)
        turn = TURNS.get(orientation(data))
        if turn is None:
            return mask
        note = f"its orientation tag asks viewers to show it {turn}; it is read as it is stored"
        return Mask(mask.values, (*mask.notes, note), path)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: cannot be read as a mask (damaged, or no image)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a mask ({error})") from error


def clean(values: NDArray[Any], path: Path | None = None, lossy: bool = False) -> Mask:
    """A mask of numbers, [H, W]: whole ones, or probabilities from 0 to 1, which are cut at half.

    Args:
        lossy: it was compressed in a way that changes values. path: for messages.

    Raises:
        InputError: ids out of range, or no mask.
    """
    if np.issubdtype(values.dtype, np.floating):
        values = _whole(values, path)
    if values.dtype != np.uint8:
        values = _narrow(values.astype(np.int64), path)
    return _without_soft_edges(np.ascontiguousarray(values), path, lossy)


def _where(path: Path | None) -> str:
    return f"{path}: " if path is not None else "the mask: "


# ---------------------------------------------------------------- images


def _of_image(image: Any, path: Path, lossy: bool) -> Mask:
    if image.mode == "P" and (indexed := _of_indices(image, path)) is not None:
        return indexed
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = np.array(image.convert("RGBA"))
        if rgba[:, :, 3].min() != rgba[:, :, 3].max():  # else it says nothing
            return _of_alpha(rgba, path)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return clean(np.array(image), path, lossy)
    return _of_colors(np.array(image.convert("RGB")), path, image.mode, lossy)


def _of_indices(image: Any, path: Path) -> Mask | None:
    """An indexed image: its values are the ids, unless a tool has changed the palette's order.

    None where it is better read as a picture: a gray one with a palette, or one whose transparent
    pixels have other values than 0.
    """
    values = np.array(image)
    used = np.flatnonzero(np.bincount(values.ravel())).tolist()
    palette = image.getpalette("RGB") or []
    colors = {index: tuple(palette[3 * index : 3 * index + 3]) for index in used}
    clear = image.info.get("transparency", 0)
    transparent = [clear] if isinstance(clear, int) else [n for n, a in enumerate(clear) if a < 128]
    if set(transparent) & set(used) - {0}:
        return None
    vivid = any(len(set(color)) > 1 for color in colors.values())
    if len(used) > _MANY and not vivid:
        return None
    ids = {index: IDS.get(color) for index, color in colors.items()}
    black = [index for index in used if ids[index] == 0]
    by_color = None not in ids.values()
    moved = bool(black) and 0 in used and 0 not in black
    if not moved and not (vivid and by_color and any(ids[index] != index for index in used)):
        return Mask(values, (), path)
    others = [index for index in used if index not in black]
    if not by_color and len(others) > 1:
        raise InputError(
            f"{path}: index 0 of its palette is not the background but {colors[0]}, and index "
            f"{black[0]} is black: save it with index 0 for the background and n for object n"
        )
    table = np.zeros(256, np.uint8)
    for index in others:
        table[index] = (ids[index] or 0) if by_color else 1
    note = "the palette's order is not that of the ids, so the colors count; black is background"
    return Mask(table[values], (note,), path)


def _of_alpha(rgba: Labels, path: Path) -> Mask:
    """The mask in the alpha channel, or colored objects on a transparent background."""
    alpha = rgba[:, :, 3]
    inside = alpha.astype(np.int64) * 2 >= alpha.max()
    soft = " (soft edges are cut at half)" if ((alpha > 0) & (alpha < 255)).any() else ""
    solid = np.unique(rgba[alpha == alpha.max()][:, :3], axis=0)
    vivid = all(len(set(color)) > 1 and IDS.get(tuple(color)) for color in solid[:_MANY].tolist())
    if len(solid) <= _MANY and (vivid or (len(solid) > 1 and not solid[0].any())):
        flat = np.where(inside[:, :, None], rgba[:, :, :3], 0).astype(np.uint8)
        mask = _of_colors(flat, path, "RGBA", False)
        return Mask(mask.values, (*mask.notes, f"transparent pixels are background{soft}"), path)
    note = f"the mask was taken from the alpha channel{soft}"
    return Mask(inside.astype(np.uint8), (note,), path)


def _of_colors(rgb: Labels, path: Path, mode: str, lossy: bool) -> Mask:
    gray = np.ascontiguousarray(rgb[:, :, 1])
    if np.abs(rgb.astype(np.int16) - gray[:, :, None]).max(initial=0) <= (_NOISE if lossy else 0):
        return clean(gray, path, lossy)
    found, inverse = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    known = [IDS.get(tuple(color)) for color in found.tolist()]
    if None not in known:
        return Mask(np.array(known, np.uint8)[inverse].reshape(gray.shape), (), path)
    noise = _NOISE if lossy else 0
    flat = np.logical_and.reduce([_range(rgb[:, :, n]) <= noise for n in range(3)])
    levels = _color_levels(rgb[flat], lossy)
    if levels is None:
        strange = [color for color, index in zip(found.tolist(), known) if index is None]
        raise InputError(
            f"{path}: is a color image ({mode}) with {len(strange)} colors that are not in the "
            f"DAVIS palette (such as #{bytes(strange[0]).hex()}); an indexed or gray PNG whose "
            "values are the object ids is needed"
        )
    place = _cut(rgb, list(levels), _COLOR_NOISE if lossy else 0)
    note = "colors that are not the palette's (soft edges, or a JPEG's noise) became the nearest"
    return Mask(np.array(list(levels.values()), np.uint8)[place], (note,), path)


def _color_levels(pixels: Labels, lossy: bool) -> dict[tuple[int, ...], int] | None:
    """The palette's colors that flat pixels [n, 3] have, and their ids; None where others are."""
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    # far down the palette every color has one like it, so of a JPEG's the first are looked at
    palette = {color: index for color, index in IDS.items() if index <= (21 if lossy else 255)}
    known = np.array(list(palette), np.int64)
    found: dict[tuple[int, ...], int] = {}
    strange: dict[tuple[int, ...], int] = {}
    noise = _COLOR_NOISE if lossy else 0
    for color, count in zip(colors.astype(np.int64), counts.tolist()):
        distance = np.abs(known - color).max(axis=1)
        nearest = tuple(known[distance.argmin()].tolist())
        if distance.min() > noise:
            strange[tuple(color.tolist())] = count
        else:
            found[nearest] = found.get(nearest, 0) + count
    ids = {color: palette[color] for color, count in found.items() if count >= 8}
    if strange and not any(ids.values()):  # one object on black, in its own color
        only = max(strange, key=lambda color: strange[color])
        near = [c for c in strange if max(abs(a - b) for a, b in zip(c, only)) <= noise]
        strange = {color: count for color, count in strange.items() if color not in near}
        ids[only] = 1
    if sum(strange.values()) > (1 - _CLEAR if lossy else 0) * len(pixels):
        return None
    return ids if 0 in ids.values() and any(ids.values()) else None


# ---------------------------------------------------------------- numbers


def _whole(values: NDArray[Any], path: Path | None) -> NDArray[Any]:
    """Floats as whole numbers; probabilities as opacities."""
    if not np.isfinite(values).all():
        raise InputError(f"{_where(path)}has values that are no numbers (NaN or infinity)")
    if (values == np.rint(values)).all():
        return values
    if values.min(initial=0) >= 0 and values.max(initial=0) <= 1:
        return np.where(values >= 0.5, np.uint8(VOID), np.uint8(0))
    raise InputError(
        f"{_where(path)}has fractions, such as {float(values[values != np.rint(values)][0]):g}: 0 "
        "for the background and a whole number for each object is needed, or probabilities from 0 "
        "to 1"
    )


def _narrow(values: NDArray[np.int64], path: Path | None) -> Labels:
    """16-bit values as 8 bits: ids as they are, opacities divided."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 255:
        levels = np.unique(values)
        # a binary mask or a soft one, saved in 16 bit
        if low < 0 or not (levels.tolist() == [0, 65535] or levels.size > _MANY):
            raise InputError(f"{_where(path)}has ids from {low} to {high}; 0..255 is needed")
        values = values * 255 // (65535 if high > 32767 else high)
    return values.astype(np.uint8)


def _without_soft_edges(values: Labels, path: Path | None, lossy: bool) -> Mask:
    counts = np.bincount(values.ravel(), minlength=256)
    present = np.flatnonzero(counts).tolist()
    if len(present) <= 2 and not lossy:
        return Mask(values, (), path)
    spread = _range(values)
    find = _lossy_levels if lossy else _levels
    levels = find(values, spread, counts, path)
    if set(present) <= set(levels):
        return Mask(values, (), path)
    place = _cut(values[:, :, None], [(level,) for level in levels], _SAME if lossy else 0)
    cut = np.array(levels, np.uint8)[place]
    ids = [level for level in np.unique(cut).tolist() if level]
    if lossy:
        note = (
            f"a JPEG's noise was taken out; objects are the values {ids} (a PNG keeps values as "
            "they are)"
        )
    else:
        note = (
            f"has soft edges ({len(present) - len(levels)} values that only line the edges of "
            f"{ids}): cut at half"
        )
    if len(ids) == 1:  # an opacity, not an id
        cut = np.where(cut > 0, np.uint8(VOID), np.uint8(0))
    return Mask(cut, (note,), path)


def _levels(
    values: Labels, spread: Labels, counts: NDArray[np.int64], path: Path | None
) -> list[int]:
    """The values that are objects or background, not steps of a soft edge."""
    present = np.flatnonzero(counts)
    if present.size > _MANY and (spread == 0).mean() < _FLAT:
        raise InputError(
            f"{_where(path)}is a picture and no mask: it has {present.size} different values and "
            "few neighbors that are alike; a mask has 0 for the background and one number, 1 to "
            "254, for each object"
        )
    lower, higher = cv2.erode(values, _AROUND), cv2.dilate(values, _AROUND)
    between = np.bincount(values[(lower < values) & (values < higher)], minlength=256)
    whole = np.bincount(values[spread == 0], minlength=256) > 0  # has an inside
    soft = (counts > 0) & ~whole & (between >= _LINES * counts)
    if counts[soft].sum() < _FEW or _are_numbers(values, np.flatnonzero(soft), present):
        # a small or thin thing between two others is an object as well
        return [int(value) for value in present]
    kept: list[int] = []
    distance = int(present[-1]) // 32  # values of an opacity that nearly is the same
    for level in sorted(np.flatnonzero((counts > 0) & ~soft).tolist(), key=lambda v: -counts[v]):
        if all(abs(level - other) > distance for other in kept):
            kept.append(level)
    return sorted(kept)


def _are_numbers(values: Labels, lining: NDArray[np.int64], present: NDArray[np.int64]) -> bool:
    """Whether values that only line edges are numbers of thin objects, not steps of a soft edge.

    Many are steps. Beside levels of gray few that are small are numbers. Beside small numbers they
    are but for what only a soft edge has: nearly all values between the background and the lowest
    object, each of them here and there along an outline, not in lines.
    """
    if lining.size > _MANY:
        return False
    objects = np.setdiff1d(present, lining)
    objects = objects[objects > 0]
    lowest = int(objects.min(initial=int(present[-1])))
    if lowest >= _GRAY:
        return VOID not in present and len(lining) < _FEW_STEPS and int(lining[-1]) < _GRAY
    below = lining[lining < lowest]
    if not below.size or 4 * below.size < 3 * (lowest - 1):
        return True
    if objects.size < 2 and lining.size < _FEW_STEPS:
        return True
    sizes: list[int] = []
    for value in below[:8]:  # enough to tell
        part = (values == value).astype(np.uint8)
        sizes += cv2.connectedComponentsWithStats(part, connectivity=8)[2][1:, 4].tolist()
    return bool(np.median(sizes) > 2)


def _lossy_levels(
    values: Labels, spread: Labels, counts: NDArray[np.int64], path: Path | None
) -> list[int]:
    """The values that are frequent in flat areas."""
    flat = values[spread <= _NOISE]
    counts = np.bincount(flat, minlength=256)
    left = counts.copy()
    levels: list[int] = []
    while len(levels) < _MOST_LEVELS and left.sum() > 0.002 * max(1, flat.size):
        level = int(left.argmax())
        levels.append(level)
        left[max(0, level - _NOISE) : level + _NOISE + 1] = 0
    near = sum(int(counts[max(0, level - _SAME) : level + _SAME + 1].sum()) for level in levels)
    if near < _CLEAR * flat.size or flat.size < _FLAT * values.size:
        raise InputError(
            f"{_where(path)}is a picture and no mask: it is a JPEG without large areas of one "
            "value; a mask has 0 for the background and one number for each object, as a PNG"
        )
    if int(values.max()) < _DARK:
        raise InputError(
            f"{_where(path)}is a JPEG whose largest value is {int(values.max())}: a JPEG does not "
            "keep ids such as 1, 2, 3; save the mask as a PNG"
        )
    return sorted({0 if at < 2 * _NOISE else 255 if at > 255 - _NOISE else at for at in levels})


def _range(values: Labels) -> Labels:
    """The difference of the highest and the lowest value around each pixel."""
    around = np.ascontiguousarray(values)
    return np.asarray(cv2.dilate(around, _AROUND) - cv2.erode(around, _AROUND), np.uint8)


def _cut(pixels: Labels, levels: list[tuple[int, ...]], tolerance: int) -> NDArray[np.int64]:
    """Place in `levels` of what each pixel [H, W, C] belongs to, [H, W].

    That is the nearest level, but for those that a soft edge between two others passes through: a
    part of a level that hardly has a pixel of its very value, and touches two others, goes to the
    nearest of them.
    """
    distance = np.stack(
        [np.square(pixels.astype(np.int32) - level).sum(axis=2) for level in levels]
    )
    place = distance.argmin(axis=0)
    sure = distance.min(axis=0) <= tolerance**2 * pixels.shape[2]
    result: NDArray[np.int64] = place.copy()
    for level in range(len(levels)):
        count, parts = cv2.connectedComponents((place == level).astype(np.uint8), connectivity=8)
        area, exact = (np.bincount(p.ravel(), minlength=count) for p in (parts, parts[sure]))
        touched = np.zeros(count, np.int64)
        for other in range(len(levels)):
            if other != level:
                near = cv2.dilate((place == other).astype(np.uint8), _AROUND) > 0
                touched += np.bincount(parts[near], minlength=count) > 0
        ring = (exact < 0.5 * area) & (touched >= 2)
        ring[0] = False
        if ring.any():
            others = distance.copy()
            others[level] = np.iinfo(np.int32).max
            result[ring[parts]] = others.argmin(axis=0)[ring[parts]]
    return result
