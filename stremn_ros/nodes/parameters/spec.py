"""One parameter of a node: its type, its range, and when it may change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stremn_ros.errors import InputError

# When a parameter may change
RUN_TIME = "run time"
UNCONFIGURED = "while unconfigured"
START = "at start only"

_TYPE_NAMES = {bool: "bool", int: "int", float: "double", str: "string", list: "string array"}


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: the type is that of the default."""

    name: str
    default: bool | int | float | str | list[str]
    description: str
    changes: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None  # returns what is wrong
    node: str = ""

    @property
    def type_name(self) -> str:
        return _TYPE_NAMES[type(self.default)]

    def validate(self, value: Any) -> Any:
        """The value in the parameter's type.

        Raises:
            InputError: another type, out of range or not one of the choices.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # `-p rate:=10` is an integer to ROS
        texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
        if type(value) is not kind or not texts:
            raise InputError(
                f"{self.name} is of type {self.type_name}, got {value!r} ({type(value).__name__})"
            )
        if isinstance(value, (int, float)):
            if not math.isfinite(value):
                raise InputError(f"{self.name} is {value}: a finite number is wanted")
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            if not low <= value <= high:
                raise InputError(f"{self.name} is {value}, the range is {self.range_text}")
        if self.choices and value not in self.choices:
            raise InputError(
                f"{self.name} is '{value}', it is one of: "
                + ", ".join(choice or "'' (empty)" for choice in self.choices)
            )
        wrong = self.check(value) if self.check is not None else None
        if wrong:
            raise InputError(f"{self.name} is {value!r}: {wrong}")
        return value

    @property
    def range_text(self) -> str:
        if self.choices:
            return ", ".join(f"`{choice}`" if choice else "empty" for choice in self.choices)
        if self.low is None and self.high is None:
            return ""
        return f"{self.low:g} to {self.high:g}"
