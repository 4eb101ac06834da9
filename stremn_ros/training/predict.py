"""Trains a prediction model: ``stremn train predict --config FILE``.

``torchrun --nproc-per-node N -m stremn_ros.training.predict --config FILE`` trains on N processes.
The loop, and with it resuming and stopping, is that of training.loop.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stremn_ros.data.moving_mnist import SIZE, TRAIN_NAMES, draw_sequences, find_digits
from stremn_ros.data.prediction_batches import PredictBatch, PredictBatches, PredictPhase
from stremn_ros.data.prediction_clips import FrameStore, find_videos, is_called
from stremn_ros.errors import InputError
from stremn_ros.memory.rules import RULES
from stremn_ros.model_folder import (
    WEIGHTS,
    Network,
    build_prediction_network,
    find_model,
    read_weights,
    save_model,
)
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.network.flow_prediction import FlowPredictionNetwork
from stremn_ros.network.prediction import Decoded, PredictionNetwork
from stremn_ros.predictor import Predictor
from stremn_ros.training import loop
from stremn_ros.training.curves import Curves
from stremn_ros.training.loop import Task, optimizer_of
from stremn_ros.training.prediction_losses import PredictionLoss
from stremn_ros.training.settings import (
    FROM_0,
    FROM_1,
    PHASE_RANGES,
    TrainingSettings,
    check_ranges,
    roots_of,
)
from stremn_ros.training.unroll_prediction import unroll_flow_prediction, unroll_prediction

log = logging.getLogger(__name__)

VALIDATION_DIGITS = 500  # the last of the training digits, kept for validation
VALIDATION_SEED = 7
FORGETFUL = 4  # every so many iterations a network that is given the flow has no memory
MOVING_MNIST, VIDEOS = "moving_mnist", "videos"


@dataclass(kw_only=True)
class PredictTraining(TrainingSettings):
    """The training file's entries beside those of ``settings.TrainingSettings``.

    Attributes:
        data: ``moving_mnist`` or ``videos``.
        root: folder of MNIST's idx files, or of videos and folders of images, or a list of these.
        phases: the parts of the run, one after another.
        exclude: videos held out, by name (``is_called``); validation is done on them.
        rows: pixels of the shorter side that videos are scaled to; 0 for the largest crop's.
        architecture: ``stremn``, ``flow`` for real video, or the baseline ``convlstm``;
            network: its entries.
        horizon: frames to predict.
        loss: entries of PredictionLoss.
        slots, update_rule: of the memory in the loop.
        update_every: every n-th frame's template is written to the memory.
        validate_clips: how many are looked at.
    """

    # a batch of paths alone has no clips, and each architecture has a stride of its own
    phase_ranges: ClassVar = {**PHASE_RANGES, "batch": FROM_0, "size": FROM_1}

    root: str | list[str]
    phases: list[PredictPhase]
    data: str = MOVING_MNIST
    exclude: list[str] = field(default_factory=list)
    rows: int = 0
    architecture: str = "stremn"
    horizon: int = 10
    loss: PredictionLoss = field(default_factory=PredictionLoss)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    slots: int = 5
    update_rule: str = "least_similar"
    update_every: int = 2
    validate_clips: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = vars(self.loss).keys() - {"shrinkage"}
        check_ranges(self.loss, dict.fromkeys(weights, FROM_0), "loss: ")
        if self.data not in (MOVING_MNIST, VIDEOS):
            raise InputError(f"data must be {MOVING_MNIST} or {VIDEOS}")
        largest = max((phase.size for phase in self.phases), default=0)
        if self.data == VIDEOS and 0 < self.rows < largest:
            raise InputError(f"rows is {self.rows}; it must be 0, or at least the size {largest}")
        if self.update_rule not in RULES:
            raise InputError(f"update_rule must be one of {sorted(RULES)}")
        learns_paths = self.data == MOVING_MNIST and self.network.get("head") == "layers"
        if any(phase.paths for phase in self.phases) and not (learns_paths and self.loss.path):
            raise InputError(
                "paths are for Moving MNIST, the head 'layers' and a loss.path above 0"
            )
        if any(not phase.batch and not phase.paths for phase in self.phases):
            raise InputError("a phase needs a batch of clips, of paths or of both")
        if any(min(phase.observe) < 3 for phase in self.phases):
            raise InputError("the encoder stacks 3 frames, so observe is 3 or more")
        if any(
            not 0 <= min(p.reference) <= max(p.reference) <= min(p.observe) - 3 for p in self.phases
        ):
            raise InputError("a reference is 0 to observe - 3 frames before the newest")


class PredictTask(Task):
    """Prediction in the training loop."""

    def __init__(self, config: PredictTraining, device: str, rank: int = 0) -> None:
        self.settings = self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        network = build_prediction_network(config.architecture, config.network)
        if config.start:
            _start_from(network, find_model(config.start))
        own = getattr(network.config, "horizon", config.horizon)
        if own != config.horizon:
            raise InputError(f"horizon is {config.horizon}, but network.horizon is {own}")
        _check_defaults(network, exported_defaults(network, config))
        stride = 1 if isinstance(network, ConvLstm) else network.stride
        if config.data == VIDEOS and any(phase.size % stride for phase in config.phases):
            raise InputError(f"phases: for this network a size must be a multiple of {stride}")
        digits = store = None
        from_flow = isinstance(network, FlowPredictionNetwork)
        if from_flow and config.data != VIDEOS:
            raise InputError(f"the architecture flow is for real video; data must be {VIDEOS}")
        if config.data == MOVING_MNIST:
            found = find_digits(Path(str(config.root)), TRAIN_NAMES)
            digits, self._held_out = found[:-VALIDATION_DIGITS], found[-VALIDATION_DIGITS:]
        else:
            store = self._store(config.exclude)
        self.batches = self.stream = PredictBatches(
            config.phases, config.seed, config.horizon, digits, store, from_flow, rank
        )
        self.curves = Curves(
            "mse", "squared error per frame", "on held-out clips", factor=1.0, log_scale=True
        )
        moved = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Network = moved
        self.optimizer = optimizer_of(
            self.network, lambda name: config.learning_rate, config.weight_decay
        )

    def _store(self, exclude: list[str], only: list[str] | None = None) -> FrameStore:
        config = self.config
        videos = [
            video
            for root in roots_of(config.root)
            for video in find_videos(root, exclude)
            if only is None or is_called(video, only)
        ]
        return FrameStore(videos, config.rows or max(phase.size for phase in config.phases))

    def _predict(
        self,
        frames: Tensor,
        observe: int,
        ages: Sequence[int] | None = None,
    ) -> Decoded:
        assert not isinstance(self.network, FlowPredictionNetwork)
        return unroll_prediction(
            self.network,
            frames[:, :observe],
            self.config.slots,
            self.config.update_rule,
            self.config.update_every,
            self.config.horizon,
            ages,
        )

    def measure(self, batch: PredictBatch, iteration: int) -> tuple[Tensor, dict[str, float]]:
        loss, figures = None, {"mse": float("nan")}
        if len(batch.frames):
            loss, figures = self._measure_clips(batch, iteration)
        if batch.paths is not None:
            of_paths, off = self._measure_paths(batch.paths)
            loss = of_paths if loss is None else loss + of_paths
            figures["off"] = off
        assert loss is not None
        return loss, figures

    def _measure_paths(self, paths: tuple[Tensor, ...]) -> tuple[Tensor, float]:
        """The loss, and the mean distance on an axis in pixels."""
        assert isinstance(self.network, PredictionNetwork)
        centers, where, match, truth = (part.to(self.device)[:, None] for part in paths)
        path, spread = self.network.steer(centers, (SIZE, SIZE), where, match)
        off = float((path.detach() - truth).abs().mean())
        return self.config.loss.of_paths(path, spread, truth), off

    def _predict_from_flow(self, batch: PredictBatch, with_memory: bool = True) -> Decoded:
        assert isinstance(self.network, FlowPredictionNetwork)
        assert batch.flows is not None
        return unroll_flow_prediction(
            self.network,
            batch.frames[:, : batch.observe].to(self.device).float() / 255.0,
            batch.flows.to(self.device),
            self.config.slots,
            self.config.update_rule,
            self.config.update_every,
            with_memory,
        )

    def _measure_clips(
        self, batch: PredictBatch, iteration: int
    ) -> tuple[Tensor, dict[str, float]]:
        frames = batch.frames.to(self.device).float() / 255.0
        if batch.flows is not None:
            with_memory = (iteration + 1) % FORGETFUL != 0
            decoded = self._predict_from_flow(batch, with_memory)
        else:
            decoded = self._predict(frames, batch.observe, (batch.reference,))
        predicted, truth = decoded.frames, frames[:, batch.observe :]
        loss = self.config.loss
        coarse = self.stream.phase_of(iteration).coarse
        if coarse is not None:
            loss = replace(loss, coarse=coarse)
        with torch.no_grad():
            mse = float((predicted - truth).square().sum(dim=(2, 3, 4)).mean())
        total = loss(predicted, truth)
        if decoded.spread is not None and loss.spread:
            total = total + loss.of_spread(decoded.spread, predicted, truth)
        if decoded.carried is not None:
            assert decoded.carried.replayed is not None
            first = batch.observe - decoded.carried.replayed.shape[1]
            seen = frames[:, first : batch.observe]
            total = total + loss.of_layers(decoded.carried, seen, truth)
        return total, {"mse": mse}

    def export(self, ema: dict[str, Tensor]) -> None:
        network = build_prediction_network(self.config.architecture, self.config.network)
        network.load_state_dict(ema)
        defaults = exported_defaults(network, self.config)
        save_model(Path(self.config.run) / "model", network, defaults)

    @torch.no_grad()
    def validate(self, ema: dict[str, Tensor]) -> float:
        """Squared error per frame of the averaged weights, clipped to 0..1, 10 frames seen."""
        kept = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(ema)
        self.network.eval()
        try:
            errors = []
            phases = [replace(self.config.phases[-1], iterations=1, observe=(10,), one_digit=0.0)]
            rng = np.random.default_rng(VALIDATION_SEED)
            clips, size = self.config.validate_clips, phases[0].batch or 16
            if self.config.data == VIDEOS:
                if not self.config.exclude:
                    raise InputError("validate_every needs videos that are held out (exclude)")
                if not hasattr(self, "_held_out_store"):
                    self._held_out_store = self._store([], self.config.exclude)
            for first in range(0, clips, size):
                if self.config.data == MOVING_MNIST:
                    drawn = draw_sequences(
                        rng, self._held_out, min(size, clips - first), 10 + self.config.horizon
                    )
                    batch = PredictBatch(torch.from_numpy(drawn[:, :, None]), 10)
                else:
                    batch = PredictBatches(
                        phases,
                        VALIDATION_SEED + first,
                        self.config.horizon,
                        store=self._held_out_store,
                        with_flows=isinstance(self.network, FlowPredictionNetwork),
                    )[0]
                frames = batch.frames.to(self.device).float() / 255.0
                if batch.flows is not None:
                    decoded = self._predict_from_flow(batch)
                else:
                    decoded = self._predict(frames, 10)
                predicted = decoded.frames.clamp(0.0, 1.0)
                errors.append((predicted - frames[:, 10:]).square().sum(dim=(2, 3, 4)))
            return float(torch.cat(errors).mean())
        finally:
            self.network.load_state_dict(kept)
            self.network.train()


def exported_defaults(network: Network, config: PredictTraining) -> dict[str, Any]:
    """The defaults of the model that is exported."""
    if isinstance(network, ConvLstm):
        return dict(config.defaults)
    return {
        "slots": config.slots,
        "update_rule": config.update_rule,
        "update_every": config.update_every,
        **config.defaults,
    }


def _check_defaults(network: Network, defaults: dict[str, Any]) -> None:
    """InputError where the exported model could not be loaded because of them."""
    if isinstance(network, ConvLstm):
        return
    known = inspect.signature(Predictor).parameters.keys() - {"network"}
    if unknown := sorted(defaults.keys() - known):
        raise InputError(f"defaults: unknown entries {unknown}; known are {sorted(known)}")
    try:
        Predictor(network, **defaults)
    except InputError as error:
        raise InputError(f"defaults: {error}") from None
    except TypeError as error:
        raise InputError(f"defaults: a value is of the wrong type ({error})") from None
    finally:
        network.train()  # which a predictor has ended


def _start_from(network: Network, model: Path) -> None:
    """Takes over the weights of a model that are in this network too, in name and shape."""
    own, found = network.state_dict(), read_weights(model / WEIGHTS)
    fitting = {name: x for name, x in found.items() if name in own and x.shape == own[name].shape}
    if not fitting:
        raise InputError(f"start: none of the weights of {model} fit this network")
    network.load_state_dict({**own, **fitting})
    if fresh := sorted(own.keys() - fitting.keys()):
        log.info("start: %s has no fitting weights for %s", model, ", ".join(fresh))
    if left := sorted({name.split(".")[0] for name in found.keys() - own.keys()}):
        log.warning("start: in %s, but not in this network: %s", model, ", ".join(left))


def train(config: PredictTraining) -> Path:
    """``loop.train`` for this task."""
    return loop.train(config, PredictTask)


def main(arguments: Sequence[str] | None = None) -> int:
    """``stremn train predict``."""
    return loop.run_command(arguments, "predict", __doc__, PredictTraining, PredictTask)


if __name__ == "__main__":
    raise SystemExit(main())
