"""Trains a click network: ``stremn train clicks --config FILE``.

Each step follows a user: hints, a mask, a further click in the middle of its largest error. The
loss is that of the last mask; the masks before it only place the clicks and are an input.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.data.clicks import ClickBatch, ClickPhase, HintedObjects, next_click
from stremn_ros.errors import InputError
from stremn_ros.imaging.hints import INSIDE, OUTSIDE, PREVIOUS, draw_points
from stremn_ros.model_folder import check_crop_size, find_model, load_network, save_model
from stremn_ros.network.clicks import ClickNetwork, ClicksConfig
from stremn_ros.training import loop
from stremn_ros.training.curves import Curves
from stremn_ros.training.loop import Task, optimizer_of
from stremn_ros.training.losses import mean_iou, quality_loss, segmentation_loss
from stremn_ros.training.settings import PictureSettings

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ClicksTraining(PictureSettings):
    """The training file's entries beside those of ``settings.PictureSettings``.

    Attributes:
        phases: the parts of the run, one after another.
        photos: as there; those that ``data.clicks.held_out`` names are not trained on.
        photo_weights: pattern of photos' names -> how often they are drawn, beside 1.
        start: the segmentation model whose encoder and decoder the network begins with; null: a
            network of random weights.
        rounds: how often a mask is corrected by one click before the one that counts: the
            probabilities of 0, 1, 2, ... times.
        quality_weight: of the predicted IoU's loss beside the masks'.
        validate_every: must be 0: ``stremn evaluate clicks`` measures a model.
    """

    phases: list[ClickPhase]
    photos: str | list[str] = field()
    photo_weights: dict[str, float] = field(default_factory=dict)
    start: str | None = "segment_lite0"
    rounds: list[float] = field(default_factory=lambda: [0.5, 0.3, 0.2])
    quality_weight: float = 0.2
    export_dtype: str = "float16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rounds or min(self.rounds) < 0.0 or abs(sum(self.rounds) - 1.0) > 1e-6:
            raise InputError("rounds must be probabilities whose sum is 1")
        if self.validate_every:
            raise InputError("validate_every must be 0; `stremn evaluate clicks` measures a model")


def build_network(config: ClicksTraining) -> ClickNetwork:
    """A network that begins with the weights of ``config.start``."""
    torch.manual_seed(config.seed)
    network = ClickNetwork(ClicksConfig.from_mapping(config.network))
    if config.start:
        network.start_from(load_network(find_model(config.start))[0])
    return network


def train(config: ClicksTraining) -> Path:
    """``loop.train`` for this task."""
    return loop.train(config, ClicksTask)


class ClicksTask(Task):
    """Masks from hints in the training loop."""

    def __init__(self, config: ClicksTraining, device: str, rank: int = 0) -> None:
        self.settings = self.config = config
        self.device, self.curves = device, Curves()
        check_crop_size(config.defaults)
        photos = config.open_photos()
        if photos is None:
            raise InputError("photos is empty; it must name a folder of photos, or several")
        self.batches = HintedObjects(
            config.phases, config.seed, photos, config.open_videos(), config.photo_weights, rank
        )
        network = build_network(config).to(device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: ClickNetwork = network

        def rate_of(name: str) -> float:
            pretrained = name.startswith("encoder.") and "conv_extra" not in name
            return config.encoder_learning_rate if pretrained else config.learning_rate

        self.optimizer = optimizer_of(network, rate_of, config.weight_decay)

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
        save_model(
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
    """``stremn train clicks``."""
    return loop.run_command(arguments, "clicks", __doc__, ClicksTraining, ClicksTask)


if __name__ == "__main__":
    raise SystemExit(main())
