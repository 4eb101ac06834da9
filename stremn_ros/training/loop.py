"""The training loop that the tasks share: one optimizer step after another, and what is kept.

A run stops after ``time_limit`` seconds or at the end, writes a checkpoint either way, and goes on
from it when started again. The batches are a function of seed and iteration alone, so a run in
pieces sees what one long run would have seen.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from stremn_ros.errors import InputError, StremnError
from stremn_ros.model_folder import find_model
from stremn_ros.runtime import choose
from stremn_ros.runtime.threads import denormals_as_zero
from stremn_ros.training.checkpoint import load_checkpoint, save_checkpoint
from stremn_ros.training.curves import Curves, draw_curves
from stremn_ros.training.settings import TrainingSettings
from stremn_ros.training.workers import Workers

log = logging.getLogger(__name__)
_T = TypeVar("_T", bound=TrainingSettings)


class Task(ABC):
    """What is trained.

    Attributes:
        settings: of the loop; network, optimizer: whose groups have a ``base_lr``.
        batches: batch n of the run; its length is the run's.
        curves: what is shown beside the loss.
    """

    settings: TrainingSettings
    network: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Dataset[Any]
    curves: Curves

    @abstractmethod
    def measure(self, batch: Any, iteration: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures for the journal, ``curves.metric`` among them."""

    @abstractmethod
    def export(self, ema: dict[str, Tensor]) -> None:
        """Writes the model with the averaged weights."""

    @abstractmethod
    def validate(self, ema: dict[str, Tensor]) -> float:
        """A figure of the averaged weights on what was held out."""


def choose_device(settings: TrainingSettings) -> str:
    """The device that ``auto`` stands for; sets the number of threads."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return str(choose.choose_device(settings.device))


def optimizer_of(
    network: nn.Module, rate_of: Callable[[str], float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the parameters that have gradients.

    Args:
        rate_of: the learning rate of the parameter of a name.
        weight_decay: of weights; biases and normalizations have none.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (rate_of(name), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "base_lr": rate,
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (rate, decayed), parameters in groups.items()
        ],
        fused=True,  # one pass over the state: on a CPU the plain loop takes 5 % of an iteration
    )


def rate_factor(settings: TrainingSettings, iteration: int, total: int) -> float:
    """Warm-up, plateau, cosine decay to 2 % over the last ``decay`` iterations."""
    if iteration < settings.warmup:
        return (iteration + 1) / settings.warmup
    remaining = (total - iteration) / max(1, settings.decay)
    if remaining >= 1.0:
        return 1.0
    return 0.02 + 0.98 * 0.5 * (1.0 - math.cos(math.pi * remaining))


def train(settings: _T, task: Callable[[_T, str, int], Task]) -> Path:
    """Runs or resumes a training.

    Args:
        task: makes it of the settings, the device, and the rank of this process.

    Returns:
        The folder with the exported model (averaged weights).

    Raises:
        InputError: data or weights that are not there, or do not fit.
    """
    started = time.monotonic()
    if not settings.run:
        raise InputError("run is empty; it must name the folder of the run")
    if not getattr(settings, "phases", ()):
        raise InputError("phases is empty: there is nothing to train; give one phase or more")
    _check_start(settings)
    device = choose_device(settings)
    workers = Workers.from_environment(device)
    try:
        # gradients are denormal where a mask is sure; on a CPU that costs a tenth of the time
        with denormals_as_zero():
            run_loop(task(settings, device, workers.rank), workers, started)
    finally:
        workers.close()
    return Path(settings.run) / "model"


def _check_start(settings: TrainingSettings) -> None:
    """InputError where the model that it begins with would be replaced by what it makes."""
    start, made = getattr(settings, "start", None), Path(settings.run) / "model"
    if start and made.exists() and find_model(start).samefile(made):
        raise InputError(
            f"start: {start} is what the training in run: {settings.run} made and would replace; "
            "give another run"
        )


def run_command(
    arguments: Sequence[str] | None,
    name: str,
    description: str | None,
    kind: type[_T],
    task: Callable[[_T, str, int], Task],
) -> int:
    """``stremn train NAME``: reads the file and trains."""
    (phase,) = get_args(get_type_hints(kind)["phases"])
    described = [each for each in kind.__mro__ if issubclass(each, TrainingSettings)]
    entries = [inspect.getdoc(each) for each in (*described, phase)]
    parser = argparse.ArgumentParser(
        f"stremn train {name}",
        description=description,
        epilog="\n\n".join(text for text in entries if text),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help=f"YAML of {kind.__name__}")
    parser.add_argument("--time-limit", type=float, help="seconds for this piece")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("stremn_ros").setLevel(logging.INFO)  # the command line shows warnings only
    settings = kind.read(options.config)
    if options.time_limit is not None:
        settings = replace(settings, time_limit=options.time_limit)
    folder = train(settings, task)
    print(f"the model, with averaged weights, is in {folder}: use it with --model {folder}")
    return 0


def run_loop(task: Task, workers: Workers, started: float) -> None:
    """Runs or resumes a training.

    Args:
        started: time.monotonic() when it began, data sets and networks included.

    Raises:
        RuntimeError: the weights of several processes have drifted apart.
    """
    settings, network, optimizer = task.settings, task.network, task.optimizer
    run = Path(settings.run)
    run.mkdir(parents=True, exist_ok=True)
    total = len(task.batches)  # type: ignore[arg-type]
    ema = {key: value.detach().clone() for key, value in network.state_dict().items()}
    checkpoint = run / "checkpoint.safetensors"
    first = 0
    if checkpoint.exists():
        first, before = load_checkpoint(checkpoint, network, ema, optimizer)
        log.info("resumed %s at iteration %d of %d", checkpoint, first, total)
        if changed := settings.changed(before, first):
            log.warning(
                "the training file has changed since %s was begun: %s; it goes on with the new "
                "values. For a run of them alone give another run",
                run,
                ", ".join(changed),
            )
    loader: DataLoader[Any] = DataLoader(
        task.batches,
        batch_size=None,
        sampler=range(first, total),
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        worker_init_fn=_quiet_worker,
    )
    iteration = first
    journal_path = run / ("log.jsonl" if workers.first else f"log.{workers.rank}.jsonl")
    metric = task.curves.metric
    with (
        journal_path.open("a") as journal,
        tqdm(total=total, initial=first, disable=not workers.first) as bar,
    ):
        for batch in _plain_errors(loader):
            factor = rate_factor(settings, iteration, total)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            figures = _step(task, batch, iteration, workers)
            decay = min(settings.ema_decay, (iteration + 1) / (iteration + 10))
            _average(ema, network, decay)
            iteration += 1
            elapsed = time.monotonic() - started
            journal.write(json.dumps({"iteration": iteration, "time": elapsed, **figures}) + "\n")
            bar.update()
            bar.set_postfix({name: f"{figures[name]:.3f}" for name in ("loss", metric)})
            out_of_time = bool(settings.time_limit) and elapsed > settings.time_limit
            out_of_time = workers.any(out_of_time)
            at_end = iteration == total or out_of_time
            if workers.first and (at_end or iteration % settings.checkpoint_every == 0):
                journal.flush()
                save_checkpoint(checkpoint, network, ema, optimizer, iteration, asdict(settings))
                task.export(ema)
            every = settings.validate_every
            if workers.first and every and iteration % every == 0:
                score = task.validate(ema)
                journal.write(json.dumps({"iteration": iteration, "validation": score}) + "\n")
                log.info("iteration %d: %s %.2f", iteration, task.curves.validation, score)
            if out_of_time:
                break
    if not workers.check_same(ema):
        raise RuntimeError("the processes' weights have drifted apart; the run is not to be used")
    if workers.first:
        task.export(ema)
        draw_curves(run / "log.jsonl", run / "curves.png", task.curves)


def _plain_errors(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; an error of a process that makes them without that process's traceback."""
    try:
        yield from batches
    except StremnError as error:
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        _, found, message = str(error).rpartition(name)
        if not found:
            raise
        raise type(error)(message.strip()) from None


def _step(task: Task, batch: Any, iteration: int, workers: Workers) -> dict[str, float]:
    loss, figures = task.measure(batch, iteration)
    task.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in task.optimizer.param_groups for p in group["params"]]
    workers.average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, task.settings.clip_norm)
    if not torch.isfinite(norm):
        log.warning("a batch gave a gradient that is not finite; it is left out")
        return {"loss": float("nan"), task.curves.metric: float("nan"), "norm": float("nan")}
    task.optimizer.step()
    return {"loss": float(loss.detach()), **figures, "norm": float(norm)}


@torch.no_grad()
def _average(ema: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    current = network.state_dict()
    torch._foreach_lerp_([ema[key] for key in current], list(current.values()), 1.0 - decay)


def _quiet_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
