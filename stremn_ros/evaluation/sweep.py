"""One model under several memories: the paper's Tables 3, 4 and 9 to 11 on whatever is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis import evaluate_davis
from stremn_ros.evaluation.davis_data import Davis
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.files import sha256, write_json
from stremn_ros.memory.rules import RULES
from stremn_ros.model_folder import WEIGHTS, find_model
from stremn_ros.segmenter import Segmenter

MUCH = 0.1  # change of J with the number of slots by which the paper's Table 10 picks objects


@dataclass(frozen=True)
class Setting:
    """One memory: slots, the update rule's name, and whether I2M."""

    slots: int
    rule: str
    input_to_memory: bool = False

    @property
    def key(self) -> str:
        """Of the result; the same for settings that are the same memory."""
        if self.rule == "linear":
            return "linear"
        if self.rule == "first_and_previous" or (self.slots == 2 and not self.input_to_memory):
            return "2 slots"
        return f"{self.slots} slots, {self.rule}{', I2M' if self.input_to_memory else ''}"


def plan(slots: Sequence[int], rules: Sequence[str], base: Setting, i2m: bool) -> list[Setting]:
    """What is run, each memory once: the numbers of slots, the rules, and I2M beside M2M.

    base: rule of the runs over slots, and slots of the runs over rules. Raises InputError for a
    rule that is unknown.
    """
    if unknown := sorted(set(rules) - set(RULES)):
        raise InputError(f"update rules {unknown} are unknown; known are {sorted(RULES)}")
    wanted = [Setting(count, base.rule) for count in slots]
    wanted += [Setting(base.slots, rule) for rule in rules]
    if i2m:
        wanted += [base, Setting(base.slots, base.rule, True)]
    found: dict[str, Setting] = {}
    for setting in wanted:
        found.setdefault(setting.key, setting)
    return list(found.values())


@dataclass
class Sweep:
    """Results so far. runs: DavisResult.as_dict() of each setting's key; head: what they share."""

    head: dict[str, Any]
    slots: list[int]
    rules: list[str]
    base: Setting
    runs: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {**self.head, "slots": self.slots, "rules": self.rules, "runs": self.runs}

    def run(self, setting: Setting) -> dict[str, Any] | None:
        return self.runs.get(setting.key)

    def by_slots(self) -> list[tuple[int, dict[str, Any]]]:
        found = [(count, self.run(Setting(count, self.base.rule))) for count in self.slots]
        return [(count, run) for count, run in found if run is not None]

    def by_rule(self) -> list[tuple[str, dict[str, Any]]]:
        found = [(rule, self.run(Setting(self.base.slots, rule))) for rule in self.rules]
        return [(rule, run) for rule, run in found if run is not None]

    def table(self) -> str:
        """Markdown: slots, rules, I2M, then every object's J by slots with its spread."""
        lines: list[str] = []

        def add(title: str, first: str, rows: Sequence[tuple[Any, dict[str, Any]]]) -> None:
            if rows:
                lines.extend([f"{title}", "", f"| {first} | J | F | J&F |", "|---|---|---|---|"])
                lines.extend(
                    f"| {name} | {run['j']:.1f} | {run['f']:.1f} | {run['j_and_f']:.1f} |"
                    for name, run in rows
                )
                lines.append("")

        add(f"Slots (rule {self.base.rule}; paper: Table 9)", "Slots", self.by_slots())
        add(f"Rules ({self.base.slots} slots; paper: Table 4)", "Rule", self.by_rule())
        forms = [
            (name, run)
            for name, run in (
                ("I2M", self.run(Setting(self.base.slots, self.base.rule, True))),
                ("M2M", self.run(self.base)),
            )
            if run is not None
        ]
        if len(forms) == 2:
            add("What updates what (paper: Table 3)", "Form", forms)
        columns = self.by_slots()
        if len(columns) > 1:
            head = " | ".join(f"{count} slots" for count, _ in columns)
            lines += [
                "J of each object by slots (paper: Tables 10 to 12; bold: J changes by more than "
                f"{100 * MUCH:.0f} points)",
                "",
                f"| Object | {head} | std |",
                "|---|" + "---|" * (len(columns) + 1),
            ]
            for name, values in self.objects().items():
                row = " | ".join(f"{100 * value:.1f}" for value in values)
                much = values.max() - values.min() > MUCH
                shown = f"**{name}**" if much else name
                lines.append(f"| {shown} | {row} | {100 * values.std(ddof=1):.1f} |")
        return "\n".join(lines).rstrip()

    def objects(self) -> dict[str, np.ndarray]:
        """J of each object for each number of slots, 0..1: name -> [slots]."""
        columns = [run for _, run in self.by_slots()]
        names = [
            (sequence, label)
            for sequence, scores in (columns[0]["sequences"] if columns else {}).items()
            for label in scores["objects"]
        ]
        many = {sequence for sequence, label in names if label != "1"}
        return {
            f"{sequence}_{label}" if sequence in many else sequence: np.array(
                [run["sequences"][sequence]["objects"][label]["j"] / 100 for run in columns]
            )
            for sequence, label in names
        }


def sweep(
    dataset: Davis,
    model: str,
    *,
    slots: Sequence[int],
    rules: Sequence[str],
    rule: str | None = None,
    i2m: bool = True,
    every: int = 1,
    path: str | os.PathLike[str] | None = None,
    progress: bool = False,
    on_run: Callable[[Sweep], object] | None = None,
    **options: Any,
) -> Sweep:
    """Evaluates one model under each of several memories on the same sequences.

    slots: numbers of slots, run with ``rule`` (default: the model's). rules: run with the model's
    number of slots. i2m: also I2M beside M2M. every: as in evaluate_davis. path: JSON that is
    written after every run; runs that it holds already are not done again. options: of
    Segmenter.load. Raises InputError where the file is of another model, data or options.
    """
    folder = find_model(model)
    first = Segmenter.load(model, max_objects=dataset.max_objects, update_rule=rule, **options)
    base = Setting(first.memory.slots, first.update_rule)
    head = {
        "model": folder.name,
        "weights_sha256": sha256(folder / WEIGHTS),
        "sequences": [sequence.name for sequence in dataset.sequences],
        "split": dataset.split,
        "image_set": dataset.year,
        "resolution": dataset.resolution,
        "every": every,
        "update_every": first.update_every,
        "runtime": first.runtime_name,
        "base": {"slots": base.slots, "rule": base.rule},
        "options": {key: value for key, value in sorted(options.items()) if value is not None},
    }
    result = Sweep(head, list(slots), list(rules), base, _runs(path, head))
    for setting in plan(slots, rules, base, i2m):
        if setting.key in result.runs:
            continue
        segmenter = Segmenter.load(
            model,
            max_objects=dataset.max_objects,
            slots=setting.slots,
            update_rule=setting.rule,
            input_to_memory=setting.input_to_memory,
            **options,
        )
        done = evaluate_davis(dataset, segmenter, every=every, progress=progress)
        result.runs[setting.key] = {**done.as_dict(), "memory_bytes": segmenter.memory_bytes}
        if path is not None:
            write_json(path, result.as_dict(), indent=1)
        if on_run is not None:
            on_run(result)
    return result


def _runs(path: str | os.PathLike[str] | None, head: dict[str, Any]) -> dict[str, Any]:
    """The runs of a file that was begun before."""
    if path is None or not Path(path).exists():
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        runs = dict(found["runs"])
        if not all(isinstance(run["sequences"], dict) for run in runs.values()):
            raise TypeError("a run has no sequences")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not the result of a sweep ({error})") from None
    wanted = json.loads(json.dumps(head))
    other = [key for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise InputError(
            f"{path} holds a sweep with another {other[0]} ({found.get(other[0])}, not "
            f"{wanted[other[0]]}); choose another file"
        )
    return runs


def plot(result: Sweep, path: str | os.PathLike[str]) -> None:
    """Draws J&F against the slots and by rule, each sequence and the mean, as a PNG."""
    slots, rules = result.by_slots(), result.by_rule()
    i2m = result.run(Setting(result.base.slots, result.base.rule, True))
    if i2m is not None:
        rules = [*rules, (f"{result.base.rule}, I2M", i2m)]
    figure = new_figure(12, 5)
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(next(iter(result.runs.values()))["sequences"]) if result.runs else []

    def values(runs: Sequence[tuple[Any, dict[str, Any]]], name: str) -> list[float]:
        return [run["sequences"][name]["j_and_f"] for _, run in runs]

    counts = [count for count, _ in slots]
    for name in names:
        left.plot(counts, values(slots, name), ".-", linewidth=1, alpha=0.7, label=name)
        right.plot(values(rules, name), ".", markersize=9, alpha=0.7)
    left.plot(counts, [run["j_and_f"] for _, run in slots], "ko-", linewidth=2.5, label="mean")
    left.set_xticks(counts)
    left.set_xlabel(f"slots (rule {result.base.rule})")
    left.set_ylabel("J&F, percent")
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=8)
    means = [run["j_and_f"] for _, run in rules]
    right.plot(means, "k_", markersize=28, markeredgewidth=2.5)
    for place, mean in enumerate(means):
        right.annotate(
            f"{mean:.1f}", (place, mean), (15, 0), textcoords="offset points", va="center"
        )
    right.set_xticks(range(len(rules)), [name.replace("_", " ") for name, _ in rules], rotation=25)
    right.set_xlim(-0.5, len(rules) - 0.2)
    right.set_xlabel(f"rule ({result.base.slots} slots); bar: mean")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.suptitle(f"{result.head['model']}, weights {result.head['weights_sha256'][:12]}")
    save_figure(figure, path)
