"""`stremn doctor`: each finding with what to do, and an exit code that can be relied on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_helpers import ROOT, environment

from stremn_ros.doctor import (
    NOTE,
    OK,
    PROBES,
    PROBLEM,
    Check,
    Probe,
    Report,
    library_checks,
    probe,
    probes,
    ros_checks,
)
from stremn_ros.doctor.probes import cache
from stremn_ros.files import sha256
from stremn_ros.runtime.building.cache import one_builder, write_key

TINY = Path(__file__).resolve().parent / "data" / "tiny_model"


def run_doctor(*arguments, python=(sys.executable,), **changes):
    return subprocess.run(
        [*python, "-m", "stremn_ros.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**changes),
        check=False,
    )


def models_folder(tmp_path):
    """A folder for STREMN_MODELS in which the tiny model has the default's name."""
    shutil.copytree(TINY, tmp_path / "models" / "segment_lite0")
    return tmp_path / "models"


def test_a_whole_installation_is_ready(tmp_path):
    done = run_doctor("--json", tmp_path / "d.json", STREMN_MODELS=str(models_folder(tmp_path)))
    found = json.loads((tmp_path / "d.json").read_text())
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["model segment_lite0"]["status"] == OK
    assert "weights verified" in by_name["model segment_lite0"]["found"]
    assert "ms a frame" in by_name["runtime"]["found"]
    assert by_name["OpenCV"]["status"] == OK
    assert found["library_ready"] is True
    # Whether ROS is there depends on the machine; the report must agree with an import
    for name, code in (
        ("rclpy", "import rclpy"),
        ("stremn_interfaces", "from stremn_interfaces.msg import ObjectArray"),
    ):
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (by_name[name]["status"] == OK) == (there.returncode == 0), by_name[name]
    assert done.returncode == (0 if found["ready"] else 1)
    for check in found["checks"]:
        assert check["name"] in done.stdout
        assert check["status"] == OK or check["advice"] or check["status"] == NOTE


def test_damaged_weights_and_missing_ros_are_named_and_cost_the_exit_code(tmp_path):
    models = models_folder(tmp_path)
    weights = models / "segment_lite0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    # A module that fails to import stands in for a broken ROS
    broken = tmp_path / "broken"
    for name in ("rclpy", "stremn_interfaces"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text(f"raise ImportError('librcl of {name} is gone')")
    done = run_doctor(
        "--json", tmp_path / "d.json", STREMN_MODELS=str(models), PYTHONPATH=f"{broken}:{ROOT}"
    )
    assert done.returncode == 1
    assert "librcl of rclpy is gone" in done.stdout
    assert "librcl of stremn_interfaces is gone" in done.stdout
    assert "damaged" in done.stdout
    found = json.loads((tmp_path / "d.json").read_text())
    assert (found["ready"], found["library_ready"]) == (False, False)
    stopped = done.stdout.splitlines()[-1]
    for name in ("rclpy", "stremn_interfaces", "model segment_lite0", "runtime"):
        assert name in stopped


def test_probe_gives_the_import_error_and_survives_a_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def said(code, **options):
        (tmp_path / "made_up.py").write_text(f"found = {{}}\n{code}\ndef values(): return found\n")
        return probe("made_up", **options)

    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the file changes within a second
    assert said("found['a'] = 1").values == {"a": 1}
    assert said("print('noise')\nfound['a'] = 2").values == {"a": 2}
    assert "No module named 'not_there'" in said("import not_there").error
    assert "signal 11" in said("import os; os.kill(os.getpid(), 11)").error
    assert "within 1 s" in said("import time; time.sleep(20)", timeout=1).error


def test_every_probe_is_run():
    modules = {path.stem for path in Path(probes.__file__).parent.glob("*.py")}
    assert modules - {"__init__", "__main__"} == {*PROBES, "run"}


def test_interfaces_that_were_not_built_are_told_from_built_ones(tmp_path, monkeypatch):
    (tmp_path / "stremn_interfaces" / "msg").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    # -S leaves installed packages out: what is left is the folder of sources
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(probes.sys, "executable", str(bare))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    check = ros_checks.check_interfaces(probe(".interfaces"))
    assert check.status == PROBLEM
    assert "not built" in check.found
    assert "colcon build" in check.advice
    assert "rclpy" in ros_checks.check_interfaces(Probe({}, "No module named 'rclpy'"), True).advice


def test_report_counts_only_what_is_needed():
    checks = [Check("a", PROBLEM, "x"), Check("b", NOTE, "x"), Check("c", OK, "x")]
    assert Report(checks).ready
    report = Report([*checks, Check("d", PROBLEM, "x", "do y", "nodes")])
    assert not report.ready
    assert report.stops("library") == []
    assert "-> do y" in report.text()
    assert not Report([Check("e", PROBLEM, "x", "", "library")]).ready


PROFILE = "<profiles><!-- <segment_size>1</segment_size> --><x>{}</x></profiles>"


@pytest.mark.parametrize(
    ("inside", "free", "status", "words"),
    [
        ("<segment_size>33554432</segment_size>", 1 << 30, OK, "32 MiB"),
        ("<segment_size> 600000 </segment_size>", 1 << 30, NOTE, "too small"),
        ("", 1 << 30, NOTE, "no segment_size"),
        ("<segment_size>33554432</segment_size>", 1 << 24, NOTE, "/dev/shm has 16 MiB"),
    ],
)
def test_shared_memory_profile(tmp_path, inside, free, status, words):
    path = tmp_path / "p.xml"
    path.write_text(PROFILE.format(inside))
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        check = ros_checks.check_shared_memory(
            {variable: str(path)}, "rmw_fastrtps_cpp", lambda _: SimpleNamespace(free=free)
        )
        assert check.status == status
        assert words in check.found


def test_shared_memory_without_profile_or_with_another_middleware(tmp_path):
    unset = ros_checks.check_shared_memory({}, "rmw_fastrtps_cpp")
    assert unset.status == NOTE
    assert "512 KiB" in unset.found
    assert "export FASTDDS_DEFAULT_PROFILES_FILE=" in unset.advice
    gone = {"FASTDDS_DEFAULT_PROFILES_FILE": str(tmp_path / "gone.xml")}
    assert ros_checks.check_shared_memory(gone, "rmw_fastrtps_cpp").status == PROBLEM
    jazzy = ros_checks.check_shared_memory({"ROS_DISTRO": "jazzy"}, "rmw_fastrtps_cpp")
    assert "export FASTRTPS_DEFAULT_PROFILES_FILE=" in jazzy.advice
    both = {**gone, "FASTRTPS_DEFAULT_PROFILES_FILE": str(tmp_path / "gone.xml")}
    assert "both set" in ros_checks.check_shared_memory(both, "rmw_fastrtps_cpp").found
    assert ros_checks.check_shared_memory({}, "rmw_cyclonedds_cpp").status == OK


def test_a_gpu_that_pytorch_cannot_use_is_said(monkeypatch):
    values = {"version": "2.0", "available": False, "threads": 4, "cuda_build": None}
    monkeypatch.setattr(library_checks.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert "CPU build" in library_checks.check_torch(Probe(values)).advice
    assert "driver" in library_checks.check_torch(Probe({**values, "cuda_build": "12.8"})).advice
    monkeypatch.setattr(library_checks.shutil, "which", lambda _: None)
    assert library_checks.check_torch(Probe(values)).status == OK
    assert library_checks.check_torch(Probe({}, "ImportError: x")).needed_for == "library"


def test_ros_distribution(monkeypatch):
    def wheels(*names):
        found = [SimpleNamespace(metadata={"Name": name}) for name in names]
        monkeypatch.setattr(ros_checks.importlib.metadata, "distributions", lambda: found)

    wheels("numpy")
    assert ros_checks.check_distribution({}).status == PROBLEM
    assert ros_checks.check_distribution({"ROS_DISTRO": "jazzy"}).found == "jazzy is sourced"
    wheels("ros-kilted-rclpy", "ros-rcl-interfaces")
    assert ros_checks.check_distribution({}).found == "wheels of kilted are installed"
    assert "mixed" in ros_checks.check_distribution({"ROS_DISTRO": "jazzy"}).advice


def test_cache_entries_are_told_apart(tmp_path, monkeypatch):
    """Whole, damaged, of a model elsewhere, left by a build, and what `stremn label` fetched."""
    models, cache = models_folder(tmp_path), tmp_path / "cache"
    digest = sha256(models / "segment_lite0" / "weights.safetensors")
    for name, weights, content in (
        ("good", digest, b"plan"),
        ("short", digest, b"pl"),
        ("old", "0" * 64, b"plan"),
        (".half-x1", digest, b"p"),
    ):
        (cache / name).mkdir(parents=True)
        (cache / name / "x.onnx").write_bytes(b"plan")
        write_key(cache / name, {"weights": weights}, ["x.onnx"])
        (cache / name / "x.onnx").write_bytes(content)
    fetched = cache / "label-0123456789ab" / "fetched" / "s3" / "drive.mcap"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(bytes(1 << 20))
    monkeypatch.setenv("STREMN_CACHE", str(cache))
    monkeypatch.setenv("STREMN_MODELS", str(models))
    check = library_checks.check_cache(probe(".cache"))
    assert check.status == NOTE
    assert "label-0123456789ab: 1.0 MiB, of a `stremn label` that is not finished" in check.found
    assert "label-" not in check.advice
    lines = dict(line.split(": ", 1) for line in check.found.splitlines()[1:])
    assert lines["good"].endswith("whole")
    assert "damaged, and never loaded" in lines["short"]
    assert f"whole, not of a model in {models}" in lines["old"]
    assert "interrupted" in lines[".half-x1"]
    with one_builder(cache / "half"):
        check = library_checks.check_cache(probe(".cache"))
    assert ".half-x1" not in check.advice
    assert "being made now" in check.found
    check = library_checks.check_cache(probe(".cache"))
    assert "writes again: short" in check.advice
    assert "deleted: .half-x1\n" in check.advice
    assert "a model that you use by its path, or of weights that are gone: old; " in check.advice
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "nowhere"))
    assert library_checks.check_cache(probe(".cache")).status == OK


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "file/in", "loop", "/proc/nowhere"):
        monkeypatch.setenv("STREMN_CACHE", str(tmp_path / name))
        check = library_checks.check_cache(Probe(cache.values()))
        assert check.status == NOTE, name
        assert "nothing can be written there (" in check.found
        assert "set STREMN_CACHE to a folder in which files can be made" in check.advice
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "new" / "one"))
    assert library_checks.check_cache(Probe(cache.values())).status == OK
    assert not (tmp_path / "new").exists(), "the doctor leaves nothing behind"


def test_gpu_parts_say_what_is_missing():
    def cuda(available=False, **values):
        return library_checks.check_cuda(Probe(values), Probe({"available": available}))

    gone = library_checks.check_cuda(Probe({}, "OSError: libcuda.so.1"), Probe({}))
    assert gone.status == NOTE
    assert "libcuda.so.1" in gone.found
    assert "error 100" in cuda(driver="12.8", build="12.8", code=100).found
    assert "PyTorch with CUDA" in cuda(driver="12.8", build=None, code=0).advice
    assert cuda(True, driver="12.8", build="12.8", code=0).status == OK
    rtx = Probe({"name": "tensorrt_rtx_bindings", "version": "1.7", "rtx": True})
    assert "not run" in library_checks.check_tensorrt(rtx, False).found
    assert "stremn export" in library_checks.check_tensorrt(rtx, True).found
    assert "no module x" in library_checks.check_tensorrt(Probe({}, "no module x"), False).found
    assert "CPATH" in library_checks.check_pycuda(Probe({}, "ImportError: x")).advice


def test_onnxruntime_without_an_exporter_is_a_note():
    values = {"version": "1.2", "providers": ["CPU"], "errors": {"onnxscript": "ImportError: x"}}
    check = library_checks.check_onnxruntime(Probe(values))
    assert check.status == NOTE
    assert "pip install onnxscript" in check.advice
    assert "ImportError: x" in check.found
    assert library_checks.check_onnxruntime(Probe({**values, "errors": {}})).status == OK


def test_the_runtime_comes_with_the_reason():
    values = {
        "size": [240, 432],
        "runtime": "torch (cpu)",
        "runtimes": ["torch"],
        "milliseconds": 80.0,
        "why": ["runtime auto takes PyTorch: no export"],
    }
    check = library_checks.check_run(Probe(values))
    assert "takes PyTorch: no export" in check.found
    assert "stremn export" in check.advice
