"""What a rendered clip is made of: its settings, objects, motions and camera, and their geometry.

Lengths are in meters, times in seconds, angles in radians unless a name says degrees; z points up.
Quaternions are (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.object_models import Mesh
from stremn_ros.errors import InputError

Vector = NDArray[np.float64]
Image = NDArray[np.uint8]

STEP = 0.004  # of the simulation
UP = np.array([0.0, 0.0, 1.0])
FAR = np.array([0.0, 0.0, -50.0])  # where what is not to be seen is kept


@dataclass(frozen=True)
class RenderSettings:
    """How clips are drawn. All but the first three are shares of the clips, 0..1.

    Attributes:
        frames: per clip, at least 2; size: (columns, rows) in pixels, each at least 32.
        seed: clip n is a function of the seed, n, the other settings, the models and the textures.
        twins: two or three copies of one model. carried: objects that are lifted and carried.
        leaving: objects that leave the picture and come back. occluders: something passes or
        stands in front. moving_camera: hand-held, at times on a path. blur: fast, with motion blur.
    """

    frames: int = 24
    size: tuple[int, int] = (384, 216)
    seed: int = 0
    twins: float = 0.45
    carried: float = 0.5
    leaving: float = 0.35
    occluders: float = 0.4
    moving_camera: float = 0.6
    blur: float = 0.12

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise InputError(f"frames is {self.frames}; a clip has at least 2")
        if len(self.size) != 2 or not all(32 <= side <= 2048 for side in self.size):
            raise InputError(f"size is {self.size}; columns and rows, each 32..2048, are needed")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more")
        for name in SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; a share is 0..1")


SHARES = [entry.name for entry in fields(RenderSettings)[3:]]


@dataclass(frozen=True)
class Path:
    """Positions float64 [N, 3] at N rising times; between two it speeds up and slows down."""

    times: Vector
    points: Vector

    def at(self, time: float) -> Vector:
        after = int(np.clip(np.searchsorted(self.times, time), 1, len(self.times) - 1))
        start, end = self.times[after - 1], self.times[after]
        share = smooth((time - start) / max(end - start, 1e-9))
        return np.asarray(
            self.points[after - 1] + (self.points[after] - self.points[after - 1]) * share
        )


@dataclass(frozen=True)
class Motion:
    """What moves an object beside gravity and contacts.

    Attributes:
        path: offsets from where the object is when the path begins. It is let go at the end.
        turn: angular velocity along the path in the world's axes.
        on_floor: the path moves it along the floor only, and contacts turn it.
        launch: when it gets ``velocity`` and ``turn`` once; ``held``: it stays where it was put
            until then.
    """

    path: Path | None = None
    turn: Vector = field(default_factory=lambda: np.zeros(3))
    on_floor: bool = False
    launch: float | None = None
    velocity: Vector = field(default_factory=lambda: np.zeros(3))
    held: bool = False


@dataclass(frozen=True)
class Item:
    """An object with physics. ``group``: items of one group are copies of one model."""

    body: str
    group: int
    size: float
    position: Vector
    motion: Motion = field(default_factory=Motion)


@dataclass(frozen=True)
class Mover:
    """A body without contacts that moves on its own path, or along with an item (an arm).

    ``reach``: of an arm, from the hand away from the item. ``window``: when the arm holds it.
    """

    body: str
    path: Path | None = None
    turn: Vector = field(default_factory=lambda: np.zeros(3))
    follows: str = ""
    reach: Vector = field(default_factory=lambda: np.zeros(3))
    window: tuple[float, float] = (0.0, 0.0)
    labeled: bool = False


@dataclass(frozen=True)
class View:
    """A camera that looks at ``target`` from ``distance``; fovx is the horizontal field of view."""

    target: Vector
    distance: float
    azimuth: float
    elevation: float
    fovx: float

    @property
    def ahead(self) -> Vector:
        """Horizontal unit vector away from the camera."""
        return np.array([np.cos(self.azimuth), np.sin(self.azimuth), 0.0])

    @property
    def right(self) -> Vector:
        return np.array([np.sin(self.azimuth), -np.cos(self.azimuth), 0.0])

    @property
    def axis(self) -> Vector:
        """Unit vector from the camera to the target."""
        return np.cos(self.elevation) * self.ahead - np.sin(self.elevation) * UP

    @property
    def position(self) -> Vector:
        return self.target - self.distance * self.axis

    def width(self, distance: float) -> float:
        """What the picture spans at a distance along the axis."""
        return 2.0 * distance * float(np.tan(self.fovx / 2.0))

    def ground_width(self, ahead: float) -> float:
        """The same for a point on the ground, ``ahead`` of the target."""
        return self.width(max(self.distance + ahead * float(np.cos(self.elevation)), 0.05))


@dataclass(frozen=True)
class CameraPath:
    """A view that moves: hand-held shake, and an orbit, a dolly or a pan away and back.

    ``shake``: amplitude, frequency and phase [6, 3 waves, 3] of azimuth, elevation, distance (as a
    share), yaw, pitch and roll.
    """

    view: View
    duration: float
    shake: Vector
    orbit: float = 0.0
    dolly: float = 0.0
    pan: float = 0.0

    def at(self, time: float) -> tuple[Vector, Vector]:
        """Position [3] and rotation matrix [3, 3] whose columns are right, up and backwards."""
        waves = self.shake
        phase = 2.0 * np.pi * waves[..., 1] * time + waves[..., 2]
        shake = (waves[..., 0] * np.sin(phase)).sum(axis=1)
        share = time / self.duration
        eased = smooth(share)
        away = smooth(share / 0.4) - smooth((share - 0.5) / 0.4)
        view = replace(
            self.view,
            azimuth=self.view.azimuth + self.orbit * eased + shake[0],
            elevation=max(self.view.elevation + shake[1], np.deg2rad(4.0)),
            distance=self.view.distance * float(np.exp(self.dolly * eased + shake[2])),
        )
        axis = view.axis + np.tan(self.pan * away + shake[3]) * view.right
        axis = axis + np.tan(shake[4]) * np.cross(view.right, view.axis)
        axis /= np.linalg.norm(axis)
        right = np.cross(axis, UP)
        right /= np.linalg.norm(right)
        up = np.cross(right, axis)
        right, up = (
            np.cos(shake[5]) * right + np.sin(shake[5]) * up,
            np.cos(shake[5]) * up - np.sin(shake[5]) * right,
        )
        return view.position, np.column_stack([right, up, -axis])


@dataclass(frozen=True)
class Look:
    """What a camera makes of the picture, one for the whole clip.

    ``brightness``: mean of the first frame; ``tint``: gain of each channel; ``noise``: standard
    deviation; ``softness``: standard deviation of a blur in pixels, 0 for none.
    """

    brightness: float
    tint: Vector
    gamma: float
    noise: float
    softness: float


@dataclass(frozen=True)
class Scene:
    """A planned clip.

    Attributes:
        xml, files: MuJoCo's model and the files that it names.
        interval: between frames; settle: simulated before the first one.
        sub_frames: pictures that are averaged into a frame, over ``shutter`` of the interval.
        most_ids: how many objects get an id at most.
    """

    xml: str
    files: dict[str, bytes]
    items: list[Item]
    movers: list[Mover]
    camera: CameraPath
    look: Look
    interval: float
    settle: float
    sub_frames: int
    shutter: float
    most_ids: int


@dataclass(frozen=True)
class Sources:
    """Where a scene takes its contents from.

    ``model``: a random (name, mesh, texture); ``photo``: a random image [H, W, 3].
    """

    model: Callable[[Generator], tuple[str, Mesh, Image]]
    photo: Callable[[Generator], Image]


def smooth(share: float) -> float:
    """0 to 1 with no speed at both ends."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)


def quaternion(axis: Vector, angle: float) -> Vector:
    """The rotation about an axis of any length."""
    unit = axis / max(float(np.linalg.norm(axis)), 1e-9)
    return np.concatenate([[np.cos(angle / 2.0)], np.sin(angle / 2.0) * unit])


def multiplied(a: Vector, b: Vector) -> Vector:
    """The rotation b, and then a."""
    scalar = a[0] * b[0] - a[1:] @ b[1:]
    return np.concatenate([[scalar], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])


def rotation_of(q: Vector) -> Vector:
    """The matrix [3, 3] of a quaternion."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def along_z(direction: Vector) -> Vector:
    """The rotation that turns the z axis into a direction."""
    unit = direction / np.linalg.norm(direction)
    turn = np.cross(UP, unit)
    if np.linalg.norm(turn) < 1e-6:
        turn = np.array([1.0, 0.0, 0.0])
    return quaternion(turn, float(np.arccos(np.clip(unit[2], -1.0, 1.0))))
