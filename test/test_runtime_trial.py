"""Runtimes tried before they are trusted: what is wrong, slow, crashes or hangs is not taken.

There is no GPU here: what is tried are stages on the CPU, some of them broken on purpose.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import TINY_MODEL

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.model_folder import load_network
from stremn_ros.network import Decoded, Query
from stremn_ros.runtime import choose, trial
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.building import process
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.runtime.trial import MOST_DIFFERENT, Outcome, compare, outcomes

CPU = torch.device("cpu")
SIZE = (48, 64)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "cache"))


def plain() -> TorchStages:
    return TorchStages(load_network(TINY_MODEL)[0], CPU)


def bent(stage: str, change: Any) -> Any:
    """Stages of which one gives something else."""
    found = plain()
    right = getattr(found, stage)

    def wrong(*given: Any) -> Any:
        made = right(*given)
        if isinstance(made, torch.Tensor):
            return change(made)
        if isinstance(made, Decoded):
            return made._replace(logits=change(made.logits))
        parts = [*made[:-1], change(made[-1])]
        return Query(*parts) if isinstance(made, Query) else tuple(parts)

    setattr(found, stage, wrong)
    return found


def test_the_same_is_found_to_be_the_same_and_half_precision_nearly() -> None:
    same = compare("same", plain(), plain(), SIZE)
    assert same.difference == 0.0
    assert same.milliseconds > 0.0
    assert same.plain > 0.0
    half = compare("half", plain(), CudaStages(load_network(TINY_MODEL)[0], CPU), SIZE)
    assert 0.0 < half.difference < MOST_DIFFERENT


@pytest.mark.parametrize(
    "stage", ["encode_query", "read", "decode", "encode_memory", "project", "fuse"]
)
@pytest.mark.parametrize("change", [lambda x: 1.1 * x, lambda x: x * torch.nan], ids=["10%", "nan"])
def test_a_stage_that_gives_something_else_is_found(stage: str, change: Any) -> None:
    found = compare("bent", plain(), bent(stage, change), SIZE)
    assert found.difference > MOST_DIFFERENT
    assert not found.good


@pytest.mark.parametrize(
    ("outcome", "good"),
    [
        (Outcome("r", SIZE, 1.0, 2.0, 0.01), True),
        (Outcome("r", SIZE, 2.0, 1.0, 0.01), False),
        (Outcome("r", SIZE, 1.0, 2.0, 0.03), False),
        (Outcome("r", SIZE, 1.0, 2.0, float("inf")), False),
        (Outcome("r", SIZE, error="crashed"), False),
    ],
)
def test_good_is_right_and_faster(outcome: Outcome, good: bool) -> None:
    assert outcome.good == good
    assert "r" in str(outcome)
    assert outcome.error in str(outcome)


def test_a_trial_runs_in_its_own_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it ends with the runtime's own words; a second one is not made."""
    (found,) = outcomes(TINY_MODEL, CPU)
    assert found.runtime == "cudagraphs"
    assert "wants a GPU" in found.error

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(trial, "run", never)
    assert outcomes(TINY_MODEL, CPU) == [found]


def test_another_model_and_a_damaged_note_are_tried_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def crash(words: list[str], *_: Any, **__: Any) -> None:
        calls.append(words[1])
        raise RuntimeUnavailableError("it crashed (signal 11)")

    monkeypatch.setattr(trial, "run", crash)
    (found,) = outcomes(TINY_MODEL, CPU)
    assert "signal 11" in found.error
    assert calls == ["cudagraphs"]
    (note,) = (tmp_path / "cache").glob("*-trial-*/key.json")
    note.write_text(note.read_text().replace('"outcomes"', '"others"'))
    outcomes(TINY_MODEL, CPU)
    assert len(calls) == 2
    other = tmp_path / TINY_MODEL.name
    shutil.copytree(TINY_MODEL, other)
    with (other / "config.yaml").open("a") as file:
        file.write("# altered\n")
    outcomes(other, CPU)
    assert len(calls) == 3

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trial, "new_entry", full)
    (other / "config.yaml").write_text((other / "config.yaml").read_text() + "# again\n")
    (found,) = outcomes(other, CPU)  # it is not kept, and of use all the same
    assert "signal 11" in found.error


def test_tensorrt_is_tried_where_there_are_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def note(words: list[str], *_: Any, **__: Any) -> None:
        tried.append((words[1], words[4:6]))
        raise RuntimeUnavailableError("no")

    monkeypatch.setattr(trial, "run", note)
    folder = tmp_path / "cache" / f"{TINY_MODEL.name}-tensorrt-96x160"
    folder.mkdir(parents=True)
    (folder / "key.json").write_text("{}")
    assert [outcome.size for outcome in outcomes(TINY_MODEL, CPU)] == [(96, 160)] * 2
    assert tried == [("tensorrt", ["96", "160"]), ("cudagraphs", ["96", "160"])]


def test_what_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(endless))
    with pytest.raises(RuntimeUnavailableError, match=r"trial did not end within 0"):
        process.run(["trial"], "trial", lambda _: None, limit=0.3)


def chosen(found: list[Outcome] | Exception, monkeypatch: pytest.MonkeyPatch) -> TorchStages:
    def give(*_: Any) -> list[Outcome]:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(choose, "outcomes", give)
    network, _ = load_network(TINY_MODEL)
    return choose._fastest_on_gpu(network, CPU, TINY_MODEL)  # type: ignore[return-value]


def test_auto_takes_the_fastest_that_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT was faster in its trial, and cannot be had any more: CUDA graphs are next."""
    caplog.set_level(logging.INFO, "stremn_ros")
    found = [
        Outcome("cudagraphs", SIZE, 2.0, 8.0, 0.001),
        Outcome("tensorrt", SIZE, 1.0, 8.0, 0.001),
    ]
    assert isinstance(chosen(found, monkeypatch), CudaStages)
    assert "tensorrt worked when it was tried and does not now" in caplog.text
    assert "2.0 ms" in caplog.text
    assert "fastest that works here" in caplog.text


@pytest.mark.parametrize(
    "found",
    [
        [Outcome("cudagraphs", SIZE, error="no driver")],
        [Outcome("cudagraphs", SIZE, 9.0, 8.0, 0.001)],
        [Outcome("cudagraphs", SIZE, 1.0, 8.0, 0.5)],
        ModelError("nothing can be written to the cache folder"),
    ],
    ids=["error", "slow", "wrong", "no cache"],
)
def test_else_auto_takes_pytorch_and_says_why(
    found: list[Outcome] | Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "stremn_ros")
    assert type(chosen(found, monkeypatch)) is TorchStages
    reason = str(found) if isinstance(found, Exception) else str(found[0])
    assert reason in caplog.text
    assert "takes PyTorch" in caplog.text
