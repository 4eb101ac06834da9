"""The cache of built files: written whole or not at all, compared with its key before it is read.

An entry is a folder with the files of one build and ``key.json``, written last: what the files
were made of and the sha256 of each. An entry that is incomplete, altered or made of something else
is never loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stremn_ros.errors import ModelError
from stremn_ros.files import UNKNOWN, sha256

KEY = "key.json"
SCRATCH = "label-"  # begins the folders of `stremn label`, which have no key


def cache_folder() -> Path:
    """$STREMN_CACHE, or stremn_ros in the user's cache folder; ModelError where there is none."""
    if os.environ.get("STREMN_CACHE"):
        return Path(os.environ["STREMN_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "stremn_ros"
    except RuntimeError:  # a user without a home, as in some containers
        raise ModelError("this user has no home folder: set STREMN_CACHE") from None


def keyed_folder(name: str, key: Mapping[str, Any]) -> Path:
    """The cache folder of what is made of this key: of another key it is another folder."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:12]
    # ONNX Runtime opens files by names in Unicode only
    return cache_folder() / f"{name.encode(errors=UNKNOWN).decode()}-{digest}"


def differences(found: Any, wanted: Mapping[str, Any]) -> str:
    """The entries in which two keys differ, as ``name: found, but wanted is wanted``."""
    if not isinstance(found, dict):
        return f"{found!r} is no key"
    names = [name for name in (*wanted, *found) if found.get(name) != wanted.get(name)]
    return "; ".join(
        f"{name}: {found.get(name)!r}, but wanted is {wanted.get(name)!r}"
        for name in dict.fromkeys(names)
    )


def checked_entry(
    folder: Path, wanted: Mapping[str, Any], names: Sequence[str], what: str, remedy: str
) -> dict[str, Any]:
    """key.json of an entry whose key is the wanted one and whose files are whole.

    Args:
        folder: of the entry; wanted: the key; names: of the files it must have.
        what: for messages, e.g. "segment_lite0 has no ONNX export"; remedy: the command that
            makes it again.

    Raises:
        ModelError: there is no entry (``what``), it was made of something else (both keys are
            named), or a file is missing, cut short or altered.
    """
    try:
        found = json.loads((folder / KEY).read_text())
        files, key = dict(found["files"]), found["key"]
    except FileNotFoundError:
        raise ModelError(f"{what} in {folder}; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder / KEY} cannot be read ({error}); {remedy}") from None
    if key != wanted:
        raise ModelError(
            f"{folder} was made of something else ({differences(key, wanted)}): its key is "
            f"{json.dumps(key, sort_keys=True)}, the wanted one "
            f"{json.dumps(dict(wanted), sort_keys=True)}; {remedy}"
        )
    for name in names:
        path = folder / name
        try:
            whole = path.is_file() and files.get(name) == sha256(path)
        except OSError as error:  # of another user, perhaps
            raise ModelError(f"{path} cannot be read ({error.strerror or error})") from None
        if not whole:
            raise ModelError(f"{path} is missing, cut short or altered; {remedy}")
    return found


@contextlib.contextmanager
def new_entry(target: Path) -> Iterator[Path]:
    """A folder to write an entry's files into; it takes ``target``'s place when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_key(folder: Path, key: Mapping[str, Any], names: Sequence[str], **notes: Any) -> None:
    """Writes key.json: the key, the digests of the files, and what else is good to know."""
    files = {name: sha256(folder / name) for name in names}
    (folder / KEY).write_text(json.dumps({"key": dict(key), "files": files, **notes}, indent=2))


def is_being_built(temporary: Path) -> bool:
    """Whether a process is writing this folder of ``new_entry`` now."""
    for path in temporary.parent.glob(".*.lock"):
        if not temporary.name.startswith(f"{path.name.removesuffix('.lock')}-"):
            continue
        with contextlib.suppress(OSError), path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


@contextlib.contextmanager
def one_builder(target: Path) -> Iterator[None]:
    """Waits for another process that builds the same entry.

    Raises:
        ModelError: nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = (target.parent / f".{target.name}.lock").open("w")
    except OSError as error:
        raise ModelError(
            f"nothing can be written to the cache folder {target.parent} "
            f"({error.strerror or error}): set STREMN_CACHE to another"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
