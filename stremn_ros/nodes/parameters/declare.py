"""Declares the parameters on an rclpy node, and checks changes to them.

rclpy is imported only to declare, so that the table can be read anywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.nodes.parameters.spec import START, UNCONFIGURED, ParameterSpec
from stremn_ros.nodes.parameters.table import parameters_of


def descriptor(spec: ParameterSpec) -> Any:
    """The rcl_interfaces/ParameterDescriptor of an entry.

    The type is left to `validate`, whose refusal says in words what would be right: that of rclpy
    names types by number.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    text = ParameterDescriptor(
        description=f"{spec.description} Changes: {spec.changes}.",
        read_only=spec.changes == START,
        dynamic_typing=True,
    )
    if spec.choices:
        named = ", ".join(choice or "'' (empty)" for choice in spec.choices)
        text.additional_constraints = f"One of: {named}"
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, float):
            text.floating_point_range = [
                FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high))
            ]
        else:
            text.integer_range = [
                IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
            ]
    return text


def declare(node: Any, table: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Declares the parameters of `table` on an rclpy node.

    A value given at the start (command line, YAML) that is not valid does not end the node: the
    default is declared in its place and the reason returned, for the node to refuse its work with.
    A parameter that the table does not have is named in the log.

    Returns:
        The values by name, and by name what was wrong with the values given.
    """
    # rclpy has no public way to see a value given at the start before declaring it, and declaring
    # a wrong one raises
    given = getattr(node, "_parameter_overrides", {})
    specs = parameters_of(table)
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for spec in specs.values():
        value: Any = spec.default
        if spec.name in given:
            try:
                value = spec.validate(given[spec.name].value)
            except InputError as error:
                problems[spec.name] = f"parameter {error}"
        node.declare_parameter(spec.name, value, descriptor(spec), ignore_override=True)
        values[spec.name] = value
    unknown = [name for name in given if not _is_known(node, name)]
    if unknown:
        node.get_logger().warning(unknown_parameters(unknown, specs))
    if hasattr(node, "add_pre_set_parameters_callback"):  # later than Humble
        node.add_pre_set_parameters_callback(lambda changes: with_floats(table, changes))
    return values, problems


def _is_known(node: Any, name: str) -> bool:
    # declared by this package or by rclpy, or when a topic is subscribed to
    return node.has_parameter(name) or name.startswith("qos_overrides.")


def unknown_parameters(names: Iterable[str], known: Iterable[str]) -> str:
    """What to say of parameters that were given and are none, perhaps misspelled."""
    described = []
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        described.append(f"{name} (did you mean {near[0]}?)" if near else name)
    one = len(described) == 1
    return (
        f"{'parameter' if one else 'parameters'} {', '.join(described)} {'is' if one else 'are'} "
        "not known to this node and ignored; docs/parameters.md has all"
    )


def with_floats(table: str, changes: Sequence[Any]) -> list[Any]:
    """rclpy Parameters, with whole numbers that are set where the table has a double as doubles."""
    from rclpy.parameter import Parameter

    specs = parameters_of(table)
    return [
        Parameter(change.name, value=float(change.value))
        if change.type_ == Parameter.Type.INTEGER
        and change.name in specs
        and isinstance(specs[change.name].default, float)
        else change
        for change in changes
    ]


def check_changes(
    table: str, changes: Sequence[Any], *, configured: bool
) -> tuple[dict[str, Any], str]:
    """Checks a set of rclpy Parameters for an on-set callback.

    Returns:
        The new values by name, and the reason for which they are refused ('' when they are fine).
        Parameters that are not in the table (use_sim_time, qos_overrides) are let through.
    """
    specs = parameters_of(table)
    values: dict[str, Any] = {}
    for parameter in changes:
        spec = specs.get(parameter.name)
        if spec is None:
            continue
        try:
            values[spec.name] = spec.validate(parameter.value)
        except InputError as error:
            return {}, str(error)
        if spec.changes == UNCONFIGURED and configured:
            return {}, (
                f"{spec.name} is used while configuring: deactivate and clean up the node, set "
                "it, and configure again"
            )
    return values, ""
