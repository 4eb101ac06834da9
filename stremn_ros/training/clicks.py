"""Trains a click network: ``stremn train clicks --config FILE``.

Each step follows a user: hints, a mask, a further click in the middle of its largest error. The
loss is that of the last mask; the masks before it only place the clicks and are an input.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.data.clicks import ClickBatch, ClickPhase, HintedObjects, next_click
from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.imaging.hints import INSIDE, OUTSIDE, PREVIOUS, draw_points
from stremn_ros.mappings import build
from stremn_ros.model_folder import find_model, load_network, save_click_model
from stremn_ros.network.clicks import ClickNetwork, ClicksConfig
from stremn_ros.text_files import read_yaml
from stremn_ros.training.curves import Curves
from stremn_ros.training.loop import Task, choose_device, optimizer_of, roots_of, run_loop
from stremn_ros.training.losses import mean_iou, quality_loss, segmentation_loss
from stremn_ros.training.workers import Workers

log = logging.getLogger(__name__)


@dataclass
class ClicksTraining:
    """The training file's entries.

    Attributes:
        photos, videos, exclude, video_weights, broken, learning_rate, encoder_learning_rate,
        weight_decay, clip_norm, warmup, decay, ema_decay, checkpoint_every, time_limit,
        export_dtype: as in ``segment.SegmentTraining``. Of the photos those that
            ``data.clicks.held_out`` names are not trained on.
        photo_weights: pattern of photos' names -> how often they are drawn, beside 1.
        start: the segmentation model whose encoder and decoder the network begins with; null: a
            network of random weights.
        rounds: how often a mask is corrected by one click before the one that counts: the
            probabilities of 0, 1, 2, ... times.
        quality_weight: of the predicted IoU's loss beside the masks'.
        validate_every: must be 0: ``stremn evaluate clicks`` measures a model.
    """

    run: str
    phases: list[ClickPhase]
    photos: str | list[str]
    videos: str | list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    video_weights: dict[str, float] = field(default_factory=dict)
    photo_weights: dict[str, float] = field(default_factory=dict)
    broken: str = "raise"
    network: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    start: str | None = "segment_lite0"
    rounds: list[float] = field(default_factory=lambda: [0.5, 0.3, 0.2])
    quality_weight: float = 0.2
    seed: int = 0
    learning_rate: float = 4e-4
    encoder_learning_rate: float = 1e-4
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    warmup: int = 100
    decay: int = 500
    ema_decay: float = 0.998
    checkpoint_every: int = 200
    validate_every: int = 0
    export_dtype: str = "float16"
    time_limit: float = 0.0
    device: str = "auto"
    threads: int = 0
    workers: int = 1

    @classmethod
    def read(cls, path: Path) -> ClicksTraining:
        """From YAML; InputError names an unknown, missing or ill-typed entry."""
        config = build(cls, read_yaml(path), str(path))
        if config.export_dtype not in ("float32", "float16"):
            raise InputError(f"{path}: export_dtype must be float32 or float16")
        if not config.rounds or min(config.rounds) < 0.0 or abs(sum(config.rounds) - 1.0) > 1e-6:
            raise InputError(f"{path}: rounds must be probabilities whose sum is 1")
        if config.validate_every:
            raise InputError(
                f"{path}: validate_every must be 0; `stremn evaluate clicks` measures a model"
            )
        return config


def build_network(config: ClicksTraining) -> ClickNetwork:
    """A network that begins with the weights of ``config.start``."""
    torch.manual_seed(config.seed)
    network = ClickNetwork(ClicksConfig.from_mapping(config.network))
    if config.start:
        network.start_from(load_network(find_model(config.start))[0])
    return network


def train(config: ClicksTraining) -> Path:
    """Runs or resumes a training.

    Returns:
        The folder with the exported model (averaged weights).
    """
    started = time.monotonic()
    device = choose_device(config)
    workers = Workers.from_environment(device)
    try:
        run_loop(ClicksTask(config, device, workers.rank), workers, started)
    finally:
        workers.close()
    return Path(config.run) / "model"


class ClicksTask(Task):
    """Masks from hints in the training loop."""

    def __init__(self, config: ClicksTraining, device: str, rank: int = 0) -> None:
        self.settings = self.config = config
        self.device, self.curves = device, Curves()
        photos = PhotoClips(roots_of(config.photos), config.broken)
        videos = None
        if config.videos:
            videos = VideoClips(
                roots_of(config.videos), config.exclude, config.broken, config.video_weights
            )
        self.batches = HintedObjects(
            config.phases, config.seed, photos, videos, config.photo_weights, rank
        )
        network = build_network(config).to(device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: ClickNetwork = network
        self.optimizer = optimizer_of(
            network,
            lambda name: name.startswith("encoder.") and "conv_extra" not in name,
            config.learning_rate,
            config.encoder_learning_rate,
            config.weight_decay,
        )

    def measure(self, batch: ClickBatch, iteration: int) -> tuple[Tensor, dict[str, float]]:
        images, truth, planes, real = (part.to(self.device) for part in batch)
        images = images.movedim(-1, 1).float()
        hints = planes.float()
        rng = np.random.default_rng((self.config.seed, iteration))
        for _ in range(int(rng.choice(len(self.config.rounds), p=self.config.rounds))):
            with torch.no_grad():
                logits, _ = self.network(images, hints)
                _correct(hints, _enlarged(logits), truth, real)
        small, quality = self.network(images, hints)
        logits = _enlarged(small)
        both = torch.cat([torch.zeros_like(logits), logits], dim=1)  # background, object
        # where a point lies on nothing, any mask will do, and the predicted IoU is to be 0
        loss = segmentation_loss(both[real], truth[real], region_weight=1.0)
        twice = truth[:, None].expand(-1, 2, -1, -1)
        given = torch.zeros(len(truth), 1, dtype=torch.long, device=truth.device)
        predicted = quality_loss([quality[:, None]], [both], twice, given)
        with torch.no_grad():
            iou = mean_iou(both[real], truth[real])
        figures = {"iou": float(iou), "quality": float(predicted.detach())}
        return loss + self.config.quality_weight * predicted, figures

    def export(self, ema: dict[str, Tensor]) -> None:
        network = ClickNetwork(ClicksConfig.from_mapping(self.config.network))
        network.load_state_dict(ema)
        save_click_model(
            Path(self.config.run) / "model",
            network,
            self.config.defaults,
            getattr(torch, self.config.export_dtype),
        )

    def validate(self, ema: dict[str, Tensor]) -> float:
        raise InputError("a click network is measured by `stremn evaluate clicks`")


def _enlarged(logits: Tensor) -> Tensor:
    """[B, 1, S / 4, S / 4] -> [B, 1, S, S]."""
    return F.interpolate(logits, scale_factor=4.0, mode="bilinear")


def _correct(hints: Tensor, logits: Tensor, truth: Tensor, real: Tensor) -> None:
    """Adds to the hints [B, PLANES, S, S] one click for each object, and the mask it corrects."""
    hints[:, PREVIOUS] = torch.sigmoid(logits[:, 0])
    found = (logits[:, 0] > 0.0).cpu().numpy()
    for n, (mask, true, there) in enumerate(zip(found, truth.cpu().numpy(), real, strict=True)):
        click = next_click(mask, true > 0) if there else None
        if click is not None:
            point, inside = click
            plane = hints[n, INSIDE if inside else OUTSIDE].cpu().numpy()
            draw_points(plane, point[None])
            hints[n, INSIDE if inside else OUTSIDE] = torch.from_numpy(plane)


def main(arguments: Sequence[str] | None = None) -> int:
    """``stremn train clicks``: reads the file and trains."""
    parser = argparse.ArgumentParser("stremn train clicks", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML of ClicksTraining")
    parser.add_argument("--time-limit", type=float, help="seconds for this piece")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ClicksTraining.read(options.config)
    if options.time_limit is not None:
        config.time_limit = options.time_limit
    folder = train(config)
    log.info("the averaged weights are in %s", folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
