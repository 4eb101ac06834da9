"""Pictures of label masks: overlay, contact sheet, and label PNGs on disk."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.files import write_with
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.mask_reading import read_mask
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.imaging.resize import resize

log = logging.getLogger(__name__)

# DAVIS colors are dark; on a dark video only a lighter outline shows where the object ends.
_OUTLINE = (0.45 * PALETTE + 0.55 * 255).astype(np.uint8)
_FILL_LUT = np.ascontiguousarray(PALETTE[None])
_OUTLINE_LUT = np.ascontiguousarray(_OUTLINE[None])


def _check_labels(labels: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise InputError(f"labels are {labels.dtype} {list(labels.shape)}; integers [H, W] needed")
    if shape is not None and labels.shape != shape:
        raise InputError(
            f"labels are {list(labels.shape)}, the frame is {list(shape)}: "
            "the same height and width are needed"
        )
    if labels.dtype != np.uint8:
        if labels.size and (labels.min() < 0 or labels.max() > 255):
            raise InputError(f"labels reach from {labels.min()} to {labels.max()}; ids are 0..255")
        labels = labels.astype(np.uint8)
    return labels


def _color(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(cv2.merge((labels, labels, labels)), table)


def overlay(
    frame: np.ndarray, labels: np.ndarray, alpha: float = 0.5, outline: bool = True
) -> np.ndarray:
    """The frame with the objects tinted in their palette colors: RGB uint8 [H, W, 3], a copy.

    frame: RGB uint8 [H, W, 3]; labels: integers [H, W], 0 is background. alpha 0..1 is the
    strength of the tint; outline draws the inner edge of each object in a lighter tone of its
    color, thicker on larger frames. InputError for a wrong type or size.
    """
    check_frame(frame)
    labels = _check_labels(labels, frame.shape[:2])
    result = np.array(frame, order="C")  # OpenCV writes into it
    x, y, width, height = cv2.boundingRect(labels)
    if not width:
        return result
    # Only the box that holds the objects is touched: that is most of the speed.
    box = (slice(y, y + height), slice(x, x + width))
    inner = np.ascontiguousarray(labels[box])
    view = result[box]
    tinted = cv2.addWeighted(view, 1.0 - alpha, _color(inner, _FILL_LUT), alpha, 0.0)
    if outline:
        radius = max(1, round(min(frame.shape[:2]) / 480))
        kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        # Constant zero outside: an object that fills its box has its outline there as well
        lowest = cv2.erode(inner, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        highest = cv2.dilate(inner, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        edge = cv2.compare(lowest, highest, cv2.CMP_NE)
        cv2.copyTo(_color(inner, _OUTLINE_LUT), edge, tinted)
    cv2.copyTo(tinted, inner, view)
    return result


def contact_sheet(
    frames: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None = None,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    tile_width: int = 320,
    alpha: float = 0.5,
) -> np.ndarray:
    """Many frames in one picture: RGB uint8 [H, W, 3].

    frames: RGB uint8 [H, W, 3], of any sizes; labels: one mask per frame (or None for a frame
    without); captions: one line per frame, drawn under it, shortened where it does not fit.
    columns: None makes the sheet about as wide as two screens are high. Each tile is tile_width
    wide and as high as the first frame's aspect asks, but 3 times as high at most; other aspects
    get black bars.
    """
    if not len(frames):
        raise InputError("a contact sheet needs at least one frame")
    for name, given in (("labels", labels), ("captions", captions)):
        if given is not None and len(given) != len(frames):
            raise InputError(f"{len(given)} {name} for {len(frames)} frames: one each is needed")
    check_frame(frames[0])
    count = len(frames)
    # a strip that stands on end gets bars at its sides rather than a sheet as high as a house
    aspect = min(3.0, frames[0].shape[0] / frames[0].shape[1])
    tile_height = max(1, round(tile_width * aspect))
    if columns is None:
        columns = max(1, min(count, round(math.sqrt(count * 1.6 * tile_height / tile_width))))
    if columns < 1:
        raise InputError(f"columns {columns}: at least 1 is needed")
    rows = math.ceil(count / columns)
    gap, text = 6, 24 if captions is not None else 0
    sheet = np.full(
        (gap + rows * (tile_height + text + gap), gap + columns * (tile_width + gap), 3),
        24,
        np.uint8,
    )
    for index, frame in enumerate(frames):
        check_frame(frame)
        top = gap + (index // columns) * (tile_height + text + gap)
        left = gap + (index % columns) * (tile_width + gap)
        scale = min(tile_width / frame.shape[1], tile_height / frame.shape[0])
        width = max(1, min(tile_width, round(frame.shape[1] * scale)))
        height = max(1, min(tile_height, round(frame.shape[0] * scale)))
        tile = resize(frame, (height, width))
        mask = labels[index] if labels is not None else None
        if mask is not None:
            mask = _check_labels(mask, frame.shape[:2])
            # The mask is drawn after the resize, or its outline would fade away
            tile = overlay(
                tile, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), alpha
            )
        y, x = top + (tile_height - height) // 2, left + (tile_width - width) // 2
        sheet[top : top + tile_height, left : left + tile_width] = 0
        sheet[y : y + height, x : x + width] = tile
        if captions is not None:
            _caption(sheet, captions[index], left, top + tile_height, tile_width, text)
    return sheet


def drawable(text: str) -> str:
    """A text in ASCII: OpenCV's fonts have no more, and what is no Unicode ends the process."""
    return text.encode("ascii", "replace").decode()


def _caption(sheet: np.ndarray, caption: str, left: int, top: int, width: int, height: int) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.48
    caption = drawable(caption)
    shown = caption
    while shown and cv2.getTextSize(shown, font, scale, 1)[0][0] > width - 4:
        caption = caption[:-1]
        shown = caption + ".."
        if not caption:
            return
    cv2.putText(
        sheet, shown, (left + 2, top + height - 8), font, scale, (235, 235, 235), 1, cv2.LINE_AA
    )


def write_label_png(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Writes a label mask (integers [H, W], 0..255) as an indexed PNG with the DAVIS palette.

    The pixel values of the file are the ids. The folder is made; the file appears when whole.
    """
    from PIL import Image  # here, so that overlays in a node do not need Pillow

    labels = _check_labels(np.asarray(labels))
    image = Image.fromarray(np.ascontiguousarray(labels))
    image.putpalette(PALETTE.tobytes())
    write_with(path, lambda temporary: image.save(temporary, format="PNG"))


def read_label_png(path: str | os.PathLike[str], *, keep_255: bool = False) -> np.ndarray:
    """A label mask from disk: uint8 [H, W], 0 background, n = id, by the one reader of masks.

    A mask of 0 and 255 only becomes 0 and 1, and 255 beside ids is no object, unless keep_255.
    What else was done to it (soft edges, a mask in the alpha channel) is in the log; see
    ``mask_reading``. InputError says what it was if no mask.
    """
    mask = read_mask(path)
    labels, notes = (mask.values, mask.notes) if keep_255 else mask.labels()
    for note in notes:
        log.warning("%s: %s", path, note)
    return labels
