"""Memory that was freed stays with the process: no page fault for each map of each frame."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import TINY_MODEL

from stremn_ros.runtime.device import TUNABLES, VARIABLES

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has these settings"
)
ROOT = Path(__file__).resolve().parent.parent

# Blocks of 8 MiB, allocated, written and freed: 2,048 pages each
FAULTS = """
import resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(8 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
LOAD = {
    "segmenter": f"""
from stremn_ros.segmenter import Segmenter
Segmenter.load({str(TINY_MODEL)!r}, device="cpu", runtime="torch")
""",
    "predictor": """
from stremn_ros.predictor import Predictor
Predictor.load("predict_rgb", device="cpu")
""",
    "training": """
from types import SimpleNamespace
from stremn_ros.training.loop import choose_device
assert choose_device(SimpleNamespace(threads=1, device="cpu")) == "cpu"
""",
}
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}  # says nothing of what is kept
OWN = {"MALLOC_TRIM_THRESHOLD_": "131072", "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}


def faults(code: str, **environment: str) -> int:
    clean = {k: v for k, v in os.environ.items() if k not in (*VARIABLES, "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", code + FAULTS],
        env={**clean, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", LOAD)
def test_memory_is_kept_once_a_network_runs_on_the_cpu(what: str) -> None:
    assert faults(LOAD[what], **HUGE) < 100


@pytest.mark.parametrize("name", OWN)
def test_who_has_set_the_allocator_keeps_his_setting(name: str) -> None:
    assert any(word in OWN["GLIBC_TUNABLES"] for word in TUNABLES)
    assert faults(LOAD["segmenter"], **{name: OWN[name]}) > 20_000
