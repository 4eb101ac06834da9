"""How well objects are placed, sized and followed in space: rendered scenes with true depth.

    python benchmark/spatial_accuracy.py --json OUT.json
    python benchmark/spatial_accuracy.py --model segment_lite0 --objects 5 --json OUT.json

Each scene has boxes, balls, cylinders and capsules about 1 m before a camera that moves; every
second object moves at a constant velocity. MuJoCo (the extra `render`) draws depth and masks, and
the depth gets a depth camera's faults (noise, holes, shadows, flying pixels). The camera's pose is
known, so velocities are over ground. With --model the masks are those of the network, seeded with
the first true mask.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from frames import machine

from stremn_ros.data.rendered import load_mujoco
from stremn_ros.errors import RuntimeUnavailableError
from stremn_ros.spatial import Intrinsics, SpatialTracker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))
from spatial_scenes import faulty, middle_of, points_of, tracked

ROWS, COLUMNS = 480, 640
FOVY = 49.0  # degrees
FOCAL = 0.5 * ROWS / np.tan(np.radians(FOVY) / 2)
K = (FOCAL, 0.0, (COLUMNS - 1) / 2, 0.0, FOCAL, (ROWS - 1) / 2, 0.0, 0.0, 1.0)
SMALLEST = 400  # pixels that an object must show to count
SECOND = 1_000_000_000


class Scene:
    """Objects on and above a table, and a camera on an arc; a context manager."""

    def __init__(self, mujoco: Any, count: int, rng: np.random.Generator) -> None:
        self.mujoco = mujoco
        across = int(np.ceil(np.sqrt(count * 1.3)))
        bodies, self.places, self.speeds = [], [], []
        for number in range(count):
            cell = np.array([number % across, number // across]) - [
                (across - 1) / 2,
                (count // across) / 2,
            ]
            size = rng.uniform(0.02, 0.055, 3) * min(1.0, 6.0 / across)
            place = np.append(cell * 0.95 / across, rng.uniform(0.03, 0.2))
            place[:2] += rng.uniform(-0.02, 0.02, 2)
            moves = number % 2 == 0
            speed = rng.uniform(-1, 1, 3) * [0.06, 0.06, 0.04] * moves
            kind = ("box", "sphere", "cylinder", "capsule", "ellipsoid")[number % 5]
            turn, color = rng.uniform(-180, 180, 3), rng.uniform(0.2, 1.0, 3)
            bodies.append(
                f'<body name="o{number}" mocap="true" pos="{words(place)}" euler="{words(turn)}">'
                f'<geom type="{kind}" size="{words(size)}" rgba="{words(color)} 1" '
                'contype="0" conaffinity="0"/></body>'
            )
            self.places.append(place)
            self.speeds.append(speed)
        xml = (
            f'<mujoco><visual><global offwidth="{COLUMNS}" offheight="{ROWS}"/>'
            '<map znear="0.01" zfar="20"/></visual><worldbody>'
            '<light pos="0 0 3"/><geom type="plane" size="3 3 .1" rgba=".5 .5 .5 1"/>'
            f'<camera name="camera" mode="fixed" fovy="{FOVY}"/>{"".join(bodies)}'
            "</worldbody></mujoco>"
        )
        self.model = mujoco.MjModel.from_xml_string(xml)
        # the depth buffer's range follows the model's extent, and so does its resolution
        self.model.stat.extent = 1.0
        self.data = mujoco.MjData(self.model)
        self.renderer = mujoco.Renderer(self.model, ROWS, COLUMNS)
        self.swing = rng.uniform(0.1, 0.25) * rng.choice([-1, 1])
        self.base = rng.uniform(-np.pi, np.pi)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.close()

    def pose(self, seconds: float) -> np.ndarray:
        """From the camera's optical frame to the world, [4, 4]."""
        angle = self.base + self.swing * seconds
        height = 0.8 + 0.05 * np.sin(2 * seconds)
        place = np.array([0.75 * np.cos(angle), 0.75 * np.sin(angle), height])
        ahead = np.array([0.0, 0.0, 0.08]) - place
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = np.column_stack([right, np.cross(ahead, right), ahead])
        matrix[:3, 3] = place
        return matrix

    def draw(self, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """RGB uint8 [H, W, 3], depth in meters float64 [H, W], labels uint8 [H, W]."""
        pose, turn = self.pose(seconds), np.zeros(4)
        own = pose[:3, :3] * [1, -1, -1]  # MuJoCo's cameras look along -z, y up
        self.mujoco.mju_mat2Quat(turn, np.ascontiguousarray(own).ravel())
        self.model.cam_pos[0], self.model.cam_quat[0] = pose[:3, 3], turn
        for number, (place, speed) in enumerate(zip(self.places, self.speeds)):
            self.data.mocap_pos[number] = place + speed * seconds
        self.mujoco.mj_forward(self.model, self.data)
        renderer = self.renderer
        renderer.update_scene(self.data, camera="camera")
        image = renderer.render().copy()
        renderer.enable_depth_rendering()
        depth = renderer.render().astype(np.float64)
        renderer.disable_depth_rendering()
        renderer.enable_segmentation_rendering()
        drawn = renderer.render()
        renderer.disable_segmentation_rendering()
        geom = drawn[..., 1] == int(self.mujoco.mjtObj.mjOBJ_GEOM)
        labels = self.model.geom_bodyid[np.where(geom, drawn[..., 0], 0)]
        return image, depth, np.where(geom, labels, 0).astype(np.uint8)


def words(values: np.ndarray) -> str:
    return " ".join(f"{value:.5g}" for value in values)


def run(scene: Scene, options: argparse.Namespace, rng: np.random.Generator) -> list[dict]:
    """Errors of each object in each frame of a scene."""
    camera, tracker, found = Intrinsics(COLUMNS, ROWS, K), SpatialTracker(), []
    segmenter = None
    for number in range(round(options.seconds * options.rate)):
        seconds = number / options.rate
        image, depth, truth = scene.draw(seconds)
        pose, labels = scene.pose(seconds), truth
        objects: Any = tracked([n for n in range(1, len(scene.places) + 1) if (truth == n).any()])
        if options.model:
            if segmenter is None:
                from stremn_ros.segmenter import Segmenter

                segmenter = Segmenter.load(options.model, device="cpu")
                seed = np.where(np.bincount(truth.ravel(), minlength=256) >= SMALLEST, 1, 0)
                segmenter.seed(image, truth * seed.astype(np.uint8)[truth])
                objects = tracked(np.flatnonzero(seed[1:]) + 1)
            else:
                result = segmenter.step(image)
                labels, objects = result.labels, result.objects
        measured = tracker.update(
            labels, objects, faulty(depth, rng), camera, round(seconds * SECOND), pose
        )
        for item in measured:
            inside = truth == item.id
            if inside.sum() < SMALLEST or item.measured is None:
                continue
            turn, place = pose[:3, :3], pose[:3, 3]
            points = points_of(depth, inside, K) @ turn.T
            size = points.max(axis=0) - points.min(axis=0)
            middle = turn @ middle_of(depth, inside, K) + place
            entry = {
                "position": float(np.linalg.norm(np.subtract(item.measured, middle))),
                "filtered": float(np.linalg.norm(np.subtract(item.position, middle))),
                "size": np.abs(np.divide(item.box.size, size) - 1).tolist(),
                "distance": float(np.median(depth[inside])),
            }
            if item.velocity is not None and seconds >= 1.0:
                off = np.subtract(item.velocity, scene.speeds[item.id - 1])
                entry["velocity"] = float(np.linalg.norm(off))
            found.append(entry)
    return found


def summary(found: list[dict]) -> dict[str, Any]:
    velocity = [entry["velocity"] for entry in found if "velocity" in entry]
    columns = {
        "position [mm]": [1e3 * entry["position"] for entry in found],
        "filtered position [mm]": [1e3 * entry["filtered"] for entry in found],
        "size [%]": [100 * value for entry in found for value in entry["size"]],
        "velocity after 1 s [m/s]": velocity,
        "distance [m]": [entry["distance"] for entry in found],
    }
    return {
        "measurements": len(found),
        **{
            name: {
                "median": round(float(np.median(values)), 4),
                "p90": round(float(np.percentile(values, 90)), 4),
            }
            for name, values in columns.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rate", type=float, default=15.0, help="images a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="masks of this model instead of the true ones")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    try:
        mujoco = load_mujoco()
    except RuntimeUnavailableError as error:
        raise SystemExit(str(error)) from None
    rng = np.random.default_rng(options.seed)
    found: list[dict] = []
    for _ in range(options.scenes):
        with Scene(mujoco, options.objects, rng) as scene:
            found += run(scene, options, rng)
    if not found:
        raise SystemExit("no object was measured: none showed enough pixels")
    result = summary(found)
    print(f"{result['measurements']} measurements")
    for name, values in result.items():
        if isinstance(values, dict):
            print(f"{name:26} median {values['median']:8.3f}   p90 {values['p90']:8.3f}")
    if options.json:
        settings = {"model": options.model or "true masks", "objects": options.objects}
        text = json.dumps({"machine": machine(), **settings, **result}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
