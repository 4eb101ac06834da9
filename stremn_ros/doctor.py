"""What is installed, what would be used, what is wrong and what to do: the command `stremn doctor`.

Everything that may fail to import, or crash while doing so, is tried in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import stremn_ros
from stremn_ros.nodes.dds_profile import FAST_DDS_2, FAST_DDS_3, profile_environment

OK, NOTE, PROBLEM = "ok", "note", "problem"
DEFAULT_MODEL = "segment_lite0"
# One VGA frame is 0.9 MB; a segment should hold several frames of a large camera
SEGMENT_BYTES_WANTED = 8 << 20
SEGMENT_BYTES_DEFAULT = 512 << 10


@dataclass(frozen=True)
class Check:
    """One line of the report. status: "ok", "note" (works without) or "problem".

    needed_for: "library" (masks without ROS) or "nodes" where a problem stops that, else "".
    """

    name: str
    status: str
    found: str
    advice: str = ""
    needed_for: str = ""


@dataclass(frozen=True)
class Report:
    """All checks, and whether the main job (the segmentation node) and the library can run."""

    checks: list[Check]

    def stops(self, what: str) -> list[str]:
        """Names of the checks that stop "library" or "nodes"; the nodes need the library."""
        needed = ("library",) if what == "library" else ("library", "nodes")
        return [
            check.name
            for check in self.checks
            if check.status == PROBLEM and check.needed_for in needed
        ]

    @property
    def ready(self) -> bool:
        return not self.stops("nodes")

    def as_dict(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "library_ready": not self.stops("library"),
            "checks": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            mark = {OK: "[ok]  ", NOTE: "[note]", PROBLEM: "[FIX] "}[check.status]
            first, *rest = check.found.splitlines() or [""]
            lines.append(f"{mark} {check.name:{width}}  {first}")
            lines += [f"{'':{width + 9}}{line}" for line in rest]
            if check.advice:
                head, *rest = check.advice.splitlines()
                lines.append(f"{'':{width + 9}}-> {head}")
                lines += [f"{'':{width + 12}}{line}" for line in rest]
        lines.append("")
        for what, words in (
            ("library", "stremn segment and the Python library"),
            ("nodes", "the ROS nodes (the main job)"),
        ):
            stops = self.stops(what)
            lines.append(f"{words}: {'can run' if not stops else 'stopped by ' + ', '.join(stops)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Probe:
    """What a process of its own said: values on success, else the error's last line."""

    values: dict[str, Any]
    error: str = ""


def probe(code: str, timeout: float = 120.0) -> Probe:
    """Runs Python code that fills a dict `found`, apart from this process."""
    program = f"import json\nfound = {{}}\n{code}\nprint('\\n' + json.dumps(found))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe({}, f"no answer within {timeout:.0f} s")
    if done.returncode < 0:
        return Probe({}, f"the process was ended by signal {-done.returncode} (a crash)")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        return Probe({}, lines[-1].strip() if lines else f"exit code {done.returncode}")
    try:
        return Probe(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        return Probe({}, "gave no answer")


_RCLPY = """
import os, rclpy
from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier
found["rmw"] = get_rmw_implementation_identifier()
found["where"] = os.path.dirname(rclpy.__file__)
"""
_INTERFACES = """
import os, stremn_interfaces
if stremn_interfaces.__file__ is None:  # a plain folder of that name, seen from its parent
    raise ImportError("only its sources are here, it was not built")
from rclpy.type_support import check_for_type_support
from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject
for kind in (ObjectArray, SeedMask, SeedObject, RemoveObject, SaveMemory, LoadMemory):
    check_for_type_support(kind)
found["where"] = os.path.dirname(stremn_interfaces.__file__)
"""
_MESSAGES = """
import importlib
found["missing"] = {}
for name in ("sensor_msgs.msg", "std_msgs.msg", "std_srvs.srv", "geometry_msgs.msg",
             "diagnostic_msgs.msg", "lifecycle_msgs.msg", "vision_msgs.msg", "cv_bridge"):
    try:
        importlib.import_module(name)
    except Exception as error:
        found["missing"][name.partition(".")[0]] = f"{type(error).__name__}: {error}"
"""
_PACKAGES = """
import importlib
found["versions"], found["errors"] = {}, {}
for name in ("numpy", "yaml", "safetensors", "tqdm", "PIL", "matplotlib"):
    try:
        module = importlib.import_module(name)
        found["versions"][name] = str(getattr(module, "__version__", "?"))
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__}: {error}"
"""
_OPENCV = """
import re, cv2
found["version"] = cv2.__version__
found["ffmpeg"] = bool(re.search(r"FFMPEG: *YES", cv2.getBuildInformation()))
"""
_TORCH = """
import torch
found["version"] = torch.__version__
found["cuda_build"] = torch.version.cuda
found["available"] = torch.cuda.is_available()
found["threads"] = torch.get_num_threads()
if found["available"]:
    found["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["capability"] = list(torch.cuda.get_device_capability(0))
    a = torch.ones(64, 64, device="cuda")
    found["sum"] = float((a @ a).sum())
"""
_TENSORRT = """
from stremn_ros.runtime.tensorrt_backend import find_tensorrt, is_rtx
module = find_tensorrt()
found["name"], found["version"], found["rtx"] = module.__name__, module.__version__, is_rtx(module)
"""
_CUDA = """
import ctypes, glob, torch
found["build"] = torch.version.cuda
found["board"] = bool(glob.glob("/etc/nv_tegra_release"))
driver = ctypes.CDLL("libcuda.so.1")
version = ctypes.c_int()
found["code"] = driver.cuInit(0)
driver.cuDriverGetVersion(ctypes.byref(version))
found["driver"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
"""
_PYCUDA = """
import pycuda, pycuda.driver
found["version"] = pycuda.VERSION_TEXT
"""
_ONNXRUNTIME = """
import importlib, onnxruntime
found["version"] = onnxruntime.__version__
found["providers"] = onnxruntime.get_available_providers()
found["errors"] = {}
for name in ("onnx", "onnxscript"):
    try:
        importlib.import_module(name)
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__}: {error}"
"""
_CACHE = """
import json
from stremn_ros.runtime.cache import KEY, cache_folder, sha256
from stremn_ros.runtime.models import WEIGHTS, model_folders
folder = cache_folder()
found["folder"], found["entries"] = str(folder), {}
weights = {sha256(path) for root in model_folders() for path in root.glob("*/" + WEIGHTS)}
for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
    if not entry.is_dir():
        continue
    note = found["entries"][entry.name] = {"error": "", "stale": entry.name.startswith(".")}
    note["mib"] = round(sum(p.stat().st_size for p in entry.iterdir() if p.is_file()) / 2**20, 1)
    if note["stale"]:
        continue
    try:
        values = json.loads((entry / KEY).read_text())
        note["stale"] = values["key"].get("weights") not in weights
        for name, digest in values["files"].items():
            if sha256(entry / name) != digest:
                raise ValueError(f"{name} is cut short or altered")
    except Exception as error:
        note["error"] = f"{type(error).__name__}: {error}"
"""
_MODELS = """
import yaml
from safetensors import safe_open
from stremn_ros.runtime.models import CONFIG, WEIGHTS, load_network, model_folders
found["folders"] = [str(folder) for folder in model_folders()]
found["models"] = {}
for folder in model_folders():
    for path in sorted(folder.glob("*/" + CONFIG)):
        name = path.parent.name
        if name in found["models"]:
            continue
        entry = found["models"][name] = {"where": str(path.parent), "error": "", "trained": False}
        try:
            weights = path.parent / WEIGHTS
            if not weights.is_file():
                continue
            entry["trained"] = True
            entry["mib"] = round(weights.stat().st_size / 2**20, 1)
            if yaml.safe_load(path.read_text()).get("task") == "segmentation":
                load_network(path.parent)
            else:
                with safe_open(str(weights), "pt") as file:
                    for key in file.keys():
                        file.get_tensor(key)
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {error}"
"""
_RUN = f"""
import logging, time
import numpy as np
from stremn_ros.runtime.stages import RUNTIMES
from stremn_ros.segmenter import Segmenter
found["runtimes"] = list(RUNTIMES)
found["why"] = []
class Keep(logging.Handler):
    def emit(self, record):
        found["why"].append(record.getMessage())
logging.getLogger("stremn_ros").addHandler(Keep())
logging.getLogger("stremn_ros").setLevel(logging.INFO)
segmenter = Segmenter.load({DEFAULT_MODEL!r})
frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
mask = np.zeros((480, 640), np.uint8)
mask[160:320, 200:400] = 1
segmenter.seed(frame, mask)
times = []
for _ in range(6):
    begin = time.perf_counter()
    segmenter.step(frame)
    times.append(time.perf_counter() - begin)
found["runtime"] = segmenter.runtime_name
found["size"] = list(segmenter.processing_size or ())
found["milliseconds"] = 1000 * sorted(times[1:])[2]
"""


def examine(environment: Mapping[str, str] | None = None) -> Report:
    """Makes every check; takes some seconds, most of them for importing PyTorch."""
    environment = os.environ if environment is None else environment
    codes = {
        "rclpy": _RCLPY,
        "interfaces": _INTERFACES,
        "messages": _MESSAGES,
        "packages": _PACKAGES,
        "opencv": _OPENCV,
        "torch": _TORCH,
        "cuda": _CUDA,
        "tensorrt": _TENSORRT,
        "pycuda": _PYCUDA,
        "onnxruntime": _ONNXRUNTIME,
        "models": _MODELS,
        "cache": _CACHE,
    }
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        probes = dict(zip(codes, pool.map(probe, codes.values())))
    probes["run"] = probe(_RUN)  # alone, as it is timed
    checks = [
        _check_python(),
        _check_platform(),
        _check_distribution(environment),
        _check_rclpy(probes["rclpy"]),
        *_check_messages(probes["messages"]),
        _check_interfaces(probes["interfaces"], bool(probes["rclpy"].error)),
        *_check_packages(probes["packages"]),
        _check_opencv(probes["opencv"]),
        _check_torch(probes["torch"]),
        _check_cuda(probes["cuda"], probes["torch"]),
        _check_onnxruntime(probes["onnxruntime"]),
        _check_tensorrt(probes["tensorrt"], bool(probes["torch"].values.get("available"))),
        _check_pycuda(probes["pycuda"]),
        *_check_models(probes["models"]),
        _check_cache(probes["cache"]),
        _check_run(probes["run"]),
        _check_shared_memory(environment, str(probes["rclpy"].values.get("rmw", ""))),
    ]
    return Report(checks)


def _check_python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}), stremn_ros {stremn_ros.__version__}"
    return Check("Python", OK, found)


def _check_platform() -> Check:
    words = [platform.platform(), f"{os.cpu_count()} CPU cores"]
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        words.append(f"{total / 2**30:.1f} GiB memory")
    except (ValueError, OSError):
        pass
    board = Path("/proc/device-tree/model")
    if board.is_file():
        words.append(board.read_text(errors="replace").strip("\0\n "))
    return Check("platform", OK, ", ".join(words))


def _check_distribution(environment: Mapping[str, str]) -> Check:
    wheels = set()
    for distribution in importlib.metadata.distributions():
        match = re.fullmatch(r"ros-([a-z]+)-rclpy", (distribution.metadata["Name"] or "").lower())
        if match:
            wheels.add(match[1])
    words = []
    if environment.get("ROS_DISTRO"):
        words.append(f"{environment['ROS_DISTRO']} is sourced")
    words += [f"wheels of {name} are installed" for name in sorted(wheels)]
    settings = [
        f"{name}={environment[name]}"
        for name in ("RMW_IMPLEMENTATION", "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")
        if environment.get(name)
    ]
    if not words:
        return Check(
            "ROS 2",
            PROBLEM,
            "no distribution is sourced and no ROS wheels are installed",
            "run `make setup` and use .venv/bin/stremn,\n"
            "or `source /opt/ros/<distribution>/setup.bash` first",
            "nodes",
        )
    if environment.get("ROS_DISTRO") and wheels and environment["ROS_DISTRO"] not in wheels:
        return Check(
            "ROS 2",
            NOTE,
            ", ".join(words + settings),
            "two distributions are mixed: use a shell where none is sourced, or a Python "
            "without the wheels",
        )
    return Check("ROS 2", OK, ", ".join(words + settings))


def _check_rclpy(result: Probe) -> Check:
    if result.error:
        return Check(
            "rclpy",
            PROBLEM,
            f"cannot be imported: {result.error}",
            "run `make setup` and use .venv/bin/stremn, or source a ROS distribution built for "
            f"this Python ({sys.version_info.major}.{sys.version_info.minor})",
            "nodes",
        )
    return Check("rclpy", OK, f"{result.values['where']}, middleware {result.values['rmw']}")


def _check_messages(result: Probe) -> list[Check]:
    missing = dict(result.values.get("missing", {}))
    optional = {name: missing.pop(name) for name in ("vision_msgs", "cv_bridge") if name in missing}
    if result.error:
        missing["messages"] = result.error
    checks = []
    if missing:
        found = "\n".join(f"{name}: {error}" for name, error in missing.items())
        names = " ".join(f"ros-<distribution>-{name.replace('_', '-')}" for name in missing)
        checks.append(Check("messages", PROBLEM, found, f"install {names}", "nodes"))
    else:
        checks.append(Check("messages", OK, "sensor, std, geometry, diagnostic, lifecycle"))
    if "vision_msgs" in optional:
        checks.append(
            Check(
                "vision_msgs",
                NOTE,
                "not installed; detections and label_info are not published",
                "wanted? install ros-<distribution>-vision-msgs",
            )
        )
    elif not result.error:
        checks.append(Check("vision_msgs", OK, "installed"))
    return checks


def _check_interfaces(result: Probe, no_rclpy: bool = False) -> Check:
    if result.error and no_rclpy and "rclpy" in result.error:
        return Check(
            "stremn_interfaces",
            PROBLEM,
            "cannot be imported without rclpy",
            "first see to rclpy, above",
            "nodes",
        )
    if result.error:
        return Check(
            "stremn_interfaces",
            PROBLEM,
            f"cannot be imported: {result.error}",
            "build them: `make setup`, or in a workspace `colcon build` followed by\n"
            "`source install/setup.bash`; rebuild after a change of the ROS distribution",
            "nodes",
        )
    return Check("stremn_interfaces", OK, str(result.values["where"]))


def _check_packages(result: Probe) -> list[Check]:
    if result.error:
        return [Check("packages", PROBLEM, result.error, "run `make setup`", "library")]
    versions, errors = result.values["versions"], result.values["errors"]
    names = {"yaml": "pyyaml", "PIL": "pillow"}
    checks = []
    needed = {name: error for name, error in errors.items() if name != "matplotlib"}
    if versions:
        text = ", ".join(f"{names.get(name, name)} {value}" for name, value in versions.items())
        checks.append(Check("packages", OK, text))
    if needed:
        checks.append(
            Check(
                "packages missing",
                PROBLEM,
                "\n".join(f"{names.get(name, name)}: {error}" for name, error in needed.items()),
                f"python -m pip install {' '.join(names.get(name, name) for name in needed)}",
                "library",
            )
        )
    if "matplotlib" in errors:
        checks.append(
            Check(
                "matplotlib",
                NOTE,
                f"cannot be imported: {errors['matplotlib']}",
                "only plots need it: python -m pip install matplotlib",
            )
        )
    return checks


def _check_opencv(result: Probe) -> Check:
    if result.error:
        return Check(
            "OpenCV",
            PROBLEM,
            f"cannot be imported: {result.error}",
            "python -m pip install opencv-python-headless (a missing libGL.so.1 means that the\n"
            "build with windows is installed: uninstall opencv-python first)",
            "library",
        )
    if not result.values["ffmpeg"]:
        return Check(
            "OpenCV",
            NOTE,
            f"{result.values['version']}, built without FFmpeg",
            "videos cannot be read or written; folders of images and camera topics work",
        )
    return Check("OpenCV", OK, f"{result.values['version']}, with FFmpeg")


def _check_torch(result: Probe) -> Check:
    if result.error:
        return Check(
            "PyTorch",
            PROBLEM,
            f"cannot be used: {result.error}",
            "run `make setup`; on a Jetson use the build that JetPack's release names",
            "library",
        )
    values = result.values
    words = [str(values["version"])]
    if values["available"]:
        capability = ".".join(str(part) for part in values["capability"])
        words.append(f"GPU {', '.join(values['devices'])} (compute capability {capability})")
        return Check("PyTorch", OK, ", ".join(words))
    words.append(f"no GPU, {values['threads']} CPU threads")
    has_gpu = shutil.which("nvidia-smi") is not None or Path("/etc/nv_tegra_release").exists()
    if has_gpu and not values["cuda_build"]:
        return Check(
            "PyTorch",
            NOTE,
            ", ".join(words),
            "this machine seems to have an NVIDIA GPU, but this is a CPU build of PyTorch",
        )
    if has_gpu:
        return Check(
            "PyTorch",
            NOTE,
            ", ".join(words),
            f"built for CUDA {values['cuda_build']}, but no GPU can be used: look at `nvidia-smi` "
            "(driver, permissions, container started with --gpus all?)",
        )
    return Check("PyTorch", OK, ", ".join(words))


def _check_onnxruntime(result: Probe) -> Check:
    if result.error:
        return Check(
            "ONNX Runtime",
            NOTE,
            f"cannot be imported: {result.error}",
            "optional: python -m pip install onnxruntime",
        )
    providers = ", ".join(result.values["providers"])
    found = f"{result.values['version']} ({providers})"
    errors = result.values["errors"]
    if errors:
        return Check(
            "ONNX Runtime",
            NOTE,
            f"{found}; a model cannot be exported for it here:\n"
            + "\n".join(f"{name}: {error}" for name, error in errors.items()),
            f"python -m pip install {' '.join(errors)}; an export made elsewhere works, too",
        )
    return Check("ONNX Runtime", OK, found)


def _check_cuda(result: Probe, torch: Probe) -> Check:
    if result.error:
        return Check(
            "CUDA",
            NOTE,
            f"no driver can be used: {result.error}",
            "no GPU is needed; with an NVIDIA GPU install its driver (a container needs "
            "--gpus all)",
        )
    values = result.values
    found = f"driver for CUDA {values['driver']}, PyTorch built for {values['build'] or 'none'}"
    if values["code"]:
        return Check(
            "CUDA",
            NOTE,
            f"{found}; the driver says error {values['code']} at its start",
            "look at `nvidia-smi`: 100 means that it sees no GPU, 803 that it and the kernel's "
            "module differ (restart)",
        )
    if not torch.values.get("available"):
        return Check("CUDA", NOTE, found, "install the build of PyTorch with CUDA; see PyTorch")
    return Check("CUDA", OK, found)


def _check_tensorrt(result: Probe, gpu: bool) -> Check:
    if result.error:
        return Check(
            "TensorRT",
            NOTE,
            result.error,
            "optional: it comes with JetPack, or from NVIDIA for a desktop GPU",
        )
    found = f"{result.values['name']} {result.values['version']}"
    if not gpu:
        can = "plans can be built for a look, not run" if result.values["rtx"] else "of no use"
        return Check("TensorRT", NOTE, f"{found}; without a GPU {can}", "only on a GPU")
    return Check(
        "TensorRT",
        OK,
        f"{found}; taken when named (runtime:=tensorrt), after\n"
        f"stremn export {DEFAULT_MODEL} --runtime tensorrt",
    )


def _check_pycuda(result: Probe) -> Check:
    if result.error:
        return Check(
            "pycuda",
            NOTE,
            f"cannot be imported: {result.error}",
            "optional, for a GPU that shares the CPU's memory (Jetson):\n"
            "CPATH=/usr/local/cuda/include CUDA_ENABLE_CURAND=False python -m pip install pycuda",
        )
    return Check("pycuda", OK, str(result.values["version"]))


def _check_cache(result: Probe) -> Check:
    if result.error:
        return Check("cache", NOTE, f"cannot be read: {result.error}", "set STREMN_CACHE")
    folder, entries = result.values["folder"], result.values["entries"]
    if not entries:
        return Check("cache", OK, f"{folder} is empty")
    lines, damaged, stale = [folder], [], []
    for name, entry in entries.items():
        state = "whole"
        if entry["error"]:
            damaged.append(name)
            state = f"damaged, and never loaded: {entry['error']}"
        elif entry["stale"]:
            stale.append(name)
            state = "of weights that are no longer here, or of a build that was interrupted"
        lines.append(f"{name}: {entry['mib']} MiB, {state}")
    advice = []
    if damaged:
        advice.append(f"stremn export MODEL writes anew: {', '.join(damaged)}")
    if stale:
        advice.append(f"may be deleted: {', '.join(stale)}")
    return Check("cache", NOTE if advice else OK, "\n".join(lines), "\n".join(advice))


def _check_models(result: Probe) -> list[Check]:
    if result.error:
        return [
            Check(
                "models",
                PROBLEM,
                f"cannot be read: {result.error}",
                "see the lines above: the library itself does not import",
                "library",
            )
        ]
    models = result.values["models"]
    checks = []
    for name, entry in models.items():
        needed = "library" if name == DEFAULT_MODEL else ""
        if entry["error"]:
            checks.append(
                Check(
                    f"model {name}",
                    PROBLEM,
                    f"{entry['where']}: {entry['error']}",
                    "fetch the file again (a clone without Git LFS has only a pointer), or train",
                    needed,
                )
            )
        elif entry["trained"]:
            found = f"{entry['where']}, {entry['mib']} MiB, weights verified"
            checks.append(Check(f"model {name}", OK, found))
        elif name != DEFAULT_MODEL:
            found = f"{entry['where']}: a configuration without weights"
            checks.append(Check(f"model {name}", NOTE, found, "it can be trained"))
    if not models.get(DEFAULT_MODEL, {}).get("trained"):
        looked = "\n".join(result.values["folders"])
        checks.append(
            Check(
                f"model {DEFAULT_MODEL}",
                PROBLEM,
                f"the default model has no weights; looked in\n{looked}",
                "set STREMN_MODELS to the folder that holds it, or train it:\n"
                "stremn train segment --config FILE",
                "library",
            )
        )
    return checks


def _check_run(result: Probe) -> Check:
    if result.error:
        return Check(
            "runtime",
            PROBLEM,
            f"{DEFAULT_MODEL} does not run: {result.error}",
            "see the lines above",
            "library",
        )
    values = result.values
    size = "x".join(str(side) for side in values["size"])
    advice = ""
    if values["runtime"] == "torch (cpu)":
        advice = (
            "ONNX Runtime is quicker on a CPU, once the model was exported for it (a minute):\n"
            f"stremn export {DEFAULT_MODEL} --runtime onnx"
        )
    return Check(
        "runtime",
        OK,
        "\n".join(
            [
                f"{values['runtime']} would be used (of: {', '.join(values['runtimes'])}); one "
                f"object at {size}: {values['milliseconds']:.0f} ms a frame",
                *values["why"],
            ]
        ),
        advice,
    )


def segment_size(profile: Path) -> int | None:
    """Largest shared-memory segment that a Fast DDS profile sets, in bytes; None for none."""
    text = re.sub(r"<!--.*?-->", "", profile.read_text(errors="replace"), flags=re.DOTALL)
    sizes = [int(value) for value in re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", text)]
    return max(sizes, default=None)


def _shipped_profile() -> Path | None:
    candidates = [Path(__file__).resolve().parents[1] / "config" / "fastdds_shm.xml"]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    candidates += [
        Path(prefix) / "share" / "stremn_ros" / "config" / "fastdds_shm.xml"
        for prefix in prefixes
        if prefix
    ]
    return next((path for path in candidates if path.is_file()), None)


def _check_shared_memory(
    environment: Mapping[str, str], rmw: str, free: Callable[[str], Any] = shutil.disk_usage
) -> Check:
    name = "shared memory"
    if rmw and "fastrtps" not in rmw:
        return Check(name, OK, f"{rmw} is used, the profile for Fast DDS does not matter")
    given = [item for item in (FAST_DDS_3, FAST_DDS_2) if environment.get(item)]
    shipped = _shipped_profile() or "<share>/config/fastdds_shm.xml"
    plain = {k: v for k, v in environment.items() if k not in (FAST_DDS_3, FAST_DDS_2)}
    exports = [f"export {k}={v}" for k, v in profile_environment(shipped, plain).items()]
    offer = (
        "the launch files set it; a camera node that you start yourself needs it too:\n"
        + "\n".join(exports)
        + "\nor publish with reliable QoS"
    )
    if len(given) == 2:
        return Check(
            name,
            PROBLEM,
            f"{FAST_DDS_3} and {FAST_DDS_2} are both set; Fast DDS 3 reads both and refuses "
            "the second as a repetition",
            f"unset one of them: {FAST_DDS_2} is for ROS up to Jazzy",
        )
    variable = given[0] if given else None
    if variable is None:
        found = (
            f"no Fast DDS profile is set: its segment of {SEGMENT_BYTES_DEFAULT >> 10} KiB loses "
            "best-effort frames of VGA and up"
        )
        return Check(name, NOTE, found, offer)
    profile = Path(environment[variable])
    if not profile.is_file():
        return Check(name, PROBLEM, f"{variable} names {profile}, which does not exist", offer)
    size = segment_size(profile)
    if size is None or size < SEGMENT_BYTES_WANTED:
        said = "sets no segment_size" if size is None else f"sets a segment of {size >> 10} KiB"
        return Check(name, NOTE, f"{profile} {said}, too small for camera frames", offer)
    try:
        room = free("/dev/shm").free
    except OSError:
        room = None
    if room is not None and room < size:
        return Check(
            name,
            NOTE,
            f"{profile}: segments of {size >> 20} MiB, but /dev/shm has {room >> 20} MiB free",
            "start the container with --shm-size=512m or --ipc=host",
        )
    return Check(name, OK, f"{profile}: segments of {size >> 20} MiB")
