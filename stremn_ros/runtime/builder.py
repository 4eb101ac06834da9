"""Builds a runtime's files in processes of their own, with progress in the log.

An exporter takes hundreds of megabytes and may crash; a node that asks for one keeps neither. The
process that builds TensorRT plans does not import PyTorch.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RuntimeUnavailableError, StremnError
from .cache import new_entry, one_builder, write_key

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds of silence after which the log says that the work goes on
MARK = "\x1e"  # before each line of progress, so that other libraries' chatter is left out
ERROR = "\x1f"

DEFAULT_SIZE = (240, 432)

Progress = Callable[[str], None]


def build_onnx(model: Path, progress: Progress = log.info) -> None:
    """Exports a model for ONNX Runtime, unless another process did so meanwhile.

    Raises:
        RuntimeUnavailableError: it failed; the message says why.
    """
    from .onnx_export import checked_files, entry_folder

    with one_builder(entry_folder(model)):
        if not _good(lambda: checked_files(model)):
            run(["onnx", str(model)], f"export of {model.name}", progress)


def build_tensorrt(
    model: Path, size: tuple[int, int] = DEFAULT_SIZE, progress: Progress = log.info
) -> None:
    """Builds a model's TensorRT plans for one size, unless another process did so meanwhile.

    Raises:
        RuntimeUnavailableError: it failed; the message says why.
    """
    from .tensorrt_backend import find_tensorrt
    from .tensorrt_stages import checked_onnx, checked_plans, plan_folder, plan_jobs

    trt = find_tensorrt()
    with one_builder(plan_folder(model, size)):
        if _good(lambda: checked_plans(model, size, trt)):
            return
        if not _good(lambda: checked_onnx(model, size)):
            words = ["onnx-fp16", str(model), str(size[0]), str(size[1])]
            run(words, f"fp16 export of {model.name}", progress)
        jobs = plan_jobs(model, size)
        run(["plans"], f"build of {model.name}'s plans", progress, json.dumps(jobs))


def _good(check: Callable[[], object]) -> bool:
    from ..errors import ModelError

    try:
        check()
    except ModelError:
        return False
    return True


def run(
    words: list[str],
    what: str,
    progress: Progress,
    given: str = "",
    limit: float | None = None,
) -> None:
    """Runs this module as a process; says every few seconds that it goes on.

    Args:
        words: of ``main``; what: it is, for messages; given: its standard input.
        limit: seconds after which it is killed.

    Raises:
        RuntimeUnavailableError: it failed, crashed or took too long.
    """
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", __name__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tail: list[str] = []
        reader = threading.Thread(target=_keep_tail, args=(process.stderr, tail), daemon=True)
        reader.start()
        ended = threading.Event()
        beat = threading.Thread(
            target=_say_that_it_goes_on, args=(ended, begin, what, progress), daemon=True
        )
        beat.start()
        stop = threading.Timer(limit or 0.0, process.kill)
        stop.daemon = True
        if limit:
            stop.start()
        reason = ""
        try:
            process.stdin.write(given)
            process.stdin.close()
            for line in process.stdout:
                if line.startswith(MARK):
                    progress(line[1:].rstrip())
                elif line.startswith(ERROR):
                    reason = line[1:].rstrip()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
            beat.join()
            stop.cancel()
        reader.join()
    if limit and code < 0 and time.monotonic() - begin >= limit:
        raise RuntimeUnavailableError(f"the {what} did not end within {limit:.0f} s")
    if code < 0:
        raise RuntimeUnavailableError(f"the {what} crashed (signal {-code}): {' '.join(tail[-3:])}")
    if code:
        raise RuntimeUnavailableError(f"the {what} failed: {reason or ' '.join(tail[-3:])}")


def _keep_tail(stream: Any, tail: list[str]) -> None:
    for line in stream:
        if line.strip():
            tail.append(line.strip())
            del tail[:-20]


def _say_that_it_goes_on(
    ended: threading.Event, begin: float, what: str, progress: Progress
) -> None:
    while not ended.wait(BEAT):
        progress(f"the {what} goes on ({time.monotonic() - begin:.0f} s)")


def _say(line: str) -> None:
    sys.stdout.write(f"{MARK}{line}\n")
    sys.stdout.flush()


def _build_plans(jobs: dict[str, Any]) -> None:
    from .tensorrt_backend import build_plan, find_tensorrt

    trt = find_tensorrt()
    stages = jobs["stages"]
    with new_entry(Path(jobs["folder"])) as folder:
        for number, (name, job) in enumerate(stages.items(), 1):
            _say(f"building the plan of {name} ({number} of {len(stages)})")
            begin = time.monotonic()
            ranges: dict[str, Any] = {
                key: tuple(tuple(shape) for shape in shapes)
                for key, shapes in job["profiles"].items()
            }
            plan = build_plan(trt, Path(job["onnx"]), ranges, Path(jobs["timing_cache"]))
            (folder / f"{name}.plan").write_bytes(plan)
            taken = time.monotonic() - begin
            _say(f"{name}: {len(plan) / 2**20:.1f} MiB after {taken:.1f} s")
        write_key(folder, jobs["key"], [f"{name}.plan" for name in stages])


def main(words: list[str]) -> int:
    """The process: ``onnx MODEL``, ``onnx-fp16 MODEL H W``, ``plans`` with jobs on stdin, or
    ``trial RUNTIME MODEL DEVICE H W FILE``, which writes its outcome to FILE."""
    try:
        if words[0] == "plans":
            _build_plans(json.loads(sys.stdin.read()))
        elif words[0] == "onnx":
            from .onnx_export import export_onnx

            export_onnx(Path(words[1]), progress=_say)
        elif words[0] == "trial":
            from .trial import try_runtime

            runtime, model, device, rows, columns, file = words[1:]
            outcome = try_runtime(runtime, Path(model), device, (int(rows), int(columns)))
            Path(file).write_text(json.dumps(outcome))
        else:
            from .tensorrt_stages import export_half

            export_half(Path(words[1]), (int(words[2]), int(words[3])), _say)
    except (StremnError, OSError, RuntimeError) as error:
        sys.stdout.write(f"{ERROR}{' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
