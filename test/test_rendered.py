"""Rendered clips: the same for the same seed, with masks that fit the picture to the pixel.

Without MuJoCo or a way to draw (EGL), what draws is skipped, and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stremn_ros.data.files import BrokenFiles
from stremn_ros.data.object_models import find_object_models, prepare_object_model, read_obj
from stremn_ros.data.rendered import RenderedClips, clip_name, load_mujoco, main
from stremn_ros.data.rendered_parts import (
    SHARES,
    CameraPath,
    Item,
    Look,
    Motion,
    Mover,
    RenderSettings,
    Scene,
    View,
    multiplied,
    quaternion,
    rotation_of,
)
from stremn_ros.data.rendered_parts import Path as Way
from stremn_ros.data.rendered_scene import ScenePlanner
from stremn_ros.data.rendered_simulation import SMALLEST, Simulation
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError, RuntimeUnavailableError
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import read_label_png

ROOT = Path(__file__).resolve().parent.parent
CUBE = """# a cube of side 2 off the origin: quads, normals and indices from the end
mtllib none.mtl
v 3 0 0
v 5 0 0
v 5 2 0
v 3 2 0
v 3 0 2
v 5 0 2
v 5 2 2
v 3 2 2
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
f 4/1/1 3/2/1 2/3/1 1/4/1
f 5/1 6/2 7/3 8/4
f 1/1 2/2 6/3 5/4
f 2/1 3/2 7/3 6/4
f 3/1 4/2 8/3 7/4
f -5/-4 -8/-3 -4/-2 -1/-1
"""
SMALL = RenderSettings(frames=4, size=(128, 72), seed=5)


@pytest.fixture(scope="module")
def mujoco():
    """The module, or a skip that says what is not tested on this machine."""
    try:
        return load_mujoco()
    except RuntimeUnavailableError as error:
        pytest.skip(f"RENDERED CLIPS ARE NOT TESTED HERE: {error}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three models and four photos."""
    root = tmp_path_factory.mktemp("render")
    rng = np.random.default_rng(0)
    for number in range(3):
        folder = root / "models" / f"cube{number}"
        folder.mkdir(parents=True)
        (folder / "cube.obj").write_text(CUBE.replace("v 5", f"v {4 + number}"))
        blocks = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        write_image(folder / "paint.png", cv2.resize(blocks, (64, 64)))
    for number in range(4):
        blocks = rng.integers(60, 200, (9, 16, 3)).astype(np.uint8)
        write_image(root / "photos" / f"p{number}.jpg", cv2.resize(blocks, (160, 90)))
    return root / "models", root / "photos"


@pytest.fixture(scope="module")
def clips(mujoco, folders: tuple[Path, Path]) -> RenderedClips:
    return RenderedClips([folders[0]], [folders[1]], SMALL)


def colored_cubes(items: list[tuple[str, Item, str]], movers: list[tuple[Mover, str]]) -> Scene:
    """Glowing cubes of one color each before a dark blue ground, seen from above at a slant."""
    bodies = []
    for color, item, joint in items:
        bodies.append(
            f'<body name="{item.body}" pos="{" ".join(map(str, item.position))}">{joint}'
            f'<geom type="box" size="{" ".join([str(item.size / 2)] * 3)}" material="{color}" '
            'mass=".3"/></body>'
        )
    for mover, color in movers:
        bodies.append(
            f'<body name="{mover.body}" mocap="true"><geom type="box" size=".3 .02 .3" '
            f'material="{color}" contype="0" conaffinity="0"/></body>'
        )
    colors = {"red": "1 0 0", "green": "0 1 0", "white": "1 1 1"}
    materials = "".join(
        f'<material name="{name}" rgba="{value} 1" emission="1" specular="0"/>'
        for name, value in colors.items()
    )
    xml = f"""<mujoco><option timestep="0.004"/><statistic extent="1"/>
      <visual><global offwidth="128" offheight="72"/><quality offsamples="0"/>
      <headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/></visual>
      <asset>{materials}<material name="ground" rgba="0 0 .3 1" emission="1" specular="0"/></asset>
      <worldbody><camera name="camera" mode="fixed" fovy="40"/>
      <geom type="plane" size="9 9 .1" material="ground"/>{"".join(bodies)}</worldbody></mujoco>"""
    view = View(np.array([0.0, 0.0, 0.1]), 2.0, np.pi / 2.0, np.deg2rad(35.0), np.deg2rad(66.0))
    return Scene(
        xml=xml,
        files={},
        items=[item for _, item, _ in items],
        movers=[mover for mover, _ in movers],
        camera=CameraPath(view, 1.1, np.zeros((6, 3, 3))),
        look=Look(40.0, np.ones(3), 1.0, 0.0, 0.0),
        interval=0.1,
        settle=0.2,
        sub_frames=1,
        shutter=0.5,
        most_ids=6,
    )


def rendered(mujoco, scene: Scene, frames: int = 12) -> tuple[np.ndarray, np.ndarray]:
    settings = replace(SMALL, frames=frames)
    with Simulation(mujoco, scene, settings) as simulation:
        clip = simulation.clip(np.random.default_rng(0), "by hand")
    assert clip is not None
    return clip.frames.astype(int), clip.labels


def is_red(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 20) & (frames[..., 1] < 5)


def is_green(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 1] > 20) & (frames[..., 0] < 5)


FREE = "<freejoint/>"


def test_masks_fit_the_picture_to_the_pixel_behind_and_beside_each_other(mujoco) -> None:
    """Red goes out of the picture behind a white board and comes back; green falls and rests."""
    away = Way(
        np.array([0.0, 0.5, 0.6, 1.1]), np.array([[0, 0, 0], [3, 0, 0.2], [3, 0, 0.2], [0, 0, 0.2]])
    )
    red = Item("item0", 0, 0.2, np.array([-0.3, 0.0, 0.1]), Motion(away, np.array([0, 0, 4.0])))
    green = Item("item1", 1, 0.2, np.array([0.3, 0.3, 0.5]))
    board = Mover(
        "board", Way(np.array([0.0, 1.1]), np.array([[0.5, -0.5, 0.4], [0.9, -0.5, 0.4]]))
    )
    scene = colored_cubes([("red", red, FREE), ("green", green, FREE)], [(board, "white")])
    frames, labels = rendered(mujoco, scene)
    red_id, green_id = (labels[0][mask(frames[0])].max() for mask in (is_red, is_green))
    assert {int(red_id), int(green_id)} == {1, 2}
    assert np.array_equal(is_red(frames), labels == red_id)
    assert np.array_equal(is_green(frames), labels == green_id)
    areas = (labels == red_id).sum(axis=(1, 2))
    assert areas[0] > 100
    assert areas[5:7].max() == 0, "away"
    assert areas[-1] > 100, "back, with its id"
    white = (frames.min(axis=-1) > 20).sum(axis=(1, 2))
    assert white.max() > 300, "the board is there"
    assert not labels[frames.min(axis=-1) > 20].any(), "and has no id, as it was not to have one"


def test_twins_have_ids_of_their_own_and_keep_them(mujoco) -> None:
    """Two red cubes trade places, one in front of the other, and a labeled board comes late."""
    step = np.array([0.0, 0.5, 1.0])
    left = Motion(Way(step, np.array([[0, 0, 0], [0.3, -0.3, 0], [0.6, 0, 0]])))
    right = Motion(Way(step, np.array([[0, 0, 0], [-0.3, 0.3, 0], [-0.6, 0, 0]])))
    twins = [
        ("red", Item("item0", 0, 0.2, np.array([-0.3, 0.0, 0.1]), left), FREE),
        ("red", Item("item1", 0, 0.2, np.array([0.3, 0.0, 0.1]), right), FREE),
    ]
    path = Way(np.array([0.0, 0.3, 0.6]), np.array([[9, 0, 0.3], [9, 0, 0.3], [0.9, 0.6, 0.3]]))
    board = Mover("board", path, labeled=True)
    frames, labels = rendered(mujoco, colored_cubes(twins, [(board, "green")]))
    assert np.array_equal(is_red(frames), (labels == 1) | (labels == 2))
    assert np.array_equal(is_green(frames), labels == 3), "what comes late has the last id"
    assert not (labels[0] == 3).any()
    columns = np.arange(labels.shape[2])
    means = [
        [(labels[t] == n).sum(axis=0) @ columns / (labels[t] == n).sum() for n in (1, 2)]
        for t in (0, -1)
    ]
    assert np.sign(means[0][0] - means[0][1]) == -np.sign(means[1][0] - means[1][1]), means
    assert abs(means[0][0] - means[1][1]) < 4, "each is where the other was"


def test_an_object_of_a_few_pixels_has_no_id_and_a_picture_without_objects_is_no_clip(
    mujoco,
) -> None:
    far = Item("item0", 0, 0.03, np.array([-0.5, 0.3, 0.015]))
    near = Item("item1", 1, 0.2, np.array([0.0, 0.0, 0.1]))
    frames, labels = rendered(
        mujoco, colored_cubes([("red", far, FREE), ("green", near, FREE)], []), 3
    )
    assert 0 < is_red(frames[0]).sum() < SMALLEST * labels[0].size
    assert set(np.unique(labels)) == {0, 1}
    assert np.array_equal(is_green(frames), labels == 1)
    with Simulation(
        mujoco, colored_cubes([("red", far, FREE)], []), replace(SMALL, frames=3)
    ) as alone:
        assert alone.clip(np.random.default_rng(0), "far") is None


def test_motion_blur_averages_around_the_frame_of_the_mask(mujoco) -> None:
    path = Way(np.array([0.0, 1.1]), np.array([[0, 0, 0], [1.6, 0, 0]]))
    red = Item("item0", 0, 0.2, np.array([-0.8, 0.0, 0.1]), Motion(path))
    scene = colored_cubes([("red", red, FREE)], [])
    sharp, labels = rendered(mujoco, scene)
    blurred, same = rendered(mujoco, replace(scene, sub_frames=5, shutter=0.9))
    differ = (labels != same).mean(axis=(1, 2)).max()
    assert differ < 0.002, "a step of the simulation at most"
    middle = 6
    streak = (blurred[middle, ..., 0] > 3) & (blurred[middle, ..., 1] < 5)
    assert streak.sum() > 1.2 * is_red(sharp[middle]).sum()
    columns = np.arange(labels.shape[2])
    center = [
        picture.sum(axis=0) @ columns / picture.sum() for picture in (labels[middle] > 0, streak)
    ]
    assert abs(center[0] - center[1]) < 2.0, center


def test_a_clip_is_a_function_of_seed_and_number(clips: RenderedClips, folders) -> None:
    first = clips.make(0)
    other = clips.make(1)
    again = RenderedClips([folders[0]], [folders[1]], SMALL).make(0)
    elsewhere = RenderedClips([folders[0]], [folders[1]], replace(SMALL, seed=6)).make(0)
    assert first is not None
    assert again is not None
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.labels, again.labels)
    for clip in (other, elsewhere):
        assert clip is None or not np.array_equal(first.frames, clip.frames)


def test_clips_are_well_formed(clips: RenderedClips) -> None:
    made = [clip for clip in map(clips.make, range(6)) if clip is not None]
    assert len(made) >= 5
    for clip in made:
        assert clip.frames.shape == (4, 72, 128, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.labels.shape == (4, 72, 128)
        assert clip.labels.dtype == np.uint8
        ids = set(np.unique(clip.labels)) - {0}
        assert ids == set(range(1, clip.objects + 1)), "without gaps"
        assert clip.objects <= 6
        given = set(np.unique(clip.labels[0])) - {0}
        assert given == set(range(1, len(given) + 1)), "those that come late have the last ids"
        areas = np.bincount(clip.labels[0].ravel())[1:]
        assert (areas[areas > 0] >= SMALLEST * clip.labels[0].size).all()
        assert given
        assert 40 < clip.frames[0].mean() < 200, "neither dark nor glaring"


def run(folders: tuple[Path, Path], out: Path, *more: str) -> int:
    models, photos = folders
    size = ("--frames", "4", "--size", "128x72", "--seed", "5")
    return main(
        ["--models", str(models), "--textures", str(photos), "--out", str(out), *size, *more]
    )


def test_the_command_writes_what_training_reads_and_goes_on(
    mujoco, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(folders, out, "--clips", "2") == 0
    names = [clip_name(5, number) for number in range(2)]
    masks, images = (out / kind / "480p" for kind in ("Annotations", "JPEGImages"))
    assert sorted(path.name for path in masks.iterdir()) == names
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    assert len(written) == 16
    before = (masks / names[0] / "00003.png").read_bytes()
    # stopped after the frames of clip 0 were moved: it is made again, the other is left alone
    shutil.rmtree(masks / names[0])
    (images / names[0] / "00000.jpg").unlink()
    assert run(folders, out, "--clips", "3") == 0
    assert (masks / names[0] / "00003.png").read_bytes() == before
    kept = [path for path in written if path.parent.name == names[1]]
    assert len(kept) == 8
    assert all(path.stat().st_mtime_ns == written[path] for path in kept)
    assert not list(out.glob(".*")), "no unfinished clips are left"
    labels = read_label_png(masks / names[0] / "00000.png")
    assert labels.shape == read_image(images / names[0] / "00000.jpg").shape[:2] == (72, 128)

    videos = VideoClips(out)
    assert videos.names[:2] == names
    rng = np.random.default_rng(1)
    drawn = [videos.sample(rng, 3, 64, objects=2, gap=1) for _ in range(10)]
    assert any(clip is not None for clip in drawn)

    with pytest.raises(SystemExit):
        run(folders, out, "--clips", "3", "--twins", "1")
    assert "made with" in capsys.readouterr().err
    assert sorted(path.name for path in masks.iterdir()) == [*names, clip_name(5, 2)]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--clips", "0"), "0 <= first < clips"),
        (("--clips", "2", "--first", "2"), "0 <= first < clips"),
        (("--clips", "1", "--twins", "1.5"), "a share is 0..1"),
        (("--clips", "1", "--frames", "1"), "at least 2"),
        (("--clips", "1", "--size", "10x10"), "each 32..2048"),
        (("--clips", "1", "--size", "big"), "384x216"),
        (("--clips", "1", "--seed", "-1"), "0 or more"),
        (("--clips", "1", "--models", "/nowhere"), "no such folder"),
        (("--clips", "1", "--textures", "/nowhere"), "no such folder"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_refused_in_words(
    mujoco,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    says: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(folders, tmp_path / "out", *more)
    assert stopped.value.code != 0
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_mujoco_the_message_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(RuntimeUnavailableError, match="extra 'render'"):
        RenderedClips([folders[0]], [folders[1]], SMALL)


@pytest.mark.parametrize(
    "environment",
    [
        {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "77"},  # no such device
        # without a screen it gives a context that cannot draw
        {"MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""},
        {"MUJOCO_GL": "nonsense"},
    ],
    ids=lambda environment: environment["MUJOCO_GL"],
)
def test_without_a_way_to_draw_the_message_says_what_to_install(
    mujoco, folders: tuple[Path, Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    """In a process of its own, as MuJoCo decides at import."""
    models, photos = folders
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stremn_ros.data.rendered", "--models", models),
            *("--textures", photos, "--out", tmp_path / "out", "--clips", "1"),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert "libegl1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_model_or_photo_stops_or_is_left_out(
    mujoco, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    models, photos = tmp_path / "models", tmp_path / "photos"
    shutil.copytree(folders[0], models)
    shutil.copytree(folders[1], photos)
    flat = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n"
    for name, content in (("empty", "v 0 0 0\n"), ("flat", flat)):
        shutil.copytree(models / "cube0", models / name)
        (models / name / "cube.obj").write_text(content)
    for number in range(3):
        (photos / f"p{number}.jpg").write_bytes(b"no image")
    settings = replace(SMALL, frames=2, size=(64, 36))
    skipping = RenderedClips([models], [photos], settings, broken="skip")
    assert any(skipping.make(number) is not None for number in range(3))
    assert any("p0.jpg" in message for message in skipping.broken.messages)
    raising = RenderedClips([models], [photos], settings)
    with pytest.raises(InputError, match=r"has no faces|does not accept|cannot be decoded"):
        list(map(raising.make, range(9)))
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="photos drawn could not be read"):
        RenderedClips([models], [photos], settings, broken="skip").make(0)


def test_models_are_found_in_folders_of_their_own_and_beside_each_other(tmp_path: Path) -> None:
    for name in ("a/mesh.obj", "a/paint.png", "b/one.obj", "b/one.png", "b/two.obj", "b/two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_object_models([tmp_path], BrokenFiles())
    assert [(model.name, model.texture.name) for model in found] == [
        ("a", "paint.png"),
        ("one", "one.png"),
        ("two", "two.png"),
    ]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(find_object_models([tmp_path], BrokenFiles())) == 4
    (tmp_path / "b" / "two.png").unlink()
    with pytest.raises(InputError, match=r"two\.obj: has no texture"):
        find_object_models([tmp_path], BrokenFiles())
    assert len(find_object_models([tmp_path], BrokenFiles("skip"))) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no models"):
        find_object_models([tmp_path / "none"], BrokenFiles())


def test_a_prepared_model_is_centered_scaled_and_made_of_triangles(tmp_path: Path) -> None:
    (tmp_path / "raw.obj").write_text(CUBE)
    write_image(tmp_path / "raw.jpg", np.full((40, 2000, 3), 90, np.uint8))
    model = prepare_object_model(tmp_path / "raw.obj", tmp_path / "raw.jpg", tmp_path / "cube")
    vertices, coordinates, faces = read_obj(model.mesh)
    assert faces.shape == (12, 3, 2)
    assert np.allclose([vertices.min(axis=0), vertices.max(axis=0)], [[-0.5] * 3, [0.5] * 3])
    corners = vertices[faces[..., 0]]
    areas = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    assert np.allclose(areas, 1.0), "two halves of each side"
    painted = coordinates[faces[..., 1]]
    assert np.allclose(np.ptp(painted, axis=1), 1.0), "each half spans the texture"
    assert read_image(model.texture).shape == (10, 512, 3)
    assert find_object_models([tmp_path / "cube"], BrokenFiles()) == [model]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_obj_of_any_encoding_keeps_its_first_vertex(
    tmp_path: Path, encoding: str, end: str
) -> None:
    """A byte order mark in front of the first line made it unknown, so all faces were shifted."""
    path = tmp_path / "a.obj"
    lines = ["v 1 2 3", "v 4 5 6", "v 7 8 10", "vt 0 0", "vt 1 0", "vt 1 1", "o Gr\u00fcn"]
    path.write_bytes(end.join([*lines, "f 1/1 2/2 3/3", ""]).encode(encoding))
    vertices, _, faces = read_obj(path)
    np.testing.assert_array_equal(vertices, [[1, 2, 3], [4, 5, 6], [7, 8, 10]])
    assert faces[0, :, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("v 0 0 0\nvt 0 0\n", "has no faces"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "is not understood"),
        ("v 0 0 0\nv 1 0 0\nvt 0 0\nf 1/1 2/1 3/1\n", "not there"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 -9/1\n", "not there"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n", "is not understood"),
        ("v 0 0 x\n", r"raw.obj:1: 'v 0 0 x' is not understood"),
        ("v 0 0 nan\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n", "not finite"),
        ("v 1 1 1\nv 1 1 1\nv 1 1 1\nvt 0 0\nf 1/1 2/1 3/1\n", "at one point"),
    ],
)
def test_an_obj_that_cannot_be_used_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "raw.obj").write_text(content)
    write_image(tmp_path / "raw.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=says):
        prepare_object_model(tmp_path / "raw.obj", tmp_path / "raw.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plans_hold_to_their_settings(clips: RenderedClips) -> None:
    """Twenty-five scenes with every share at 1, and with every share at 0."""
    every = replace(SMALL, **dict.fromkeys(SHARES, 1.0))
    none = replace(SMALL, **dict.fromkeys(SHARES, 0.0))
    counts = set()
    for number in range(25):
        for settings in (every, none):
            rng = np.random.default_rng((number, 1))
            scene = ScenePlanner(settings, clips._sources, rng).plan()
            world = ElementTree.fromstring(scene.xml).find("worldbody")
            assert world is not None
            bodies = {body.get("name") for body in world.findall("body")}
            names = [item.body for item in scene.items] + [mover.body for mover in scene.movers]
            assert bodies == set(names)
            groups = [item.group for item in scene.items]
            most = max(groups.count(group) for group in groups)
            counts.add(len(groups))
            if settings is every:
                assert most in (2, 3), "twins"
                assert scene.sub_frames == 5
                paths = [item for item in scene.items if item.motion.path is not None]
                assert len(paths) >= 2
            else:
                assert most == 1
                assert scene.sub_frames == 1
                assert not scene.camera.shake.any()
                assert not any(mover.path is not None for mover in scene.movers)
                assert any(
                    item.motion.path is not None or item.motion.launch is not None
                    for item in scene.items
                ), "with a camera that stands still, something moves"
    assert counts == set(range(4, 11))


def test_the_camera_looks_at_its_target_and_a_pan_comes_back() -> None:
    view = View(np.array([0.3, 0.2, 0.1]), 2.0, 0.7, 0.5, 1.0)
    still = CameraPath(view, 2.0, np.zeros((6, 3, 3)))
    place, axes = still.at(0.4)
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1.0)
    assert np.allclose(place - 2.0 * axes[:, 2], view.target)
    assert axes[2, 1] > 0.8, "upright"
    panned = replace(still, pan=0.6)
    looks = [panned.at(time)[1][:, 2] @ axes[:, 2] for time in (0.0, 1.0, 2.0)]
    assert looks == pytest.approx([1.0, np.cos(0.6), 1.0], abs=1e-6)


def test_quaternions_turn_as_their_matrices() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = (quaternion(rng.normal(size=3), rng.uniform(-3, 3)) for _ in range(2))
        assert np.allclose(rotation_of(multiplied(a, b)), rotation_of(a) @ rotation_of(b))
    quarter = rotation_of(quaternion(np.array([0, 0, 2.0]), np.pi / 2.0))
    assert np.allclose(quarter @ [1, 0, 0], [0, 1, 0])
