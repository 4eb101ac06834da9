"""Runtimes agree with each other, and an export that is not what it should be is never loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Exported
from shapes import TINY_MODEL, scene
from training_helpers import TINY_NETWORK

from stremn_ros.demo.assets import demo_video
from stremn_ros.errors import InputError, ModelError, RuntimeUnavailableError
from stremn_ros.files import sha256
from stremn_ros.imaging.video import open_frames
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.model_folder import load_network
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.runtime.onnx import export
from stremn_ros.runtime.onnx.export import checked_files, entry_folder, export_onnx
from stremn_ros.runtime.onnx.graphs import cpu_specs
from stremn_ros.runtime.onnx.sessions import Sessions
from stremn_ros.runtime.tensorrt.graphs import stage_specs
from stremn_ros.segmenter import Segmenter

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)
CONFIG = Path(__file__).resolve().parents[1] / "config"


@pytest.fixture(scope="module")
def exported(tiny_export: Exported) -> Path:
    """A cache that holds the tiny model's export."""
    assert set(tiny_export.differences) == set(export.STAGES)
    assert max(tiny_export.differences.values()) < 1e-4
    assert sum("tiny_model: " in line for line in tiny_export.progress) == 2 * len(export.STAGES)
    return tiny_export.cache


def load(runtime: str, **options: object) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", runtime=runtime, **options)


@pytest.mark.parametrize("size", [96, (64, 160)])
def test_masks_of_the_runtimes_agree(cache: Path, size: object) -> None:
    """At other sizes and numbers of objects than the export was compared at, fusions included."""
    segmenters = [load(name, processing_size=size) for name in ("torch", "onnxruntime")]
    assert [s.runtime_name.split()[0] for s in segmenters] == ["torch", "onnxruntime"]
    agree = []
    for step in range(12):
        frame, truth = scene(step)
        if step in (0, 4):
            truth = truth * (truth == (1 if step == 0 else 2))
            for segmenter in segmenters:
                segmenter.seed(frame, truth)
        else:
            one, two = (segmenter.step(frame).labels for segmenter in segmenters)
            agree.append((one == two).mean())
    assert min(agree) > 0.995
    templates = [segmenter.memory.templates for segmenter in segmenters]
    # of two cells that are as near, rounding decides which one is the last that is read
    assert (templates[0] - templates[1]).abs().max() < 0.1


def test_auto_takes_onnx_runtime_where_it_can_and_says_why(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "stremn_ros")
    assert load("auto").runtime_name.startswith("onnxruntime")
    assert "fastest on a CPU" in caplog.text
    monkeypatch.setenv("STREMN_CACHE", str(cache / "elsewhere"))
    assert load("auto").runtime_name == "torch (cpu)"
    assert "stremn export" in caplog.text
    with pytest.raises(ModelError, match="stremn export"):
        load("onnxruntime")


def test_without_onnxruntime_pytorch_remains(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    segmenter = load("auto")
    assert segmenter.runtime_name == "torch (cpu)"
    assert segmenter.seed(*scene(0)) == [1, 2]
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        load("onnxruntime")
    with pytest.raises(RuntimeUnavailableError, match="pip install onnx"):
        export_onnx(TINY_MODEL)


def test_masks_agree_on_a_real_video(cache: Path) -> None:
    """The tiny model on the demo's clip; `python benchmark/compare_runtimes.py` does it with the
    real one over 100 frames."""
    frames = list(open_frames(demo_video(), 0, 25, (96, 160)))
    mask = (read_label_png(CONFIG / "demo_seed.png") > 0).astype(np.uint8)
    mask = cv2.resize(mask, (160, 96), interpolation=cv2.INTER_NEAREST)
    segmenters = [load(name, processing_size=(96, 160)) for name in ("torch", "onnxruntime")]
    for segmenter in segmenters:
        segmenter.seed(frames[0], mask)
    same = [
        (segmenters[0].step(frame).labels == segmenters[1].step(frame).labels).mean()
        for frame in frames[1:]
    ]
    assert np.mean(same) > 0.995


def test_one_graph_gives_what_its_parts_give_and_objects_do_not_meet(cache: Path) -> None:
    """A frame with one object takes another graph than one with two, to the same result."""
    stages = load("onnxruntime").wrap_stages(lambda stages: stages)
    config = stages.config
    generator = torch.Generator().manual_seed(1)
    # as the stager gives it: planes only in the shape
    image = (torch.rand(96, 160, 3, generator=generator) * 255.0).permute(2, 0, 1)[None]
    keys = torch.rand(2, 120, config.key_channels, generator=generator)
    values = torch.rand(2, 120, config.value_channels, generator=generator)
    mask = torch.zeros(2, 1, 120)
    mask[1, :, 60:] = -torch.inf
    seen, together = stages.segment(image, keys, values, mask, None, None)
    for n, bias in enumerate((None, mask[1:])):
        found, alone = stages.segment(image, keys[n : n + 1], values[n : n + 1], bias, None, None)
        for one, both in (
            (found.key, seen.key),
            (found.stride16, seen.stride16),
            (alone.logits, together.logits[n : n + 1]),
        ):
            np.testing.assert_allclose(one.numpy(), both.numpy(), atol=1e-4)


def test_objects_with_equal_keys_share_what_they_read_from(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The affinity runs once for each memory of other keys, or of other slots in use."""
    ran: list[str] = []
    run = Sessions.run

    def counted(self: Sessions, stage: str, **inputs: torch.Tensor) -> list[torch.Tensor]:
        ran.append(stage)
        return run(self, stage, **inputs)

    monkeypatch.setattr(Sessions, "run", counted)
    stages = load("onnxruntime").wrap_stages(lambda stages: stages)
    config = stages.config
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(1, 3, 96, 160, generator=generator) * 255.0
    keys = torch.rand(4, 120, config.key_channels, generator=generator)
    keys[2] = keys[3] = keys[0]
    values = torch.rand(4, 120, config.value_channels, generator=generator)
    bias = torch.zeros(4, 1, 120)
    bias[3, :, 60:] = -torch.inf
    _, together = stages.segment(image, keys, values, bias, None, None)
    assert " ".join(ran) == "query_encoder affinity object affinity object object affinity object"
    for n in range(4):
        rows = slice(n, n + 1)
        _, alone = stages.segment(image, keys[rows], values[rows], bias[rows], None, None)
        np.testing.assert_allclose(alone.logits.numpy(), together.logits[rows].numpy(), atol=1e-4)


def test_pytorch_gets_its_threads_back(cache: Path) -> None:
    """Also where segmenters of two threads are in their scopes at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stages = load("onnxruntime").wrap_stages(lambda stages: stages)
        first, second = stages.scope(), stages.scope()
        first.__enter__()
        assert torch.get_num_threads() == 1
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_callers_thread_keeps_its_denormal_numbers(cache: Path) -> None:
    def kept() -> bool:
        return bool((np.array([1e-45], np.float32) * np.float32(1)).any())

    assert kept()
    segmenter = load("onnxruntime")
    assert kept()
    with segmenter.wrap_stages(lambda stages: stages).scope():
        assert not kept(), "the tails of a softmax are denormal"
    segmenter.seed(*scene(0))
    segmenter.step(scene(1)[0])
    assert kept()


def test_stages_can_be_wrapped_before_the_first_frame_only(cache: Path) -> None:
    segmenter = load("torch")
    wrapped = segmenter.wrap_stages(lambda stages: stages)
    assert segmenter.runtime_name == wrapped.name
    segmenter.seed(*scene(0))
    with pytest.raises(InputError, match="has seen frames already"):
        segmenter.wrap_stages(lambda stages: stages)


def test_a_damaged_export_is_refused(cache: Path) -> None:
    folder = entry_folder(TINY_MODEL)
    decoder, key = folder / "object.onnx", folder / "key.json"
    whole, sidecar = decoder.read_bytes(), json.loads(key.read_text())
    for spoil in (
        lambda: decoder.write_bytes(whole[: len(whole) // 2]),
        lambda: decoder.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])),
        decoder.unlink,
    ):
        spoil()
        with pytest.raises(ModelError, match="missing, cut short or altered"):
            load("onnxruntime")
        decoder.write_bytes(whole)
    texts = ["", "{}", "[]", '{"key": 3', 100_000 * "["]
    texts += [json.dumps({**sidecar, "files": files}) for files in ({}, [], None)]
    for text in texts:
        key.write_text(text)
        with pytest.raises(ModelError, match="stremn export"):
            load("onnxruntime")
    key.unlink()
    with pytest.raises(ModelError, match="has no ONNX export"):
        load("onnxruntime")
    key.write_text(json.dumps(sidecar))
    assert load("onnxruntime").seed(*scene(0)) == [1, 2]


def test_an_export_that_onnx_runtime_cannot_load_costs_speed_only(cache: Path) -> None:
    folder = entry_folder(TINY_MODEL)
    decoder, key = folder / "object.onnx", folder / "key.json"
    whole, sidecar = decoder.read_bytes(), key.read_text()
    try:
        decoder.write_bytes(whole[: len(whole) // 2])  # as one of a later format
        files = {**json.loads(sidecar)["files"], decoder.name: sha256(decoder)}
        key.write_text(json.dumps({**json.loads(sidecar), "files": files}))
        with pytest.raises(RuntimeUnavailableError, match=r"cannot load .*object\.onnx .*export"):
            load("onnxruntime")
        assert load("auto").runtime_name == "torch (cpu)"
    finally:
        decoder.write_bytes(whole)
        key.write_text(sidecar)


def test_an_export_of_other_weights_is_refused_with_both_keys(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny_model"
    shutil.copytree(TINY_MODEL, other)
    with (other / "config.yaml").open("a") as file:
        file.write("\n# another model\n")
    with pytest.raises(ModelError, match="has no ONNX export"):
        checked_files(other)
    shutil.copytree(entry_folder(TINY_MODEL), entry_folder(other))
    with pytest.raises(ModelError, match=r"was made of .* but wanted is"):
        checked_files(other)


def test_a_failed_export_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "export_stage", fail)
    with pytest.raises(OSError, match="No space"):
        export_onnx(TINY_MODEL)
    assert list(tmp_path.iterdir()) == []


def test_auto_build_exports_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is replaced by one that copies, to count its calls without its minute."""
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr("stremn_ros.runtime.choose.build_onnx", calls.append)
    assert load("auto", auto_build=True).runtime_name == "torch (cpu)", "it made nothing"
    with pytest.raises(ModelError):
        load("onnxruntime", auto_build=True)
    assert calls == [TINY_MODEL, TINY_MODEL]


def test_stages_without_objects_of_the_batch_influencing_each_other(cache: Path) -> None:
    """One row of the image serves all objects: the shared stem equals a repeated image."""
    network, _ = load_network(TINY_MODEL)
    spec = stage_specs(network, (96, 128))["memory_encoder"]
    assert all(set(dims) <= {0} for dims in spec.dynamic.values())
    image, masks, stride16 = (spec.inputs[name] for name in ("image", "masks", "stride16"))
    with torch.no_grad():
        shared = network.encode_memory(image, masks, stride16)
        repeated = network.encode_memory(
            image.repeat(2, 1, 1, 1), masks, stride16.repeat(2, 1, 1, 1)
        )
    np.testing.assert_allclose(shared.numpy(), repeated.numpy(), atol=1e-5)


@pytest.mark.parametrize("nearest", [0, 7])
@pytest.mark.parametrize("affinity", ["dot", "l2", "selective"])
def test_the_graphs_read_as_the_network_does(affinity: str, nearest: int) -> None:
    """Of all cells and of the nearest ones, in one graph and in two."""
    torch.manual_seed(3)
    values = {**TINY_NETWORK, "affinity": affinity, "read_cells": nearest}
    config = SegmentationConfig.from_mapping(values)
    specs = cpu_specs(SegmentationNetwork(config).eval(), (64, 96))
    for name in ("segment", "object", "affinity"):
        spec = specs[name]
        with torch.inference_mode():
            ours, expected = spec.module(**spec.inputs), spec.reference(**spec.inputs)
        for one, other in zip(ours, expected, strict=False):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert len(specs["affinity"].outputs) == (2 if nearest else 1)


def test_a_memory_of_fewer_cells_than_are_read_is_read_whole(cache: Path) -> None:
    """At 32 x 48 pixels a slot has six cells, and the graphs read sixteen."""
    assert load("torch")._reader.stages.config.read_cells == 16
    segmenters = [load(name, processing_size=(32, 48)) for name in ("torch", "onnxruntime")]
    frame, truth = scene(0)
    for segmenter in segmenters:
        segmenter.seed(frame, truth)
    for step in range(1, 6):
        one, two = (segmenter.step(scene(step)[0]).labels for segmenter in segmenters)
        assert (one == two).mean() > 0.995
