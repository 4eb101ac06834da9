"""The prediction network: encoder, heads, Fusion Cell and decoder. No state, no files.

The encoder is the paper's (4.2): six blocks of two convolutions, group normalization and leaky
ReLU, three of them strided, over three stacked frames; one encoder serves query and memory, and
the decoder mirrors it. Images are float in 0..1, their height and width multiples of 8;
h = H / 8, w = W / 8.

What is not in the paper: one read is decoded to a whole horizon of frames instead of one, and by
``head: layers`` the decoder does not paint the future from features alone but says how the last
frame is to be carried there. ``head: paint`` is the paper's. For real video see flow_prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.errors import ModelError
from stremn_ros.memory.fusion import FusionCell
from stremn_ros.network.carrying import Carried, Carrier, Division
from stremn_ros.network.config import NetworkConfig

STACK = 3  # frames that the encoder sees at once
STRIDE = 8
CORRELATION_RANGE = 4  # of the encoder's correlation, in pixels of half the resolution
MATCH_SHARPNESS = 30.0  # of the soft maximum over displacements
HEADS = ("paint", "layers")
FORMER = ("candidates",)  # entries of models from before, which mean nothing any more


@dataclass(frozen=True)
class PredictionConfig(NetworkConfig):
    """Architecture of a prediction network.

    Attributes:
        colours: channels of a frame, 1 or 3.
        widths: of the six blocks; the first, third and fifth are strided.
        template_channels, key_channels, value_channels: of templates and what is read of them.
        horizon: frames that one read is decoded to.
        head: ``paint``: the decoder draws the frames (paper). ``layers``: it divides a frame into
            layers, measures where each was and is, and carries it along a path with a spread.
        layers: of the head ``layers``; past: earlier frames that it looks for them in; references:
            how many frames before the newest are those that it divides, of which it takes the one
            that explains the frames seen best.
        correlation: the sixth block also sees how well the newest of the three frames matches the
            oldest at each displacement.
        affinity: of the read, as in SegmentationConfig.
    """

    colours: int = 1
    widths: tuple[int, ...] = (16, 16, 32, 32, 64, 64)
    template_channels: int = 64
    key_channels: int = 32
    value_channels: int = 64
    horizon: int = 10
    head: str = "layers"
    layers: int = 2
    past: int = 9
    references: tuple[int, ...] = (0, 3, 6)
    correlation: bool = True
    affinity: str = "l2"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("head", HEADS),
            ("affinity", ("l2", "dot")),
            ("colours", (1, 3)),
            ("correlation", (True, False)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ModelError(f"network.{name} is {value!r}; it must be one of {allowed}")
        numbers = (
            *self.widths,
            self.template_channels,
            self.key_channels,
            self.value_channels,
            self.horizon,
            self.layers,
            self.past,
        )
        if len(self.widths) != 6 or not all(
            isinstance(number, int) and 1 <= number <= 4096 for number in numbers
        ):
            raise ModelError(
                "network widths must be six whole numbers from 1 to 4096, and so must the other "
                f"sizes be; got {numbers}"
            )
        if not all(isinstance(age, int) and 0 <= age <= 4096 for age in self.references):
            raise ModelError(
                "network.references must be whole numbers, 0 for the newest frame; got "
                f"{self.references}"
            )
        if self.head == "layers" and self.colours != 1:
            raise ModelError("network.head layers is for frames of one color; colours must be 1")

    @property
    def kept(self) -> int:
        """How many of the newest frames a stream keeps: those stacked, or searched."""
        return max(STACK, self.past + 1) if self.head == "layers" else STACK

    def ages(self, seen: int) -> tuple[int, ...]:
        """The references of a stream that has seen so many frames: 0, the newest, and those before
        it of which all stacked frames are kept."""
        if self.head != "layers":
            return (0,)
        possible = {age for age in self.references if age + STACK <= min(seen, self.kept)}
        return tuple(sorted(possible | {0}))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> PredictionConfig:
        """From the parsed YAML; ModelError names an unknown or ill-typed entry."""
        known = {key: value for key, value in values.items() if key not in FORMER}
        return super().from_mapping(known)


class Encoding(NamedTuple):
    """What the encoder makes of three stacked frames."""

    template: Tensor  # X [B, C, h, w]
    key: Tensor  # [B, Ck, h, w]
    skip2: Tensor  # [B, W2, H/2, W/2]
    skip4: Tensor  # [B, W4, H/4, W/4]


class Decoded(NamedTuple):
    """What the decoder makes of a read."""

    frames: Tensor  # [B, T, C, H, W]
    carried: Carried | None = None  # by the head ``layers``
    spread: Tensor | None = None  # [B, T, H, W], expected absolute error; by FlowPredictionNetwork


def _groups(channels: int) -> int:
    return next(count for count in (8, 4, 2, 1) if channels % count == 0)


class Block(nn.Sequential):
    """Two 3x3 convolutions, each with group normalization and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.GroupNorm(_groups(outputs), outputs),
            nn.LeakyReLU(0.2),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.GroupNorm(_groups(outputs), outputs),
            nn.LeakyReLU(0.2),
        )


def correlate(newest: Tensor, oldest: Tensor, reach: int = CORRELATION_RANGE) -> Tensor:
    """How well two frames match at each displacement, around each cell of the templates.

    Args:
        newest, oldest: [B, C, H, W].
        reach: largest displacement, in pixels of half the resolution.

    Returns:
        [B, (2 reach + 1)^2 + 2, H/8, W/8]: the normalized correlation over windows of 16 x 16
        pixels, and the movement (rows, columns) in pixels a frame that it speaks for: its soft
        maximum. Without a gradient: it is a fixed feature.
    """
    with torch.no_grad():
        a, b = (F.avg_pool2d(x.mean(dim=1, keepdim=True), 2) for x in (newest, oldest))
        size = 2 * reach + 1
        shifted = F.unfold(b, size, padding=reach).unflatten(2, a.shape[-2:])
        product = F.avg_pool2d(a * shifted, 8, 4, 2)
        # Pooling commutes with the displacement: one pooled map is displaced, not 81 pooled
        ours = F.avg_pool2d(a.square(), 8, 4, 2)
        around = F.avg_pool2d(F.pad(b.square(), (2, 5, 2, 5)), 8, 1)
        theirs = F.unfold(around, size, padding=reach, stride=4).view_as(product)
        match = product / (ours * theirs + 1e-4).sqrt()
        steps = torch.arange(-reach, reach + 1, device=a.device, dtype=a.dtype)
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
        # STACK - 1 frames apart, and one step is two pixels; what moved down came from above
        moved = torch.einsum("do,bohw->bdhw", offsets, (MATCH_SHARPNESS * match).softmax(dim=1))
        return torch.cat([match, moved * (-2.0 / (STACK - 1))], dim=1)


class RememberingNetwork(nn.Module):
    """What a prediction network offers a memory, the same as the segmentation network: bank and
    training use the same code for all. A subclass makes the heads and the Fusion Cell.
    """

    pair_scorer = None
    key_head: nn.Module
    value_head: nn.Module
    fusion: FusionCell

    @property
    def memory_key_head(self) -> nn.Module:
        """What makes the keys of templates, fused ones as well: the same for query and memory."""
        return self.key_head

    def memory_key(self, template: Tensor, image_key: Tensor) -> Tensor:
        """Keys [N, Ck, h, w] of templates; those of a frame (image_key) are made of them alone."""
        return self.key_head(template)

    def memory_value(self, template: Tensor) -> Tensor:
        """X [N, C, h, w] -> values [N, Cv, h, w]."""
        return self.value_head(template)


class PredictionNetwork(RememberingNetwork):
    """Encoder, key and value heads, Fusion Cell and decoder of the prediction task.

    Args:
        config: the architecture.
    """

    stride = STRIDE

    def __init__(self, config: PredictionConfig) -> None:
        super().__init__()
        self.config = config
        w1, w2, w3, w4, w5, w6 = config.widths
        matches = (2 * CORRELATION_RANGE + 1) ** 2 + 2 if config.correlation else 0
        self.encoder = nn.ModuleList(
            [
                Block(STACK * config.colours + 2, w1, 2),
                Block(w1, w2),
                Block(w2, w3, 2),
                Block(w3, w4),
                Block(w4, w5, 2),
                Block(w5 + matches, w6),
            ]
        )
        channels = config.template_channels
        self.template_head = nn.Conv2d(w6, channels, 1)
        self.key_head = nn.Conv2d(channels, config.key_channels, 3, padding=1)
        self.value_head = nn.Conv2d(channels, config.value_channels, 1)
        self.fusion = FusionCell(channels)
        self.decoder = nn.ModuleList(
            [
                Block(config.value_channels + channels, w6),
                Block(w6, w5),
                Block(w5 + w4, w4),
                Block(w4, w3),
                Block(w3 + w2, w2),
                Block(w2, w1),
            ]
        )
        self._make_head()

    def _make_head(self) -> None:
        config = self.config
        w1, _, _, w4, _, w6 = config.widths
        if config.head == "paint":
            self.draw = nn.Conv2d(w1, 4 * config.colours * config.horizon, 3, padding=1)
        else:
            self.carry = Carrier(w1, (w6, w4), config.layers, config.horizon, config.past)

    def encode(self, frames: Tensor) -> Encoding:
        """Three stacked frames [B, 3, C, H, W], oldest first -> their Encoding."""
        x = torch.cat([frames.flatten(1, 2), _places(frames)], dim=1)
        skip2 = self.encoder[1](self.encoder[0](x))
        skip4 = self.encoder[3](self.encoder[2](skip2))
        x = self.encoder[4](skip4)
        if self.config.correlation:
            x = torch.cat([x, correlate(frames[:, -1], frames[:, 0])], dim=1)
        template = self.template_head(self.encoder[5](x))
        return Encoding(template, self.key_head(template), skip2, skip4)

    def decode(
        self,
        read: Tensor,
        encoding: Encoding,
        frames: Tensor,
        ages: Sequence[int] = (0,),
    ) -> Decoded:
        """The coming frames.

        Args:
            read: [R * B, Cv, h, w] from the memory; encoding: of the newest three frames, or for
            the head ``layers`` of R references, ``ages`` frames before them, one after the other.
            frames: the newest frames, oldest first, [B, N, C, H, W], N at least 1; the head
            ``layers``, which needs 2, looks for its layers in up to ``config.past`` of them.

        Returns:
            frames [B, T, C, H, W], not clipped to 0..1.
        """
        coarse = self.decoder[0](torch.cat([read, encoding.template], dim=1))
        x = _double(self.decoder[1](coarse))
        middle = self.decoder[3](self.decoder[2](torch.cat([x, encoding.skip4], dim=1)))
        x = self.decoder[4](torch.cat([_double(middle), encoding.skip2], dim=1))
        if self.config.head == "paint":
            drawn = F.pixel_shuffle(self.draw(self.decoder[5](x)), 2)
            return Decoded(torch.sigmoid(drawn - 2.0).unflatten(1, (-1, self.config.colours)))
        last = frames.shape[1] - 1
        divided = torch.cat([frames[:, last - age] for age in ages])
        division = self.carry.division(self.decoder[5](x), [coarse, middle], divided)
        parts = [Division(*part) for part in zip(*(y.chunk(len(ages)) for y in division))]
        carried = self.carry(parts, ages, frames[:, -self.config.past - 1 :])
        return Decoded(carried.frames, carried)

    def steer(
        self, centers: Tensor, size: tuple[int, int], where: Tensor, match: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Paths of things of which nothing but where they were is known; see Steer.forward."""
        features = centers.new_zeros(*centers.shape[:2], self.carry.steer.features)
        past = self.config.past
        return self.carry.steer(centers, size, where[:, :, :past], match[:, :, :past], features)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def _places(frames: Tensor) -> Tensor:
    """Two channels that say where a pixel is, -1..1."""
    count, (height, width) = len(frames), frames.shape[-2:]
    rows = torch.linspace(-1.0, 1.0, height, device=frames.device, dtype=frames.dtype)
    columns = torch.linspace(-1.0, 1.0, width, device=frames.device, dtype=frames.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(count, -1, -1, -1)
