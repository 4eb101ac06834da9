"""The click network: the mask of one object from a crop of the image and drawn hints.

As in RITM (Sofiiuk et al., 2021) the hints are further input planes of the encoder, and the mask
of an earlier pass is one of them. The encoder and the decoder are those of the segmentation
network, without its memory, so that training can begin with that network's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.errors import ModelError
from stremn_ros.imaging.hints import PLANES
from stremn_ros.network.blocks import QualityHead, Refine, ResidualBlock
from stremn_ros.network.config import NetworkConfig
from stremn_ros.network.encoders import ENCODERS
from stremn_ros.network.segmentation import SegmentationNetwork


@dataclass(frozen=True)
class ClicksConfig(NetworkConfig):
    """Architecture of a click network: the ``network`` part of its config.yaml.

    Attributes:
        encoder: a key of ``encoders.ENCODERS``.
        value_channels: of the map that the decoder starts from.
        decoder_channels: widths at strides 16, 8 and 4.
    """

    encoder: str = "efficientnet_lite0"
    value_channels: int = 128
    decoder_channels: tuple[int, int, int] = (192, 96, 48)

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ModelError(
                f"network.encoder is {self.encoder!r}; it must be one of {tuple(ENCODERS)}"
            )
        widths = (self.value_channels, *self.decoder_channels)
        if len(widths) != 4 or not all(
            isinstance(width, int) and not isinstance(width, bool) and 1 <= width <= 4096
            for width in widths
        ):
            raise ModelError(
                "network widths must be whole numbers from 1 to 4096, decoder_channels three of "
                f"them; got {widths}"
            )


class ClickNetwork(nn.Module):
    """Encoder with hint planes, decoder, and a head that predicts the IoU of the mask.

    Args:
        config: the architecture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClicksConfig) -> None:
        super().__init__()
        self.config = config
        encoder = ENCODERS[config.encoder]
        c4, c8, c16 = encoder.channels
        d16, d8, d4 = config.decoder_channels
        self.encoder = encoder(extra_channels=PLANES)
        self.value_head = nn.Conv2d(c16 + PLANES, config.value_channels, 3, padding=1)
        self.decode16 = ResidualBlock(config.value_channels, d16)
        self.refine8 = Refine(d16, c8, d8)
        self.refine4 = Refine(d8, c4, d4)
        self.classify = nn.Conv2d(d4, 1, 3, padding=1)
        self.quality = QualityHead(d16)
        for name in ("mean", "std"):
            # not of the weights, so real also where the rest is made without numbers
            value = torch.tensor(getattr(encoder, name), dtype=torch.float32, device="cpu")
            self.register_buffer(name, value.view(1, 3, 1, 1), False)

    def forward(self, image: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of the hinted objects.

        Args:
            image: float [B, 3, S, S] RGB, 0..255, S a multiple of 16.
            hints: float [B, PLANES, S, S], 0..1, see ``imaging.hints``.

        Returns:
            Logits [B, 1, S / 4, S / 4] of the mask, and logits [B] of the IoU that it is predicted
            to have with the truth.
        """
        stride4, stride8, stride16 = self.encoder((image - self.mean) / self.std, hints)
        # given again where the map is coarse: a point need not survive all the layers before
        near = torch.cat([stride16, F.max_pool2d(hints, 16)], dim=1)
        x16 = self.decode16(self.value_head(near))
        x8 = self.refine8(x16, self.refine8.project_skip(stride8))
        x4 = self.refine4(x8, self.refine4.project_skip(stride4))
        logits = self.classify(F.relu(x4))
        return logits, self.quality(x16, logits)

    @torch.no_grad()
    def start_from(self, network: SegmentationNetwork) -> None:
        """Takes over a segmentation network's query encoder and decoder.

        The planes of the hints begin without effect on the encoder.

        Raises:
            ModelError: that network has another encoder or other widths.
        """
        other = network.config
        mine = (self.config.encoder, self.config.value_channels, self.config.decoder_channels)
        theirs = (other.encoder, other.query_channels, other.decoder_channels)
        if mine != theirs:
            raise ModelError(
                f"a click network with encoder, value_channels and decoder_channels {mine} cannot "
                f"start from a segmentation network with {theirs}"
            )
        self.encoder.load_state_dict(network.query_encoder.state_dict(), strict=False)
        assert self.encoder.conv_extra is not None
        self.encoder.conv_extra.weight.zero_()
        for name in ("refine8", "refine4", "classify"):
            getattr(self, name).load_state_dict(getattr(network, name).state_dict())
        c16 = self.encoder.channels[2]
        self.value_head.weight[:, :c16] = network.query_value_head.weight
        # the decoder's first block has the memory's value before the query's, here left out
        before = other.value_channels
        block, source = self.decode16, network.decode16
        assert block.skip is not None
        assert source.skip is not None
        for own, its in ((block.conv1, source.conv1), (block.skip, source.skip)):
            own.weight.copy_(its.weight[:, before:])
        block.conv2.load_state_dict(source.conv2.state_dict())
        if network.quality is not None:
            self.quality.load_state_dict(network.quality.state_dict())
