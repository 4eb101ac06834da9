"""What a rendered clip shows: objects, room, camera and motions, drawn from a random generator.

A scene is planned as MuJoCo's XML with its files, and as motions that ``rendered_simulation``
applies while it simulates. NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator

from stremn_ros.data.object_models import shrunk
from stremn_ros.data.rendered_parts import (
    FAR,
    UP,
    CameraPath,
    Image,
    Item,
    Look,
    Motion,
    Mover,
    Path,
    RenderSettings,
    Scene,
    Sources,
    Vector,
    View,
    along_z,
    multiplied,
    quaternion,
    rotation_of,
)
from stremn_ros.data.rendered_xml import SceneXml, plain, text

MOST_IDS = 6


def chance(rng: Generator, share: float) -> bool:
    return bool(rng.random() < share)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def patch(rng: Generator, photo: Image, smallest: float) -> Image:
    """A random part of a photo, at least that share of its sides, mirrored so that it tiles."""
    height, width = photo.shape[:2]
    share = log_uniform(rng, smallest, 1.0)
    rows, columns = max(8, int(height * share)), max(8, int(width * share))
    top = int(rng.integers(max(1, height - rows + 1)))
    left = int(rng.integers(max(1, width - columns + 1)))
    part = cv2.resize(photo[top : top + rows, left : left + columns], (128, 128))
    part = np.concatenate([part, part[:, ::-1]], axis=1)
    return np.ascontiguousarray(np.concatenate([part, part[::-1]], axis=0))


def other_hue(rng: Generator, image: Image) -> Image:
    """The image with its colors turned around the color circle, as another brand of a thing."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int64) + int(rng.integers(20, 160))) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


@dataclass(frozen=True)
class _Kind:
    """One model of a clip: its geometry in the XML and its sides."""

    geometry: str
    extents: Vector


class ScenePlanner:
    """Draws one scene. The parts of the picture are planned in the camera's coordinates."""

    def __init__(self, settings: RenderSettings, sources: Sources, rng: Generator) -> None:
        self.settings, self.sources, self.rng = settings, sources, rng
        self.parts = SceneXml()
        self.fast = chance(rng, settings.blur)
        self.interval = float(rng.choice([1 / 24, 1 / 15, 1 / 12, 1 / 10]))
        self.duration = self.interval * (settings.frames - 1)
        # a typical object's longest side, in meters and as a share of the picture's width
        self.size = log_uniform(rng, 0.12, 0.4)
        share = log_uniform(rng, 0.12, 0.32)
        fovx = np.deg2rad(rng.uniform(38.0, 78.0))
        distance = self.size / share / (2.0 * np.tan(fovx / 2.0))
        self.view = View(
            target=np.array([0.0, 0.0, rng.uniform(0.1, 0.6) * self.size]),
            distance=float(distance),
            azimuth=float(rng.uniform(-np.pi, np.pi)),
            elevation=float(np.deg2rad(12.0 + 48.0 * rng.random() ** 1.4)),
            fovx=float(fovx),
        )
        self.width = self.view.width(self.view.distance)
        self.items: list[Item] = []
        self.movers: list[Mover] = []

    def plan(self) -> Scene:
        rng, settings = self.rng, self.settings
        self._room()
        self._objects()
        camera = self._camera()
        self._motions(moving=bool(camera.orbit or camera.dolly or camera.pan))
        if chance(rng, settings.occluders):
            kind = rng.random()
            if kind < 0.7:
                self._passing()
            if kind > 0.5:
                self._bars()
        look = Look(
            brightness=float(rng.uniform(85.0, 145.0)),
            tint=1.0 + rng.normal(0.0, 0.05, 3),
            gamma=float(rng.uniform(0.85, 1.2)),
            noise=float(rng.uniform(0.0, 5.0)) if chance(rng, 0.6) else 0.0,
            # never sharp: edges are drawn without smoothing, which would cost 40 % more time
            softness=log_uniform(rng, 0.45, 1.0),
        )
        xml = self.parts.xml(rng, settings, self.view, self._lights())
        return Scene(
            xml=xml,
            files=self.parts.files,
            items=self.items,
            movers=self.movers,
            camera=camera,
            look=look,
            interval=self.interval,
            settle=0.8,
            sub_frames=5 if self.fast else 1,
            shutter=float(rng.uniform(0.4, 0.9)),
            most_ids=self._most_ids(),
        )

    def _most_ids(self) -> int:
        groups = [item.group for item in self.items]
        twins = len(set(groups)) < len(groups)
        few = 2 if twins else 1
        return int(self.rng.integers(few if chance(self.rng, 0.25) else 3, MOST_IDS + 1))

    def _surface(self, smallest: float) -> Image:
        """Of a floor, wall or thing: a photo, a part of one, or seldom a plain color."""
        if chance(self.rng, 0.12):
            return plain(self.rng)
        return patch(self.rng, self.sources.photo(self.rng), smallest)

    def _room(self) -> None:
        rng, view, world = self.rng, self.view, self.parts.world
        half = rng.uniform(1.7, 3.0) * max(view.distance, self.width)
        floor = 0.0
        if chance(rng, 0.5):  # a table, which things can fall off
            floor = -float(rng.uniform(0.4, 0.8)) * self.width
            sides = self.width * rng.uniform(0.5, 0.95, 2)
            often = f'texrepeat="{text([float(rng.integers(1, 4))] * 2)}" '
            material = self.parts.material(self._surface(0.2), "2d", often + self._shine(0.15))
            center = view.ahead * rng.uniform(0.0, 0.3) * self.width
            turn = quaternion(UP, view.azimuth + rng.normal(0.0, 0.3))
            world.append(
                f'<geom type="box" size="{text([*sides, 0.03])}" pos="{text(center - 0.03 * UP)}" '
                f'quat="{text(turn)}" material="{material}"/>'
            )
        repeat = log_uniform(rng, 0.5, 2.5) / self.width
        material = self.parts.material(
            self._surface(0.1),
            "2d",
            f'texrepeat="{text([repeat] * 2)}" texuniform="true" ' + self._shine(0.1),
        )
        world.append(
            f'<geom type="plane" size="{text([half, half, 0.1])}" pos="0 0 {floor:.6g}" '
            f'material="{material}"/>'
        )
        first_wall = float(rng.uniform(-np.pi, np.pi))
        for number in range(4):
            photo, tiles = self.sources.photo(rng), 1.0
            if chance(rng, 0.6):
                photo = np.asarray(cv2.resize(photo, (320, 320)), np.uint8)
            else:
                photo, tiles = patch(rng, photo, 0.4), float(rng.choice([1.0, 2.0]))
            material = self.parts.material(photo, "2d", f'texrepeat="{text([tiles] * 2)}"')
            angle = first_wall + number * np.pi / 2.0
            inward = -np.array([np.cos(angle), np.sin(angle), 0.0])
            side = np.cross(UP, inward)
            world.append(
                f'<geom type="plane" size="{text([half, half, 0.1])}" '
                f'pos="{text(-half * inward + (floor + half) * UP)}" '
                f'xyaxes="{text([*side, *UP])}" material="{material}"/>'
            )
        for _ in range(int(rng.integers(0, 4))):  # furniture behind the objects
            side = self.width * rng.uniform(0.08, 0.35, 3)
            material = self.parts.material(self._surface(0.3), "cube")
            ahead = rng.uniform(0.9, 1.5) * self.width
            place = view.ahead * ahead + view.right * rng.uniform(-0.6, 0.6) * view.ground_width(
                ahead
            )
            place = place + (floor + side[2]) * UP
            shape = rng.choice(["box", "cylinder"])
            size = side if shape == "box" else side[[0, 2]]
            world.append(
                f'<geom type="{shape}" size="{text(size)}" pos="{text(place)}" '
                f'euler="0 0 {rng.uniform(0, 180):.4g}" material="{material}"/>'
            )

    def _shine(self, share: float) -> str:
        """Attributes of a material: at times a mirror, most often a dull surface."""
        rng = self.rng
        mirror = rng.uniform(0.05, 0.25) if chance(rng, share) else 0.0
        return f'specular="{rng.uniform(0, 0.4):.3g}" reflectance="{mirror:.3g}"'

    def _kind(self, size: float) -> _Kind:
        """A model or, more seldom, a simple shape with a photo on it.

        It is ``size`` long; a thin one, as a pen is, up to twice that, or little of it would show.
        """
        rng, parts = self.rng, self.parts
        shine = f'specular="{rng.uniform(0, 0.6):.3g}" shininess="{rng.uniform(0, 0.8):.3g}"'
        if chance(rng, 0.85):
            _, mesh, texture = self.sources.model(rng)
            kind = rng.random()
            if kind < 0.2:
                texture = other_hue(rng, texture)
            elif kind < 0.25:
                texture = self._surface(0.3)
            material = parts.material(shrunk(texture, 384), "2d", shine)
            size *= float(np.clip(np.sqrt(0.4 / np.sort(mesh.extents)[1]), 1.0, 2.0))
            name = parts.mesh(mesh, size)
            return _Kind(f'type="mesh" mesh="{name}" material="{material}"', mesh.extents * size)
        material = parts.material(self._surface(0.3), "cube", shine)
        shape = str(rng.choice(["box", "sphere", "cylinder", "ellipsoid", "capsule"]))
        if shape == "sphere":
            half = np.full(3, 0.35 * size)
        elif shape in ("cylinder", "capsule"):
            half = 0.5 * size * np.array([1.0, 1.0, 1.0]) * [*[rng.uniform(0.2, 0.5)] * 2, 1.0]
        else:
            half = 0.5 * size * np.array([1.0, *rng.uniform(0.3, 1.0, 2)])
        sizes = half
        if shape in ("cylinder", "capsule"):
            sizes = np.array([half[0], half[2] - (half[0] if shape == "capsule" else 0.0)])
        return _Kind(f'type="{shape}" size="{text(sizes)}" material="{material}"', 2.0 * half)

    def _orientation(self) -> Vector:
        """Standing on one of two sides as models are most often stored, or lying anyhow."""
        rng = self.rng
        spin = quaternion(UP, rng.uniform(-np.pi, np.pi))
        kind = rng.random()
        if kind < 0.5:
            return spin
        if kind < 0.75:
            return multiplied(spin, quaternion(np.array([1.0, 0.0, 0.0]), np.pi / 2.0))
        return quaternion(rng.normal(size=3), rng.uniform(-np.pi, np.pi))

    def _objects(self) -> None:
        rng = self.rng
        count = int(rng.integers(4, 11))
        copies = [1] * count
        if chance(rng, self.settings.twins):
            twins = 3 if chance(rng, 0.3) else 2
            copies = [twins] + [1] * (count - twins)
        taken: list[tuple[Vector, float]] = []
        for group, number in enumerate(copies):
            kind = self._kind(self.size * float(np.exp(np.clip(rng.normal(0.0, 0.3), -0.6, 0.5))))
            size = float(kind.extents.max())
            close: Vector | None = None
            for _ in range(number):
                turn = self._orientation()
                sides = np.abs(rotation_of(turn)) @ kind.extents
                radius = 0.5 * float(np.hypot(sides[0], sides[1]))
                place = self._free_place(taken, radius, close)
                # where there is no room it falls on the others
                crowded = any(
                    np.linalg.norm((place - other)[:2]) < radius + reach for other, reach in taken
                )
                place[2] = 0.5 * sides[2] + (1.0 * self.size if crowded else 0.005)
                taken.append((place, radius))
                close = place if number > 1 and chance(rng, 0.7) else None
                body = f"item{len(self.items)}"
                self.items.append(Item(body, group, size, place))
                self.parts.world.append(
                    f'<body name="{body}" pos="{text(place)}" quat="{text(turn)}"><freejoint/>'
                    f'<geom {kind.geometry} mass="0.3" condim="4" friction="0.7 0.01 0.001"/>'
                    "</body>"
                )

    def _free_place(
        self, taken: list[tuple[Vector, float]], radius: float, close: Vector | None
    ) -> Vector:
        """A place on the ground within the picture, free if 30 tries find one."""
        rng, view = self.rng, self.view
        for _ in range(30):
            ahead = rng.uniform(-0.22, 0.55) * view.distance
            across = rng.uniform(-0.40, 0.40) * view.ground_width(ahead)
            place = view.ahead * ahead + view.right * across
            if close is not None:
                angle = rng.uniform(-np.pi, np.pi)
                away = radius * rng.uniform(2.0, 3.5) * np.array([np.cos(angle), np.sin(angle), 0])
                place = close * [1.0, 1.0, 0.0] + away
            if all(np.linalg.norm((place - other)[:2]) > radius + reach for other, reach in taken):
                break
        return place

    def _camera(self) -> CameraPath:
        rng = self.rng
        shake = np.zeros((6, 3, 3))
        orbit = dolly = pan = 0.0
        if chance(rng, self.settings.moving_camera):
            strength = log_uniform(rng, 0.3, 2.0) * (1.5 if self.fast else 1.0)
            limits = np.deg2rad([1.5, 0.8, 0.8, 1.2, 1.0, 1.0]) * strength
            shake[..., 1] = rng.uniform([0.1, 0.4, 1.0], [0.5, 1.2, 3.0], (6, 3))
            shake[..., 0] = limits[:, None] * rng.uniform(0.3, 1.0, (6, 3)) * [1.0, 0.5, 0.25]
            shake[..., 2] = rng.uniform(-np.pi, np.pi, (6, 3))
            kind = rng.random()
            if kind < 0.25:
                orbit = float(np.deg2rad(rng.uniform(15.0, 80.0)) * rng.choice([-1, 1]))
            elif kind < 0.42:
                dolly = float(rng.uniform(-0.6, 0.5))
            elif kind < 0.6:
                pan = float(self.view.fovx * rng.uniform(0.3, 0.9) * rng.choice([-1, 1]))
        return CameraPath(self.view, self.duration, shake, orbit, dolly, pan)

    def _motions(self, moving: bool) -> None:
        """Gives some items a motion: each at most one."""
        rng, settings = self.rng, self.settings
        free = [int(number) for number in rng.permutation(len(self.items))]
        twins = [number for number in free if self.items[number].group == 0]
        if len(twins) > 1 and chance(rng, 0.7):
            self._swap(twins[0], twins[1])
            free = [number for number in free if number not in twins[:2]]
        elif chance(rng, 0.2) and len(free) > 4:
            self._swap(free.pop(), free.pop())
        plans: list[Callable[[int], None]] = []
        if chance(rng, settings.carried):
            plans += [self._carry] * int(rng.integers(1, 3))
        if chance(rng, settings.leaving):
            plans += [self._leave] * int(rng.integers(1, 3))
        if chance(rng, 0.3):
            plans += [self._enter] * int(rng.integers(1, 3))
        if chance(rng, 0.4):
            plans += [self._kick] * int(rng.integers(1, 4))
        if not plans and not moving:
            plans = [self._carry, self._kick]
        # one object stays as physics has it, so that not everything is away at once
        for plan, number in zip(plans, free[:-1], strict=False):
            plan(number)

    def _set(self, number: int, motion: Motion) -> None:
        self.items[number] = replace(self.items[number], motion=motion)

    def _window(self, shortest: float) -> tuple[float, float]:
        """When something happens: at least that share of the clip, half of it in fast clips."""
        rng = self.rng
        share = rng.uniform(shortest, 1.0) * (0.5 if self.fast else 1.0)
        start = rng.uniform(0.0, 1.0 - share) * self.duration
        return start, start + share * self.duration

    def _spin(self, seconds: float) -> Vector:
        """A turn by 40 to 400 degrees in that time, most often about an upright axis."""
        rng = self.rng
        axis = rng.normal(size=3) * ([0.3, 0.3, 1.0] if chance(rng, 0.5) else 1.0)
        axis /= np.linalg.norm(axis)
        return np.asarray(axis * np.deg2rad(rng.uniform(40.0, 400.0)) / max(seconds, 0.1))

    def _visible(self, lowest: float, highest: float) -> Vector:
        """A point within the picture, its height in typical sizes of an object."""
        rng, view = self.rng, self.view
        ahead = rng.uniform(-0.35, 0.45) * view.distance
        across = rng.uniform(-0.36, 0.36) * view.ground_width(ahead)
        height = rng.uniform(lowest, highest) * self.size * np.cos(view.elevation)
        return np.asarray(view.ahead * ahead + view.right * across + height * UP)

    def _carry(self, number: int) -> None:
        """Lifted, carried past one or two points, and put down or kept in the air."""
        rng, item = self.rng, self.items[number]
        start, end = self._window(0.6)
        points = [np.zeros(3), rng.uniform(0.2, 0.8) * self.size * UP]
        for _ in range(int(rng.integers(1, 3))):
            points.append(self._visible(0.5, 1.6) - item.position)
        if chance(rng, 0.5):
            down = points[-1].copy()
            down[2] = 0.1 * self.size
            points.append(down)
        steps = np.concatenate([[0.0], np.cumsum(rng.uniform(0.6, 1.4, len(points) - 1))])
        times = start + (end - start) * steps / steps[-1]
        self._set(number, Motion(Path(times, np.stack(points)), self._spin(end - start)))
        if chance(rng, 0.5):
            self._arm(number, (start, end))

    def _outside(self, item: Item, side: float) -> Vector:
        """Offset from an item to a point beside the picture."""
        view = self.view
        ahead = float(item.position @ view.ahead)
        across = side * (0.62 * view.ground_width(ahead) + 0.8 * item.size)
        return np.asarray(view.right * (across - float(item.position @ view.right)))

    def _leave(self, number: int) -> None:
        """Out of the picture on one side, and back to where it may be another place."""
        rng, item = self.rng, self.items[number]
        on_floor = chance(rng, 0.5)
        across = float(item.position @ self.view.right)
        side = np.sign(across) if chance(rng, 0.7) and across else float(rng.choice([-1, 1]))
        lift = 0.0 if on_floor else rng.uniform(0.2, 1.0) * self.size
        out = self._outside(item, side) + lift * UP
        back = self._visible(0.0, 0.0) - item.position
        back[2] = lift
        shares = np.array([0.0, 0.3, 0.3, 0.35]) * rng.uniform(0.7, 1.2, 4)
        start, end = self._window(0.85)
        times = start + (end - start) * np.cumsum(shares) / shares.sum()
        points = np.stack([np.zeros(3), out, out, back])
        turn = np.zeros(3) if on_floor else self._spin(end - start)
        self._set(number, Motion(Path(times, points), turn, on_floor))
        if not on_floor and chance(rng, 0.4):
            self._arm(number, (start, end))

    def _swap(self, one: int, other: int) -> None:
        """Two items take each other's place, and one passes in front of the other."""
        rng, view = self.rng, self.view
        start, end = self._window(0.7)
        on_floor = chance(rng, 0.5)
        for number, partner, front in ((one, other, -1.0), (other, one, 1.0)):
            item = self.items[number]
            way = (self.items[partner].position - item.position) * [1.0, 1.0, 0.0]
            bulge = front * 0.65 * item.size * view.ahead
            lift = 0.0 if on_floor else 0.3 * item.size
            points = np.stack([np.zeros(3), 0.5 * way + bulge + lift * UP, way])
            if chance(rng, 0.3):  # and back again
                points = np.concatenate([points, points[[1, 0]]])
            times = np.linspace(start, end, len(points))
            turn = np.zeros(3) if on_floor else self._spin(end - start) * 0.5
            self._set(number, Motion(Path(times, points), turn, on_floor))

    def _enter(self, number: int) -> None:
        """Not there at first; thrown in from a side or from above."""
        rng, item = self.rng, self.items[number]
        start = item.position + self._outside(item, float(rng.choice([-1, 1])))
        start = start + rng.uniform(0.2, 0.8) * self.width * UP
        if chance(rng, 0.3):
            start = item.position + rng.uniform(1.0, 1.4) * self.width * UP
        flight = rng.uniform(0.25, 0.5)
        way = self._visible(0.2, 0.6) - start
        velocity = way / flight + 0.5 * 9.81 * flight * UP
        launch = float(rng.uniform(0.1, 0.6) * self.duration)
        spin = rng.normal(0.0, 6.0, 3)
        self.items[number] = replace(
            item,
            position=start,
            motion=Motion(turn=spin, launch=launch, velocity=velocity, held=True),
        )

    def _kick(self, number: int) -> None:
        """Pushed along the floor, so that it slides, rolls and hits others."""
        rng, view = self.rng, self.view
        angle = rng.uniform(-np.pi, np.pi)
        speed = rng.uniform(0.3, 0.9) * self.width / min(self.duration, 0.8)
        velocity = speed * (np.cos(angle) * view.right + np.sin(angle) * view.ahead)
        launch = float(rng.uniform(0.0, 0.6) * self.duration)
        spin = np.cross(UP, velocity) / (0.5 * self.size) * rng.uniform(0.0, 1.0)
        self._set(
            number,
            Motion(
                turn=spin,
                launch=launch,
                velocity=velocity + rng.uniform(0.0, 0.5) * speed * UP,
            ),
        )

    def _arm(self, number: int, window: tuple[float, float]) -> None:
        """A sleeve and a hand that holds the item from the side of the camera; no object."""
        rng, item, view = self.rng, self.items[number], self.view
        # from the side and a little towards the camera, so that it hides a strip and not all
        reach = rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0) * view.right
        reach = reach - rng.uniform(0.1, 0.7) * view.ahead + rng.uniform(0.1, 0.6) * UP
        reach = reach / np.linalg.norm(reach)
        length = 1.5 * view.distance
        skin = np.array([224.0, 172.0, 138.0]) * rng.uniform(0.35, 1.0) + rng.normal(0, 6, 3)
        hand = self.parts.material(
            np.full((8, 8, 3), np.clip(skin, 0, 255).astype(np.uint8), np.uint8), "cube"
        )
        cloth = plain(rng) if chance(rng, 0.5) else self._surface(0.2)
        sleeve = self.parts.material(cloth, "cube", 'texuniform="true" texrepeat="3 3"')
        thick = rng.uniform(0.12, 0.22) * self.size
        body = f"arm{len(self.movers)}"
        solid = 'contype="0" conaffinity="0"'
        cuff = rng.uniform(0.0, 1.2) * item.size + 2.0 * thick
        # the body's z axis is the reach; the hand is a flat ball at its origin
        self.parts.world.append(
            f'<body name="{body}" mocap="true" pos="{text(FAR)}">'
            f'<geom type="ellipsoid" size="{text([thick * 1.3, thick * 0.9, thick * 1.8])}" '
            f'material="{hand}" {solid}/>'
            f'<geom type="capsule" size="{thick * 0.75:.5g}" fromto="0 0 0 0 0 {cuff:.5g}" '
            f'material="{hand}" {solid}/>'
            f'<geom type="capsule" size="{thick:.5g}" fromto="0 0 {cuff:.5g} 0 0 {length:.5g}" '
            f'material="{sleeve}" {solid}/></body>'
        )
        self.movers.append(Mover(body, follows=item.body, reach=reach, window=window))

    def _passing(self) -> None:
        """Something crosses the picture close to the camera, at times stopping on its way."""
        rng, view = self.rng, self.view
        depth = rng.uniform(0.3, 0.6) * view.distance
        width = view.width(depth)
        size = rng.uniform(0.25, 0.6) * width
        solid = 'contype="0" conaffinity="0"'
        labeled = chance(rng, 0.6)
        if labeled or chance(rng, 0.4):
            kind = self._kind(size)
        else:
            half = 0.5 * size * np.array([rng.uniform(0.2, 0.8), 0.1, rng.uniform(0.5, 1.5)])
            material = self.parts.material(self._surface(0.3), "cube")
            kind = _Kind(f'type="box" size="{text(half)}" material="{material}"', 2.0 * half)
        size = float(kind.extents.max())
        up = np.cross(view.right, view.axis)
        middle = view.position + depth * view.axis + up * rng.normal(0.0, 0.12) * width
        side = float(rng.choice([-1, 1]))
        far = side * (0.5 * width + 0.9 * size)
        stop = rng.uniform(-0.35, 0.35) * width
        offsets = [far, stop, stop, -far if chance(rng, 0.7) else far]
        start, end = self._window(0.5)
        shares = np.array([0.0, 1.0, rng.choice([0.0, 0.6]), 1.0])
        times = start + (end - start) * np.cumsum(shares) / shares.sum()
        points = np.stack([middle + view.right * offset for offset in offsets])
        turn = self._spin(self.duration) * (0.6 if chance(rng, 0.5) else 0.0)
        body = f"passing{len(self.movers)}"
        self.parts.world.append(
            f'<body name="{body}" mocap="true" pos="{text(points[0])}" '
            f'quat="{text(self._orientation())}"><geom {kind.geometry} {solid}/></body>'
        )
        self.movers.append(Mover(body, Path(times, points), turn, labeled=labeled))

    def _bars(self) -> None:
        """Posts or bars, as of a cage, between the camera and the objects."""
        rng, view = self.rng, self.view
        depth = rng.uniform(0.45, 0.8) * view.distance
        width = view.width(depth)
        up = np.cross(view.right, view.axis)
        middle = view.position + depth * view.axis
        count = int(rng.integers(1, 5))
        thick = rng.uniform(0.008, 0.03 if count > 2 else 0.05) * width
        material = self.parts.material(self._surface(0.2), "cube")
        shape = rng.choice(["cylinder", "box"])
        lean = rng.normal(0.0, 0.1) if chance(rng, 0.7) else np.pi / 2.0
        along = np.cos(lean) * up + np.sin(lean) * view.right
        across = np.cos(lean) * view.right - np.sin(lean) * up
        places = rng.uniform(-0.4, 0.4, count) if count < 3 else np.linspace(-0.42, 0.42, count)
        for place in places:
            center = middle + across * place * width
            size = [thick, width] if shape == "cylinder" else [thick, thick, width]
            self.parts.world.append(
                f'<geom type="{shape}" size="{text(size)}" pos="{text(center)}" '
                f'quat="{text(along_z(along))}" material="{material}" '
                'contype="0" conaffinity="0"/>'
            )

    def _lights(self) -> str:
        rng, view = self.rng, self.view
        lights = []
        count = int(rng.integers(1, 4))
        for number in range(count):
            angle, height = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(30.0, 85.0))
            direction = -np.array(
                [np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)]
            )
            place = view.target - direction * view.distance * rng.uniform(1.0, 1.6)
            strength = rng.uniform(0.3, 0.55) if number == 0 else rng.uniform(0.05, 0.15)
            color = strength * (1.0 + rng.normal(0.0, 0.08, 3))
            # one light casts shadows: each such light costs a further pass
            lights.append(
                f'<light pos="{text(place)}" dir="{text(direction)}" '
                f'diffuse="{text(np.clip(color, 0.0, 1.0))}" '
                f'specular="{text([rng.uniform(0.1, 0.5)] * 3)}" cutoff="80" '
                f'exponent="{rng.uniform(0, 3):.3g}" castshadow="{str(number == 0).lower()}"/>'
            )
        return " ".join(lights)
