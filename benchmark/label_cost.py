"""What `stremn label` costs: its memory over the frames, and each stage on one or more processes.

    python benchmark/label_cost.py --frames 10000 --rows 60 --columns 80 --processing-size 64 \\
      --model test/data/tiny_model --runtime torch --json memory.json
    python benchmark/label_cost.py --frames 150 --rows 480 --columns 854 --processes 1,2 \\
      --json stages.json

A drawn video is written as an MCAP bag and labelled from two seeds, so there are a forward and a
backward pass. The first form tells the resident memory after every 1,000 frames of all passes and
of the last step, and when all is written. It ends with 1 where that is ever more than 2 % above
that after the first 1,000 frames. With --processes each number of processes labels a bag each, all
at the same time, and tells milliseconds a frame for every stage: `read` (messages from the disk),
`decode`, `segment`, `write` (masks, joining, all files). Their CPU time does not count what else
the machine does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stremn_ros.cli.options import add_model_options
from stremn_ros.errors import StremnError
from stremn_ros.evaluation.bench import back_and_forth, resident_bytes, scene
from stremn_ros.files import write_json, write_text
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.messages import image_write
from stremn_ros.recordings import passes, sources
from stremn_ros.recordings.job import label
from stremn_ros.recordings.passes import Settings
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.workers import Serial

ALLOWED_GROWTH = 0.02
EVERY = 1000  # frames between two looks at the memory
HZ = 30
STAGES = ("read", "decode", "segment", "write")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--columns", type=int, default=320)
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--formats", default="davis,coco,mcap")
    parser.add_argument("--processes", help="numbers of processes, with commas: time the stages")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # a folder with a bag
    add_model_options(parser)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


class _Bare:
    """What the codec fills."""


def write_recording(folder: Path, options: argparse.Namespace) -> None:
    """drive/ (an MCAP bag) and seeds.yaml."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    video, labels = scene(options.objects, (options.rows, options.columns))
    order = list(zip(range(options.frames), back_and_forth(len(video))))
    store = get_typestore(Stores.LATEST)
    types = store.types
    kind = "sensor_msgs/msg/Image"
    with Writer(folder / "drive", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image_raw", kind, typestore=store)
        for number, index in order:
            stamp = 1_700_000_000_000_000_000 + number * 1_000_000_000 // HZ
            made = image_write.encode(_Bare(), video[index], "rgb8")
            second, rest = divmod(stamp, 10**9)
            time_ = types["builtin_interfaces/msg/Time"](sec=second, nanosec=rest)
            message = types[kind](
                header=types["std_msgs/msg/Header"](stamp=time_, frame_id="camera"),
                height=made.height,
                width=made.width,
                encoding=made.encoding,
                is_bigendian=made.is_bigendian,
                step=made.step,
                data=np.frombuffer(made.data, np.uint8),
            )
            writer.write(connection, stamp, store.serialize_cdr(message, kind))
    seeded = (0, options.frames * 6 // 10)
    for frame in seeded:
        write_label_png(folder / f"{frame}.png", labels[order[frame][1]])
    lines = "".join(f"- {{frame: {frame}, mask: {frame}.png}}\n" for frame in seeded)
    write_text(folder / "seeds.yaml", lines)


class _Telling(Serial):
    """Does the tasks in this process, and tells the frames of all of them to a function."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def run(self, first: Any, done: Any, look: Any, tell: Any) -> None:
        super().run(first, done, look, self._tell)


def run_job(
    folder: Path, options: argparse.Namespace, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Labels the bag of a folder in this process."""
    names = ("slots", "update_rule", "update_every", "processing_size")
    given = tuple((name, getattr(options, name)) for name in names if getattr(options, name))
    settings = Settings(options.model, options.device, options.runtime, False, given)
    job = Job(
        (str(folder / "drive"),),
        str(folder / "seeds.yaml"),
        folder / "out",
        formats=tuple(options.formats.split(",")),
        settings=settings,
    )
    return label(job, _Telling(tell))


def measure_memory(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Resident MiB by frames done, and whether they stay flat."""
    seen: list[tuple[int, float]] = []
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if done % EVERY == 0:
            seen.append((done, round(resident_bytes() / 2**20, 1)))
            print(f"{seen[-1][0]:7} frames  {seen[-1][1]:8.1f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as name:
        write_recording(Path(name), options)
        gc.collect()
        run_job(Path(name), options, tell)
    seen.append((done, round(resident_bytes() / 2**20, 1)))
    first, most = seen[0][1], max(value for _, value in seen)
    growth = most / first - 1
    flat = growth <= ALLOWED_GROWTH
    print(
        f"{first} MiB after {EVERY} frames, {most} MiB at most ({100 * growth:+.2f} %, "
        f"{'within' if flat else 'OUTSIDE'} 2 %), {seen[-1][1]} MiB at the end"
    )
    return {"frames": options.frames, "resident_mib": seen, "growth": growth}, flat


class Clock:
    """CPU and wall seconds that are spent in some functions."""

    def __init__(self) -> None:
        self.cpu = dict.fromkeys(STAGES, 0.0)
        self.wall = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: str, function: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            return function()
        finally:
            self.cpu[stage] += time.process_time() - cpu
            self.wall[stage] += time.perf_counter() - wall

    def around(self, place: Any, name: str, stage: str) -> None:
        inner = getattr(place, name)

        def timed(*given: Any, **named: Any) -> Any:
            return self.add(stage, lambda: inner(*given, **named))

        setattr(place, name, timed)

    def around_each(self, place: Any, name: str, stage: str) -> None:
        inner = getattr(place, name)

        def timed(*given: Any, **named: Any) -> Iterator[Any]:
            items = inner(*given, **named)
            while (item := self.add(stage, lambda: next(items, self))) is not self:
                yield item

        setattr(place, name, timed)


def measure_child(options: argparse.Namespace) -> None:
    """Labels the bag of a folder; prints seconds of every stage."""
    import torch

    torch.set_num_threads(1)
    clock = Clock()
    clock.around(sources, "decode_image", "decode")
    clock.around(passes, "segmented", "segment")
    clock.around_each(sources.BagSource, "frames", "read")
    passes.loaded_segmenter(Settings(options.model, options.device, options.runtime), 1)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.process_time(), time.perf_counter()
    run_job(options.child, options, lambda count: None)
    whole = time.process_time() - begin[0], time.perf_counter() - begin[1]
    for seconds, total in ((clock.cpu, whole[0]), (clock.wall, whole[1])):
        seconds["read"] -= seconds["decode"]
        seconds["write"] = total - sum(seconds[stage] for stage in STAGES[:3])
    found = {"cpu": clock.cpu, "wall": clock.wall, "seconds": whole[1], "cpu_seconds": whole[0]}
    print(json.dumps(found), flush=True)


def measure_stages(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a frame of every stage, by the number of processes."""
    results: dict[str, Any] = {"frames": options.frames}
    own = [value for value in sys.argv[1:] if value not in ("--processes", options.processes)]
    for count in map(int, options.processes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name) / str(number) for number in range(count)]
            for folder in folders:
                folder.mkdir()
                write_recording(folder, options)
            command = [sys.executable, __file__, *own, "--child"]
            children = [
                subprocess.Popen(
                    [*command, str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                for folder in folders
            ]
            for child in children:
                assert child.stdout is not None
                child.stdout.readline()
            begin = time.perf_counter()
            for child in children:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
            seconds = time.perf_counter() - begin
        rate = count * options.frames / seconds
        mean: dict[str, dict[str, float]] = {
            kind: {
                stage: 1000 * sum(each[kind][stage] for each in found) / count / options.frames
                for stage in STAGES
            }
            for kind in ("cpu", "wall")
        }
        results[str(count)] = {"frames_per_second": rate, **mean}
        print(f"{count} processes: {rate:.2f} frames of recordings a second")
        for kind, values in mean.items():
            shown = ", ".join(f"{stage} {value:.1f}" for stage, value in values.items())
            print(f"  {kind:4} ms a frame: {shown}", flush=True)
    return results


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    good = True
    try:
        if options.child is not None:
            measure_child(options)
            return 0
        if options.processes:
            results = measure_stages(options)
        else:
            results, good = measure_memory(options)
    except StremnError as error:
        print(f"label_cost: {error}", file=sys.stderr)
        return 2
    if options.json:
        write_json(options.json, results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
