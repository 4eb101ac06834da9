"""Clips with exact ids, rendered by MuJoCo: textured objects with physics, shadows and occlusion.

    python -m stremn_ros.data.rendered --models DIR --textures DIR --out DIR --clips N --seed S

writes them in DAVIS' layout, which ``videos.VideoClips`` reads. A stopped run can be continued.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from stremn_ros.data.clip import Clip
from stremn_ros.data.files import BrokenFiles
from stremn_ros.data.object_models import Mesh, find_object_models, read_mesh, shrunk
from stremn_ros.data.rendered_scene import (
    FAR,
    SHARES,
    STEP,
    Item,
    Mover,
    RenderSettings,
    Scene,
    ScenePlanner,
    Sources,
    along_z,
    mesh_asset,
    multiplied,
    quaternion,
    smooth,
)
from stremn_ros.errors import InputError, RuntimeUnavailableError, StremnError
from stremn_ros.files import write_json
from stremn_ros.imaging.video import list_images, read_image, write_image
from stremn_ros.imaging.visualization import write_label_png

log = logging.getLogger(__name__)

Frames = NDArray[np.uint8]
ATTEMPTS = 8  # scenes that are drawn for a clip before it is dropped
SMALLEST = 1 / 330  # of the picture: an object with an id has it in frame 0, or later on
LARGEST = 0.6  # of the picture: nothing covers more of frame 0
JPEG_QUALITY = 90


def load_mujoco() -> Any:
    """The module mujoco, with a way to draw without a screen.

    Raises:
        RuntimeUnavailableError: MuJoCo or the library for drawing is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise _no_drawing(error) from error
        raise RuntimeUnavailableError(
            "rendered clips need MuJoCo, which is not installed: pip install mujoco, or this "
            "package with its extra 'render'"
        ) from None
    except Exception as error:  # of many types: whatever the library for drawing raises
        raise _no_drawing(error) from error
    try:
        # a whole renderer: some platforms give a context without complaint that cannot draw
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 32, 32).close()
    except Exception as error:
        raise _no_drawing(error) from error
    # an unstable simulation is found by its counters; by default a file is written as well
    mujoco.set_mju_user_warning(log.debug)
    return mujoco


def _no_drawing(error: Exception) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
        f"({type(error).__name__}: {error}). On Debian or Ubuntu: sudo apt-get install libegl1 "
        "libgl1-mesa-dri; MUJOCO_GL=egl must be set before anything imports mujoco"
    )


class RenderedClips:
    """Renders clip n of a seed: the same for the same settings, models, textures and MuJoCo.

    Another version of MuJoCo computes contacts a little differently.

    Args:
        models: folders with OBJ meshes and PNG textures, see ``find_object_models``.
        textures: folders with photos of any kind, for floors, walls and things.
        broken: what a file that cannot be read does when it is drawn: ``raise`` or ``skip``, as
            in ``photos.PhotoClips``. With ``skip`` another file is taken in its place.

    Raises:
        InputError: a folder is missing or holds no models or no photos.
        RuntimeUnavailableError: as ``load_mujoco``.
    """

    def __init__(
        self,
        models: Sequence[Path],
        textures: Sequence[Path],
        settings: RenderSettings,
        broken: str = "raise",
    ) -> None:
        self.settings = settings
        self.broken = BrokenFiles(broken)
        self.models = find_object_models(models, self.broken)
        self.photos: list[Path] = []
        for folder in textures:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; a folder of photos is needed")
            self.photos += list_images(folder)
        if not self.photos:
            raise InputError(f"{', '.join(map(str, textures))}: no images in these folders")
        self.mujoco = load_mujoco()
        # 256 prepared models are some 250 MB; reading one takes a tenth of a second
        self._read_model = lru_cache(maxsize=256)(self._model)
        self._sources = Sources(self._any_model, self._any_photo)

    def _model(self, index: int) -> tuple[str, Mesh, NDArray[np.uint8]] | None:
        """A model that MuJoCo accepts; None where it is broken and skipped."""
        model = self.models[index]
        with self.broken.handled() as handled:
            mesh = read_mesh(model.mesh)
            texture = shrunk(read_image(model.texture), 512)
            try:
                self.mujoco.MjModel.from_xml_string(
                    f"<mujoco><asset>{mesh_asset('mesh', 1.0)}</asset><worldbody><body><freejoint/>"
                    '<geom type="mesh" mesh="mesh" mass="1"/></body></worldbody></mujoco>',
                    {"mesh.obj": mesh.obj},
                )
            except ValueError as error:
                raise InputError(f"{model.mesh}: MuJoCo does not accept it ({error})") from None
        return None if handled.failed else (model.name, mesh, texture)

    def _any_model(self, rng: Generator) -> tuple[str, Mesh, NDArray[np.uint8]]:
        for index in rng.permutation(len(self.models)):
            if (model := self._read_model(int(index))) is not None:
                return model
        raise InputError("none of the models can be read; the log names what is wrong with them")

    def _any_photo(self, rng: Generator) -> NDArray[np.uint8]:
        for _ in range(100):
            with self.broken.handled() as handled:
                photo = read_image(self.photos[int(rng.integers(len(self.photos)))])
            if not handled.failed:
                return shrunk(photo, 640)
        raise InputError("100 of the photos drawn could not be read; the log names them")

    def make(self, number: int) -> Clip | None:
        """Clip ``number``: frames uint8 [T, H, W, 3], labels uint8 [T, H, W].

        Ids are 1..n over the whole clip; those of objects that are visible in frame 0 come first,
        and there is at least one. None where none of the scenes drawn shows an object well.
        """
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng((self.settings.seed, number, attempt))
            scene = ScenePlanner(self.settings, self._sources, rng).plan()
            with _Simulation(self.mujoco, scene, self.settings) as simulation:
                clip = simulation.clip(rng, f"rendered {self.settings.seed} {number}")
            if clip is not None:
                return clip
        return None


@dataclass(frozen=True)
class _State:
    """What is to be set before drawing: positions, those of movers, and the camera."""

    qpos: NDArray[np.float64]
    mocap_pos: NDArray[np.float64]
    mocap_quat: NDArray[np.float64]
    camera_pos: NDArray[np.float64]
    camera_quat: NDArray[np.float64]


class _Simulation:
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

    def __enter__(self) -> _Simulation:
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


def clip_name(seed: int, number: int) -> str:
    return f"rendered_{seed}_{number:06}"


def is_written(out: Path, name: str) -> bool:
    """Whether a clip is there as a whole: its masks are moved to their place last."""
    return (out / "Annotations" / "480p" / name).is_dir()


def write_clip(clip: Clip, out: Path, name: str) -> None:
    """Writes JPEGImages/480p/NAME/*.jpg and Annotations/480p/NAME/*.png; both appear when whole.

    Raises:
        StremnError: a file cannot be written.
    """
    work = out / f".{name}.{os.getpid()}.part"
    images, masks = out / "JPEGImages" / "480p" / name, out / "Annotations" / "480p" / name
    try:
        for number, (frame, labels) in enumerate(zip(clip.frames, clip.labels, strict=True)):
            write_image(work / "images" / f"{number:05}.jpg", frame, quality=JPEG_QUALITY)
            write_label_png(work / "masks" / f"{number:05}.png", labels)
        for source, target in ((work / "images", images), (work / "masks", masks)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # frames whose masks were never moved
            source.replace(target)
    except OSError as error:
        raise StremnError(f"{out}: a clip cannot be written ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_settings(out: Path, settings: RenderSettings) -> None:
    """Keeps the settings beside the clips, so that no folder mixes clips of two kinds.

    Raises:
        InputError: the folder has clips that were made with other settings.
        StremnError: it cannot be written.
    """
    wanted = json.loads(json.dumps({**asdict(settings), "seed": None}))
    path = out / "rendered.json"
    try:
        if path.exists():
            found = json.loads(path.read_text())
            if found != wanted:
                raise InputError(
                    f"{path}: the clips there were made with {found}, not {wanted}; use another "
                    "--out, or the same settings (the seed may differ)"
                )
        else:
            write_json(path, wanted, indent=1)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is damaged ({error}); remove it, or use another --out") from None
    except OSError as error:
        raise StremnError(f"{path}: cannot be written ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders clips into a folder; those that are there already are skipped."""
    defaults = RenderSettings()
    parser = argparse.ArgumentParser("python -m stremn_ros.data.rendered", description=__doc__)
    folder: dict[str, Any] = {"type": Path, "required": True, "metavar": "DIR"}
    parser.add_argument("--models", nargs="+", help="folders of OBJ meshes with PNGs", **folder)
    parser.add_argument("--textures", nargs="+", help="folders of photos", **folder)
    parser.add_argument("--out", help="where the clips are written, in DAVIS' layout", **folder)
    parser.add_argument("--clips", type=int, required=True, metavar="N", help="clips 0..N-1")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with clip N")
    parser.add_argument("--frames", type=int, default=defaults.frames)
    parser.add_argument("--size", type=_size, default=defaults.size, metavar="COLUMNSxROWS")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    for name in SHARES:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=getattr(defaults, name),
            metavar="SHARE",
            help="share of the clips, 0..1 (default %(default)s)",
        )
    parser.add_argument(
        "--broken", choices=("raise", "skip"), default="raise", help="files that cannot be read"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if not 0 <= options.first < options.clips:
            raise InputError(
                f"--first {options.first} --clips {options.clips}: 0 <= first < clips is needed"
            )
        settings = RenderSettings(
            options.frames,
            options.size,
            options.seed,
            **{name: getattr(options, name) for name in SHARES},
        )
        clips = RenderedClips(options.models, options.textures, settings, options.broken)
        check_settings(options.out, settings)
        dropped = 0
        for number in tqdm(range(options.first, options.clips), unit="clip"):
            name = clip_name(settings.seed, number)
            if is_written(options.out, name):
                continue
            clip = clips.make(number)
            if clip is None:
                dropped += 1
                log.warning("%s: dropped, no scene showed an object well", name)
            else:
                write_clip(clip, options.out, name)
    except StremnError as error:
        parser.exit(1, f"{error}\n")
    log.info(
        "%s: clips %d to %d, %d dropped", options.out, options.first, options.clips - 1, dropped
    )
    return 0


def _size(words: str) -> tuple[int, int]:
    try:
        columns, rows = (int(word) for word in words.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{words!r} is no size; columns x rows are needed, as in 384x216"
        ) from None
    return columns, rows


if __name__ == "__main__":
    raise SystemExit(main())
