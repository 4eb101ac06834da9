"""manifest.json: what a run was made from, so that it can go on, and what came of it.

It holds no times, so two runs of the same things have the same manifest, stopped or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stremn_ros import __version__
from stremn_ros.errors import InputError
from stremn_ros.files import write_json
from stremn_ros.model_folder import find_model
from stremn_ros.recordings.seeds import mask_files, read_seeds
from stremn_ros.text_files import read_text

MANIFEST = "manifest.json"
FORMAT = 1
RUNNING, COMPLETE = "running", "complete"
_PART = 1 << 20

# what a run was made from, and what is said where that is another thing on --resume
_CHANGED = {
    "version": "it was begun by another version of stremn ({old}; this is {new})",
    "model": "the model is another one, or its files changed",
    "runtime": "it was begun on {old}, and this would be {new}: other masks would come of it",
    "options": "the options of the model differ",
    "stretch": "--stretch was {old} and is {new}",
    "formats": "--format was {old} and is {new}",
    "topics": "--topic was {old} and is {new}",
    "seeds": "the seeds changed: the seeds file, a mask that it names, or the topic",
    "recordings": "the recordings changed: other files, or another content",
}


def hash_of(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        InputError: it cannot be read.
    """
    total, size = hashlib.sha256(), 0
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                total.update(str(file.relative_to(path)).encode(errors="surrogateescape") + b"\0")
            with file.open("rb") as opened:
                while part := opened.read(_PART):
                    total.update(part)
                    size += len(part)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return {"bytes": size, "sha256": total.hexdigest()}


def seeds_hash(seeds: str) -> dict[str, Any]:
    """Of a seeds file and the masks that it names; a topic is part of its recording."""
    if seeds.startswith("/") and not Path(seeds).is_file():
        return {"topic": seeds}
    path = Path(seeds)
    masks = {str(file.name): hash_of(file)["sha256"] for file in mask_files(read_seeds(path))}
    return {"file": path.name, **hash_of(path), "masks": masks}


def model_hash(model: str) -> dict[str, Any]:
    """Of a model's configuration and weights."""
    folder = find_model(model)
    names = ("config.yaml", "weights.safetensors")
    return {"name": folder.name, **{name: hash_of(folder / name)["sha256"] for name in names}}


def described(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made from, with the version of this program, as JSON gives it back."""
    return json.loads(json.dumps({"version": __version__, **values}))


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none.

    Raises:
        InputError: it is damaged, or of another format.
    """
    path = out / MANIFEST
    if not path.is_file():
        return None
    try:
        values = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or "run" not in values:
        raise InputError(f"{path}: is no manifest of `stremn label` of this version")
    return values


def write_manifest(
    out: Path, state: str, run: Mapping[str, Any], tracks: Iterable[Any], errors: Mapping[str, str]
) -> None:
    """Writes the manifest; see ``read_manifest``."""
    values = {
        "format": FORMAT,
        "state": state,
        "run": dict(run),
        "tracks": list(tracks),
        "errors": dict(errors),
    }
    write_json(out / MANIFEST, values)


def check_same(out: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """InputError, in words, where a run cannot go on as it was made from other things."""
    for name, text in _CHANGED.items():
        if old.get(name) != new.get(name):
            why = text.format(old=_shown(old.get(name)), new=_shown(new.get(name)))
            raise InputError(
                f"{out}: cannot go on: {why}. Put it back as it was, or start a new run with "
                "another --out"
            )


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
