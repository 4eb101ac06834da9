"""What the diagnostics tell: figures, and for all that is wrong its reason and its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stremn_ros.results import ObjectState, SegmenterState
from stremn_ros.stream.intake import LOSS_REMEDY, Counters
from stremn_ros.stream.settings import IntakeSettings, Settings

# levels of diagnostic_msgs/DiagnosticStatus
OK, WARN, ERROR = 0, 1, 2

# Warning thresholds, as fractions of the images received or sent; FEW: the fewest to judge by.
MUCH_LOST = 0.2
MUCH_LATE = 0.5
MUCH_DROPPED = 0.5
FEW = 5


Reason = tuple[int, str]
"""A level, and what is wrong and what to do."""


@dataclass
class Report:
    """For the diagnostics: the worst first in `message`, the rest in the value `also`."""

    level: int
    message: str
    values: dict[str, str]


@dataclass(frozen=True)
class FrameTiming:
    """A frame that was worked on; seconds."""

    when: float  # it was published, by the monotonic clock
    latency: float  # from its arrival to its publication
    network: float  # inside the network
    node: float  # that the node itself added: neither in the network nor waiting for it


@dataclass(frozen=True, kw_only=True)
class InputStatus:
    """What a core knows of its images at one moment; counts are of the last few seconds."""

    topic: str
    node: str
    settings: IntakeSettings
    counters: Counters
    active: bool
    window: float  # seconds that rates are over
    since: float  # seconds since the last image, or since the activation
    arrivals: int
    drops: int
    lost: int
    late: list[float]  # seconds by which images lagged behind the clock
    done: list[FrameTiming]
    error: str  # the last one
    error_age: float
    no_clock: bool = False  # the clock is simulated and has not received the time yet
    hint: str = ""  # of a connection that cannot work
    outdated: int = 0  # dropped by max_age


@dataclass(frozen=True, kw_only=True)
class CoreStatus:
    """What the core of a camera knows at one moment."""

    images: InputStatus
    state: SegmenterState
    settings: Settings
    enabled: bool
    kept_frames: int
    kept_most: int
    kept_bytes: int
    snapshot: str = ""  # the last one
    last_seed: str = ""
    seeds_by_topic: str = ""
    problems: Sequence[str] = ()  # what else is wrong, in words
    depth: str = ""  # what came of the depth images


def diagnose(facts: CoreStatus) -> Report:
    """Figures, and all that is wrong with its remedy."""
    report = worst_first(_reasons(facts), "segmenting", _values(facts))
    values, state = report.values, facts.state
    for item in state.objects:
        values[f"object {item.id}"] = (
            f"{_prefix(state.names.get(item.id, ''))}{item.state.name}, score {item.score:.3f}, "
            f"area {item.area}"
        )
    for object_id, text in sorted(state.memory.items()):
        values[f"memory of object {object_id}"] = text
    return report


def worst_first(reasons: Iterable[Reason], otherwise: str, values: Mapping[str, Any]) -> Report:
    """A report of what is wrong, the worst first; otherwise: what to say where nothing is."""
    # of the same level in the order in which they were found
    found = sorted(reasons, key=lambda reason: -reason[0])
    level, message = found[0] if found else (OK, otherwise)
    texts = {key: str(value) for key, value in values.items()}
    texts["also"] = " | ".join(text for _, text in found[1:])
    return Report(level, message, texts)


def with_reason(report: Report, level: int, text: str) -> Report:
    """A report with something more that is wrong."""
    first, second = report.message, text
    if level > report.level:
        first, second = text, report.message if report.level else ""
    also = " | ".join(part for part in (second, report.values.get("also", "")) if part)
    return Report(max(level, report.level), first, {**report.values, "also": also})


def input_reasons(facts: InputStatus) -> Iterable[Reason]:
    """What is wrong with the images themselves; nothing else is worth telling while inactive."""
    settings = facts.settings
    if not facts.active:
        yield OK, f"inactive: `ros2 lifecycle set {facts.node} activate` starts it"
        return
    if facts.no_clock:
        yield (
            WARN,
            "use_sim_time is true, but nothing has published a time on /clock: start the "
            "simulation, play the bag with --clock, or set use_sim_time to false",
        )
    if facts.since > settings.frame_timeout:
        yield (
            WARN,
            facts.hint
            or f"no image on {facts.topic} for {facts.since:.1f} s: check that something publishes "
            f"there (ros2 topic info -v {facts.topic}) and that its reliability fits",
        )
    if facts.error and facts.error_age < max(5.0, settings.frame_timeout):
        yield (WARN if facts.done else ERROR), facts.error
    if facts.lost > MUCH_LOST * (facts.lost + facts.arrivals):
        yield (
            WARN,
            f"{facts.lost} of the last {facts.lost + facts.arrivals} images on {facts.topic} were "
            f"lost on the way: {LOSS_REMEDY}",
        )
    if facts.outdated:
        yield (
            WARN,
            f"{facts.outdated} of the last {facts.arrivals} images on {facts.topic} were older "
            f"than max_age ({settings.max_age:g} s) and dropped: synchronize the clocks of camera "
            "and node (chrony), for a bag or a simulation set use_sim_time, take a faster runtime, "
            "or raise max_age",
        )
    if len(facts.late) > MUCH_LATE * facts.arrivals and facts.arrivals >= FEW:
        yield (
            WARN,
            f"images on {facts.topic} are {_span(float(np.median(facts.late)))} old when they "
            "come: for a bag or a simulation set use_sim_time (and play with --clock); with a "
            "real camera on another computer synchronize the clocks (chrony), or raise "
            "stale_after if such a delay is meant",
        )


def backlog(facts: InputStatus) -> Iterable[Reason]:
    """More images come than can be worked on."""
    if facts.drops > MUCH_DROPPED * facts.arrivals and facts.arrivals >= FEW:
        took = [entry.latency for entry in facts.done]
        each = f"an image takes {float(np.median(took)) * 1000:.0f} ms" if took else "it is busy"
        yield (
            WARN,
            f"backlog: {facts.drops} of the last {facts.arrivals} images on {facts.topic} were "
            f"dropped for newer ones, as {each}: lower processing_size, take a faster runtime "
            "(`stremn doctor`), or slow the camera down",
        )


def _reasons(facts: CoreStatus) -> Iterable[Reason]:
    """What comes first in the way of an image first."""
    images, objects = facts.images, facts.state.objects
    yield from input_reasons(images)
    if not images.active:
        return
    for problem in facts.problems:
        yield WARN, problem
    if not facts.enabled:
        yield OK, "paused (~/enable)"
        return
    if not facts.state.ids:
        yield OK, "no objects: seed one with ~/seed_mask or ~/seed_object"
    lost = [item.id for item in objects if item.state is ObjectState.LOST]
    if lost:
        yield WARN, f"lost object {listed_ids(lost)}: seed it again, or remove it"
    hidden = [item.id for item in objects if item.state is ObjectState.OCCLUDED]
    if hidden:
        yield (
            WARN,
            f"object {listed_ids(hidden)} is not seen: its mask is empty until it is found again "
            "(OCCLUDED; LOST after lost_after images)",
        )
    unsure = [
        f"{item.id} ({item.score:.2f})"
        for item in objects
        if item.state is ObjectState.TRACKED and item.score < facts.settings.low_confidence
    ]
    if unsure:
        yield (
            WARN,
            f"low confidence in object {', '.join(unsure)}: look at ~/overlay and seed it again "
            "if its mask has drifted, or lower low_confidence",
        )
    yield from backlog(images)


def input_values(facts: InputStatus, done: str) -> dict[str, Any]:
    """Figures of the images; done: what it is called to be done with one."""
    counters = facts.counters
    return {
        "received": counters.received,
        done: counters.segmented,
        "dropped": counters.dropped,
        "failed": counters.failed,
        "waiting": counters.waiting,
        "in work": counters.in_work,
        "stale": counters.stale,
        "lost in transport": counters.lost,
        "input rate [Hz]": f"{facts.arrivals / facts.window:.2f}",
        "output rate [Hz]": f"{len(facts.done) / facts.window:.2f}",
        **_percentiles("latency", [entry.latency for entry in facts.done]),
        **_percentiles("network", [entry.network for entry in facts.done]),
        **_percentiles("node", [entry.node for entry in facts.done]),
        "last error": facts.error,
    }


def _values(facts: CoreStatus) -> dict[str, Any]:
    state = facts.state
    return {
        **input_values(facts.images, "segmented"),
        "objects": f"{len(state.ids)} of {state.max_objects}",
        "memory [bytes]": state.memory_bytes,
        "slots used": ", ".join(f"{key}: {n}" for key, n in sorted(state.slots_used.items())),
        "seed buffer [frames]": f"{facts.kept_frames} of {facts.kept_most}",
        "seed buffer [bytes]": facts.kept_bytes,
        "last seed": facts.last_seed,
        "seeds by topic": facts.seeds_by_topic,
        "snapshot": facts.snapshot,
        "depth": facts.depth,
        "runtime": state.runtime,
        "enabled": str(facts.enabled).lower(),
    }


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, str]:
    keys = [f"{name} p{part} [ms]" for part in (50, 95, 99)]
    if not seconds:
        return dict.fromkeys(keys, "")
    values = np.percentile(np.asarray(seconds) * 1000, (50, 95, 99))
    return {key: f"{value:.2f}" for key, value in zip(keys, values)}


def _span(seconds: float) -> str:
    """A length of time for people."""
    for unit, name in ((86400.0 * 365, "years"), (86400.0, "days"), (3600.0, "hours")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.1f} s"


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""


def listed_ids(ids: Iterable[int]) -> str:
    return ", ".join(str(number) for number in ids)
