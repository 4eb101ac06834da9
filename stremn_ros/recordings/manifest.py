"""manifest.json: what a run was made from, so that it can go on, and what came of it.

It holds no times, so two runs of the same things have the same manifest, stopped or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from stremn_ros import __version__
from stremn_ros.errors import InputError
from stremn_ros.files import write_json
from stremn_ros.model_folder import find_model
from stremn_ros.recordings.seeds import read_seeds, topic_of
from stremn_ros.text_files import read_text

MANIFEST = "manifest.json"
FORMAT = 2  # in 1 nothing told the click model, and parts of the report had their own heads
RUNNING, COMPLETE = "running", "complete"
_PART = 1 << 20

# what a run was made from, and what is said where that is another thing on --resume
_CHANGED = {
    "version": "it was begun by another version of stremn ({old}; this is {new})",
    "model": "the model is another one, or its files changed",
    "runtime": "it was begun on {old}, and this would be {new}: other masks would come of it",
    "options": "the options of the model differ",
    "click_model": "--click-model was {old!r} and is {new!r}",
    "stretch": "--stretch was {old} and is {new}",
    "formats": "--format was {old} and is {new}",
    "topics": "--topic was {old} and is {new}",
    "seeds": "the seeds changed: the seeds file, a mask that it names, or the topic",
    "recordings": "the recordings changed: other files, or another content",
}


def hash_of(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, or of the files of a folder with their names.

    Folders in it count for nothing: no recording is read from them, and the results may be there.

    Raises:
        InputError: it cannot be read.
    """
    total, size = hashlib.sha256(), 0
    file = path
    try:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                total.update(file.name.encode(errors="surrogateescape") + b"\0")
            with file.open("rb") as opened:
                while part := opened.read(_PART):
                    total.update(part)
                    size += len(part)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    return {"bytes": size, "sha256": total.hexdigest()}


def seeds_hash(seeds: str) -> dict[str, Any]:
    """Of a seeds file and the masks that it names; a topic is part of its recording."""
    if topic := topic_of(seeds):
        return {"topic": topic}
    path = Path(seeds)
    # by the word of the seeds file, as two of them may have the same name in other folders
    named = sorted({entry.mask for entry in read_seeds(path) if entry.mask})
    masks = {mask: hash_of(path.parent / mask)["sha256"] for mask in named}
    return {"file": path.name, **hash_of(path), "masks": masks}


def hint_maker(seeds: str, click_model: str) -> str | None:
    """What makes masks of hints; None where the seeds have none."""
    hints = not topic_of(seeds) and any(not entry.mask for entry in read_seeds(Path(seeds)))
    return click_model if hints else None


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
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or not _is_whole(values):
        raise InputError(
            f"{path}: is no manifest of `stremn label` of this version, or is damaged; choose "
            "another --out"
        )
    return values


def _is_whole(values: Mapping[str, Any]) -> bool:
    """Whether a manifest has what ``write_manifest`` writes and others read of it."""
    run, tracks = values.get("run"), values.get("tracks")
    return (
        values.get("state") in (RUNNING, COMPLETE)
        and isinstance(values.get("errors"), dict)
        and isinstance(run, dict)
        and _are(run.get("recordings"), path=str)
        and _are(tracks, name=str, labelled=int, problems=list)
    )


def _are(values: Any, **kinds: type) -> bool:
    """Whether values are a list of mappings that have entries of these kinds."""
    return isinstance(values, list) and all(
        isinstance(value, dict) and all(isinstance(value.get(n), k) for n, k in kinds.items())
        for value in values
    )


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
    write_json(out / MANIFEST, values, durable=True)


def check_same(
    out: str, old: Mapping[str, Any], new: Mapping[str, Any], failed: Collection[str]
) -> set[str]:
    """The recordings that are others than a run was made from, which may be so.

    Args:
        failed: recordings of which nothing was labelled, as they could not be read.

    Raises:
        InputError: in words, as other things that it was made from are not what they were.
    """
    was = {each["path"]: each for each in old["recordings"]}
    mended = {
        each["path"]
        for each in new["recordings"]
        if each["path"] in failed and each != was.get(each["path"], each)
    }
    kept = [was[e["path"]] if e["path"] in mended else e for e in new["recordings"]]
    new = {**new, "recordings": kept}
    for name, text in _CHANGED.items():
        if old.get(name) != new.get(name):
            why = text.format(old=_shown(old.get(name)), new=_shown(new.get(name)))
            raise InputError(
                f"{out}: cannot go on: {why}. Put it back as it was, or start a new run with "
                "another --out"
            )
    return mended


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
