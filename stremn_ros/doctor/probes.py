"""What may fail to import, or crash while doing so, is tried in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

DEFAULT_MODEL = "segment_lite0"


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


RCLPY = """
import os, rclpy
from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier
found["rmw"] = get_rmw_implementation_identifier()
found["where"] = os.path.dirname(rclpy.__file__)
"""
INTERFACES = """
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
MESSAGES = """
import importlib
found["missing"] = {}
for name in ("sensor_msgs.msg", "std_msgs.msg", "std_srvs.srv", "geometry_msgs.msg",
             "diagnostic_msgs.msg", "lifecycle_msgs.msg", "vision_msgs.msg", "cv_bridge"):
    try:
        importlib.import_module(name)
    except Exception as error:
        found["missing"][name.partition(".")[0]] = f"{type(error).__name__}: {error}"
"""
PACKAGES = """
import importlib
found["versions"], found["errors"] = {}, {}
for name in ("numpy", "yaml", "safetensors", "tqdm", "PIL", "matplotlib"):
    try:
        module = importlib.import_module(name)
        found["versions"][name] = str(getattr(module, "__version__", "?"))
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__}: {error}"
"""
OPENCV = """
import re, cv2
found["version"] = cv2.__version__
found["ffmpeg"] = bool(re.search(r"FFMPEG: *YES", cv2.getBuildInformation()))
"""
TORCH = """
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
TENSORRT = """
from stremn_ros.runtime.tensorrt_backend import find_tensorrt, is_rtx
module = find_tensorrt()
found["name"], found["version"], found["rtx"] = module.__name__, module.__version__, is_rtx(module)
"""
CUDA = """
import ctypes, glob, torch
found["build"] = torch.version.cuda
found["board"] = bool(glob.glob("/etc/nv_tegra_release"))
driver = ctypes.CDLL("libcuda.so.1")
version = ctypes.c_int()
found["code"] = driver.cuInit(0)
driver.cuDriverGetVersion(ctypes.byref(version))
found["driver"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
"""
PYCUDA = """
import pycuda, pycuda.driver
found["version"] = pycuda.VERSION_TEXT
"""
ONNXRUNTIME = """
import importlib, os, pathlib
from stremn_ros.privacy import SWITCHES
from stremn_ros.runtime.onnx_library import import_onnxruntime
onnxruntime = import_onnxruntime()
found["switches"] = {name: os.environ.get(name, "") for name in SWITCHES}
base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
left = base / "Microsoft" / "DeveloperTools" / ".onnxruntime"
found["left"] = str(left) if left.is_dir() else ""
found["version"] = onnxruntime.__version__
found["providers"] = onnxruntime.get_available_providers()
found["errors"] = {}
for name in ("onnx", "onnxscript"):
    try:
        importlib.import_module(name)
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__}: {error}"
"""
CACHE = """
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
MODELS = """
from stremn_ros.runtime.models import CONFIG, WEIGHTS, load_network, model_folders
from stremn_ros.runtime.prediction_models import TASK, load_prediction_network
from stremn_ros.text_files import read_yaml
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
            is_prediction = read_yaml(path).get("task") == TASK
            (load_prediction_network if is_prediction else load_network)(path.parent)
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {error}"
"""
RUN = f"""
import logging, time
import numpy as np
from stremn_ros.runtime.table import RUNTIMES
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
