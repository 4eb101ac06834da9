"""A rendered clip's assets and bodies as MuJoCo's XML, with the files that it names."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from stremn_ros.data.object_models import Mesh
from stremn_ros.data.rendered_parts import STEP, Image, RenderSettings, Vector, View


def text(values: Vector | list[float]) -> str:
    """Numbers as an attribute of the XML."""
    return " ".join(f"{value:.6g}" for value in values)


def plain(rng: Generator) -> Image:
    """One color, of any hue and often pale."""
    color = np.array([[[rng.integers(180), 200 * rng.random() ** 1.5, rng.uniform(70, 235)]]])
    rgb = cv2.cvtColor(color.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.ascontiguousarray(np.broadcast_to(rgb, (8, 8, 3)))


def mesh_asset(name: str, size: float) -> str:
    """A mesh of the file NAME.obj, ``size`` long, in the XML."""
    # hulls of few corners are enough for contacts, and cheap
    return (
        f'<mesh name="{name}" file="{name}.obj" scale="{text([size] * 3)}" inertia="convex" '
        'maxhullvert="48"/>'
    )


class SceneXml:
    """Collects the assets and bodies of a scene."""

    def __init__(self) -> None:
        self.assets: list[str] = []
        self.world: list[str] = []
        self.files: dict[str, bytes] = {}

    def material(self, image: Image, kind: str, attributes: str = "") -> str:
        """A material of an RGB image; kind is MuJoCo's type of texture, ``2d`` or ``cube``."""
        name = f"m{len(self.files)}"
        _, data = cv2.imencode(
            ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 0]
        )
        self.files[f"{name}.png"] = data.tobytes()
        self.assets.append(f'<texture name="{name}" type="{kind}" file="{name}.png"/>')
        self.assets.append(f'<material name="{name}" texture="{name}" {attributes}/>')
        return name

    def mesh(self, mesh: Mesh, size: float) -> str:
        name = f"v{len(self.files)}"
        self.files[f"{name}.obj"] = mesh.obj
        self.assets.append(mesh_asset(name, size))
        return name

    def xml(self, rng: Generator, settings: RenderSettings, view: View, lights: str) -> str:
        columns, rows = settings.size
        fovy = 2.0 * np.arctan(np.tan(view.fovx / 2.0) * rows / columns)
        ambient, diffuse = rng.uniform(0.17, 0.36), rng.uniform(0.05, 0.2)
        sky = plain(rng)[0, 0] / 255.0
        near = view.distance * 0.02
        return f"""<mujoco>
  <option timestep="{STEP}" integrator="implicitfast"/>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <global offwidth="{columns}" offheight="{rows}" fovy="{np.rad2deg(fovy):.5g}"/>
    <quality shadowsize="1024" offsamples="0"/>
    <headlight ambient="{text([ambient] * 3)}" diffuse="{text([diffuse] * 3)}"/>
    <map znear="{near:.5g}" zfar="{view.distance * 40:.5g}"
      shadowscale="0.42"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="{text(sky)}" rgb2="0.8 0.85 0.9" width="32"
      height="32"/>
    {" ".join(self.assets)}
  </asset>
  <worldbody>
    <camera name="camera" mode="fixed" fovy="{np.rad2deg(fovy):.5g}"/>
    {lights}
    {" ".join(self.world)}
  </worldbody>
</mujoco>"""
