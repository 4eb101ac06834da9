"""Python, the machine, packages, runtimes, models and cache: what the library needs or can use."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import stremn_ros
from stremn_ros.doctor.probes import DEFAULT_MODEL, Probe
from stremn_ros.doctor.report import NOTE, OK, PROBLEM, Check
from stremn_ros.privacy import SWITCHES


def check_python() -> Check:
    found = f"{platform.python_version()} ({sys.executable}), stremn_ros {stremn_ros.__version__}"
    return Check("Python", OK, found)


def check_platform() -> Check:
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


def check_packages(result: Probe) -> list[Check]:
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


def check_opencv(result: Probe) -> Check:
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


def check_torch(result: Probe) -> Check:
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


def check_onnxruntime(result: Probe) -> Check:
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


def check_privacy(result: Probe, environment: Mapping[str, str]) -> Check:
    """Whether anything would leave this machine."""
    name = "privacy"
    lines, advice = [], []
    if result.error:
        lines.append("no library that reports to its maker is installed")
    else:
        switches = result.values["switches"]
        if wrong := [name for name, value in SWITCHES.items() if switches.get(name) != value]:
            names = ", ".join(f"{name}={SWITCHES[name]}" for name in wrong)
            found = f"ONNX Runtime {result.values['version']} may report to its maker"
            return Check(name, PROBLEM, found, f"set {names}")
        set_to = " ".join(f"{name}={value}" for name, value in switches.items())
        lines.append(
            f"telemetry of ONNX Runtime {result.values['version']} is off ({set_to}, set before "
            "its import); no other library here has any"
        )
        if left := result.values["left"]:
            lines.append(f"an import without this package left a device id in {left}")
            advice.append(f"it is of no use: rm -r {left}")
    alone = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() in ("LOCALHOST", "OFF")
    if alone or environment.get("ROS_LOCALHOST_ONLY") == "1":
        lines.append("DDS stays on this machine")
    else:
        lines.append(
            "DDS speaks to the subnet (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST keeps it here)"
        )
    return Check(name, NOTE if advice else OK, "\n".join(lines), "\n".join(advice))


def check_cuda(result: Probe, torch: Probe) -> Check:
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


def check_tensorrt(result: Probe, gpu: bool) -> Check:
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
        f"{found}; where plans were built, runtime auto tries it against PyTorch:\n"
        f"stremn export {DEFAULT_MODEL} --runtime tensorrt",
    )


def check_pycuda(result: Probe) -> Check:
    if result.error:
        return Check(
            "pycuda",
            NOTE,
            f"cannot be imported: {result.error}",
            "optional, for a GPU that shares the CPU's memory (Jetson):\n"
            "CPATH=/usr/local/cuda/include CUDA_ENABLE_CURAND=False python -m pip install pycuda",
        )
    return Check("pycuda", OK, str(result.values["version"]))


def check_cache(result: Probe) -> Check:
    if result.error:
        return Check("cache", NOTE, f"cannot be read: {result.error}", "set STREMN_CACHE")
    folder, entries = result.values["folder"], result.values["entries"]
    unwritable = result.values["unwritable"]
    lines, damaged, stale, elsewhere = [folder], [], [], []
    if unwritable:
        lines.append(f"nothing can be written there ({unwritable})")
    elif not entries:
        lines = [f"{folder} is empty"]
    for name, entry in entries.items():
        state = "whole"
        if entry["error"]:
            damaged.append(name)
            state = f"damaged, and never loaded: {entry['error']}"
        elif entry["scratch"]:
            state = "of a `stremn label` that is not finished: it goes on there with --resume"
        elif entry["built_now"]:
            state = "being made now"
        elif entry["stale"]:
            stale.append(name)
            state = "of a build that was interrupted"
        elif entry["elsewhere"]:
            elsewhere.append(name)
            state = f"whole, not of a model in {' or '.join(result.values['roots'])}"
        lines.append(f"{name}: {entry['mib']} MiB, {state}")
    advice = []
    if unwritable:
        advice.append("set STREMN_CACHE to a folder in which files can be made: exports go there")
    if damaged:
        advice.append(f"stremn export MODEL writes again: {', '.join(damaged)}")
    if stale:
        advice.append(f"may be deleted: {', '.join(stale)}")
    if elsewhere:
        advice.append(
            f"of a model that you use by its path, or of weights that are gone: "
            f"{', '.join(elsewhere)}; delete them only if you use no such model"
        )
    return Check("cache", NOTE if advice else OK, "\n".join(lines), "\n".join(advice))


def check_models(result: Probe) -> list[Check]:
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


def check_run(result: Probe) -> Check:
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
