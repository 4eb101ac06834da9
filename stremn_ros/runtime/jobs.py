"""Processes that a runtime's files are made and tried in; `building.process.run` starts them."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stremn_ros.errors import StremnError
from stremn_ros.files import UNKNOWN
from stremn_ros.runtime.building.cache import new_entry, write_key
from stremn_ros.runtime.building.process import ERROR, MARK


def _say(line: str) -> None:
    sys.stdout.write(f"{MARK}{line}\n")
    sys.stdout.flush()


def _build_plans(jobs: dict[str, Any]) -> None:
    from stremn_ros.runtime.tensorrt.backend import build_plan, find_tensorrt

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


def try_runtime(runtime: str, model: Path, device: str, size: tuple[int, int]) -> dict[str, Any]:
    """Tries a runtime here and now; returns its outcome's fields.

    Raises:
        StremnError, RuntimeError: it does not work, and whatever else PyTorch raises.
    """
    from stremn_ros.model_folder import load_network
    from stremn_ros.runtime.choose import make_stages
    from stremn_ros.runtime.trial import compare

    plain, stages = (
        make_stages(load_network(model)[0], name, device, model) for name in ("torch", runtime)
    )
    stages.prepare(size)
    return asdict(compare(runtime, plain, stages, size))


def main(words: list[str]) -> int:
    """The process: ``onnx MODEL``, ``onnx-fp16 MODEL H W``, ``plans`` with jobs on stdin, or
    ``trial RUNTIME MODEL DEVICE H W FILE``, which writes its outcome to FILE."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a model's name may be in no encoding
        sys.stdout.reconfigure(errors=UNKNOWN)
    try:
        if words[0] == "plans":
            _build_plans(json.loads(sys.stdin.read()))
        elif words[0] == "onnx":
            from stremn_ros.runtime.onnx.export import export_onnx

            export_onnx(Path(words[1]), progress=_say)
        elif words[0] == "trial":
            runtime, model, device, rows, columns, file = words[1:]
            outcome = try_runtime(runtime, Path(model), device, (int(rows), int(columns)))
            Path(file).write_text(json.dumps(outcome))
        else:
            from stremn_ros.runtime.tensorrt.stages import export_half

            export_half(Path(words[1]), (int(words[2]), int(words[3])), _say)
    except (StremnError, OSError, RuntimeError) as error:
        sys.stdout.write(f"{ERROR}{' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
