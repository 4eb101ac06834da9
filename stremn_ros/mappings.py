"""Mappings, as YAML gives them, to dataclasses: names, types and what is missing are checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from stremn_ros.errors import InputError, StremnError

T = TypeVar("T")
_WORDS = {
    bool: "it must be true or false",
    int: "it takes whole numbers",
    float: "it takes numbers",
    str: "it takes a text",
}
_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def build(kind: type[T], values: Any, where: str = "", error: type[StremnError] = InputError) -> T:
    """A dataclass from a mapping of its fields' names.

    A field may be of bool, int, float, str, Any, lists, tuples and dicts of these, another
    dataclass, and a union with None. A whole number is a number, a list may stand for a tuple, and
    nothing else is converted: where YAML gives a text for what was meant as a number, that is said.

    Args:
        where: for messages, such as the file's name. error: what is raised.

    Raises:
        error: no mapping, an unknown or missing name, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where or kind.__name__} is {_shown(values)}; a mapping is needed")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := [str(name) for name in values if name not in fields]:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise error(
            f"{where}{': ' if where else ''}unknown entries {unknown}{hint}; known are "
            f"{sorted(fields)}"
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise error(f"{where}{': ' if where else ''}the entries {missing} are missing")
    prefix = f"{where}: " if where else ""
    given = {
        name: _converted(hints[name], value, f"{prefix}{name}", error)
        for name, value in values.items()
    }
    try:
        return kind(**given)
    except StremnError as problem:
        text = str(problem)
        raise error(text if where and text.startswith(where) else f"{prefix}{text}") from None


def _converted(kind: Any, value: Any, where: str, error: type[StremnError]) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(inner, value, where, error)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type[Any], kind), value, where, error)
    if origin is list or origin is tuple:
        return _sequence(origin, inner, value, where, error)
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping):
            raise error(f"{where} is {_shown(value)}; a mapping is needed")
        return dict(value)
    return _plain(kind, value, where, error)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str, error: type[StremnError]) -> Any:
    """A value of one of several types; None where null is one of them."""
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        try:
            return _converted(kind, value, where, error)
        except StremnError:
            continue
    return _converted(others[-1], value, where, error)


def _sequence(
    origin: Any, inner: tuple[Any, ...], value: Any, where: str, error: type[StremnError]
) -> Any:
    every = origin is list or inner[1:] == (...,)
    wanted = "a list" if every else f"a list of {_COUNTS.get(len(inner), len(inner))}"
    if not isinstance(value, (list, tuple)):
        raise error(f"{where} is {_shown(value)}; {wanted} is needed")
    if not every and len(value) != len(inner):
        raise error(f"{where} has {len(value)} entries, {wanted} is needed")
    kinds = [inner[0]] * len(value) if every else inner
    return origin(
        _converted(kind, item, f"{where}[{n}]", error)
        for n, (kind, item) in enumerate(zip(kinds, value))
    )


def _plain(kind: Any, value: Any, where: str, error: type[StremnError]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is float and not math.isfinite(value)):
        raise error(f"{where} is {_shown(value)}; {_WORDS[kind]}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"the text {text}" if isinstance(value, str) else text[:60]
