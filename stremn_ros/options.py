"""What a segmenter can be tuned with, each option said once.

Python, the node's parameters, launch arguments and the command line are all made from the fields of
`SegmenterOptions`: a new option is a field there, and the code that does what it says. It needs no
PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Generic, Protocol, TypeVar, cast

from stremn_ros.errors import InputError
from stremn_ros.imaging.sizes import LARGEST_ADVISED, MAX_SIDE, MIN_SIDE, checked_size
from stremn_ros.memory.rules import RULES, find_rule
from stremn_ros.results import MAX_ID

_T = TypeVar("_T")


@dataclass(frozen=True)
class Tunable:
    """What an option is.

    Attributes:
        default: its value where nobody says another; the type is that of the option.
        text: for people, in sentences.
        low, high: its range; high None: there is no largest value.
        own: the value of a node's parameter that leaves the option to the model; None: there is
            none, and the parameter has the default above.
        most: the largest value of a node's parameter, where that is not high.
        unit: of the range, for messages.
        choices: the values of a node's parameter.
        run_time: may be changed between two frames. parameter: a node has a parameter for it.
    """

    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    own: int | float | str | None = None
    most: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    run_time: bool = False
    parameter: bool = True

    @property
    def range_text(self) -> str:
        """For messages; empty where there is no range."""
        if self.low is None:
            return ""
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g}..{self.high:g}"

    def given(self, parameter: Any) -> Any:
        """The option that a node's parameter asks for; None: the model's own."""
        if self.own is None:
            return parameter
        below = isinstance(self.own, float) and self.low is not None and parameter < self.low
        return None if parameter == self.own or below else parameter


def _option(default: _T, text: str, *range_: float, **more: Any) -> _T:
    low, high = (*range_, None, None)[:2]
    return field(default=default, metadata={"is": Tunable(default, text, low, high, **more)})


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Of a `Segmenter`; ``TUNABLES`` has what each of them is.

    Raises:
        InputError: one of them is out of range; the message gives the range.
    """

    slots: int = _option(5, "Memory slots of each object, its seed included.", 2, 16, own=0)
    max_objects: int = _option(
        8, "Maximum number of objects at once; the memory is allocated for this many.", 1, MAX_ID
    )
    processing_size: int | tuple[int, int] = _option(
        240,
        "Shorter side of the picture that the network sees; less is faster and coarser. Masks "
        "always have the size of the source image.",
        MIN_SIDE,
        MAX_SIDE,
        own=0,
        most=LARGEST_ADVISED,
        unit=" pixels",
    )
    update_rule: str = _option(
        "least_similar",
        "Which memory slots are fused when the memory is full.",
        own="",
        # not the baseline whose memory grows without end: a node runs for weeks
        choices=tuple(name for name, rule in RULES.items() if not rule.grows),
        run_time=True,
    )
    # an update treats the predicted mask as ground truth: frequent updates follow an object whose
    # look changes, rare ones copy fewer errors
    update_every: int = _option(
        1, "Write to the memory on every n-th frame only.", 1, own=0, most=1000, run_time=True
    )
    # each template fuses two others, and copies the mask's errors: what looks as it did is left out
    update_change: float = _option(
        0.0,
        "Write an object to the memory only if it looks different from its newest template by at "
        "least this: 1 minus the mean cosine of its cells' keys. 0 writes it always.",
        0.0,
        1.0,
        own=-1.0,
        run_time=True,
    )
    min_score: float = _option(
        0.5,
        "An object with a lower score counts as not seen: it has no mask in that frame, and the "
        "memory is not updated with it.",
        0.0,
        1.0,
        own=-1.0,
        run_time=True,
    )
    # while it is away the network tends to pick something similar, with a lower score
    return_score: float = _option(
        0.0,
        "Minimum score for an object that is not seen to count as found again, if higher than "
        "min_score. Lower scores become lower still where a mask looks much less like the seed "
        "than usual.",
        0.0,
        1.0,
        own=-1.0,
        run_time=True,
    )
    lost_after: int = _option(
        30,
        "An object that is not seen for more than this many frames is LOST.",
        0,
        own=0,
        most=1_000_000,
        run_time=True,
    )
    smallest_part: float = _option(
        0.0,
        "Do not publish parts of a mask that are smaller than this share of its largest part. The "
        "memory still gets them. 0 keeps all parts, 1 only the largest.",
        0.0,
        1.0,
        run_time=True,
    )
    # the network compares looks only, and takes a twin along with the object
    gate: float = _option(
        0.0,
        "Drop the parts of a mask that are farther than this from where the object is expected, in "
        "object sizes (the root of its area), if the object is whole without them. Of two whole "
        "copies the expected one stays. 0 drops nothing.",
        0.0,
        10.0,
        own=-1.0,
        run_time=True,
    )
    mirrored_seed: bool = _option(
        False,
        "Also lock the mirror image of each seed in the memory, which helps with objects that turn "
        "round. It takes one slot.",
        parameter=False,
    )
    input_to_memory: bool = _option(
        False,
        "Fuse each new template into a slot (I2M, Eq. 9) instead of one slot into another (M2M).",
        parameter=False,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "processing_size", checked_size(self.processing_size))
        find_rule(self.update_rule)
        for name, tunable in TUNABLES.items():
            value, kind = getattr(self, name), type(tunable.default)
            if kind is bool and not isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; it must be true or false")
            if tunable.low is None or isinstance(value, tuple):
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if number and kind is int and not isinstance(value, Integral):
                raise InputError(f"{name} is {value}; it must be a whole number")
            most = value if tunable.high is None else tunable.high
            if not (number and tunable.low <= value <= most):
                shown = f"{value}" if number else repr(value)
                raise InputError(f"{name} is {shown}; it must be {tunable.range_text}")
            object.__setattr__(self, name, kind(value))  # NumPy's numbers, too, as Python's own


TUNABLES: dict[str, Tunable] = {
    option.name: option.metadata["is"] for option in fields(SegmenterOptions)
}
RUN_TIME = tuple(name for name, tunable in TUNABLES.items() if tunable.run_time)


class _Tuned(Protocol):
    @property
    def options(self) -> SegmenterOptions: ...

    def change(self, **options: Any) -> None: ...


class OptionAttribute(Generic[_T]):
    """An option as an attribute of its segmenter; set where it may change between frames."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: _Tuned, kind: type) -> _T:
        return cast(_T, getattr(owner.options, self._name))

    def __set__(self, owner: _Tuned, value: _T) -> None:
        owner.change(**{self._name: value})
