"""Models of textured objects for rendered clips: OBJ meshes with PNG textures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.data.files import BrokenFiles
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.text_files import read_text


@dataclass(frozen=True)
class ObjectModel:
    """An OBJ mesh and the PNG that textures it; the name is that of its folder, or of its file."""

    name: str
    mesh: Path
    texture: Path


def find_object_models(roots: Sequence[Path], broken: BrokenFiles) -> list[ObjectModel]:
    """Every OBJ mesh with its PNG texture in folders and below, sorted by path.

    A mesh NAME.obj belongs to NAME.png beside it. A mesh that is the only one in its folder
    belongs to the only PNG there, whatever the two are called.

    Args:
        broken: what a mesh without a texture does.

    Raises:
        InputError: a folder is missing, no model is found, or (with ``raise``) a mesh has no PNG.
    """
    models = []
    for root in roots:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; a folder of OBJ meshes is needed")
        # unlike Path.rglob, glob follows links to folders
        for mesh in sorted(map(Path, glob(f"{escape(str(root))}/**/*.obj", recursive=True))):
            own = mesh.with_suffix(".png")
            textures = sorted(mesh.parent.glob("*.png"))
            alone = len(list(mesh.parent.glob("*.obj"))) == 1
            with broken.handled():
                if own.is_file():
                    name = mesh.parent.name if alone and mesh.parent != root else mesh.stem
                    models.append(ObjectModel(name, mesh, own))
                elif alone and len(textures) == 1:
                    models.append(ObjectModel(mesh.parent.name, mesh, textures[0]))
                else:
                    raise InputError(
                        f"{mesh}: has no texture; a {own.name} beside it, or one OBJ and one PNG "
                        "in a separate folder are needed"
                    )
    if not models:
        raise InputError(
            f"{', '.join(map(str, roots))}: no models; NAME/model.obj with NAME/texture.png, or "
            "NAME.obj with NAME.png are needed"
        )
    return models


def prepare_object_model(
    mesh: Path, texture: Path, folder: Path, texture_size: int = 512
) -> ObjectModel:
    """Writes a model into ``folder`` as ``model.obj`` and ``texture.png``.

    The new mesh has triangles with texture coordinates only, its middle at the origin, and a
    longest side of 1. Normals, materials, lines and points are left out.

    Args:
        mesh: an OBJ file in which every face has texture coordinates.
        texture: an image of any format that OpenCV reads.
        texture_size: pixels that the longer side of the new texture has at most.

    Raises:
        InputError: a file cannot be read, or the mesh has no faces or no texture coordinates.
    """
    normalized = read_mesh(mesh)
    image = read_image(texture)
    model = ObjectModel(folder.name, folder / "model.obj", folder / "texture.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.mesh.write_bytes(normalized.obj)
    except OSError as error:
        raise StremnError(f"{folder}: cannot be written ({error})") from error
    write_image(model.texture, shrunk(image, texture_size))
    return model


@dataclass(frozen=True)
class Mesh:
    """A mesh as the text of an OBJ file, its middle at the origin, its longest side 1.

    ``extents`` float64 [3]: its sides along x, y and z.
    """

    obj: bytes
    extents: NDArray[np.float64]


def read_mesh(path: Path) -> Mesh:
    """The triangles of an OBJ file, centered and scaled; errors as ``read_obj``."""
    vertices, coordinates, faces = read_obj(path)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    longest = float((high - low).max())
    if not longest > 0.0:
        raise InputError(f"{path}: all vertices are at one point")
    vertices = (vertices - (low + high) / 2.0) / longest
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*vertex) for vertex in vertices]
    lines += ["vt {:.6f} {:.6f}".format(*coordinate) for coordinate in coordinates]
    lines += ["f " + " ".join(f"{v + 1}/{t + 1}" for v, t in face) for face in faces]
    return Mesh(("\n".join(lines) + "\n").encode(), (high - low) / longest)


def read_obj(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The triangles of an OBJ file.

    Returns:
        Vertices float64 [V, 3], texture coordinates float64 [T, 2], and faces int64 [F, 3, 2] of
        indices (vertex, texture coordinate) from 0. Faces with more corners are cut in triangles.

    Raises:
        InputError: the file cannot be read, or has no faces, or faces without texture coordinates.
    """
    vertices: list[list[float]] = []
    coordinates: list[list[float]] = []
    faces: list[list[tuple[int, int]]] = []
    text = read_text(path, strict=False)  # names and comments may be in any encoding
    for number, line in enumerate(text.split("\n"), 1):
        kind, *words = line.split() or [""]
        try:
            if kind == "v":
                vertices.append(_numbers(words, 3))
            elif kind == "vt":
                coordinates.append(_numbers(words, 2))
            elif kind == "f":
                corners = [_corner(word, len(vertices), len(coordinates)) for word in words]
                faces += [[corners[0], *corners[i : i + 2]] for i in range(1, len(corners) - 1)]
        except (ValueError, IndexError):
            raise InputError(
                f"{path}:{number}: {line[:60]!r} is not understood; 'v x y z', 'vt u v' and "
                "'f vertex/texture ...' are needed"
            ) from None
    if not faces:
        raise InputError(f"{path}: has no faces")
    found = np.array(faces, np.int64)
    points, uv = np.array(vertices, np.float64), np.array(coordinates, np.float64)
    if found.min() < 0 or (found >= [len(points), len(uv)]).any():
        raise InputError(f"{path}: faces name vertices or texture coordinates that are not there")
    if not (np.isfinite(points).all() and np.isfinite(uv).all()):
        raise InputError(f"{path}: has coordinates that are not finite")
    return points, uv, found


def _numbers(words: list[str], count: int) -> list[float]:
    """The first so many words; ValueError where there are fewer."""
    if len(words) < count:
        raise ValueError
    return [float(word) for word in words[:count]]


def _corner(word: str, vertices: int, coordinates: int) -> tuple[int, int]:
    """``3/7`` or ``3/7/1`` as indices from 0; negative numbers count from the last one."""
    vertex, texture = (int(part) for part in word.split("/")[:2])
    return (
        vertex - 1 if vertex > 0 else vertices + vertex,
        texture - 1 if texture > 0 else coordinates + texture,
    )


def shrunk(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The image [H, W, 3], made smaller where its longer side has more than ``longest`` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1.0:
        return image
    return np.asarray(
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )
