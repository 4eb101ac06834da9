"""The sweep over memories: what it runs, that it goes on where it stopped, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import evaluation_helpers as helpers
import numpy as np
import pytest
from command_helpers import printed, stremn
from shapes import TINY_MODEL, scene

from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.evaluation.sweep import Setting, plan, plot, sweep


@pytest.fixture(scope="module")
def davis(tmp_path_factory) -> Path:
    clips = {}
    for name, start in (("one", 0), ("two", 20)):
        pairs = [scene(start + 2 * step, (72, 96)) for step in range(7)]
        frames, labels = (np.stack(part) for part in zip(*pairs))
        clips[name] = (frames, labels if name == "two" else (labels == 1).astype(np.uint8))
    return helpers.write_davis(tmp_path_factory.mktemp("davis"), clips)


def test_the_same_memory_is_run_once():
    base = Setting(5, "least_similar")
    rules = ["oldest", "least_similar", "first_and_previous"]
    assert [setting.key for setting in plan([2, 5], rules, base, True)] == [
        "2 slots",
        "5 slots, least_similar",
        "5 slots, oldest",
        "5 slots, least_similar, I2M",
    ]
    assert Setting(2, "newest").key == Setting(7, "first_and_previous").key
    assert Setting(2, "newest", True).key != Setting(2, "newest").key
    assert Setting(3, "linear").key == Setting(6, "linear").key
    with pytest.raises(InputError, match=r"\['best'\] are unknown; known are .*least_similar"):
        plan([], ["best"], base, False)


def test_sweep_goes_on_where_it_stopped_and_refuses_another_file(davis: Path, tmp_path: Path):
    dataset = open_davis(davis, "val", year="2017")
    path = tmp_path / "sweep.json"
    done: list[int] = []

    def stop(result):
        done.append(len(result.runs))
        if len(result.runs) == 2:
            raise KeyboardInterrupt

    arguments = {
        "slots": [2, 3],
        "rules": ["oldest", "linear"],
        "path": path,
        "device": "cpu",
        "processing_size": (64, 80),
        "update_every": 1,
    }
    with pytest.raises(KeyboardInterrupt):
        sweep(dataset, str(TINY_MODEL), on_run=stop, **arguments)
    kept = json.loads(path.read_text())["runs"]
    assert len(kept) == 2
    result = sweep(dataset, str(TINY_MODEL), on_run=lambda r: done.append(len(r.runs)), **arguments)
    assert done == [1, 2, *range(3, len(result.runs) + 1)]
    assert len(result.runs) == 6, "2 and 3 slots, oldest, linear, and M2M and I2M at the model's"
    assert all(result.runs[key] == value for key, value in kept.items())
    assert [count for count, _ in result.by_slots()] == [2, 3]
    assert set(result.objects()) == {"one", "two_1", "two_2"}
    for values in result.objects().values():
        assert ((values > 0.3) & (values <= 1)).all()
    two = result.run(Setting(2, "least_similar"))
    mean = np.mean([values[0] for values in result.objects().values()])
    assert two["j"] == pytest.approx(100 * mean, abs=0.01)
    table = result.table()
    for text in (
        "Table 9",
        "Table 4",
        "Table 3",
        "| oldest |",
        "| I2M |",
        "| 2 slots | 3 slots | std",
    ):
        assert text in table
    plot(result, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 20_000
    with pytest.raises(InputError, match="another update_every"):
        sweep(dataset, str(TINY_MODEL), **{**arguments, "update_every": 2})
    # the same sequences with their objects as one, as in DAVIS 2016
    helpers.write_split(davis, ["one", "two"], "2016")
    with pytest.raises(InputError, match=r"another image_set \(2017, not 2016\)"):
        sweep(open_davis(davis, "val", year="2016"), str(TINY_MODEL), **arguments)
    other = {**json.loads(path.read_text()), "runs": {"2 slots": {"sequences": 3}}}
    for text in ("[]", 100_000 * "[", json.dumps(other)):
        path.write_text(text)
        with pytest.raises(InputError, match="not the result of a sweep"):
            sweep(dataset, str(TINY_MODEL), **arguments)


def test_sweep_command(davis: Path, tmp_path: Path):
    words = ["sweep", "--root", str(davis)]
    words += ["--model", str(TINY_MODEL), "--slots", "2", "--rules", "", "--no-i2m", "--quiet"]
    words += ["--sequences", "two", "--json", str(tmp_path / "s.json"), "--every", "2"]
    said = printed(stremn(*words))
    found = json.loads((tmp_path / "s.json").read_text())
    assert list(found["runs"]) == ["2 slots"]
    assert found["every"] == 2
    assert len(found["weights_sha256"]) == 64
    assert "Table 9" in said
