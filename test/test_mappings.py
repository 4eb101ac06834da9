"""YAML to dataclasses: names, types and what is missing are checked, in both trainings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stremn_ros.errors import InputError, ModelError
from stremn_ros.mappings import build
from stremn_ros.training.predict import PredictTraining
from stremn_ros.training.segment import SegmentTraining


@dataclass
class Inner:
    size: int
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"size is {self.size}; it must be 0 or more")


@dataclass
class Outer:
    name: str
    rate: float = 1.0
    on: bool = False
    pair: tuple[float, float] | None = None
    roots: str | list[str] = "a"
    inner: list[Inner] = field(default_factory=list)
    one: Inner | None = None
    anything: dict[str, Any] = field(default_factory=dict)


def test_what_fits_is_taken_and_whole_numbers_are_numbers() -> None:
    made = build(
        Outer,
        {
            "name": "x", "rate": 2, "pair": [1, 2.5], "roots": ["a", "b"], "on": True,
            "inner": [{"size": 3, "shares": [1, 0.5]}], "one": None, "anything": {"a": [1, "b"]},
        },
    )  # fmt: skip
    assert made == Outer(
        "x", 2.0, True, (1.0, 2.5), ["a", "b"], [Inner(3, (1.0, 0.5))], None, {"a": [1, "b"]}
    )
    assert type(made.rate) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": "4e-4"}, "file: rate is the text '4e-4'; it takes numbers"),
        ({"rate": True}, "rate is True; it takes numbers"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"name": 3}, "name is 3; it takes a text"),
        ({"on": 1}, "on is 1; it must be true or false"),
        ({"on": "yes"}, "on is the text 'yes'"),
        ({"pair": [1, 2, 3]}, "pair has 3 entries, a list of two is needed"),
        ({"pair": 4}, "pair is 4; a list of two is needed"),
        ({"roots": 4}, "roots is 4"),
        ({"roots": ["a", 4]}, r"roots\[1\] is 4; it takes a text"),
        ({"inner": {"size": 1}}, "inner is .*a list is needed"),
        ({"inner": [{"size": 1}, {"size": 1.5}]}, r"inner\[1\]: size is 1.5; it takes whole"),
        ({"inner": [{}]}, r"inner\[0\]: the entries \['size'\] are missing"),
        ({"inner": [{"size": -1}]}, r"inner\[0\]: size is -1; it must be 0 or more"),
        ({"one": [3]}, r"one is \[3\]; a mapping is needed"),
        ({"anything": [1]}, "anything is .*a mapping is needed"),
        ({"ratte": 4}, r"unknown entries \['ratte'\] \(did you mean rate\?\); known are"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(Outer, {"name": "x", **change}, "file")
    with pytest.raises(ModelError):
        build(Outer, {"name": "x", **change}, "file", ModelError)
    with pytest.raises(InputError, match="a mapping is needed"):
        build(Outer, [change], "file")
    with pytest.raises(InputError, match=r"the entries \['name'\] are missing"):
        build(Outer, {"rate": 1.0}, "file")


SEGMENT = "run: r\nphases: [{iterations: 1}]\n"
PREDICT = "run: r\nroot: x\nphases: [{iterations: 1}]\n"


@pytest.mark.parametrize(("kind", "text"), [(SegmentTraining, SEGMENT), (PredictTraining, PREDICT)])
def test_trainings_read_their_files_by_it(tmp_path: Path, kind: Any, text: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"{text}learning_rate: 4e-4\nweight_decay: 1\n")
    config = kind.read(path)
    assert config.learning_rate * 2 == 8e-4  # a number, which AdamW multiplies
    assert (config.weight_decay, type(config.weight_decay)) == (1.0, float)
    for line, said in (
        ("learning_rate: '4e-4'", "learning_rate is the text"),
        ("learning_rate: fast", "learning_rate is the text 'fast'; it takes numbers"),
        ("seed: 1.5", "seed is 1.5; it takes whole numbers"),
        ("threads: true", "threads is True"),
        ("exclude: bear", "exclude is the text 'bear'; a list is needed"),
        ("learning_rat: 1", "did you mean learning_rate"),
        ("learning_rate: 1\nlearning_rate: 2", "twice"),
    ):
        path.write_text(f"{text}{line}\n")
        with pytest.raises(InputError, match=said) as caught:
            kind.read(path)
        assert str(path) in str(caught.value)
    path.write_text(text.replace("iterations: 1", "iterations: many"))
    with pytest.raises(InputError, match=r"phases\[0\]: iterations is the text 'many'"):
        kind.read(path)
    path.write_text("run: r\n")
    with pytest.raises(InputError, match=r"phases'?.*missing"):
        kind.read(path)
