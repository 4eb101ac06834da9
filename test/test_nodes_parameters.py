"""The parameter table: the docs, the descriptors and the checks all come from it and agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import own_node
from shapes import TINY_MODEL

from stremn_ros.errors import InputError
from stremn_ros.memory.rules import RULES
from stremn_ros.messages import image_read
from stremn_ros.nodes import parameters
from stremn_ros.nodes.parameters import (
    PARAMETERS,
    RUN_TIME,
    SEGMENT,
    START,
    UNCONFIGURED,
    VIDEO_SOURCE,
    check_changes,
    declare,
    descriptor,
    markdown,
    parameters_of,
)
from stremn_ros.stream.settings import Settings

DOCS = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
IDS = [f"{spec.node}.{spec.name}" for spec in PARAMETERS]


def test_the_docs_are_the_table():
    assert DOCS.read_text() == markdown(), (
        "run: python -m stremn_ros.nodes.parameters > docs/parameters.md"
    )
    for spec in PARAMETERS:
        assert f"| `{spec.name}` | {spec.type_name} |" in DOCS.read_text()


def test_names_are_unique_and_everything_is_described():
    assert len(set(IDS)) == len(IDS)
    for spec in PARAMETERS:
        assert spec.description.endswith(".")
        assert spec.changes in (RUN_TIME, UNCONFIGURED, START)
        assert spec.validate(spec.default) == spec.default
        if isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool):
            assert spec.low is not None
            assert spec.high is not None


def test_choices_are_those_of_the_library():
    assert set(parameters.UPDATE_RULES) == set(RULES) - {"linear"}, "a memory that grows"
    encodings = parameters_of(VIDEO_SOURCE)["encoding"].choices
    assert set(encodings) <= set(image_read.ENCODINGS)


def test_settings_of_the_core_are_run_time_parameters_with_the_same_defaults():
    specs = parameters_of(SEGMENT)
    for name, value in vars(Settings()).items():
        assert specs[name].changes == RUN_TIME
        assert specs[name].default == value
    run_time = {name for name, spec in specs.items() if spec.changes == RUN_TIME}
    assert run_time == set(vars(Settings())) | {"diagnostics_period", "log_period"}


@pytest.mark.parametrize("spec", PARAMETERS, ids=IDS)
def test_descriptors_state_range_and_choices(spec):
    made = descriptor(spec)
    assert spec.description in made.description
    assert made.read_only == (spec.changes == START)
    ranges = list(made.integer_range) + list(made.floating_point_range)
    if spec.low is None:
        assert not ranges
    else:
        (only,) = ranges
        assert (only.from_value, only.to_value) == (spec.low, spec.high)
        assert isinstance(only.from_value, type(spec.default))
    for choice in spec.choices:
        assert (choice or "''") in made.additional_constraints


anything = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.none(),
    st.lists(st.integers(), max_size=2),
)


@given(spec=st.sampled_from(PARAMETERS), value=anything)
def test_any_value_is_taken_in_the_right_type_or_refused_with_the_name(spec, value):
    try:
        taken = spec.validate(value)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith(spec.name)
        return
    assert type(taken) is type(spec.default)
    assert taken == value
    if spec.low is not None:
        assert spec.low <= taken <= spec.high
    if spec.choices:
        assert taken in spec.choices


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("slots", 1, "slots is 1: 2 to 16, or 0 for the model's own number"),
        ("slots", 17, "slots is 17, the range is 0 to 16"),
        ("processing_size", 8, "processing_size is 8: 32 to 2160 pixels, or 0"),
        ("min_score", float("nan"), "min_score is nan: a finite number is wanted"),
        ("update_rule", "best", "it is one of: '' (empty), oldest, newest"),
        ("max_objects", True, "max_objects is of type int, got True (bool)"),
    ],
)
def test_refusals_say_what_would_be_right(name, value, text):
    with pytest.raises(InputError) as caught:
        parameters_of(SEGMENT)[name].validate(value)
    assert text in str(caught.value)


def test_changes_are_refused_as_a_whole():
    good, bad = Parameter("min_score", value=0.25), Parameter("overlay_alpha", value=3.0)
    assert check_changes(SEGMENT, [good], configured=True) == ({"min_score": 0.25}, "")
    values, reason = check_changes(SEGMENT, [good, bad], configured=True)
    assert values == {}
    assert reason == "overlay_alpha is 3.0, the range is 0 to 1"
    model = Parameter("model", value="other")
    assert check_changes(SEGMENT, [model], configured=False) == ({"model": "other"}, "")
    assert "clean up" in check_changes(SEGMENT, [model], configured=True)[1]
    other = Parameter("use_sim_time", value=True)
    assert check_changes(SEGMENT, [other], configured=True) == ({}, "")


def test_a_node_declares_all_and_survives_wrong_values_at_the_start():
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [
        Parameter("max_objects", value=4000),
        Parameter("min_score", value=1),  # `-p min_score:=1` is an integer to ROS
        Parameter("model", value=3.5),
        Parameter("slots", value=4),
    ]
    node = rclpy.create_node("declares", context=context, parameter_overrides=overrides)
    try:
        values, problems = declare(node, SEGMENT)
        assert problems == {
            "model": "parameter model is of type string, got 3.5 (float)",
            "max_objects": "parameter max_objects is 4000, the range is 1 to 255",
        }
        assert (values["slots"], values["min_score"], values["max_objects"]) == (4, 1.0, 8)
        for name, spec in parameters_of(SEGMENT).items():
            assert node.get_parameter(name).value == values[name]
            assert type(node.get_parameter(name).value) is type(spec.default)
            assert spec.description in node.describe_parameter(name).description
        results = node.set_parameters([Parameter("max_objects", value=256)])
        assert not results[0].successful
        assert results[0].reason
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"auto_save_period": 5.0},
            "auto_save_period (did you mean autosave_period?) is",
        ),
        (
            {"proccessing_size": 96, "min_score": 0.4, "image.reliability": "auto", "x": 1},
            "parameters proccessing_size (did you mean processing_size?), image.reliability (did "
            "you mean image_reliability?), x are not known to this node and ignored",
        ),
        ({"min_score": 0.4, "use_sim_time": False}, ""),
        ({"qos_overrides./image.subscription.depth": 5}, ""),
    ],
)
def test_parameters_that_are_none_are_named_at_the_start(given, told, capfd):
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = rclpy.create_node("names", context=context, parameter_overrides=overrides)
    try:
        _, problems = declare(node, SEGMENT)
        assert problems == {}
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    said = capfd.readouterr().err
    assert told in said
    assert bool(told) == ("not known" in said)


def test_a_value_that_was_wrong_at_the_start_and_is_set_right_is_no_problem_any_more():
    """Whatever the words of the refusal are."""
    with own_node("max_objects:=4000", "slots:=99", f"model:={TINY_MODEL}") as node:
        assert set(node._problems) == {"max_objects", "slots"}
        node._problems["max_objects"] = "in other words"
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert node.set_parameters([Parameter("max_objects", value=3)])[0].successful
        assert set(node._problems) == {"slots"}
        assert not node.set_parameters([Parameter("slots", value=77)])[0].successful
        assert node.set_parameters([Parameter("slots", value=4)])[0].successful
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["left", "right"], None),
        ([""], None),
        (["1left"], "'1left' cannot be part of a topic's name: a letter first"),
        (["a-b"], "'a-b' cannot"),
        (["a__b"], "'a__b' cannot"),
        (["a", "a"], "each name once"),
        ([f"c{n}" for n in range(17)], "at most 16 cameras"),
    ],
)
def test_names_of_cameras(names, wrong):
    said = parameters.wrong_cameras(names)
    assert said is None if wrong is None else wrong in said


@pytest.mark.parametrize("value", [1e-9, 1e-3, 0.0999])
def test_no_file_is_written_more_than_ten_times_a_second(value):
    with pytest.raises(InputError, match=r"0\.1 seconds or more, or 0 for never"):
        parameters_of(SEGMENT)["autosave_period"].validate(value)
    for fine in (0, 0.1, 5):
        assert parameters_of(SEGMENT)["autosave_period"].validate(fine) == fine


def test_what_both_nodes_have_is_the_same_in_both() -> None:
    """But for the text, the model and how large the network's input may be."""
    segment = parameters.parameters_of("segment_node")
    predict = parameters.parameters_of("predict_node")
    both = segment.keys() & predict.keys()
    assert {"device", "time_jump_tolerance", "frame_timeout", "log_period"} <= both
    for name in both - {"model"}:
        one, other = (
            (spec.default, spec.changes, spec.low, spec.choices, spec.check)
            for spec in (segment[name], predict[name])
        )
        assert one == other, name
        assert segment[name].high == predict[name].high or name == "processing_size"
