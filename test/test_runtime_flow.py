"""The prediction network on ONNX Runtime: the same as PyTorch, and what happens without it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from prediction_helpers import moving_frames, tiny_prediction_model

from stremn_ros.clip_state import FlowState
from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.predictor import Predictor
from stremn_ros.runtime.onnx import flow_graphs
from stremn_ros.runtime.onnx.export import checked_files, entry_folder, export_onnx, stages_of
from stremn_ros.runtime.onnx.library import check_export

try:
    check_export()
except RuntimeUnavailableError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_prediction_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory):
    """A cache that holds the model's export."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("STREMN_CACHE", str(folder))
        differences = export_onnx(model)
        assert set(differences) == set(flow_graphs.STAGES) == set(stages_of(model))
        assert max(differences.values()) < 1e-4
        yield folder


@pytest.mark.parametrize("size", [64, (48, 96)])
def test_predictions_of_the_runtimes_agree(cache: Path, model: Path, size: object) -> None:
    """Over a stream, at other sizes than the export was compared at, fusions included."""
    both = [
        Predictor.load(str(model), device="cpu", runtime=name, processing_size=size, slots=3)
        for name in ("torch", "onnxruntime")
    ]
    assert [each.runtime_name.split()[0] for each in both] == ["torch", "onnxruntime"]
    compared = 0
    for frame in moving_frames(24, 64, 128):
        one, two = (each.step(frame, horizon=5) for each in both)
        assert (one is None) == (two is None)
        if one is None or two is None:
            continue
        compared += 1
        assert np.abs(one.astype(int) - two).max() <= 1
        spreads = [each.spread for each in both]
        assert spreads[0] is not None
        assert spreads[1] is not None
        np.testing.assert_allclose(spreads[0], spreads[1], atol=1e-4)
    assert compared == 21
    states = [each._state for each in both]
    assert all(isinstance(state, FlowState) for state in states)
    memories = [state.memory for state in states if state is not None]
    assert memories[0].fusions.any()
    assert (memories[0].templates - memories[1].templates).abs().max() < 1e-3


def test_auto_takes_onnx_runtime_where_there_is_an_export(
    cache: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    assert Predictor.load(str(model), device="cpu").runtime_name.startswith("onnxruntime")
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert Predictor.load(str(model), device="cpu").runtime_name.startswith("torch")
    assert "stremn export" in caplog.text
    with pytest.raises(ModelError, match="no ONNX export"):
        Predictor.load(str(model), device="cpu", runtime="onnxruntime")


def test_runtimes_that_cannot_be_say_so(cache: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="auto, torch or onnxruntime"):
        Predictor.load(str(model), runtime="tensorrt")
    paint = tiny_prediction_model(tmp_path / "paint", "paint")
    assert Predictor.load(paint, device="cpu").runtime_name.startswith("torch")
    with pytest.raises(RuntimeUnavailableError, match="auto, torch or onnxruntime"):
        Predictor.load(paint, runtime="tensorrt")
    with pytest.raises(RuntimeUnavailableError, match="PyTorch only"):
        Predictor.load(paint, runtime="onnxruntime")
    with pytest.raises(ModelError, match="'flow' can be exported"):
        export_onnx(Path(paint))


def test_a_damaged_export_is_refused(cache: Path, model: Path) -> None:
    path = entry_folder(model) / "move.onnx"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError, match="cut short or altered"):
            Predictor.load(str(model), device="cpu", runtime="onnxruntime")
    finally:
        path.write_bytes(whole)
    assert set(checked_files(model)) == set(flow_graphs.STAGES)
