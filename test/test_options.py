"""The options of a segmenter are said once: Python, nodes, launch files and commands follow."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from shapes import TINY_MODEL, scene

from stremn_ros import SegmenterOptions
from stremn_ros.cli.options import add_model_options, tuned
from stremn_ros.errors import InputError
from stremn_ros.nodes import parameters
from stremn_ros.options import RUN_TIME, TUNABLES
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.settings import Settings


def load(**options):
    return Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch", **options)


def test_options_are_frozen_and_checked() -> None:
    options = SegmenterOptions(processing_size=[96, 128])
    assert options.processing_size == (96, 128)
    with pytest.raises(FrozenInstanceError):
        options.slots = 6
    for wrong, text in (
        ({"slots": 1}, "slots is 1; it must be 2..16"),
        ({"max_objects": 256}, "max_objects is 256; it must be 1..255"),
        ({"update_every": 0}, "update_every is 0; it must be at least 1"),
        ({"return_score": float("nan")}, "return_score is nan; it must be 0..1"),
        ({"lost_after": "x"}, "lost_after is 'x'; it must be at least 0"),
        ({"min_score": "0.5"}, "min_score is '0.5'; it must be 0..1"),
        ({"lost_after": np.float32(2.5)}, "lost_after is 2.5; it must be a whole number"),
        ({"max_objects": True}, "max_objects is True; it must be 1..255"),
        ({"min_score": True}, "min_score is True; it must be 0..1"),
        ({"processing_size": 16}, "processing_size is 16; it must be the shorter side"),
        ({"update_rule": "best"}, "update rule 'best' is unknown; known are"),
        ({"mirrored_seed": "yes"}, "mirrored_seed is 'yes'; it must be true or false"),
        ({"slots": 4.0}, "slots is 4.0; it must be a whole number"),
        ({"lost_after": 1e30}, "lost_after is 1e+30; it must be a whole number"),
        ({"processing_size": None}, "processing_size is None; it must be the shorter side"),
    ):
        with pytest.raises(InputError) as caught:
            SegmenterOptions(**wrong)
        assert text in str(caught.value)


def test_numbers_of_numpy_become_pythons() -> None:
    options = SegmenterOptions(
        slots=np.int64(4), min_score=np.float32(0.25), processing_size=np.int32(96)
    )
    assert options == SegmenterOptions(slots=4, min_score=0.25, processing_size=96)
    assert (type(options.slots), type(options.min_score)) == (int, float)


def test_every_option_is_a_parameter_a_setting_and_an_option_of_the_commands() -> None:
    table = parameters.parameters_of(parameters.SEGMENT)
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    words = ["--slots", "7", "--return-score", "0.4", "--processing-size", "96x128"]
    said = tuned(parser.parse_args([*words, "--input-to-memory", "--no-mirrored-seed"]))
    assert said.keys() == TUNABLES.keys() == {field.name for field in fields(SegmenterOptions)}
    assert (said["slots"], said["return_score"], said["processing_size"]) == (7, 0.4, (96, 128))
    assert said["input_to_memory"] is True
    assert said["mirrored_seed"] is False
    assert said["update_rule"] is None
    for name, tunable in TUNABLES.items():
        if tunable.parameter:
            assert table[name].description.startswith(tunable.text)
            assert (table[name].changes == parameters.RUN_TIME) == tunable.run_time
        assert hasattr(Settings(), name) == tunable.run_time


def test_what_a_node_leaves_to_the_model_is_the_models() -> None:
    assert Settings().options() == {"smallest_part": 0.0}
    settings = Settings()
    settings.return_score, settings.update_every, settings.min_score = -0.5, 4, 0.25
    assert settings.options() == {"min_score": 0.25, "smallest_part": 0.0, "update_every": 4}


def test_a_fork_has_the_options_of_its_segmenter() -> None:
    segmenter = load(slots=4, return_score=0.7, update_every=3, processing_size=96)
    segmenter.seed(*scene(0))
    segmenter.change(lost_after=5, min_score=0.25, update_every=2)
    made = segmenter.fork([1])
    changed = {"max_objects": 1}
    for name in TUNABLES:
        assert getattr(made.options, name) == changed.get(name, getattr(segmenter.options, name))
    assert made.defaults == segmenter.defaults
    assert (segmenter.update_every, segmenter.defaults.update_every) == (2, 3)


def test_options_that_shape_the_memory_do_not_change_and_wrong_ones_change_nothing() -> None:
    segmenter = load()
    before = segmenter.options
    for wrong in ({"slots": 4}, {"min_score": 2.0}, {"lost_after": 3, "update_rule": "best"}):
        with pytest.raises(InputError):
            segmenter.change(**wrong)
        assert segmenter.options == before
    assert set(RUN_TIME) < set(TUNABLES)


def test_options_need_nothing_heavy() -> None:
    code = "import sys, stremn_ros; stremn_ros.SegmenterOptions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "numpy"} & set(done.stdout.split())
