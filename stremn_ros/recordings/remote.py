"""Recordings, seeds and results at URLs (s3://, gs://, https://, ...), read and written by fsspec.

A recording is read many times and out of order, and a run that is stopped goes on from its files,
so both are on this machine while the run goes: what is at a URL is fetched into a folder of its
own, and the results are sent to theirs at the end, the manifest last. The folder belongs to the
words of the command, so the same command with --resume finds what was done.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import NewFile
from stremn_ros.recordings.manifest import MANIFEST
from stremn_ros.recordings.seeds import mask_files, read_seeds
from stremn_ros.runtime.building.cache import SCRATCH, cache_folder

_HTTP = ("http", "https")


@dataclass(frozen=True)
class Staged:
    """A command's paths on this machine.

    Attributes:
        url: where the results are to be sent; empty where `out` is their place.
        folder: that holds what was fetched; None where nothing is at a URL.
        called: the URLs of what was fetched, by path, without passwords: for ``Job.called``.
    """

    recordings: tuple[str, ...]
    seeds: str
    out: Path
    url: str = ""
    folder: Path | None = None
    called: Mapping[str, str] = field(default_factory=dict)

    def finish(self) -> None:
        """Sends the results to their URL, and removes what was fetched.

        Raises:
            InputError: they cannot be sent; all stays, and the same command with --resume sends
            them.
        """
        if self.url:
            _send(self.out, self.url)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def is_url(text: str) -> bool:
    """Whether a word of the command line is a URL rather than a path."""
    return "://" in text


def stage(
    recordings: Sequence[str], seeds: str, out: str, resume: bool = False, scratch: str = ""
) -> Staged:
    """Fetches what is at URLs; where nothing is, the paths are returned as they are.

    Args:
        scratch: the folder for it; empty: one in the user's cache.

    Raises:
        InputError: something cannot be fetched, or there are results at the URL already.
        StremnError: fsspec, or what it needs for a kind of URL, is not installed.
    """
    words = (*recordings, seeds, out)
    if not any(map(is_url, words)):
        return Staged(tuple(recordings), seeds, Path(out))
    key = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    folder = (Path(scratch) if scratch else cache_folder()) / f"{SCRATCH}{key}"
    target, url = (_local(out), out) if is_url(out) else (Path(out), "")
    if url and target is None:
        target = folder / "out"
        if not resume and _exists(f"{url.rstrip('/')}/{MANIFEST}"):
            raise InputError(
                f"{url}: holds results already: --resume goes on with a run; for a new one choose "
                "another --out"
            )
    elif url:
        url = ""  # of this machine
    assert target is not None
    fetched = tuple(str(_fetched(each, folder)) for each in recordings)
    called = {
        path: _shown(word)
        for path, word in zip(fetched, recordings)
        if path.startswith(str(folder))
    }
    if is_url(seeds) and _local(seeds) is None:
        local_seeds = _fetched(seeds, folder)
        base = seeds.rpartition("/")[0]
        called[str(local_seeds.parent)] = _shown(base)
        try:
            masks = mask_files(read_seeds(local_seeds))
        except InputError as error:
            raise InputError(str(error).replace(str(local_seeds), _shown(seeds))) from None
        protocol, _, rest = base.partition("://")
        for mask in masks:
            if mask.is_relative_to(local_seeds.parent):  # else a path of this machine
                name = mask.relative_to(local_seeds.parent).as_posix()
                _fetched(f"{protocol}://{posixpath.normpath(f'{rest}/{name}')}", folder)
        seeds = str(local_seeds)
    elif is_url(seeds):
        seeds = str(_local(seeds))
    return Staged(fetched, seeds, target, url, folder, called)


def _shown(url: str) -> str:
    """A URL without what may be a secret: user, password, and the query, which may be signed."""
    parts = urlsplit(url)
    if parts.scheme not in _HTTP:
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _fsspec(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        import fsspec
    except ImportError as error:
        raise StremnError(
            f"{url}: URLs are read with the package fsspec, which does not import here ({error}): "
            "pip install 'stremn_ros[remote]'"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # s3fs, gcsfs, ...
        raise StremnError(f"{url}: {error}") from None
    except Exception as error:  # each file system has its own
        raise InputError(f"{url}: is no URL that fsspec knows ({error})") from None
    return system, str(path)


def _local(url: str) -> Path | None:
    """The path of a file:// URL; None for others."""
    system, path = _fsspec(url)
    protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return Path(path) if "file" in protocols else None


def _exists(url: str) -> bool:
    system, path = _fsspec(url)
    try:
        return bool(system.exists(path))
    except Exception as error:
        raise _unreadable(url, error) from None


def _unreadable(url: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{url}: no such file or folder")
    return InputError(f"{url}: cannot be read ({type(error).__name__}: {error})")


def _fetched(word: str, folder: Path) -> Path:
    """The path on this machine of a file or a folder that may be at a URL."""
    if not is_url(word):
        return Path(word)
    local = _local(word)
    if local is not None:
        return local
    system, path = _fsspec(word)
    protocol = word.partition("://")[0].rpartition(":")[2]
    # the parts of the URL are those of the path, so a seeds file may name a recording by its URL
    target = folder / "fetched" / protocol
    try:
        if system.isdir(path):
            files = {each: _below(target, each) for each in system.find(path)}
        else:
            files = {path: _below(target, path)}
        for source, place in files.items():
            if place.is_file() and place.stat().st_size == system.size(source):
                continue  # of a run that was stopped
            place.parent.mkdir(parents=True, exist_ok=True)
            with NewFile(place) as temporary:
                system.get_file(source, str(temporary))
    except Exception as error:  # each file system has its own
        raise _unreadable(word, error) from None
    return _below(target, path)


def _below(folder: Path, path: str) -> Path:
    """A path of a file system as one below a folder. That of a web server may end with a query."""
    protocol, _, rest = path.partition("://")
    if protocol in _HTTP:
        name, _, query = rest.partition("?")
        rest = name.rpartition("@")[2]
        if query:  # it may choose the file
            folder /= hashlib.sha256(query.encode()).hexdigest()[:12]
    parts = PurePosixPath(rest or path).parts
    return folder.joinpath(*(part for part in parts if part not in ("/", "..")))


def _send(folder: Path, url: str) -> None:
    """Sends all files of a folder; the manifest, the last, says that all are there."""
    system, path = _fsspec(url)
    files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
    files.sort(key=lambda each: each == folder / MANIFEST)
    try:
        for each in files:
            target = f"{path.rstrip('/')}/{each.relative_to(folder).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(each), target)
    except Exception as error:  # each file system has its own
        raise InputError(
            f"{url}: cannot be written ({type(error).__name__}: {error}); the results are in "
            f"{folder}, and the same command with --resume sends them"
        ) from None
