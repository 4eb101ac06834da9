"""Scenes of balls and boxes with exact depth and masks, and a depth camera's faults.

Everything is computed here, in float64, by rays against shapes: nothing of the package is used.
Camera coordinates: x right, y down, z ahead; meters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

SIZE = (480, 640)
FOCAL = 525.0
K = (FOCAL, 0.0, 319.5, 0.0, FOCAL, 239.5, 0.0, 0.0, 1.0)
TRACKED, OCCLUDED, LOST = (
    SimpleNamespace(name=name, value=value)
    for value, name in enumerate(("TRACKED", "OCCLUDED", "LOST"))
)


@dataclass(frozen=True)
class Shape:
    """A ball (`half` is one radius three times) or a box, at a place and turned."""

    kind: str
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)  # axis times angle
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def at(self, seconds: float) -> Shape:
        moved = np.add(self.center, np.multiply(self.velocity, seconds))
        return replace(self, center=tuple(moved))


def ball(center, radius, velocity=(0.0, 0.0, 0.0)) -> Shape:
    return Shape("ball", center, (radius,) * 3, (0.0, 0.0, 0.0), velocity)


def box(center, size, turn=(0.0, 0.0, 0.0), velocity=(0.0, 0.0, 0.0)) -> Shape:
    return Shape("box", center, tuple(0.5 * edge for edge in size), turn, velocity)


def rotation(vector) -> np.ndarray:
    """The matrix of an axis times an angle (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def directions(size=SIZE, k=K) -> np.ndarray:
    """(x, y, 1) of every pixel, float64 [H, W, 3]."""
    v, u = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return np.stack([(u - k[2]) / k[0], (v - k[5]) / k[4], np.ones(size)], axis=-1)


def hits(shape: Shape, rays: np.ndarray) -> np.ndarray:
    """The depth at which each ray meets a shape first, infinite where it does not."""
    center = np.asarray(shape.center)
    with np.errstate(all="ignore"):
        if shape.kind == "ball":
            along, square = rays @ center, (rays * rays).sum(axis=-1)
            root = along**2 - square * (center @ center - shape.half[0] ** 2)
            found = (along - np.sqrt(root)) / square
            return np.where((root > 0) & (found > 0), found, np.inf)
        own = rotation(shape.turn).T
        start, way = own @ -center, rays @ own.T
        one, other = (-np.asarray(shape.half) - start) / way, (shape.half - start) / way
        enter = np.minimum(one, other).max(axis=-1)
        leave = np.maximum(one, other).min(axis=-1)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def render(shapes, wall=2.5, size=SIZE, k=K) -> tuple[np.ndarray, np.ndarray]:
    """Depth in meters float64 [H, W] and labels uint8 [H, W]: shape n has the label n + 1."""
    rays = directions(size, k)
    depth, labels = np.full(size, float(wall)), np.zeros(size, np.uint8)
    for number, shape in enumerate(shapes, 1):
        found = hits(shape, rays)
        nearer = found < depth
        depth[nearer], labels[nearer] = found[nearer], number
    return depth, labels


def faulty(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a depth camera makes of exact depth: uint16 millimeters.

    Noise that grows with the square of the distance (1.5 mm at 1 m, as active stereo has), flying
    pixels at half of all edges, a shadow of holes left of nearer things, and 1 % of holes anywhere.
    """
    noisy = depth + rng.normal(0.0, 1.0, depth.shape) * (0.0005 + 0.001 * depth**2)
    for axis in (0, 1):
        other = np.roll(noisy, 1, axis)
        edge = np.abs(other - noisy) > 0.05
        edge &= rng.random(depth.shape) < 0.5
        share = rng.random(depth.shape)
        noisy = np.where(edge, share * noisy + (1 - share) * other, noisy)
    shadow = np.zeros(depth.shape, bool)
    for shift in range(1, 6):
        shadow |= depth - np.roll(depth, -shift, 1) > 0.05
    noisy[shadow | (rng.random(depth.shape) < 0.01)] = 0.0
    return np.round(noisy * 1000).astype(np.uint16)


def tracked(ids, state=TRACKED):
    """Objects as a SegmentResult has them."""
    return [SimpleNamespace(id=number, state=state, score=0.9) for number in ids]


def points_of(depth: np.ndarray, inside: np.ndarray, k=K) -> np.ndarray:
    """The points [N, 3] of the pixels in a mask."""
    return (directions(depth.shape, k) * depth[..., None])[inside]


def middle_of(depth: np.ndarray, inside: np.ndarray, k=K) -> np.ndarray:
    """The middle of a visible surface: the median pixel of the mask at the median depth."""
    rows, columns = np.nonzero(inside)
    away = float(np.median(depth[inside]))
    x, y = (np.median(columns) - k[2]) / k[0], (np.median(rows) - k[5]) / k[4]
    return np.array([x * away, y * away, away])
