"""A prediction network that starts where optical flow stops, for real video.

It is given the optical flow between the last frames and refines what follows from it, coarse to
fine (the idea of DMVFN and its kin): per step ahead a correction of the flow, then a mixture of
the last two frames carried there, at several resolutions, and a residual. All that it adds is zero
at the start, so training begins at the extrapolation of the flow. What it remembers is in the slot
memory that the other networks use, at 1/16 of the resolution.

Images are float in 0..1, their height and width multiples of 16. Flows are velocities: how far the
scene point at a pixel of a frame has moved since the frame before, (x, y), in pixels of a map of
half the resolution. No state, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.errors import ModelError
from stremn_ros.memory.fusion import FusionCell
from stremn_ros.network.config import NetworkConfig
from stremn_ros.network.prediction import Decoded, RememberingNetwork

SEARCHES = 3  # of the place that a pixel comes from; each looks where the last one pointed
LEVELS = 3  # coarser copies of the newest frame that the mixture chooses from
FLOW_UNIT = 0.125  # a flow of 8 pixels of a half is 1 for the convolutions
LEAST_SPREAD = 4e-3  # a gray level: what a prediction is never surer of
SLOPE = 0.1  # of the leaky ReLU


@dataclass(frozen=True)
class FlowPredictionConfig(NetworkConfig):
    """Architecture of a flow prediction network.

    Attributes:
        colours: channels of a frame, 1 or 3.
        widths: channels at 1/4, 1/8 and 1/16 of the resolution.
        carried: features at 1/4 that are carried along with the pixels; mixing: channels of the
            last convolutions, which choose the mixture.
        key_channels, value_channels: of the memory, whose templates have ``widths[2]``.
        horizon: frames that one read is decoded to.
        affinity: of the read, as in SegmentationConfig.
    """

    colours: int = 3
    widths: tuple[int, ...] = (32, 48, 64)
    carried: int = 16
    mixing: int = 16
    key_channels: int = 32
    value_channels: int = 64
    horizon: int = 4
    affinity: str = "l2"

    def __post_init__(self) -> None:
        if self.colours not in (1, 3):
            raise ModelError(f"network.colours is {self.colours!r}; it must be 1 or 3")
        if self.affinity not in ("l2", "dot"):
            raise ModelError(f"network.affinity is {self.affinity!r}; it must be l2 or dot")
        numbers = (
            *self.widths,
            self.carried,
            self.mixing,
            self.key_channels,
            self.value_channels,
            self.horizon,
        )
        if len(self.widths) != 3 or not all(
            isinstance(number, int) and 1 <= number <= 4096 for number in numbers
        ):
            raise ModelError(
                "network.widths must be three whole numbers from 1 to 4096, and so must the other "
                f"sizes be; got {numbers}"
            )

    @property
    def template_channels(self) -> int:
        return self.widths[2]


class FlowEncoding(NamedTuple):
    """What the encoder makes of the last two frames."""

    template: Tensor  # X [B, C, H/16, W/16]
    key: Tensor  # [B, Ck, H/16, W/16]
    skip8: Tensor  # [B, W8, H/8, W/8]
    skip4: Tensor  # [B, W4, H/4, W/4]
    earlier: Tensor  # [B, colours, H, W]: the frame before, carried to the newest one's pixels


class Carried(NamedTuple):
    """The last two frames where the steps' motions carry them, S of them within each clip."""

    back: Tensor  # [B * S, 2, H/4, W/4]: see ``origin``
    fine: Tensor  # [B * S, 2 colours, H, W]: the newest frame and the one before
    half: Tensor  # [B * S, colours, H/2, W/2]
    features: Tensor  # [B * S, carried + colours, H/4, W/4]: the last are the newest frame's
    eighth: Tensor  # [B * S, colours, H/8, W/8]


def sample(image: Tensor, displacement: Tensor) -> Tensor:
    """An image at displaced places, bilinear; beyond the edge the edge's values.

    Args:
        image: [B, C, h, w]; displacement: [B, 2, h, w], (x, y) in pixels, from each pixel to the
        place that is read there.
    """
    height, width = image.shape[-2:]
    columns = torch.arange(width, device=image.device, dtype=image.dtype) + 0.5
    rows = torch.arange(height, device=image.device, dtype=image.dtype) + 0.5
    x = (columns + displacement[:, 0]) * (2.0 / width) - 1.0
    y = (rows[:, None] + displacement[:, 1]) * (2.0 / height) - 1.0
    grid = torch.stack([x, y], dim=1).permute(0, 2, 3, 1)  # read faster as planes
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def origin(motion: Tensor) -> Tensor:
    """Where the pixels of a coming frame come from.

    Args:
        motion: [B, 2, h, w], how far each pixel of the newest frame will have moved.

    Returns:
        [B, 2, h, w], from each pixel of the coming frame back to the newest: the solution of
        ``back(y) = -motion(y + back(y))``, by a few substitutions.
    """
    back = -motion
    for _ in range(SEARCHES):
        back = -sample(motion, back)
    return back


def aligned(before: Tensor, flow_before: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The frame before [B, C, H, W] and its flow at the pixels of the newest frame, whose flow is
    given as well, [B, 2, H/2, W/2]."""
    return sample(before, -2.0 * twice(flow)), sample(flow_before, -flow)


def twice(x: Tensor) -> Tensor:
    """At twice the resolution, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class _Pair(nn.Sequential):
    """Two 3x3 convolutions with leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.LeakyReLU(SLOPE),
        )


def _silent(convolution: nn.Conv2d) -> nn.Conv2d:
    """A convolution that gives zeros until it has learned something."""
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


class FlowPredictionNetwork(RememberingNetwork):
    """Encoder, key and value heads, Fusion Cell, and the decoder that refines a flow.

    Args:
        config: the architecture.
    """

    stride = 16  # of the memory's cells

    def __init__(self, config: FlowPredictionConfig) -> None:
        super().__init__()
        self.config = config
        colours, (w4, w8, w16) = config.colours, config.widths
        self.encode4 = _Pair(8 * colours + 4, w4, 2)
        self.encode8 = _Pair(w4, w8, 2)
        self.encode16 = _Pair(w8, w16, 2)
        self.template_head = nn.Conv2d(w16, w16, 1)
        self.key_head = nn.Conv2d(w16, config.key_channels, 3, padding=1)
        self.value_head = nn.Conv2d(w16, config.value_channels, 1)
        self.fusion = FusionCell(w16)
        self.read_head = nn.Conv2d(config.value_channels, w16, 1)
        self.decode16 = _Pair(w16, w16)
        self.decode8 = _Pair(w16 + w8, w8)
        self.decode4 = _Pair(w8 + w4, w4)
        self.motion = _silent(nn.Conv2d(w4, 2 * config.horizon, 3, padding=1))
        self.features = nn.Conv2d(w4, config.carried, 1)
        self.choose4 = nn.Sequential(
            nn.Conv2d(config.carried + 2 * colours + 4, 2 * config.mixing, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * config.mixing, config.mixing, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.choose2 = nn.Sequential(
            nn.Conv2d(config.mixing + 8 * colours, config.mixing, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.mixing = _silent(nn.Conv2d(config.mixing, 4 * (LEVELS + 1 + colours), 1))
        self.spread = _silent(nn.Conv2d(config.mixing, 4, 1))

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The steps ahead that it is trained for: 1 is the next frame."""
        return tuple(range(1, self.config.horizon + 1))

    def encode(self, frames: Tensor, flows: Tensor) -> FlowEncoding:
        """The last two frames, and how they moved.

        Args:
            frames: [B, 2, colours, H, W], oldest first.
            flows: [B, 2, 2, H/2, W/2]: of the older frame, and of the newest.
        """
        before, newest = frames.unbind(1)
        flow_before, flow = flows.unbind(1)
        return self.encode_aligned(newest, flow, *aligned(before, flow_before, flow))

    def encode_aligned(
        self, newest: Tensor, flow: Tensor, earlier: Tensor, flow_earlier: Tensor
    ) -> FlowEncoding:
        """As ``encode``, with what ``aligned`` makes of the older frame and its flow."""
        seen = [F.pixel_unshuffle(newest, 2), F.pixel_unshuffle(earlier - newest, 2)]
        seen += [FLOW_UNIT * flow, flow - flow_earlier]
        return FlowEncoding(*self.encode_seen(torch.cat(seen, dim=1)), earlier)

    def encode_seen(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parts of a FlowEncoding but the last, of what ``encode_aligned`` puts together,
        [B, 8 colours + 4, H/2, W/2]."""
        x4 = self.encode4(seen)
        x8 = self.encode8(x4)
        template = self.template_head(self.encode16(x8))
        return template, self.key_head(template), x8, x4

    def decode(
        self,
        read: Tensor,
        encoding: FlowEncoding,
        newest: Tensor,
        flow: Tensor,
        steps: Sequence[int] | None = None,
    ) -> Decoded:
        """The coming frames [B, S, colours, H, W], not clipped, and their expected absolute error.

        Args:
            read: [B, Cv, H/16, W/16] from the memory; zeros stand for no memory.
            encoding: of the last two frames; newest: [B, colours, H, W]; flow: its own,
            [B, 2, H/2, W/2].
            steps: which of them, 1 for the next frame; None for all.
        """
        features, motion = self.move(read, encoding, flow)
        steps = self.all_steps if steps is None else steps
        if tuple(steps) != self.all_steps:
            each = motion.unflatten(0, (-1, self.config.horizon))
            motion = each[:, [step - 1 for step in steps]].flatten(0, 1)
        return self.mix(self.carry(features, motion, newest, encoding.earlier), steps)

    def move(self, read: Tensor, encoding: FlowEncoding, flow: Tensor) -> tuple[Tensor, Tensor]:
        """The flow carried on and corrected, coarse to fine.

        Returns:
            features [B, carried, H/4, W/4] to be carried along; motion [B * T, 2, H/2, W/2], how
            far each pixel will have moved, step by step within a clip.
        """
        horizon = self.config.horizon
        x = F.leaky_relu(encoding.template + self.read_head(read), SLOPE)
        x = self.decode8(torch.cat([twice(self.decode16(x)), encoding.skip8], dim=1))
        x = self.decode4(torch.cat([twice(x), encoding.skip4], dim=1))
        correction = twice(self.motion(x)).unflatten(1, (horizon, 2))
        steps = torch.arange(1, horizon + 1, device=flow.device, dtype=flow.dtype)
        motion = steps.view(1, horizon, 1, 1, 1) * (flow[:, None] + correction)
        return self.features(x), motion.flatten(0, 1)

    def carry(self, features: Tensor, motion: Tensor, newest: Tensor, earlier: Tensor) -> Carried:
        """Everything at the places of the steps of ``motion``; see ``move``, ``FlowEncoding``."""
        steps = len(motion) // len(newest)

        def carried(image: Tensor, displacement: Tensor) -> Tensor:
            each = image[:, None].expand(-1, steps, -1, -1, -1).flatten(0, 1)
            return sample(each, displacement)

        back = origin(motion)
        back4 = 0.5 * F.avg_pool2d(back, 2)
        coarse4 = F.avg_pool2d(newest, 4)
        return Carried(
            back4,
            carried(torch.cat([newest, earlier], dim=1), 2.0 * twice(back)),
            carried(F.avg_pool2d(newest, 2), back),
            carried(torch.cat([features, coarse4], dim=1), back4),
            carried(F.avg_pool2d(coarse4, 2), 0.5 * F.avg_pool2d(back4, 2)),
        )

    def mix(self, carried: Carried, steps: Sequence[int]) -> Decoded:
        """Per pixel a mixture of what was carried to these steps, and what is added to it."""
        chosen = self.choose4(self._seen_at_quarter(carried, steps))
        sharp, other = carried.fine.split(self.config.colours, dim=1)
        chosen = self.choose2(
            torch.cat(
                [twice(chosen), F.pixel_unshuffle(sharp, 2), F.pixel_unshuffle(other - sharp, 2)],
                dim=1,
            )
        )
        # its loss is to teach the last convolution alone, not what makes the picture
        doubts = self.spread(chosen.detach())
        mixture, doubts = F.pixel_shuffle(self.mixing(chosen), 2), F.pixel_shuffle(doubts, 2)
        frames, spread = self._compose(carried, mixture, doubts)
        clips = (-1, len(steps))
        return Decoded(frames.unflatten(0, clips), spread=spread.unflatten(0, clips))

    def _seen_at_quarter(self, carried: Carried, steps: Sequence[int]) -> Tensor:
        """The input of ``choose4``, [B * S, C, H/4, W/4]."""
        horizon, colours = self.config.horizon, self.config.colours
        back = carried.back
        step = torch.tensor(steps, device=back.device, dtype=back.dtype) / horizon
        step = step.repeat(len(back) // len(steps)).view(-1, 1, 1, 1)
        step = step.expand(-1, 1, *back.shape[-2:])
        sharp, other = carried.fine.split(colours, dim=1)
        doubt = F.avg_pool2d((sharp - other).abs(), 4)
        return torch.cat([carried.features, doubt, FLOW_UNIT * back, outside(back), step], dim=1)

    def _compose(self, carried: Carried, mixture: Tensor, doubts: Tensor) -> tuple[Tensor, Tensor]:
        """The frames [B * S, colours, H, W] and their expected error [B * S, H, W].

        Args:
            mixture: [B * S, LEVELS + 1 + colours, H, W]: the weight of each coarser level and of
            the frame before, beside the newest frame's, and what is added.
            doubts: [B * S, 1, H, W], of which the expected error is made.
        """
        colours = self.config.colours
        sharp, other = carried.fine.split(colours, dim=1)
        levels = [
            twice(carried.half),
            twice(twice(carried.features[:, -colours:])),
            twice(twice(twice(carried.eighth))),
            other,
        ]
        weights, added = mixture.split((LEVELS + 1, colours), dim=1)
        frames = sharp * (1.0 - weights.sum(dim=1, keepdim=True)) + added
        for n, level in enumerate(levels):
            frames = frames + weights[:, n : n + 1] * level
        return frames, expected_error(doubts[:, 0])


def expected_error(doubts: Tensor) -> Tensor:
    """Of a pixel, in 0..1, by what the last convolution gives for it."""
    return LEAST_SPREAD + F.softplus(doubts - 3.0)


def outside(back: Tensor) -> Tensor:
    """[B, 2, h, w] -> [B, 1, h, w]: how many pixels beyond the edge a place lies, 4 at most."""
    height, width = back.shape[-2:]
    x = torch.arange(width, device=back.device, dtype=back.dtype) + back[:, 0]
    y = torch.arange(height, device=back.device, dtype=back.dtype)[:, None] + back[:, 1]
    beyond_x = (-x).clamp(min=0.0) + (x - (width - 1)).clamp(min=0.0)
    beyond_y = (-y).clamp(min=0.0) + (y - (height - 1)).clamp(min=0.0)
    return (beyond_x + beyond_y).clamp(max=4.0)[:, None]
