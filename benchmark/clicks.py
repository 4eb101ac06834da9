"""What one more mask is worth to `stremn label`: J&F with one seed, and with a second one.

    python benchmark/clicks.py --root DAVIS_DEV --split val --json clicks.json

Each sequence is labelled from the true mask of frame 0, and then again with one more true mask, in
the frame that came out worst (by J, mean over the objects). J&F in percent, the first and the last
frame left out; the spread is the standard error of the mean gain over the sequences.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stremn_ros.cli.options import add_model_options
from stremn_ros.errors import StremnError
from stremn_ros.evaluation.davis_data import DavisSequence, Truth, open_davis
from stremn_ros.evaluation.metrics import score_frame
from stremn_ros.files import write_json, write_text
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.recordings.job import label
from stremn_ros.recordings.joining import Joining
from stremn_ros.recordings.passes import Settings
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.tasks import PassTask
from stremn_ros.recordings.track import Track
from stremn_ros.recordings.workers import Serial


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder in DAVIS' layout")
    parser.add_argument("--split", default="val")
    parser.add_argument("--sequences", nargs="+", help="only these")
    add_model_options(parser)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


class _Enough(StremnError):
    """The passes are done, and no files are needed."""


class _Scores(Serial):
    """Does the passes, and scores what they are joined to in the place of writing it."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.found: list[Any] = []

    def run(self, first: Any, done: Any, look: Any, tell: Any) -> None:
        passes = [task for task in first if isinstance(task, PassTask)]
        if not passes:
            super().run(first, done, look, tell)
            return
        for task in passes:
            task.run(tell)
        truth, track = self._truth, Track.load(Path(passes[0].folder))
        joining = Joining(track, passes[0].settings.stretch)
        for item in joining.frames():
            self.found.append(score_frame(item.labels, truth.labels[item.frame], truth.ids))
        joining.close()
        raise _Enough


def scores(
    sequence: DavisSequence, truth: Truth, seeded: Sequence[int], settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """J and F [frames, objects] of a sequence that is labelled from the true masks of frames."""
    runner = _Scores(truth)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for frame in seeded:
            mask = truth.labels[frame]
            assert mask is not None
            write_label_png(folder / f"{frame}.png", mask)
        lines = "".join(f"- {{frame: {frame}, mask: {frame}.png}}\n" for frame in seeded)
        write_text(folder / "seeds.yaml", lines)
        recording = str(sequence.images[0].parent)
        job = Job((recording,), str(folder / "seeds.yaml"), folder / "out", settings=settings)
        with contextlib.suppress(_Enough):
            label(job, runner)
    j, f = (np.array([each[n] for each in runner.found], float) for n in (0, 1))
    return j, f


def measure(sequence: DavisSequence, settings: Settings) -> dict[str, Any]:
    """J&F with one and with two seeds, and where the second is."""
    truth = sequence.truth()

    def mean(j: np.ndarray, f: np.ndarray) -> float:
        return round(50 * float(np.nanmean(j[1:-1]) + np.nanmean(f[1:-1])), 1)

    one = scores(sequence, truth, [0], settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a frame without an object
        worst = 1 + int(np.nanargmin(np.nanmean(one[0][1:-1], axis=1)))
    two = scores(sequence, truth, [0, worst], settings)
    frames = len(truth.labels)
    return {"one": mean(*one), "two": mean(*two), "second": worst, "frames": frames}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    names = ("slots", "update_rule", "update_every", "processing_size")
    given = tuple((name, getattr(options, name)) for name in names if getattr(options, name))
    settings = Settings(options.model, options.device, options.runtime, options.auto_build, given)
    results = {}
    try:
        for sequence in open_davis(
            options.root, options.split, sequences=options.sequences
        ).sequences:
            found = results[sequence.name] = measure(sequence, settings)
            print(
                f"| {sequence.name} | {found['one']} | {found['two']} | "
                f"{found['second']} of {found['frames']} |",
                flush=True,
            )
    except StremnError as error:
        print(f"clicks: {error}", file=sys.stderr)
        return 2
    one, two = (np.array([each[name] for each in results.values()]) for name in ("one", "two"))
    gain = two - one
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
    print(
        f"one seed {one.mean():.1f}, two {two.mean():.1f}: gain {gain.mean():+.1f} "
        f"(standard error {error:.1f}, {gain.min():+.1f} to {gain.max():+.1f})"
    )
    if options.json:
        write_json(options.json, {"sequences": results, "gain": float(gain.mean())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
