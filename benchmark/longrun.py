"""A long run: a video played back and forth while objects are removed and added on the way.

    python benchmark/longrun.py --frames 100000 --json longrun.json --plot longrun.png
    python benchmark/longrun.py --frames 100000 --davis DAVIS --sequence bear --json longrun.json

Without --davis the video is drawn, so the masks are known and no data is needed. Reported per
stretch of frames: frame time (wall and CPU), memory of the process and of the slots, calls of each
stage, and J against the true masks. The exit code is 1 when the slot memory changed its size, the
process grew by more than 2 % after its first stretch, or the last stretch took other operations
than the second (where stretches are whole cycles of going and coming: multiples of twice
--change-every).

Other work on the machine changes the frame time more than age could, so with --fresh N the frames
go on: N more are played, in turns, to the segmenter that has been through all of them and to a
fresh one, whose frames N/2 to N are compared with those of the old one at the same moments.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from stremn_ros.cli.options import add_model_options, load_segmenter
from stremn_ros.errors import InputError, StremnError
from stremn_ros.evaluation.bench import Run, back_and_forth, measure, plot, scene, time_stages
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.files import write_json
from stremn_ros.imaging.video import read_image
from stremn_ros.segmenter import Segmenter

ALLOWED_GROWTH = 0.02  # of the process' memory
ALLOWED_SLOWER = 0.05  # reported, not enforced: other work on the machine disturbs it


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=3, help="drawn objects (default: 3)")
    parser.add_argument("--rows", type=int, default=240, help="rows of the drawn video")
    parser.add_argument("--columns", type=int, default=320, help="columns of the drawn video")
    parser.add_argument("--davis", help="folder of DAVIS, to play a real sequence")
    parser.add_argument("--sequence", default="bear", help="its name (default: bear)")
    parser.add_argument(
        "--change-every", type=int, default=125, help="frames between an object's going and coming"
    )
    parser.add_argument(
        "--fresh",
        type=int,
        default=0,
        metavar="N",
        help="frames beside a fresh segmenter, at the end",
    )
    parser.add_argument("--score-every", type=int, default=10, help="frames between two J")
    add_model_options(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def read_video(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3] and labels uint8 [T, H, W], all in memory."""
    if options.davis is None:
        return scene(options.objects, (options.rows, options.columns))
    sequence = open_davis(options.davis, "all", sequences=[options.sequence]).sequences[0]
    pairs = [
        (read_image(path), labels)
        for path, labels in zip(sequence.images, sequence.truth().labels)
        if labels is not None
    ]
    return np.stack([frame for frame, _ in pairs]), np.stack([labels for _, labels in pairs])


def judge(run: Run) -> tuple[bool, list[str]]:
    """Whether the promises hold, and a line on each."""
    first, last = run.memory_bytes
    start, end = run.windows[0], run.windows[-1]
    settled = run.windows[min(1, len(run.windows) - 1)]
    growth = end.resident_bytes / start.resident_bytes - 1 if start.resident_bytes else 0.0
    slower = end.median_ms / settled.median_ms - 1
    cpu = end.median_cpu_ms / settled.median_cpu_ms - 1 if settled.median_cpu_ms else 0.0
    constant = {first, last, *(window.memory_bytes for window in run.windows)} == {first}
    cycle = 2 * int(run.settings.get("change_every", 0))
    lengths = {window.last - window.first + 1 for window in (settled, end)}
    whole = len(lengths) == 1 and (not cycle or not max(lengths) % cycle)
    same = settled.calls == end.calls
    operations = ", ".join(f"{name} {count}" for name, count in end.calls.items())
    lines = [
        f"slot memory: {first} bytes after the first frame, {last} at the end "
        f"({'equal' if constant else 'NOT EQUAL'}, and after every stretch)",
        f"process: {end.resident_bytes / 2**20:.1f} MiB at the end, {100 * growth:+.2f} % against "
        f"frame {start.last} ({'within' if growth <= ALLOWED_GROWTH else 'OUTSIDE'} 2 %)",
        f"median frame time: {end.median_ms:.2f} ms in frames {end.first} to {end.last}, "
        f"{100 * slower:+.1f} % against frames {settled.first} to {settled.last} "
        f"({'within' if slower <= ALLOWED_SLOWER else 'outside'} 5 %)",
        f"median CPU time of a frame: {end.median_cpu_ms:.2f} ms there, {100 * cpu:+.1f} % "
        f"({'within' if cpu <= ALLOWED_SLOWER else 'outside'} 5 %)",
        f"operations in both: {'equal' if same else 'NOT EQUAL'}"
        f"{'' if whole else ' (stretches are not whole cycles)'}; in the last: {operations}",
    ]
    if start.j is not None and end.j is not None:
        lines.append(f"J: {100 * start.j:.1f} in the first stretch, {100 * end.j:.1f} in the last")
    return constant and growth <= ALLOWED_GROWTH and (same or not whole), lines


def beside_fresh(
    old: Segmenter, fresh: Segmenter, video: np.ndarray, labels: np.ndarray, frames: int
) -> dict[str, float]:
    """Plays frames to both in turns; median milliseconds (wall, CPU) over the second half.

    The fresh one is seeded with all objects, the old one with those that are away just now.
    """
    clock = time_stages(fresh)  # the old one has one
    order = back_and_forth(len(video))
    index = next(order)
    ids = fresh.seed(video[index], labels[index])
    if away := sorted(set(ids) - set(old.ids)):
        old.seed(video[index], labels[index], ids=away)
    times: dict[str, list[float]] = {"old_ms": [], "fresh_ms": [], "old_cpu": [], "fresh_cpu": []}
    for number in range(frames):
        frame = video[next(order)]
        turns = (("old", old), ("fresh", fresh))
        for name, segmenter in turns if number % 2 else reversed(turns):
            clock.wait()
            begin, busy = time.perf_counter(), time.process_time()
            segmenter.step(frame)
            clock.wait()
            times[f"{name}_ms"].append(1000 * (time.perf_counter() - begin))
            times[f"{name}_cpu"].append(1000 * (time.process_time() - busy))
    return {name: round(float(np.median(found[frames // 2 :])), 3) for name, found in times.items()}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        video, labels = read_video(options)
        objects = len(np.unique(labels)) - 1

        def load() -> Segmenter:
            return load_segmenter(options, max(1, objects))

        segmenter = load()
        run = measure(
            segmenter,
            video,
            labels,
            options.frames,
            # Stretches of 1000 frames in a full run
            windows=max(4, min(200, options.frames // 1000)),
            change_every=options.change_every,
            score_every=options.score_every,
            on_frame=lambda n: (
                print(f"\r{n + 1} of {options.frames}", end="", file=sys.stderr, flush=True)
                if (n + 1) % 100 == 0
                else None
            ),
            settings={"model": Path(options.model).name, "video": options.sequence}
            if options.davis
            else {"model": Path(options.model).name, "video": "drawn"},
        )
        beside = {}
        if options.fresh:
            beside = beside_fresh(segmenter, load(), video, labels, options.fresh)
    except (InputError, StremnError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(file=sys.stderr)
    holds, lines = judge(run)
    if beside:
        lines.append(
            f"median frame time beside a fresh segmenter, in turns: {beside['old_ms']:.2f} ms "
            f"after {run.frames} frames, {beside['fresh_ms']:.2f} ms fresh "
            f"({100 * (beside['old_ms'] / beside['fresh_ms'] - 1):+.1f} %); CPU time "
            f"{beside['old_cpu']:.2f} and {beside['fresh_cpu']:.2f} ms "
            f"({100 * (beside['old_cpu'] / beside['fresh_cpu'] - 1):+.1f} %)"
        )
    print(run.table())
    print()
    print("\n".join(lines))
    if options.json is not None:
        values = {**run.as_dict(), "beside_fresh": beside, "holds": holds, "verdict": lines}
        write_json(options.json, values)
    if options.plot is not None:
        plot(run, options.plot, f"{run.frames} frames, objects come and go")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
