"""Pinhole cameras with lens distortion, as sensor_msgs/CameraInfo describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError

Vector = NDArray[np.float64]
Rays = NDArray[np.float32]

# coefficients that each model may have; sensor_msgs/distortion_models.hpp has the names
MODELS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 1 << 26
_ITERATIONS = 12
_LOST = 0.1  # pixels; a ray that does not come back to its pixel within this is no ray
_STEEPEST = math.radians(85.0)  # between a ray and the optical axis
_UNIT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Intrinsics:
    """A calibrated camera: pixel (u, v) sees along (x, y, 1), x right, y down, z ahead.

    Attributes:
        width, height: of the images that it is for, in pixels. A pixel's center has whole
            coordinates.
        k: the camera matrix, row by row: fx, 0, cx, 0, fy, cy, 0, 0, 1.
        d: coefficients of the lens distortion. model: `plumb_bob`, `rational_polynomial` or
            `equidistant`; empty for an image without distortion.

    Raises:
        InputError: values that describe no camera; the text says which, and what would be right.
    """

    width: int
    height: int
    k: tuple[float, ...]
    d: tuple[float, ...] = ()
    model: str = ""

    def __post_init__(self) -> None:
        _check_size(self.width, self.height)
        _check_matrix(self.k)
        _check_distortion(self.model, self.d)

    @classmethod
    def from_camera_info(cls, info: Any, rectified: bool = False) -> Intrinsics:
        """The camera of a sensor_msgs/CameraInfo, with its binning and region of interest.

        Args:
            info: anything with its fields.
            rectified: the images are rectified, so the matrix is `p` and there is no distortion.

        Raises:
            InputError: as the class.
        """
        if rectified:
            p = _floats(info.p, "p")
            if len(p) != 12:
                raise InputError(f"camera_info: p has {len(p)} values, it must have 12 (3 x 4)")
            if not any(p):
                raise InputError(
                    "camera_info: p is all zeros: a rectified image needs the projection matrix "
                    "of its calibration; for images that are not rectified k is used"
                )
            k = (*p[0:3], *p[4:7], *p[8:11])
            d: tuple[float, ...] = ()
            model = ""
        else:
            k, d = _floats(info.k, "k"), _floats(info.d, "d")
            model = str(info.distortion_model)
        width, height = _whole(info.width, "width"), _whole(info.height, "height")
        camera = cls(width, height, k, d if any(d) else (), model if any(d) else "")
        roi = getattr(info, "roi", None)
        if roi is not None and roi.width and roi.height:
            camera = camera.cropped(
                _whole(roi.x_offset, "roi.x_offset"),
                _whole(roi.y_offset, "roi.y_offset"),
                _whole(roi.width, "roi.width"),
                _whole(roi.height, "roi.height"),
            )
        columns = max(_whole(getattr(info, "binning_x", 0), "binning_x"), 1)
        rows = max(_whole(getattr(info, "binning_y", 0), "binning_y"), 1)
        if columns > 1 or rows > 1:
            camera = camera.scaled(camera.width // columns, camera.height // rows)
        return camera

    @property
    def focal(self) -> tuple[float, float]:
        """(fx, fy) in pixels."""
        return self.k[0], self.k[4]

    def cropped(self, x: int, y: int, width: int, height: int) -> Intrinsics:
        """The camera of a part of the image whose first pixel is (x, y)."""
        if x < 0 or y < 0 or x + width > self.width or y + height > self.height:
            raise InputError(
                f"camera_info: the region of interest {width} x {height} at ({x}, {y}) is not "
                f"inside the image of {self.width} x {self.height}"
            )
        k = list(self.k)
        k[2], k[5] = k[2] - x, k[5] - y
        return Intrinsics(width, height, tuple(k), self.d, self.model)

    def scaled(self, width: int, height: int) -> Intrinsics:
        """The same camera for images of another size with the same field of view."""
        if (width, height) == (self.width, self.height):
            return self
        _check_size(width, height)
        sx, sy = width / self.width, height / self.height
        k = list(self.k)
        k[0], k[4] = k[0] * sx, k[4] * sy
        # the picture's edges stay where they are, and these are half a pixel beside the centers
        k[2], k[5] = (k[2] + 0.5) * sx - 0.5, (k[5] + 0.5) * sy - 0.5
        return Intrinsics(width, height, tuple(k), self.d, self.model)

    @cached_property
    def rays(self) -> tuple[Rays, Rays]:
        """x / z and y / z of what each pixel sees: float32 [H, W] each, read-only.

        NaN where the distortion model has no answer, as in the corners of some wide lenses.
        Computed once and kept; without distortion it takes no memory.
        """
        fx, fy = self.focal
        u = (np.arange(self.width) - self.k[2]) / fx
        v = (np.arange(self.height) - self.k[5]) / fy
        shape = (self.height, self.width)
        if not self.model:
            rows, columns = v.astype(np.float32)[:, None], u.astype(np.float32)
            return np.broadcast_to(columns, shape), np.broadcast_to(rows, shape)
        x, y = np.empty(shape, np.float32), np.empty(shape, np.float32)
        undistort = _undistort_equidistant if self.model == "equidistant" else _undistort_lens
        tolerance = _LOST / max(fx, fy)
        # some rows at a time: the temporaries are float64
        for start in range(0, self.height, 64):
            part = slice(start, start + 64)
            xs, ys = np.broadcast_arrays(u, v[part, None])
            x[part], y[part] = undistort(xs, ys, np.asarray(self.d), tolerance)
        x.setflags(write=False)
        y.setflags(write=False)
        return x, y

    @cached_property
    def sees_everywhere(self) -> bool:
        """Whether every pixel has a ray."""
        return not self.model or bool(np.isfinite(self.rays[0]).all())


def same_view(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes (rows, columns) have the same aspect, to a hundredth."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= 0.01 * a[0] * b[1]


# ---------------------------------------------------------------- checks


def _floats(values: Iterable[Any], name: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"camera_info: {name} is not a sequence of numbers") from None


def _whole(value: Any, name: str) -> int:
    if isinstance(value, (bool, float)) or int(value) != value:
        raise InputError(f"camera_info: {name} is {value!r}, it must be a whole number")
    return int(value)


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(
            f"camera_info: width x height is {width} x {height}: the driver has not filled it; "
            "both must be those of the depth image"
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"camera_info: width x height is {width} x {height}; sides of at most {MAX_SIDE} and "
            f"{MAX_PIXELS} pixels together are taken"
        )


def _check_matrix(k: tuple[float, ...]) -> None:
    if len(k) != 9:
        raise InputError(f"camera_info: k has {len(k)} values, it must have 9 (3 x 3)")
    if not all(math.isfinite(value) for value in k):
        raise InputError(f"camera_info: k has values that are NaN or infinite: {_shown(k)}")
    if not any(k):
        raise InputError(
            "camera_info: k is all zeros: the camera is not calibrated; calibrate it "
            "(camera_calibration) or name the camera_info topic that its driver fills"
        )
    if k[0] <= 0 or k[4] <= 0:
        raise InputError(
            f"camera_info: the focal lengths k[0] and k[4] are {k[0]:g} and {k[4]:g}: both must "
            "be above 0, in pixels"
        )
    rest = [k[index] - _UNIT[index] for index in (1, 3, 6, 7, 8)]
    if any(abs(value) > 1e-6 for value in rest):
        raise InputError(
            f"camera_info: k must be fx, 0, cx, 0, fy, cy, 0, 0, 1 row by row, it is {_shown(k)}"
        )


def _check_distortion(model: str, d: tuple[float, ...]) -> None:
    if not all(math.isfinite(value) for value in d):
        raise InputError(f"camera_info: d has values that are NaN or infinite: {_shown(d)}")
    if not model:
        if any(d):
            raise InputError(
                f"camera_info: d is {_shown(d)} but distortion_model is empty: it must be "
                f"{', '.join(MODELS)}"
            )
        return
    if model not in MODELS:
        raise InputError(
            f"camera_info: distortion_model {model[:40]!r} is not known: it must be "
            f"{', '.join(MODELS)}; or rectify the images and use their camera_info"
        )
    if len(d) not in MODELS[model]:
        wanted = " or ".join(str(count) for count in MODELS[model])
        raise InputError(
            f"camera_info: distortion_model {model} has {wanted} coefficients, d has {len(d)}"
        )


def _shown(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values[:14]) + "]"


# ---------------------------------------------------------------- lenses

Distort = Callable[[Vector, Vector], tuple[Vector, Vector]]


def _lens(d: Vector) -> Distort:
    """Where a ray (x, y, 1) lands: the model of OpenCV's calibration module, for 4 to 14 values."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tx, ty = np.pad(d, (0, 14 - len(d)))
    turn = np.eye(3)
    if tx or ty:
        cx, sx, cy, sy = math.cos(tx), math.sin(tx), math.cos(ty), math.sin(ty)
        tilt = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array(
            [[1, 0, 0], [0, cx, sx], [0, -sx, cx]]
        )
        turn = np.array([[tilt[2, 2], 0, -tilt[0, 2]], [0, tilt[2, 2], -tilt[1, 2]], [0, 0, 1]])
        turn = turn @ tilt

    def distort(x: Vector, y: Vector) -> tuple[Vector, Vector]:
        xx, yy, xy = x * x, y * y, x * y
        r2 = xx + yy
        scale = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        if k4 or k5 or k6:
            scale = scale / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        u = x * scale + 2 * p1 * xy + p2 * (r2 + 2 * xx) + r2 * (s1 + r2 * s2)
        v = y * scale + p1 * (r2 + 2 * yy) + 2 * p2 * xy + r2 * (s3 + r2 * s4)
        if tx or ty:
            w = turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]
            u, v = (
                (turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]) / w,
                (turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]) / w,
            )
        return u, v

    return distort


def _undistort_lens(u: Vector, v: Vector, d: Vector, tolerance: float) -> tuple[Vector, Vector]:
    """The rays that land on (u, v), by Newton's method; NaN where there is none."""
    distort = _lens(d)
    x, y = u.copy(), v.copy()
    step = 1e-6
    with np.errstate(all="ignore"):  # of rays that do not converge, which are left out below
        for iteration in range(_ITERATIONS + 1):
            fu, fv = distort(x, y)
            du, dv = fu - u, fv - v
            ux, vx = distort(x + step, y)
            uy, vy = distort(x, y + step)
            a, b, c, e = (ux - fu) / step, (uy - fu) / step, (vx - fv) / step, (vy - fv) / step
            area = a * e - b * c
            off = np.hypot(du, dv)
            # the last round only judges: what is off, and the slope, are those of (x, y) as it is
            if iteration == _ITERATIONS or np.nanmax(off, initial=0.0) < 0.01 * tolerance:
                break
            x -= (e * du - b * dv) / area
            y -= (a * dv - c * du) / area
        # beyond the fold of a model the image is mirrored: its polynomial is of no use there
        right = (off <= tolerance) & (area > 0)
        right &= np.hypot(x, y) < math.tan(_STEEPEST)
    return np.where(right, x, np.nan), np.where(right, y, np.nan)


def _undistort_equidistant(
    u: Vector, v: Vector, d: Vector, tolerance: float
) -> tuple[Vector, Vector]:
    """The same for the fisheye model of Kannala and Brandt (2006) with four coefficients."""
    wanted = np.hypot(u, v)
    powers = np.array([3, 5, 7, 9])
    angle = np.minimum(wanted, _STEEPEST)
    with np.errstate(all="ignore"):
        for iteration in range(_ITERATIONS + 1):
            square = angle * angle
            value = angle * (
                1 + square * (d[0] + square * (d[1] + square * (d[2] + square * d[3])))
            )
            slope = 1 + sum(
                factor * power * angle ** (power - 1) for factor, power in zip(d, powers)
            )
            off = value - wanted
            # the last round only judges, as above
            if iteration == _ITERATIONS or np.abs(off).max(initial=0.0) < 0.01 * tolerance:
                break
            angle = angle - off / slope
        right = (np.abs(off) <= tolerance) & (slope > 0) & (angle >= 0) & (angle < _STEEPEST)
        scale = np.where(wanted > 1e-9, np.tan(angle) / wanted, 1.0)
    return np.where(right, u * scale, np.nan), np.where(right, v * scale, np.nan)
