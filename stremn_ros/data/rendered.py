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
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from stremn_ros.data.clip import Clip
from stremn_ros.data.files import BrokenFiles
from stremn_ros.data.object_models import Mesh, find_object_models, read_mesh, shrunk
from stremn_ros.data.rendered_parts import SHARES, RenderSettings, Sources
from stremn_ros.data.rendered_scene import ScenePlanner
from stremn_ros.data.rendered_simulation import Simulation
from stremn_ros.data.rendered_xml import mesh_asset
from stremn_ros.errors import InputError, RuntimeUnavailableError, StremnError
from stremn_ros.files import write_json
from stremn_ros.imaging.video import list_images, read_image, write_image
from stremn_ros.imaging.visualization import write_label_png

log = logging.getLogger(__name__)

ATTEMPTS = 8  # scenes that are drawn for a clip before it is dropped
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
            with Simulation(self.mujoco, scene, self.settings) as simulation:
                clip = simulation.clip(rng, f"rendered {self.settings.seed} {number}")
            if clip is not None:
                return clip
        return None


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
