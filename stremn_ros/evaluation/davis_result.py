"""Figures of an evaluation: objects, sequences, the whole, as JSON and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stremn_ros.evaluation.metrics import Statistics


@dataclass
class ObjectScore:
    """Scores of one object of one sequence, in the range 0..1."""

    j: Statistics
    f: Statistics


@dataclass
class SequenceScore:
    """Scores of one sequence. frames: those segmented; seconds: spent in the segmenter's steps."""

    name: str
    objects: dict[int, ObjectScore]
    frames: int
    seconds: float
    frame_j: list[float] = field(repr=False)  # mean over objects, for each scored frame
    processing_size: tuple[int, int] | None = None  # rows and columns the network worked at
    # of each object in each scored frame, the segmenter's score and the J of its mask, both 0..1
    calibration: list[tuple[float, float]] = field(default_factory=list, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)

    @property
    def j(self) -> float:
        return float(np.mean([score.j.mean for score in self.objects.values()]))

    @property
    def f(self) -> float:
        return float(np.mean([score.f.mean for score in self.objects.values()]))


@dataclass
class DavisResult:
    """What evaluate_davis() found. as_dict() gives it in percent, ready for JSON."""

    sequences: list[SequenceScore]
    settings: dict[str, Any]
    partial: list[str]  # why this is not a result for the whole split; empty when it is
    peak_memory_mib: dict[str, float]

    def mean(self, measure: str) -> float:
        """Mean of "j" or "f" over all objects of all sequences, 0..1."""
        return float(
            np.mean(
                [
                    getattr(score, measure).mean
                    for sequence in self.sequences
                    for score in sequence.objects.values()
                ]
            )
        )

    @property
    def frames_per_second(self) -> float:
        seconds = sum(sequence.seconds for sequence in self.sequences)
        return sum(sequence.frames for sequence in self.sequences) / seconds if seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        def percent(value: float) -> float | None:
            return None if math.isnan(value) else round(100 * value, 3)

        def overall(measure: str, statistic: str) -> float | None:
            values = [
                getattr(getattr(score, measure), statistic)
                for sequence in self.sequences
                for score in sequence.objects.values()
            ]
            values = [value for value in values if not math.isnan(value)]
            return percent(float(np.mean(values))) if values else None

        j, f = self.mean("j"), self.mean("f")
        return {
            "j_and_f": percent((j + f) / 2),
            "j": percent(j),
            "f": percent(f),
            "j_recall": overall("j", "recall"),
            "j_decay": overall("j", "decay"),
            "f_recall": overall("f", "recall"),
            "f_decay": overall("f", "decay"),
            "sequences": {
                sequence.name: {
                    "j_and_f": percent((sequence.j + sequence.f) / 2),
                    "j": percent(sequence.j),
                    "f": percent(sequence.f),
                    "frames": sequence.frames,
                    "frames_per_second": rate(sequence.frames, sequence.seconds),
                    "processing_size": sequence.processing_size,
                    "objects": {
                        str(label): {"j": percent(score.j.mean), "f": percent(score.f.mean)}
                        for label, score in sequence.objects.items()
                    },
                }
                for sequence in self.sequences
            },
            "frames_per_second": round(self.frames_per_second, 2),
            "peak_memory_mib": self.peak_memory_mib,
            "partial": bool(self.partial),
            "partial_because": self.partial,
            "settings": self.settings,
        }

    def table(self) -> str:
        """The scores as text, one line for each sequence, the mean last."""
        width = max([len(sequence.name) for sequence in self.sequences] + [8])
        lines = [f"{'sequence':{width}}  objects    J&F      J      F  frames/s"]
        for sequence in self.sequences:
            lines.append(
                f"{sequence.name:{width}}  {len(sequence.objects):7d}"
                f"  {50 * (sequence.j + sequence.f):5.1f}  {100 * sequence.j:5.1f}"
                f"  {100 * sequence.f:5.1f}  {rate(sequence.frames, sequence.seconds):8.1f}"
            )
        j, f = self.mean("j"), self.mean("f")
        objects = sum(len(sequence.objects) for sequence in self.sequences)
        lines.append(
            f"{'mean':{width}}  {objects:7d}  {50 * (j + f):5.1f}  {100 * j:5.1f}  {100 * f:5.1f}"
            f"  {self.frames_per_second:8.1f}"
        )
        return "\n".join(lines + [f"partial result: {reason}" for reason in self.partial])


def rate(frames: int, seconds: float) -> float:
    return round(frames / seconds, 2) if seconds else 0.0
