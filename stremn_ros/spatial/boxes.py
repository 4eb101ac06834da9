"""Boxes around points: by percentiles, so that a few wrong points do not widen them."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.spatial.results import Box3D, Point, Quaternion

Points = NDArray[np.float32]
Vector = NDArray[np.float64]
_ORIENTING = 256  # points that the directions of an oriented box are taken from
_NEAR_PLANE = 0.06  # of the object's size: how far a point of a plane may be from it
# places of three points each, spread over all
_TRIPLES = np.random.default_rng(0).integers(0, 1 << 30, (48, 3))


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
    """The smallest of two boxes along the object's own axes, the longest first.

    One axis is either the direction in which the points vary least or the normal of the largest
    plane among them (a side of a carton); the other two are those of the smallest rectangle around
    the points seen from there. Where a shape has no direction of its own (a ball), neither has its
    box. Arguments as `axis_aligned_box`.
    """
    middle = points.mean(axis=1, dtype=np.float64)
    centered = points - middle.astype(np.float32)[:, None]
    spread, axes = np.linalg.eigh((centered @ centered.T).astype(np.float64))
    some = centered[:, :: max(1, points.shape[1] // _ORIENTING)]
    near = _NEAR_PLANE * float(np.sqrt(spread.sum() / points.shape[1]))
    rotations = [_turned(some, axes[:, 0])]
    normal = _largest_plane(some, near)
    if normal is not None:
        rotations.append(_turned(some, normal))
    boxes = []
    for rotation in rotations:
        low, high = spans(rotation.T.astype(np.float32) @ centered, trim)
        boxes.append((float(np.prod(high - low)), low, high, rotation))
    _, low, high, rotation = min(boxes, key=lambda box: box[0])
    size = high - low + np.abs(rotation.T @ pixel).sum(axis=1)
    center = middle + rotation @ ((low + high) / 2)
    order = np.argsort(-size, kind="stable")
    return Box3D(_point(center), _point(size[order]), _quaternion(_settled(rotation[:, order])))


def _turned(points: Points, normal: Vector) -> Vector:
    """Axes, as columns: the two of the smallest rectangle seen along a unit normal, and that."""
    first = np.zeros(3)
    first[np.abs(normal).argmin()] = 1.0
    first -= normal * (normal @ first)
    first /= np.linalg.norm(first)
    plane = np.stack([first, _cross(normal, first)])
    flat = points.T @ plane.T.astype(np.float32)
    angle = math.radians(cv2.minAreaRect(flat)[2])
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array(
        [cosine * plane[0] + sine * plane[1], cosine * plane[1] - sine * plane[0], normal]
    ).T


def _largest_plane(points: Points, near: float) -> Vector | None:
    """Unit normal of the plane that most points are near to; RANSAC (Fischler and Bolles 1981).

    The triples that planes are tried through are always the same, so that results can be repeated.
    """
    corners = points[:, _TRIPLES % points.shape[1]]  # [3, tries, 3]
    one, other = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    normals = np.stack(_cross(one, other))
    length = np.sqrt((normals * normals).sum(axis=0))
    usable = length > 1e-12
    if not usable.any():
        return None
    normals, start = normals[:, usable] / length[usable], corners[:, usable, 0]
    close = np.abs(normals.T @ points - (normals * start).sum(axis=0)[:, None]) < near
    chosen = points[:, close[close.sum(axis=1).argmax()]]
    chosen = chosen - chosen.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh((chosen @ chosen.T).astype(np.float64))
    return np.asarray(axes[:, 0])


def _cross(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """The cross product of columns; numpy's takes longer than all that it is needed for here."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _settled(rotation: Vector) -> Vector:
    """The same axes, right-handed, with the signs that change least from image to image."""
    rotation = rotation.copy()
    for column in (0, 1):
        if rotation[np.abs(rotation[:, column]).argmax(), column] < 0:
            rotation[:, column] *= -1
    rotation[:, 2] = _cross(rotation[:, 0], rotation[:, 1])
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
