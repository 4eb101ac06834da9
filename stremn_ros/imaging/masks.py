"""Label masks: checked where they come in, made of logits where they go out, and cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.imaging.resize import resize
from stremn_ros.imaging.sizes import shape_text
from stremn_ros.results import MAX_ID

if TYPE_CHECKING:
    from torch import Tensor


def checked_mask(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The mask of a frame of this size, as it is.

    Raises:
        InputError: not an integer or bool array, another size, or values that are no ids.
    """
    if not isinstance(mask, np.ndarray) or not (
        np.issubdtype(mask.dtype, np.integer) or mask.dtype == bool
    ):
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise InputError(f"a mask must be an integer array [H, W], not {kind}")
    if mask.shape != size:
        raise InputError(
            f"the mask is {shape_text(mask.shape)}, but the frame is {shape_text(size)}; they must "
            "match"
        )
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > MAX_ID:
        raise InputError(f"mask values are {low}..{high}; object ids are 1..{MAX_ID}, 0 is none")
    return mask


def ids_in(labels: NDArray[Any]) -> list[int]:
    """The ids of the objects in a label mask, sorted."""
    return [int(value) for value in np.unique(labels) if value]


def label_mask(
    logits: Tensor, ids: list[int], shown: list[bool], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The label mask of a frame.

    Args:
        logits: aggregated, float [O + 1, h, w], the background first; ids: of the O objects.
        shown: for each of them whether it was seen; one that was not has no pixel.
        size: rows and columns of the result.

    Returns:
        uint8 [*size], 0 background, n = object n.
    """
    if not any(shown):
        return np.zeros(size, np.uint8)
    if not all(shown):
        kept = [n for n, here in enumerate(shown) if here]
        logits, ids = logits[[0, *(n + 1 for n in kept)]], [ids[n] for n in kept]
    maps = logits.cpu().numpy()
    labels: NDArray[np.uint8]
    if len(ids) == 1:
        labels = (resize(maps[1] - maps[0], size) > 0.0).view(np.uint8) * np.uint8(ids[0])
    else:
        # object by object: an argmax over the first of three axes takes ten times as long
        labels, best = np.zeros(size, np.uint8), resize(maps[0], size)
        for part, object_id in zip(maps[1:], ids, strict=True):
            odds = resize(part, size)
            wins = np.asarray(cv2.compare(odds, best, cv2.CMP_GT), np.uint8)  # 255 where it does
            labels &= ~wins
            labels |= wins & np.uint8(object_id)
            best = cv2.max(best, odds)
    return labels


def measured(
    labels: NDArray[np.uint8], object_id: int
) -> tuple[int, tuple[int, int, int, int], tuple[float, float]]:
    """Pixels, box (x, y, width, height) and centroid (x, y) of an object; zeros for none."""
    mask = (labels == object_id).view(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return 0, (0, 0, 0, 0), (0.0, 0.0)
    moments = cv2.moments(mask[y : y + height, x : x + width], binaryImage=True)
    area = int(moments["m00"])
    return area, (x, y, width, height), (x + moments["m10"] / area, y + moments["m01"] / area)


def drop_small_parts(labels: NDArray[np.uint8], ids: Sequence[int], share: float) -> None:
    """Clears, in place, every connected part of an object that is small beside its largest part.

    Args:
        labels: uint8 [H, W], 0 background, n = object n; ids: of the objects to look at.
        share: a part stays that has at least this share, 0..1, of the largest part's pixels; with 1
            only the largest stays (and others of the very same size).
    """
    for object_id in ids:
        mask = (labels == object_id).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if not height:  # OpenCV does not bear an empty array
            continue
        inside = (slice(y, y + height), slice(x, x + width))
        count, parts, figures, _ = cv2.connectedComponentsWithStats(mask[inside], connectivity=8)
        if count <= 2:  # the background, and one part at most
            continue
        area = figures[:, cv2.CC_STAT_AREA].astype(np.int64)
        area[0] = 0
        small = area < share * area.max()
        small[0] = False
        labels[inside][small[parts]] = 0


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks [H, W], 0..1. Two empty ones agree: 1."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def encode_mask(labels: NDArray[np.uint8]) -> bytes:
    """A label mask as a grey PNG, quick to write; the values are the ids."""
    return bytes(cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def decode_mask(data: bytes, where: object) -> NDArray[np.uint8]:
    """What ``encode_mask`` made.

    Raises:
        InputError: it is damaged; the message begins with ``where``.
    """
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if labels is None:
        raise InputError(f"{where} is damaged")
    return np.asarray(labels, np.uint8)
