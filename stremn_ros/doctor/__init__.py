"""`stremn doctor`: what is installed, what would be used, what is wrong and what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from stremn_ros.doctor import library_checks, ros_checks
from stremn_ros.doctor.probes import Probe, probe
from stremn_ros.doctor.report import NOTE, OK, PROBLEM, Check, Report

__all__ = ["NOTE", "OK", "PROBLEM", "Check", "Probe", "Report", "examine", "probe"]

# the modules of probes/ that run beside each other
PROBES = (
    "rclpy",
    "interfaces",
    "messages",
    "packages",
    "opencv",
    "torch",
    "cuda",
    "tensorrt",
    "pycuda",
    "onnxruntime",
    "models",
    "cache",
)


def examine(environment: Mapping[str, str] | None = None) -> Report:
    """Makes every check; takes some seconds, most of them for importing PyTorch."""
    environment = os.environ if environment is None else environment
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        said = dict(zip(PROBES, pool.map(probe, (f".{name}" for name in PROBES))))
    said["run"] = probe(".run")  # alone, as it is timed
    checks = [
        library_checks.check_python(),
        library_checks.check_platform(),
        ros_checks.check_distribution(environment),
        ros_checks.check_rclpy(said["rclpy"]),
        *ros_checks.check_messages(said["messages"]),
        ros_checks.check_interfaces(said["interfaces"], bool(said["rclpy"].error)),
        *library_checks.check_packages(said["packages"]),
        library_checks.check_opencv(said["opencv"]),
        library_checks.check_torch(said["torch"]),
        library_checks.check_cuda(said["cuda"], said["torch"]),
        library_checks.check_onnxruntime(said["onnxruntime"]),
        library_checks.check_privacy(said["onnxruntime"], environment),
        library_checks.check_tensorrt(
            said["tensorrt"], bool(said["torch"].values.get("available"))
        ),
        library_checks.check_pycuda(said["pycuda"]),
        *library_checks.check_models(said["models"]),
        library_checks.check_cache(said["cache"]),
        library_checks.check_run(said["run"]),
        ros_checks.check_shared_memory(environment, str(said["rclpy"].values.get("rmw", ""))),
    ]
    return Report(checks)
