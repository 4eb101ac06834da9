"""Comparing runtimes: the figures are of the frames that they are said to be of."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from shapes import TINY_MODEL, scene

from stremn_ros import cli
from stremn_ros.cli import bench as bench_command
from stremn_ros.errors import InputError
from stremn_ros.evaluation.runtimes import compare_runtimes, table
from stremn_ros.runtime.table import RUNTIMES
from stremn_ros.segmenter import Segmenter

FRAMES = [scene(step)[0] for step in range(6)]
MASK = (scene(0)[1] == 1).astype(np.uint8)


def load(name: str, **options: Any) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch", **options)


def test_the_same_runtime_twice_agrees_in_every_pixel() -> None:
    found = compare_runtimes(
        lambda name: load(name, update_every=2), ["a", "b"], FRAMES, MASK, 12, pause=0.0
    )
    assert found["update_every"] == 2
    assert (found["frames"], found["not_timed"]) == (12, 6)
    for name in ("a", "b"):
        part = found[name]
        assert part["agreement_percent"] == part["agreement_worst_percent"] == 100.0
        assert set(part["stages_median_ms"]) >= {"encode_query", "read", "decode", "encode_memory"}
        assert 0 < part["stages_median_ms"]["read"] < part["median_ms"] <= part["p95_ms"]
        assert part["updated_median_ms"] > part["stages_median_ms"]["encode_memory"]
    assert found["a"]["rate_median"] == found["a"]["rate_mean"] == 1.0
    shown = table(found)
    assert "one in 2" in shown
    assert "100.0000" in shown


def test_another_answer_is_counted_and_a_slower_one_told() -> None:
    def other(name: str) -> Segmenter:
        segmenter = load(name)
        if name == "b":
            real = segmenter.segment

            def segment(frame: np.ndarray) -> Any:
                for _ in range(3):
                    result = real(frame)
                result.labels[:60] = 9
                return result

            segmenter.segment = segment  # type: ignore[method-assign]
        return segmenter

    found = compare_runtimes(other, ["a", "b"], FRAMES, MASK, 8, pause=0.0)
    assert 45.0 < found["b"]["agreement_percent"] < 55.0
    assert found["b"]["rate_median"] < 0.9
    with pytest.raises(InputError, match="4 steps"):
        compare_runtimes(load, ["a"], FRAMES, MASK, 3)


def test_the_command_names_every_runtime() -> None:
    assert bench_command.RUNTIMES == RUNTIMES


def test_bench_against_a_runtime(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path))
    words = ["bench", "--frames", "6", "--model", str(TINY_MODEL), "--frame-size", "96x128"]
    words += ["--quiet", "--device", "cpu", "--against", "torch"]
    assert cli.main([*words, "--json", str(tmp_path / "x.json")]) == 0
    assert "pixels that agree" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["auto"]["agreement_percent"] == 100.0
    assert cli.main([*words, "--runtime", "torch"]) == 2
    assert "name two" in capsys.readouterr().err
