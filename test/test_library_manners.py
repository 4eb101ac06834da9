"""What other parts of a process do: default types set by other libraries, and forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Exported
from prediction_helpers import tiny_prediction_model
from shapes import scene

from stremn_ros.model_folder import (
    CLICKS,
    CONFIG,
    PREDICTION,
    available_models,
    find_model,
    load_click_network,
    load_network,
    load_prediction_network,
    read_task,
)
from stremn_ros.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent
RUN = """
import sys
import numpy as np, torch
from shapes import TINY_MODEL, scene
from stremn_ros.segmenter import Segmenter

def run(runtime, change=lambda: None):
    segmenter = Segmenter.load(str(TINY_MODEL), runtime=runtime, slots=3, gate=0.2)
    change()
    segmenter.seed(*scene(0))
    masks = [segmenter.step(scene(step)[0]).labels for step in range(1, 4)]
    segmenter.restore(segmenter.snapshot())
    segmenter.correct(*scene(4))
    segmenter.learn(*scene(5))
    masks += [segmenter.step(scene(step)[0]).labels for step in range(6, 8)]
    segmenter.look_inside(masks[-1])
    fork = segmenter.fork([7])
    fork.seed(scene(3)[0], (scene(3)[1] == 1) * np.uint8(7))
    segmenter.adopt(fork)
    return np.stack(masks)
"""
SETTINGS = {
    "float64": "torch.set_default_dtype(torch.float64)",
    "bfloat16": "torch.set_default_dtype(torch.bfloat16)",
    "device": "torch.set_default_device('meta')",
    "numpy": "np.seterr(all='raise')",
}
RUNTIMES = ("torch", "onnxruntime")


def python(code: str, cache: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'test'}",
        "STREMN_CACHE": str(cache),
        "OMP_NUM_THREADS": "2",  # one would hide what happens to the others in a fork
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_defaults_of_other_libraries_change_nothing(
    tiny_export: Exported, runtime: str
) -> None:
    """Set before the network is loaded, or after it; each in a process, as they are global."""
    code = f"{RUN}\nplain = run({runtime!r})\nassert plain.any()\n"
    for name, setting in SETTINGS.items():
        code += f"""
default = torch.get_default_dtype()
masks = run({runtime!r}, lambda: {setting})
assert (masks == plain).all(), {name!r} + " set after loading"
masks = run({runtime!r})
assert (masks == plain).all(), {name!r} + " set before loading"
torch.set_default_dtype(default); torch.set_default_device(None); np.seterr(all="warn")
"""
    python(code, tiny_export.cache)


def test_a_predictor_does_not_mind_the_default_type(tmp_path: Path) -> None:
    model = str(tiny_prediction_model(tmp_path / "tiny"))
    frames = [scene(step)[0] for step in range(6)]
    plain = [Predictor.load(model, observe=3)]
    try:
        torch.set_default_dtype(torch.float64)
        plain.append(Predictor.load(model, observe=3))
        futures = [[predictor.step(frame) for frame in frames][-1] for predictor in plain]
    finally:
        torch.set_default_dtype(torch.float32)
    assert futures[0] is not None
    np.testing.assert_array_equal(*futures)


@pytest.mark.parametrize("first", RUNTIMES)
def test_a_forked_child_loads_and_runs(tiny_export: Exported, first: str) -> None:
    """As in servers that fork their workers once the parent has used a network."""
    code = f"""{RUN}
import faulthandler, multiprocessing
plain = {{name: run(name) for name in ({first!r}, *{RUNTIMES!r})}}

def child():
    faulthandler.dump_traceback_later(60, exit=True)
    for name in {RUNTIMES!r}:
        assert (run(name) == plain[name]).mean() > 0.995, name
    print("done", flush=True)

process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(90)
assert process.exitcode == 0, process.exitcode
"""
    assert "done" in python(code, tiny_export.cache)


def test_loaded_networks_wait_for_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is left without numbers, and none was drawn at random to be overwritten."""
    drawn: list[str] = []
    for name in ("orthogonal_", "kaiming_uniform_", "normal_", "uniform_"):
        real = getattr(torch.nn.init, name)

        def note(tensor, *arguments, real=real, name=name, **options):
            if not tensor.is_meta:
                drawn.append(name)
            return real(tensor, *arguments, **options)

        monkeypatch.setattr(torch.nn.init, name, note)
    for name in available_models():
        folder = find_model(name)
        load = {PREDICTION: load_prediction_network, CLICKS: load_click_network}
        network = load.get(read_task(folder / CONFIG), load_network)(folder)[0]
        tensors = [*network.parameters(), *network.buffers()]
        assert tensors
        assert not any(tensor.is_meta for tensor in tensors), name
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
    assert drawn == []
