"""TensorRT: plans are built for real with TensorRT-RTX, and none that does not fit is loaded.

Nothing here runs a plan: that needs a GPU.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shapes import TINY_MODEL, scene

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.model_folder import load_network
from stremn_ros.runtime.building import builder, process
from stremn_ros.runtime.choose import make_stages
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.runtime.tensorrt import backend
from stremn_ros.runtime.tensorrt import stages as tensorrt_stages
from stremn_ros.runtime.tensorrt.graphs import stage_specs
from stremn_ros.runtime.tensorrt.stages import (
    OBJECTS,
    PLANS,
    TensorRTStages,
    checked_plans,
    onnx_folder,
    plan_folder,
    plan_sizes,
    profiles,
)
from stremn_ros.segmenter import Segmenter

trt = pytest.importorskip("tensorrt_rtx_bindings")
SIZE = (96, 128)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny model's half-precision ONNX files and its plans, built for real."""
    cache = tmp_path_factory.mktemp("plans")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREMN_CACHE", str(cache))
        patch.setattr(process, "BEAT", 1.0)
        builder.build_tensorrt(TINY_MODEL, SIZE, said.append)
    for name in PLANS:
        assert any(f"exporting {name} in fp16" in line for line in said)
        assert any(f"{name} in fp16 differs by at most" in line for line in said)
        assert any(f"building the plan of {name}" in line for line in said)
    assert any("still running" in line for line in said), "the log was silent for seconds"
    return cache


def sidecar() -> tuple[Path, dict[str, Any]]:
    path = plan_folder(TINY_MODEL, SIZE) / "key.json"
    return path, json.loads(path.read_text())


def test_plans_are_there_with_what_they_were_built_for(cache: Path) -> None:
    paths = checked_plans(TINY_MODEL, SIZE, trt)
    assert set(paths) == set(PLANS)
    assert all(path.stat().st_size > 1000 for path in paths.values())
    _, found = sidecar()
    assert {
        "gpu",
        "compute_capability",
        "multiprocessors",
        "tensorrt",
        "cuda",
        "system",
        "size",
        "precision",
        "opset",
        "onnx",
        "weights",
        "flags",
    } <= found["key"].keys()
    assert trt.__version__ in found["key"]["tensorrt"]
    assert "STRONGLY_TYPED" in found["key"]["flags"]
    assert not [path for path in cache.iterdir() if path.name.endswith("-tmp")]


def test_a_second_build_does_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "run", lambda *_: pytest.fail("it was built already"))
    builder.build_tensorrt(TINY_MODEL, SIZE)


@pytest.mark.parametrize(
    ("entry", "other"),
    [
        ("gpu", "Orin (nvgpu)"),
        ("compute_capability", "8.7"),
        ("multiprocessors", 16),
        ("tensorrt", "tensorrt 10.3.0"),
        ("cuda", "12.6"),
        ("system", "Linux aarch64"),
        ("weights", "0" * 64),
    ],
)
def test_a_plan_built_for_something_else_is_refused_with_both_keys(
    cache: Path, entry: str, other: object
) -> None:
    path, found = sidecar()
    before = found["key"][entry]
    found["key"][entry] = other
    path.write_text(json.dumps(found))
    with pytest.raises(ModelError) as error:
        checked_plans(TINY_MODEL, SIZE, trt)
    for text in (repr(other), repr(before), "its key is", "the wanted one", "--size 96x128"):
        assert text in str(error.value)
    assert "stremn export" in str(error.value)


def test_a_plan_of_other_weights_is_refused(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / TINY_MODEL.name
    shutil.copytree(TINY_MODEL, other)
    weights = other / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(ModelError, match=r"weights: .* but wanted is .*--runtime tensorrt"):
        checked_plans(other, SIZE, trt)


def test_a_half_written_plan_is_refused(cache: Path) -> None:
    path = plan_folder(TINY_MODEL, SIZE) / "decoder.plan"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="missing, cut short or altered"):
            checked_plans(TINY_MODEL, SIZE, trt)


def test_half_written_files_are_built_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is replaced by one that restores; the plans are built for real again."""
    asked = []
    real = process.run
    folder = onnx_folder(TINY_MODEL, SIZE)
    onnx = folder / "heads.onnx"
    whole = onnx.read_bytes()

    def run(words: list[str], *rest: Any) -> None:
        asked.append(words[0])
        if words[0] == "onnx-fp16":
            onnx.write_bytes(whole)
        else:
            real(words, *rest)

    monkeypatch.setattr(builder, "run", run)
    plan = plan_folder(TINY_MODEL, SIZE) / "decoder.plan"
    plan.write_bytes(plan.read_bytes()[:100])
    onnx.write_bytes(whole[:100])
    builder.build_tensorrt(TINY_MODEL, SIZE)
    assert asked == ["onnx-fp16", "plans"]
    assert set(checked_plans(TINY_MODEL, SIZE, trt)) == set(PLANS)


def test_a_file_that_is_no_onnx_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(RuntimeUnavailableError, match=r"cannot parse x\.onnx"):
        backend.build_plan(trt, tmp_path / "x.onnx", {})


def test_a_process_that_fails_or_crashes_says_why() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"the plan failed: .*nowhere"):
        process.run(["onnx", "nowhere/model"], "plan", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match="the plan failed"):
        process.run(["plans"], "plan", lambda _: None, "no json")


def test_only_the_number_of_objects_varies() -> None:
    network, _ = load_network(TINY_MODEL)
    found = profiles(stage_specs(network, SIZE)["memory_encoder"])
    assert found["image"] == ((1, 3, *SIZE),) * 3
    assert found["masks"] == ((1, 2, *SIZE), (1, 2, *SIZE), (OBJECTS, 2, *SIZE))


def test_what_wants_a_gpu_says_so() -> None:
    network, _ = load_network(TINY_MODEL)
    for runtime in ("tensorrt", "cudagraphs"):
        with pytest.raises(RuntimeUnavailableError, match="GPU"):
            make_stages(network, runtime, "cpu", TINY_MODEL)


def test_the_full_tensorrt_is_not_asked_to_build_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its Builder raises TypeError there, and the lean one's Runtime may crash."""
    full = SimpleNamespace(__name__="tensorrt", __version__="10.13.0")
    monkeypatch.setattr(tensorrt_stages, "find_tensorrt", lambda: full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeUnavailableError, match="build on the robot"):
        tensorrt_stages.plan_jobs(TINY_MODEL, SIZE)


class OnCpu(TensorRTStages):
    """The class without its GPU: plans are functions of the PyTorch network."""

    def __init__(self, network: Any, plans: bool, strict: bool = True) -> None:
        CudaStages.__init__(self, network, torch.device("cpu"), torch.float32)
        self._plans, self._current, self._strict = {}, None, strict
        self._model, self._build = TINY_MODEL, None
        self._fake = plans
        self.ran: set[str] = set()

    def load_plans(self, size: tuple[int, int]) -> Any:
        if not self._fake:
            raise ModelError("no plans here")
        specs = stage_specs(self.network, size)

        def plan(name: str) -> Any:
            def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
                self.ran.add(name)
                assert inputs.keys() == specs[name].inputs.keys()
                return dict(zip(specs[name].outputs, specs[name].module(**inputs)))

            return run

        return {name: plan(name) for name in PLANS}


def follow(stages: Any) -> Segmenter:
    segmenter = Segmenter(stages, processing_size=SIZE)
    segmenter.seed(*scene(0))
    for number in range(1, 8):
        segmenter.step(scene(number)[0])
    return segmenter


def test_plans_take_the_places_of_pytorch_s_stages() -> None:
    network, _ = load_network(TINY_MODEL)
    stages = OnCpu(network, plans=True)
    found = follow(stages)
    assert stages.ran == set(PLANS)
    expected = follow(make_stages(load_network(TINY_MODEL)[0], "torch", "cpu"))
    assert (found.memory.templates - expected.memory.templates).abs().max() < 1e-3


def test_a_size_without_plans_is_an_error_or_runs_on_pytorch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, _ = load_network(TINY_MODEL)
    with pytest.raises(ModelError, match="no plans here"):
        follow(OnCpu(network, plans=False))
    stages = OnCpu(load_network(TINY_MODEL)[0], plans=False, strict=False)
    assert follow(stages).ids == [1, 2]
    assert "PyTorch runs instead of TensorRT: no plans here" in caplog.text


def test_configure_builds_or_says_that_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path))
    stages = OnCpu(load_network(TINY_MODEL)[0], plans=True)
    with pytest.raises(ModelError, match=r"no TensorRT plans .* --runtime tensorrt --size 96x128"):
        stages.prepare(SIZE)
    for name in ("64x64", "of-old"):
        folder = tmp_path / f"{TINY_MODEL.name}-tensorrt-{name}"
        folder.mkdir()
        (folder / "key.json").write_text("{}")
    assert plan_sizes(TINY_MODEL) == [(64, 64)]
    stages.prepare(SIZE)
    assert not stages._plans, "nothing is loaded for a guess"
    stages._build = lambda *_: None
    stages.prepare(SIZE)
    assert set(stages._plans) == {SIZE}
