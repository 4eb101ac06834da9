"""Files that come with the package, beside its source or where it was installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stremn_ros.errors import InputError


def shared_places(name: str) -> list[Path]:
    """Where a file or folder of the package may lie: the source tree, then the install prefixes."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    installed = [Path(prefix) / "share" / "stremn_ros" / name for prefix in prefixes if prefix]
    return list(dict.fromkeys([Path(__file__).resolve().parents[1] / name, *installed]))


def shared_file(name: str) -> Path:
    """A file of config/.

    Raises:
        InputError: it is nowhere.
    """
    places = shared_places(f"config/{name}")
    for path in places:
        if path.is_file():
            return path
    looked = ", ".join(str(path.parent) for path in places)
    raise InputError(f"{name} was not found in {looked}: is the package installed as a whole?")
