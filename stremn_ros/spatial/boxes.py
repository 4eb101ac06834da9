"""Boxes around points: by percentiles, so that a few wrong points do not widen them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .results import Box3D, Point, Quaternion

Points = NDArray[np.float32]
Vector = NDArray[np.float64]
_ORIENTING = 512  # points that the smallest rectangle is drawn around


def spans(points: Points, trim: float) -> tuple[Vector, Vector]:
    """Lower and upper ends of each row of [D, N], float64 [D] each.

    Args:
        trim: share of the points that is left out at either end.
    """
    ordered = np.sort(points, axis=1)
    last = ordered.shape[1] - 1
    lower = round(trim * last)
    return ordered[:, lower].astype(np.float64), ordered[:, last - lower].astype(np.float64)


def axis_aligned_box(points: Points, trim: float, pixel: Vector) -> Box3D:
    """The box along the axes of points float32 [3, N].

    Args:
        trim: as `spans`. pixel: float64 [3, 2], the two edges of what a pixel covers at the
            object, in meters: a point stands for all of its pixel, so the box gets half a pixel
            more at each side.
    """
    low, high = spans(points, trim)
    size = high - low + np.abs(pixel).sum(axis=1)
    return Box3D(_point((low + high) / 2), _point(size))


def oriented_box(points: Points, trim: float, pixel: Vector) -> Box3D:
    """The box along the object's own axes, the longest first. Arguments as `axis_aligned_box`.

    One axis is the direction in which the points vary least, which is most often towards the
    camera; the other two are those of the smallest rectangle around the points seen from there.
    Where a shape has no direction of its own (a ball), neither has its box.
    """
    middle = points.mean(axis=1, dtype=np.float64)
    centered = points - middle.astype(np.float32)[:, None]
    _, axes = np.linalg.eigh((centered @ centered.T).astype(np.float64))  # least varying first
    some = centered[:, :: max(1, points.shape[1] // _ORIENTING)]
    flat = axes.T[:0:-1].astype(np.float32) @ some
    low, high = spans(flat, trim)
    inside = ((flat >= low[:, None]) & (flat <= high[:, None])).all(axis=0)
    if inside.sum() > 2:
        flat = flat[:, inside]
    angle = np.deg2rad(cv2.minAreaRect(np.ascontiguousarray(flat.T))[2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation = np.column_stack([axes[:, :0:-1] @ turn, axes[:, 0]])
    low, high = spans(rotation.T.astype(np.float32) @ centered, trim)
    size = high - low + np.abs(rotation.T @ pixel).sum(axis=1)
    center = middle + rotation @ ((low + high) / 2)
    order = np.argsort(-size, kind="stable")
    return Box3D(_point(center), _point(size[order]), _quaternion(_settled(rotation[:, order])))


def _settled(rotation: Vector) -> Vector:
    """The same axes, right-handed, with the signs that change least from image to image."""
    rotation = rotation.copy()
    for column in (0, 1):
        if rotation[np.abs(rotation[:, column]).argmax(), column] < 0:
            rotation[:, column] *= -1
    (a, b, c), (d, e, f) = rotation[:, 0].tolist(), rotation[:, 1].tolist()
    rotation[:, 2] = b * f - c * e, c * d - a * f, a * e - b * d
    return rotation


def _quaternion(rotation: Vector) -> Quaternion:
    """(x, y, z, w) of a rotation matrix; by Shepperd's method (1978), which divides by no zero."""
    trace = rotation.trace()
    choices = np.array([*rotation.diagonal(), trace])
    largest = int(choices.argmax())
    q = np.empty(4)
    if largest == 3:
        q[:3] = [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
        q[3] = 1 + trace
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = 1 + 2 * rotation[i, i] - trace
        q[j] = rotation[j, i] + rotation[i, j]
        q[k] = rotation[k, i] + rotation[i, k]
        q[3] = rotation[k, j] - rotation[j, k]
    q /= np.linalg.norm(q)
    if q[3] < 0:
        q = -q
    return float(q[0]), float(q[1]), float(q[2]), float(q[3])


def _point(values: Vector) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
