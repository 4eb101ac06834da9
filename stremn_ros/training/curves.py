"""Draws a training's journal (log.jsonl) as a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stremn_ros.evaluation.plotting import new_figure, save_figure


@dataclass(frozen=True)
class Curves:
    """What a task's picture shows beside the loss.

    Attributes:
        metric: entry of the journal's rows; title: its name for people.
        validation: name of the figure on what was held out; factor: brings it to the metric's
            scale.
        log_scale: of the metric's axis; else it reaches from 0 to 1.
    """

    metric: str = "iou"
    title: str = "IoU"
    validation: str = "held-out J&F / 100"
    factor: float = 0.01
    log_scale: bool = False


SEGMENTATION = Curves()


def read_journal(path: Path) -> list[dict[str, float]]:
    """The journal's rows; where a run was cut off and repeated iterations, the later rows count."""
    rows: dict[tuple[float, bool], dict[str, float]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        rows[row["iteration"], "validation" in row] = row
    return [rows[key] for key in sorted(rows)]


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Running mean over the last ``width`` values, NaN left out."""
    result = np.empty(len(values))
    for n in range(len(values)):
        window = values[max(0, n - width + 1) : n + 1]
        window = window[np.isfinite(window)]
        result[n] = window.mean() if len(window) else np.nan
    return result


def draw_curves(journal: Path, picture: Path, curves: Curves = SEGMENTATION) -> None:
    """Loss, the task's metric on the training clips, and its validation, as a PNG."""
    rows = read_journal(journal)
    steps = [row for row in rows if "loss" in row]
    checks = [row for row in rows if "validation" in row]
    if not steps:
        return
    iterations = np.array([row["iteration"] for row in steps])
    width = max(1, min(100, len(steps) // 10))
    figure = new_figure(10, 4, dpi=110)
    left, right = figure.subplots(1, 2)
    for axis, name, title in (
        (left, "loss", "training loss"),
        (right, curves.metric, curves.title),
    ):
        values = np.array([row[name] for row in steps], np.float64)
        axis.plot(iterations, values, color="0.85", linewidth=0.5)
        axis.plot(iterations, smooth(values, width), label=f"training, mean of {width}")
        axis.set_xlabel("iteration")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    if all(row["loss"] > 0.0 for row in steps):  # a logarithm or a likelihood may be below
        left.set_yscale("log")
    if checks:
        right.plot(
            [row["iteration"] for row in checks],
            [row["validation"] * curves.factor for row in checks],
            "o-",
            label=curves.validation,
        )
        right.set_title(f"{curves.title} and {curves.validation}")
    if curves.log_scale:
        right.set_yscale("log")
    else:
        right.set_ylim(0.0, 1.0)
    right.legend(loc="best")
    save_figure(figure, picture)
