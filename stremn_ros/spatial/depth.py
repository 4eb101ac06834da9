"""Depth images: what is taken for one, which pixels count, and copies with or without objects.

A depth image has the distance along the optical axis for each pixel, as REP 118 has it: uint16 in
millimeters with 0 for "not measured", or float32 in meters with NaN. It must be aligned: depth and
mask show the same view, pixel on pixel or, at another resolution, corner on corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.spatial.camera import MAX_PIXELS, MAX_SIDE, same_view

Depth = NDArray[Any]
Labels = NDArray[np.uint8]
MILLIMETER = np.float32(0.001)


@dataclass(frozen=True)
class DepthRange:
    """Distances in meters that a depth pixel must have to count.

    Raises:
        InputError: not 0 < near < far.
    """

    near: float = 0.1
    far: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far < math.inf:
            raise InputError(
                f"the depth range is {self.near:g} to {self.far:g} m: 0 < near < far is needed"
            )


def check_depth(depth: Any) -> Depth:
    """The depth image as uint16 (millimeters) or float32 (meters) [H, W] in native byte order.

    Nothing is copied where the array is right already. Values are not looked at: each pixel that
    is 0, negative, NaN or infinite is a hole.

    Raises:
        InputError: another shape or type; the text says what would be right.
    """
    if not isinstance(depth, np.ndarray):
        raise InputError(f"a depth image must be an array, not {type(depth).__name__}")
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    if depth.ndim != 2 or 0 in depth.shape:
        raise InputError(f"a depth image must have the shape [H, W], not {list(depth.shape)}")
    if max(depth.shape) > MAX_SIDE or depth.size > MAX_PIXELS:
        raise InputError(
            f"the depth image has {depth.shape[1]} x {depth.shape[0]} pixels; sides of at most "
            f"{MAX_SIDE} and {MAX_PIXELS} pixels together are taken"
        )
    kind = (depth.dtype.kind, depth.dtype.itemsize)
    if kind == ("u", 2):
        return depth.astype(np.uint16, copy=False)
    if kind in (("f", 4), ("f", 8)):
        return depth.astype(np.float32, copy=False)
    raise InputError(
        f"a depth image must be uint16 (millimeters, 16UC1) or float32 (meters, 32FC1), not "
        f"{depth.dtype}"
    )


def check_labels(labels: Any) -> Labels:
    """Refuses what is no label mask: uint8 [H, W], 0 background, n = object n."""
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim != 2:
        shown = getattr(labels, "shape", type(labels).__name__), getattr(labels, "dtype", "")
        raise InputError(f"labels must be a uint8 array [H, W], not {shown[0]} {shown[1]}".strip())
    if 0 in labels.shape:
        raise InputError(f"labels must have at least one pixel, not {list(labels.shape)}")
    return labels


def misaligned(image: tuple[int, int], depth: tuple[int, int]) -> str:
    """Why a depth image of a size (rows, columns) cannot be of an image's view; empty if it can."""
    if same_view(image, depth):
        return ""
    return (
        f"the depth image has {depth[1]} x {depth[0]} pixels and the image {image[1]} x "
        f"{image[0]}: they do not show the same view; set depth_topic to the depth that is "
        "aligned to the color image (RealSense: align_depth.enable:=true and the topic "
        "aligned_depth_to_color/image_raw; others: depth_image_proc's register node)"
    )


def fitted_labels(labels: Labels, shape: tuple[int, int], out: Labels | None = None) -> Labels:
    """Labels at the size of a depth image, uint8 [rows, columns], by the nearest pixel.

    Raises:
        InputError: the two do not show the same view.
    """
    if labels.shape == tuple(shape):
        return labels
    if wrong := misaligned((labels.shape[0], labels.shape[1]), shape):
        raise InputError(wrong)
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(labels, size, dst=out, interpolation=cv2.INTER_NEAREST_EXACT))


def in_meters(depth: Depth, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """A checked depth image, or a part of it, in meters: written to `out`, float32 [H, W]."""
    if depth.dtype == np.uint16:
        np.multiply(depth, MILLIMETER, out=out)
    else:
        np.copyto(out, depth)
    return out


def valid_pixels(depth: Depth, limits: DepthRange | None = None) -> Labels:
    """255 where a checked depth image has a distance within the limits, uint8 [H, W]."""
    limits = limits or DepthRange()
    if depth.dtype == np.uint16:  # NumPy would wrap limits beyond 16 bits
        low, high = math.ceil(limits.near * 1000), min(math.floor(limits.far * 1000), 65535)
        return np.asarray(cv2.inRange(np.ascontiguousarray(depth), low, high))
    return np.asarray(cv2.inRange(np.ascontiguousarray(depth), limits.near, limits.far))


def why_invalid(depth: Depth, limits: DepthRange | None = None) -> str:
    """What is wrong with the pixels of a checked depth image that do not count, most first."""
    limits = limits or DepthRange()
    values = depth.ravel()
    meters = values * MILLIMETER if values.dtype == np.uint16 else values
    finite = np.isfinite(meters)
    known = meters[finite]
    counts = {
        "NaN or infinite": int(finite.size - known.size),
        "0": int(np.count_nonzero(known == 0)),
        "negative": int(np.count_nonzero(known < 0)),
        f"nearer than {limits.near:g} m": int(
            np.count_nonzero((known > 0) & (known < limits.near))
        ),
        f"farther than {limits.far:g} m": int(np.count_nonzero(known > limits.far)),
    }
    parts = sorted(((n, words) for words, n in counts.items() if n), reverse=True)
    text = ", ".join(f"{n / values.size:.0%} {words}" for n, words in parts)
    if values.dtype != np.uint16 and known.size and float(np.median(known)) > 100:
        text += (
            f" (the median is {float(np.median(known)):.0f}: floats must be meters, these look "
            "like millimeters)"
        )
    return text


def _of_objects(
    labels: Labels, shape: tuple[int, int], ids: Iterable[int] | None
) -> NDArray[np.uint8]:
    """1 at the pixels of the objects, uint8 [H, W] at the size of the depth image."""
    labels = fitted_labels(check_labels(labels), shape)
    table = np.ones(256, np.uint8)
    if ids is not None:
        table[:] = 0
        table[[value for value in ids if 0 < value < 256]] = 1
    table[0] = 0
    return np.asarray(cv2.LUT(labels, table))


def _hole(depth: Depth) -> float:
    # 0.0 m would be a point in the camera for depth_image_proc, which takes finite floats as valid
    return 0 if depth.dtype == np.uint16 else math.nan


def masked_depth(
    labels: Labels, depth: Depth, ids: Iterable[int] | None = None, out: Depth | None = None
) -> Depth:
    """The depth of the objects only: what depth_image_proc makes their point cloud of.

    Args:
        labels: uint8 [H, W]. depth: as `check_depth`, aligned. ids: of the objects; None for all.
        out: written to instead of a new array, where its shape and type are the depth's.

    Returns:
        An array like the depth image. All other pixels are "not measured": 0 in uint16, NaN in
        float32.

    Raises:
        InputError: no depth image, no labels, or not of the same view.
    """
    depth = check_depth(depth)
    inside = _of_objects(labels, (depth.shape[0], depth.shape[1]), ids)
    out = _like(depth, out)
    out.fill(_hole(depth))
    np.copyto(out, depth, where=inside.view(bool))
    return out


def depth_without_objects(
    labels: Labels,
    depth: Depth,
    ids: Iterable[int] | None = None,
    margin: int = 2,
    out: Depth | None = None,
) -> Depth:
    """The depth of everything but the objects: for an octomap or a costmap without them.

    Args:
        margin: pixels around the objects that go with them: depth cameras invent distances there.
        Others: as `masked_depth`.

    Returns, Raises: as `masked_depth`, the other way round.
    """
    depth = check_depth(depth)
    if not 0 <= margin <= 100:
        raise InputError(f"margin is {margin} pixels; it must be 0 to 100")
    inside = _of_objects(labels, (depth.shape[0], depth.shape[1]), ids)
    if margin:
        side = 2 * margin + 1
        inside = np.asarray(cv2.dilate(inside, np.ones((side, side), np.uint8)))
    out = _like(depth, out)
    np.copyto(out, depth)
    out[inside.view(bool)] = _hole(depth)
    return out


def _like(depth: Depth, out: Depth | None) -> Depth:
    if out is None or out.shape != depth.shape or out.dtype != depth.dtype:
        return np.empty_like(depth, order="C")
    return out
