"""Which of the GPU's runtimes work on this machine, and how fast: found out by trying them.

An untested GPU, driver or PyTorch may silently give wrong numbers, or crash. So each runtime is
tried in a separate process, against plain PyTorch and on the same inputs, once for each machine and
model. The result is kept in the cache.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.files import sha256
from stremn_ros.model_folder import CONFIG, WEIGHTS
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.building.cache import (
    KEY,
    checked_entry,
    keyed_folder,
    new_entry,
    one_builder,
    write_key,
)
from stremn_ros.runtime.building.process import run
from stremn_ros.runtime.tensorrt.graphs import masks_of
from stremn_ros.runtime.tensorrt.stages import gpu_key, plan_folder, plan_sizes

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when the trial changes
MOST_DIFFERENT = 0.02  # of an output's largest value
SLOTS = 5
WARM, TIMED = 5, 15  # frames
LIMIT = 300.0  # seconds; a GPU that hangs must not keep a node from its work
SIZE = (240, 432)  # where there are no plans, which have one size


@dataclass(frozen=True)
class Outcome:
    """Of the trial of one runtime.

    Attributes:
        runtime: its name; size: rows and columns that it was tried at.
        milliseconds: a frame with its update, median; plain: the same in plain PyTorch, in turns.
        difference: the largest of any stage from plain PyTorch, as a share of the largest value.
        error: why there are no figures, else empty.
    """

    runtime: str
    size: tuple[int, int]
    milliseconds: float = 0.0
    plain: float = 0.0
    difference: float = 0.0
    error: str = ""

    @property
    def good(self) -> bool:
        """It works, gives what plain PyTorch gives, and is faster."""
        return (
            not self.error and self.difference < MOST_DIFFERENT and self.milliseconds < self.plain
        )

    def __str__(self) -> str:
        if self.error:
            return f"{self.runtime} does not work here: {self.error}"
        return (
            f"{self.runtime} took {self.milliseconds:.1f} ms for a frame of "
            f"{self.size[0]}x{self.size[1]} where plain PyTorch took {self.plain:.1f}, and differs "
            f"from it by {self.difference:.2%} (at most {MOST_DIFFERENT:.0%} will do)"
        )


def outcomes(model: Path, device: torch.device) -> list[Outcome]:
    """The trials of a model's runtimes on a GPU, from the cache or made now.

    TensorRT is tried where the model has plans. What goes wrong in a trial is its outcome.

    Raises:
        ModelError: nothing can be written to the cache.
    """
    sizes = plan_sizes(model)
    size = sizes[-1] if sizes else SIZE
    runtimes = ("tensorrt", "cudagraphs") if sizes else ("cudagraphs",)
    key = {
        "format": FORMAT,
        "weights": sha256(model / WEIGHTS),
        "config": sha256(model / CONFIG),
        "torch": torch.__version__,
        "device": str(device),
        **gpu_key(device),
        "size": list(size),
        "plans": sha256(plan_folder(model, size) / KEY) if sizes else None,
    }
    folder = keyed_folder(f"{model.name}-trial", key)
    with one_builder(folder):
        try:
            kept = checked_entry(folder, key, [], "no trial was made", "")["outcomes"]
            return [Outcome(**{**each, "size": tuple(each["size"])}) for each in kept]
        except (ModelError, KeyError, TypeError):
            pass
        found = [_tried(runtime, model, device, size) for runtime in runtimes]
        try:
            with new_entry(folder) as new:
                write_key(new, key, [], outcomes=[asdict(outcome) for outcome in found])
        except OSError as error:
            log.warning("the outcome cannot be kept in %s (%s)", folder, error.strerror or error)
            return found
    log.info("the outcome is kept in %s; remove that folder to have it tried again", folder)
    return found


def _tried(runtime: str, model: Path, device: torch.device, size: tuple[int, int]) -> Outcome:
    log.info("trying runtime %s on %s, once: this takes some seconds", runtime, device)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "outcome.json"
        words = ["trial", runtime, str(model), str(device), *map(str, size), str(file)]
        try:
            run(words, f"trial of {runtime}", log.info, limit=LIMIT)
            return Outcome(**{**json.loads(file.read_text()), "size": size})
        except (RuntimeUnavailableError, OSError, ValueError) as error:
            return Outcome(runtime, size, error=str(error))


@torch.inference_mode()
def compare(
    runtime: str, plain: TorchStages, stages: TorchStages, size: tuple[int, int]
) -> Outcome:
    """Stages against those of plain PyTorch: what they give for the same, and what they take.

    Args:
        size: rows and columns, multiples of 16; one object with five slots is followed.
    """
    frame = _Frame(plain, size)
    pairs = zip(frame.stage_by_stage(plain), frame.stage_by_stage(stages), strict=True)
    difference = max(_difference(a, b) for a, b in pairs)
    times: dict[str, list[float]] = {"plain": [], "tried": []}
    for _ in range(WARM + TIMED):
        for name, each in (("plain", plain), ("tried", stages)):
            _wait(plain.device)
            begin = time.perf_counter()
            frame.whole(each)
            _wait(plain.device)
            times[name].append(1000 * (time.perf_counter() - begin))
    mine, other = (statistics.median(times[name][WARM:]) for name in ("tried", "plain"))
    return Outcome(runtime, size, round(mine, 3), round(other, 3), difference)


class _Frame:
    """Made-up inputs of all stages, as they come in a frame with one object; always the same."""

    def __init__(self, plain: TorchStages, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        config, (h, w) = plain.config, (size[0] // 16, size[1] // 16)

        def drawn(*shape: int) -> Tensor:
            made = torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")
            return made.to(plain.device)

        self.image = 255.0 * F.interpolate(drawn(1, 3, h, w), size, mode="bilinear")
        mask = F.interpolate(drawn(1, 1, h, w), size, mode="bilinear")
        self.masks = torch.cat([mask, 1.0 - mask], dim=1)
        self.keys = drawn(1, SLOTS * h * w, config.memory_key_channels) - 0.5
        self.values = drawn(1, SLOTS * h * w, config.value_channels) - 0.5
        self.other = drawn(1, config.template_channels, h, w) - 0.5
        carried = {name: drawn(1, *shape) for name, shape in config.carried((h, w)).items()}
        self.previous, self.hidden = carried.get("previous"), carried.get("hidden")
        self.query = plain.encode_query(self.image)
        self.read = plain.read(self.query.key, self.keys, self.values, None).clone()

    def stage_by_stage(self, stages: TorchStages) -> list[Tensor]:
        """Each stage's outputs for the same inputs, whatever the stage before it gave."""
        query = [part.clone() for part in stages.encode_query(self.image)]
        read = stages.read(self.query.key, self.keys, self.values, None).clone()
        decoded = stages.decode(self.read, self.query, self.previous, self.hidden)
        masks = [part.clone() for part in masks_of(decoded)]
        template = stages.encode_memory(self.image, self.masks, self.query.seen).clone()
        made = [part.clone() for part in stages.project(self.other, self.query.key)]
        return [*query, read, *masks, template, *made, stages.fuse(self.other, -self.other).clone()]

    def whole(self, stages: TorchStages) -> None:
        """A frame and the update of the memory with it."""
        query = stages.encode_query(self.image)
        read = stages.read(query.key, self.keys, self.values, None)
        stages.decode(read, query, self.previous, self.hidden)
        template = stages.encode_memory(self.image, self.masks, query.seen)
        stages.project(template, query.key)
        stages.fuse(template, self.other)


def _difference(expected: Tensor, found: Tensor) -> float:
    share = float((expected - found).abs().max() / expected.abs().max())
    return share if math.isfinite(share) else math.inf


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
