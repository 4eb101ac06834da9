"""Runs programs so that nothing leaves the machine, and reads what tried; see socket_guard.c."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# ONNX Runtime does not report where one of these is set, as on machines that run tests
SWITCHED_OFF_BY = {
    "APPVEYOR",
    "BITBUCKET_BUILD_NUMBER",
    "BUILDKITE",
    "CI",
    "CIRCLECI",
    "CODEBUILD_BUILD_ID",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "JENKINS_URL",
    "ORT_DISABLE_TELEMETRY",
    "TEAMCITY_VERSION",
    "TF_BUILD",
    "TRAVIS",
}
SOURCE = Path(__file__).with_name("socket_guard.c")


def compiler() -> list[str]:
    """The machine's C compiler, as a command; empty where there is none."""
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    return ["c++", "-x", "c"] if shutil.which("c++") else []


def build(folder: Path) -> Path:
    """The guard, compiled into a folder."""
    library = folder / "socket_guard.so"
    words = [*compiler(), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE]
    subprocess.run([*map(str, words), "-ldl"], check=True)
    return library


def environment(library: Path, folder: Path, **changes: str) -> dict[str, str]:
    """Of a process under guard, whose home and log of attempts are in a folder."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    return {
        **{name: value for name, value in os.environ.items() if name not in SWITCHED_OFF_BY},
        "HOME": str(folder / "home"),
        "LD_PRELOAD": str(library),
        "SOCKET_GUARD_LOG": str(folder / "left.log"),
        **changes,
    }


def attempts(folder: Path) -> list[str]:
    """What a process with that folder tried to send out, a line each."""
    log = folder / "left.log"
    return log.read_text().splitlines() if log.is_file() else []
