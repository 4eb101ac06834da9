"""A planned scene, simulated and drawn by MuJoCo: frames of a clip, and the id of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stremn_ros.data.clip import Clip
from stremn_ros.data.rendered_parts import (
    FAR,
    STEP,
    Item,
    Mover,
    RenderSettings,
    Scene,
    along_z,
    multiplied,
    quaternion,
    smooth,
)

SMALLEST = 1 / 330  # of the picture: an object with an id has it in frame 0, or later on
LARGEST = 0.6  # of the picture: nothing covers more of frame 0


@dataclass(frozen=True)
class _State:
    """What is to be set before drawing: positions, those of movers, and the camera."""

    qpos: NDArray[np.float64]
    mocap_pos: NDArray[np.float64]
    mocap_quat: NDArray[np.float64]
    camera_pos: NDArray[np.float64]
    camera_quat: NDArray[np.float64]


class Simulation:
    """Simulates a scene and draws it; a context manager that frees the drawing context."""

    def __init__(self, mujoco: Any, scene: Scene, settings: RenderSettings) -> None:
        self.mujoco, self.scene, self.settings = mujoco, scene, settings
        self.model = mujoco.MjModel.from_xml_string(scene.xml, scene.files)
        self.data = mujoco.MjData(self.model)
        columns, rows = settings.size
        self.renderer = mujoco.Renderer(self.model, rows, columns)
        self.origins: dict[str, NDArray[np.float64]] = {}
        self.launched: set[str] = set()
        # looked up once: a name takes longer than the rest of a step
        names = [item.body for item in scene.items] + [mover.body for mover in scene.movers]
        body = mujoco.mjtObj.mjOBJ_BODY
        self.bodies = {name: mujoco.mj_name2id(self.model, body, name) for name in names}
        self.moving = [
            item
            for item in scene.items
            if item.motion.path is not None or item.motion.launch is not None
        ]
        self.joints = {item.body: self._joint(item) for item in scene.items}

    def _joint(self, item: Item) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Views of an item's position and rotation [7], and of its velocities [6]."""
        joint = self.model.body_jntadr[self.bodies[item.body]]
        place, speed = self.model.jnt_qposadr[joint], self.model.jnt_dofadr[joint]
        return self.data.qpos[place : place + 7], self.data.qvel[speed : speed + 6]

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.close()

    def clip(self, rng: Generator, source: str) -> Clip | None:
        states = self._states()
        if states is None:
            return None
        middle = self.scene.sub_frames // 2
        bodies = np.stack([self._bodies(frame[middle]) for frame in states])
        ids = self._ids(rng, bodies)
        if ids is None:
            return None
        frames = [self._picture(frame) for frame in states]
        return Clip(np.stack(self._developed(rng, frames)), ids[bodies], source)

    def _states(self) -> list[list[_State]] | None:
        """The states to draw for each frame; None where the simulation became unstable."""
        scene = self.scene
        step = 0
        settle = round(scene.settle / STEP)
        frames = []
        reach = scene.interval * scene.shutter / 2.0 if scene.sub_frames > 1 else 0.0
        for number in range(self.settings.frames):
            middle = number * scene.interval
            frame = []
            for time in np.linspace(middle - reach, middle + reach, scene.sub_frames):
                until = settle + round(time / STEP)
                while step < until:
                    self._advance((step - settle) * STEP)
                    step += 1
                frame.append(self._state((until - settle) * STEP))
            frames.append(frame)
        if not np.isfinite(self.data.qpos).all() or any(
            warning.number for warning in self.data.warning
        ):
            return None
        return frames

    def _advance(self, time: float) -> None:
        for item in self.moving:
            self._move(item, time)
        for mover in self.scene.movers:
            self._carry(mover, time)
        self.mujoco.mj_step(self.model, self.data)

    def _move(self, item: Item, time: float) -> None:
        """Sets the velocity of an item where its motion asks for one."""
        motion, path = item.motion, item.motion.path
        position, velocity = self.joints[item.body]
        if motion.launch is not None and item.body not in self.launched:
            if time >= motion.launch:
                self.launched.add(item.body)
                velocity[:3], velocity[3:] = motion.velocity, self._local(item, motion.turn)
            elif motion.held:
                position[:3], velocity[:] = item.position, 0.0
        if path is None or not path.times[0] <= time <= path.times[-1]:
            return
        origin = self.origins.setdefault(item.body, position[:3].copy())
        # a little behind the path, so that contacts can hold it up without a jolt
        wanted = (origin + path.at(time + STEP) - position[:3]) / (4.0 * STEP)
        if motion.on_floor:
            velocity[:2] = wanted[:2]
        else:
            velocity[:3], velocity[3:] = wanted, self._local(item, motion.turn)

    def _local(self, item: Item, turn: NDArray[np.float64]) -> NDArray[np.float64]:
        """An angular velocity in the item's own axes, as MuJoCo has it for free joints."""
        return np.asarray(self.data.xmat[self.bodies[item.body]].reshape(3, 3).T @ turn)

    def _carry(self, mover: Mover, time: float) -> None:
        """Sets where a mover is."""
        number = self.model.body_mocapid[self.bodies[mover.body]]
        if mover.path is not None:
            self.data.mocap_pos[number] = mover.path.at(time)
            turn = quaternion(mover.turn, float(np.linalg.norm(mover.turn)) * STEP)
            if time >= 0.0:
                self.data.mocap_quat[number] = multiplied(turn, self.data.mocap_quat[number])
            return
        item = next(item for item in self.scene.items if item.body == mover.follows)
        start, end = mover.window
        # it comes before the window and goes after it, along its reach
        lead = 0.15 * self.scene.camera.duration
        away = 1.0 - smooth((time - start + lead) / lead) + smooth((time - end) / lead)
        at = self.data.xpos[self.bodies[item.body]] + mover.reach * (0.35 * item.size)
        at = at + mover.reach * (1.3 * self.scene.camera.view.distance * min(away, 1.0))
        self.data.mocap_pos[number] = at if away < 1.0 else FAR
        self.data.mocap_quat[number] = along_z(mover.reach)

    def _state(self, time: float) -> _State:
        position, rotation = self.scene.camera.at(time)
        turn = np.zeros(4)
        self.mujoco.mju_mat2Quat(turn, rotation.ravel())
        data = self.data
        return _State(
            data.qpos.copy(), data.mocap_pos.copy(), data.mocap_quat.copy(), position, turn
        )

    def _show(self, state: _State) -> None:
        data, model = self.data, self.model
        data.qpos[:], data.mocap_pos[:] = state.qpos, state.mocap_pos
        data.mocap_quat[:] = state.mocap_quat
        model.cam_pos[0], model.cam_quat[0] = state.camera_pos, state.camera_quat
        self.mujoco.mj_kinematics(model, data)
        self.mujoco.mj_comPos(model, data)
        self.mujoco.mj_camlight(model, data)
        self.renderer.update_scene(data, camera="camera")

    def _bodies(self, state: _State) -> NDArray[np.int16]:
        """The body that each pixel shows: int16 [H, W], 0 for the world."""
        self._show(state)
        self.renderer.enable_segmentation_rendering()
        drawn = self.renderer.render()
        self.renderer.disable_segmentation_rendering()
        shown = drawn[..., 1] == int(self.mujoco.mjtObj.mjOBJ_GEOM)
        bodies = self.model.geom_bodyid[np.where(shown, drawn[..., 0], 0)]
        return np.where(shown, bodies, 0).astype(np.int16)

    def _ids(self, rng: Generator, bodies: NDArray[np.int16]) -> NDArray[np.uint8] | None:
        """The id of each body: uint8 [bodies]; None where frame 0 shows no object well.

        Twins come first, then what moves: these are the objects that are worth following.
        """
        count = self.model.nbody
        areas = np.stack([np.bincount(frame.ravel(), minlength=count) for frame in bodies])
        smallest = SMALLEST * bodies[0].size
        if areas[0, 1:].max() > LARGEST * bodies[0].size:
            return None
        groups = [item.group for item in self.scene.items]
        worth: dict[int, float] = {}
        for item in self.scene.items:
            moves = item.motion.path is not None or item.motion.launch is not None
            rank = (0 if groups.count(item.group) > 1 else 1 if moves else 2) + rng.random()
            worth[self.bodies[item.body]] = rank
        for mover in self.scene.movers:
            if mover.labeled:
                worth[self.bodies[mover.body]] = 1 + rng.random()
        first = [body for body in worth if areas[0, body] >= smallest]
        # an object that begins as a sliver in frame 0 cannot be given by its mask: it has no id
        late = [body for body in worth if not areas[0, body] and areas[:, body].max() >= smallest]
        chosen = sorted(first + late, key=worth.__getitem__)[: self.scene.most_ids]
        # one that frame 0 shows stays for half of the clip
        staying = [body for body in first if (areas[:, body] >= smallest).mean() >= 0.5]
        if not staying:
            return None
        if not set(chosen) & set(staying):
            chosen[-1] = min(staying, key=worth.__getitem__)
        ids = np.zeros(count, np.uint8)
        ordered = [body for body in chosen if body in first]
        ordered += [body for body in chosen if body not in first]
        ids[ordered] = np.arange(1, len(ordered) + 1)
        return ids

    def _picture(self, states: list[_State]) -> NDArray[np.float32]:
        """The mean of the sub-frames: float32 [H, W, 3], 0..255."""
        columns, rows = self.settings.size
        total = np.zeros((rows, columns, 3), np.float32)
        for state in states:
            self._show(state)
            total += self.renderer.render()
        total /= len(states)
        return total

    def _developed(
        self, rng: Generator, pictures: list[NDArray[np.float32]]
    ) -> list[NDArray[np.uint8]]:
        """Exposure, white balance, softness and noise of the scene's camera."""
        look = self.scene.look
        shown = [255.0 * (picture / 255.0) ** look.gamma for picture in pictures]
        gain = np.clip(look.brightness / max(float(shown[0].mean()), 1.0), 0.4, 3.0) * look.tint
        developed = []
        for picture in shown:
            # bright parts are compressed, not cut
            picture = picture * gain
            high = picture > 200.0
            picture[high] = 200.0 + 55.0 * np.tanh((picture[high] - 200.0) / 55.0)
            if look.softness:
                picture = cv2.GaussianBlur(picture, (0, 0), look.softness)
            if look.noise:
                picture = picture + rng.normal(0.0, look.noise, picture.shape)
            developed.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        return developed
