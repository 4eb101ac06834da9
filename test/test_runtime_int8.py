"""Static int8: recorded, quantized, nearly the same masks; and refused when it is not whole."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Exported
from shapes import TINY_MODEL, scene

from stremn_ros.errors import InputError, ModelError
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.model_folder import load_network
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.graphs import plain_weights
from stremn_ros.runtime.onnx.int8 import (
    BETWEEN,
    STAGES,
    RecordingStages,
    export_int8,
    int8_files,
    int8_folder,
    worth_quantizing,
)
from stremn_ros.segmenter import Segmenter

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)
onnx = pytest.importorskip("onnx")


def load(runtime: str) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", runtime=runtime, update_every=1)


def record(objects: list[int], frames: int) -> RecordingStages:
    network, _ = load_network(TINY_MODEL)
    segmenter = load("onnxruntime")
    recording = segmenter.wrap_stages(lambda _: RecordingStages(network, TINY_MODEL))
    frame, labels = scene(0)
    segmenter.seed(frame, np.where(np.isin(labels, objects), labels, 0).astype(np.uint8))
    for n in range(1, frames):
        segmenter.step(scene(n)[0])
    return recording


@pytest.fixture(scope="module")
def exported(tiny_export: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny model's export, in single precision and in int8."""
    cache = tmp_path_factory.mktemp("int8") / "cache"
    shutil.copytree(tiny_export.cache, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREMN_CACHE", str(cache))
        with pytest.raises(ModelError, match=r"no int8 export.*--int8 VIDEO"):
            load("onnxruntime_int8")
        samples = record([1], 40).samples
        found = export_int8(TINY_MODEL, samples, lambda _: None, recordings=["scene"])
        assert set(found) == set(STAGES)
        assert 0.0 < max(found.values()) < 0.2
    return cache


@pytest.mark.parametrize("objects", [[1], [1, 2]])
def test_masks_are_nearly_those_of_single_precision(cache: Path, objects: list[int]) -> None:
    """One recording serves frames with one object and with several."""
    single, quantized = load("onnxruntime"), load("onnxruntime_int8")
    assert "int8" in quantized.runtime_name
    assert "int8" not in single.runtime_name
    frame, labels = scene(0)
    given = np.where(np.isin(labels, objects), labels, 0).astype(np.uint8)
    differ, agree = False, []
    for segmenter in (single, quantized):
        segmenter.seed(frame, given)
    for n in range(1, 20):
        a, b = (segmenter.step(scene(n)[0]) for segmenter in (single, quantized))
        agree.append(float((a.labels == b.labels).mean()))
        pairs = zip(a.objects, b.objects, strict=True)
        differ |= any(x.score != y.score for x, y in pairs)
    assert min(agree) > 0.99
    assert differ, "nothing is in int8"


def test_dense_convolutions_alone_are_quantized(cache: Path) -> None:
    """And of those of one pixel only the two that lie between others; never the keys' own."""
    files = int8_files(TINY_MODEL)
    for stage in STAGES:
        graph = onnx.load(str(files[stage])).graph
        made = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type != "Conv":
                continue
            source = made.get(node.input[1])
            chosen = source is not None and source.op_type == "DequantizeLinear"
            assert not (chosen and "key_head" in source.input[0]), (stage, node.name)
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            kernel = next(a.ints for a in node.attribute if a.name == "kernel_shape")
            if groups > 1 or max(kernel) == 1:
                between = chosen and any(name in source.input[0] for name in BETWEEN)
                assert chosen == between, (stage, node.name)
        assert any(node.op_type == "QuantizeLinear" for node in graph.node), stage
    assert not worth_quantizing(onnx.load(str(files["heads"])).graph)
    assert files["query_encoder"] == checked_files(TINY_MODEL)["query_encoder"]


def test_what_lies_between_chosen_convolutions_is_chosen() -> None:
    """A drawn graph: two large convolutions, one of few channels, and what joins them."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    image = value("image", onnx.TensorProto.FLOAT, [1, 32, 8, 8])
    result = value("out", onnx.TensorProto.FLOAT, None)
    shapes = {
        "big.weight": (32, 32, 3, 3),
        "small.weight": (32, 8, 3, 3),
        "key_head.weight": (32, 32, 3, 3),
    }
    weights = [
        onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        node("Conv", ["image", "big.weight"], ["a"], "large"),
        node("Relu", ["a"], ["b"], "alone"),
        node("Conv", ["b", "big.weight"], ["c"], "large too"),
        node("Relu", ["c"], ["d"], "not alone"),
        node("Resize", ["c"], ["e"], "enlarged"),
        node("Add", ["e", "c"], ["f"], "sum"),
        node("Conv", ["d", "small.weight"], ["g"], "small"),
        node("Conv", ["d", "key_head.weight"], ["key"], "keys"),
        node("Add", ["f", "g"], ["h"], "sum with another"),
        node("Relu", ["h"], ["out"], "after it"),
    ]
    graph = onnx.helper.make_graph(nodes, "drawn", [image], [result], weights)
    assert worth_quantizing(graph) == ["large", "alone", "large too", "enlarged", "sum"]


def test_the_recorder_keeps_what_either_graph_would_have_had(cache: Path) -> None:
    """From several objects it makes samples of the graph for one, and the other way round."""
    for objects in ([1], [1, 2]):
        samples = record(objects, 20).samples
        assert all(samples[stage] for stage in STAGES), objects
        first = {stage: samples[stage][0] for stage in STAGES}
        assert first["segment"].keys() == {"image", "keys", "values", "bias"}
        assert first["object"].keys() == {
            "weights", "places", "values", "skip16", "skip8", "skip4",
        }  # fmt: skip
        assert first["segment"]["image"].shape[0] == 1
        network, _ = load_network(TINY_MODEL)
        with torch.no_grad():
            query = network.encode_query(torch.from_numpy(first["segment"]["image"]))
        np.testing.assert_allclose(first["object"]["skip4"], query.skip4.numpy(), atol=1e-3)


def test_samples_of_both_graphs_are_of_the_same_object(cache: Path) -> None:
    """The first and the third object have the same keys, and the one between has others."""
    network, _ = load_network(TINY_MODEL)
    config = network.config
    recording = RecordingStages(network, TINY_MODEL)
    generator = torch.Generator().manual_seed(3)
    for _ in range(8):
        image = torch.rand(1, 3, 64, 96, generator=generator) * 255.0
        keys = torch.rand(3, 48, config.key_channels, generator=generator)
        keys[2] = keys[0]
        values = torch.rand(3, 48, config.value_channels, generator=generator)
        recording.segment(image, keys, values, None, None, None)
    pairs = list(zip(recording.samples["segment"], recording.samples["object"], strict=True))
    assert len(pairs) == 3
    for one, part in pairs:
        image, keys, bias = (torch.from_numpy(one[name]) for name in ("image", "keys", "bias"))
        with torch.no_grad():
            key = network.encode_query(image).key
        weights, places = plain_weights(
            key, keys, bias, config.affinity, config.key_channels, config.read_cells
        )
        found = part["weights"].reshape(weights.shape)
        np.testing.assert_allclose(found, weights.numpy(), atol=1e-5)
        np.testing.assert_array_equal(part["places"].reshape(places.shape), places.numpy())
        np.testing.assert_array_equal(one["values"], part["values"])


def test_what_is_not_whole_is_refused(cache: Path) -> None:
    folder = int8_folder(TINY_MODEL)
    path = folder / "segment.onnx"
    whole = path.read_bytes()
    for spoil in (lambda: path.write_bytes(whole[: len(whole) // 2]), path.unlink):
        spoil()
        with pytest.raises(ModelError, match="missing, cut short or altered"):
            load("onnxruntime_int8")
        path.write_bytes(whole)
    sidecar = json.loads((folder / "key.json").read_text())
    sidecar["key"]["weights"] = "0"
    (folder / "key.json").write_text(json.dumps(sidecar))
    with pytest.raises(ModelError, match="but wanted is"):
        load("onnxruntime_int8")
    assert load("onnxruntime").seed(*scene(0)) == [1, 2]


def test_a_recording_that_is_too_short_says_so_and_leaves_the_old_export(cache: Path) -> None:
    before = (int8_folder(TINY_MODEL) / "key.json").read_bytes()
    with pytest.raises(InputError, match="4 are needed"):
        export_int8(TINY_MODEL, record([1], 3).samples, lambda _: None)
    assert (int8_folder(TINY_MODEL) / "key.json").read_bytes() == before


def test_the_command_records_and_quantises(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stremn_ros import cli

    video = tmp_path / "video"
    video.mkdir()
    for n in range(40):
        write_image(video / f"{n:03d}.png", scene(n)[0])
    write_label_png(tmp_path / "mask.png", scene(0)[1])
    shutil.rmtree(int8_folder(TINY_MODEL))
    export = ["export", str(TINY_MODEL), "--runtime", "onnx", "--int8", str(video)]
    assert cli.main(export) == 2
    assert "each video needs the mask" in capsys.readouterr().err
    assert cli.main([*export, "--mask", str(tmp_path / "mask.png")]) == 0
    assert "4 stages in int8" in capsys.readouterr().out
    assert load("onnxruntime_int8").seed(*scene(0)) == [1, 2]
