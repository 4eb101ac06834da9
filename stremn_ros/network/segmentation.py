"""The segmentation network: encoders, heads, space-time read and decoder. No state, no files.

Everything is batched over objects; a caller that serves one camera passes the query's maps with
one row and the objects' with N rows. Images are float RGB in 0..255 at the processing size, whose
height and width are multiples of 16; h = H / 16, w = W / 16.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..memory.fusion import FusionCell
from ..memory.scorer import PairScorer
from .blocks import PresenceHead, Refine, ResidualBlock
from .config import SegmentationConfig
from .encoders import ENCODERS


class Query(NamedTuple):
    """What the query encoder makes of frames: all that depends on the image alone."""

    key: Tensor  # [B, Ck, h, w]
    value: Tensor  # [B, Cq, h, w]
    stride16: Tensor  # [B, C16, h, w], also an input of the memory encoder
    skip8: Tensor  # [B, D8, 2h, 2w], projected for the decoder
    skip4: Tensor  # [B, D4, 4h, 4w]


def space_time_read(
    query_key: Tensor,
    memory_key: Tensor,
    memory_value: Tensor,
    mask: Tensor | None = None,
    affinity: str = "dot",
) -> Tensor:
    """What the memory holds for each query cell (paper, Eq. 10, before the concatenation).

    Args:
        query_key: [N, hw, Ck].
        memory_key: [N, M, Ck], M = slots * hw.
        memory_value: [N, M, Cv].
        mask: additive, broadcast to [N, hw, M]; -inf where a slot is empty.
        affinity: ``dot`` q.k, or ``l2`` -|q - k|^2 (without the query's own norm, which the
            softmax cancels); both scaled by 1/sqrt(Ck).

    Returns:
        [N, hw, Cv].
    """
    scale = 1.0 / math.sqrt(query_key.shape[-1])
    if affinity == "l2":
        # 2 q.k - |k|^2 as one dot product: the norms ride in one more channel
        norm = memory_key.square().sum(dim=-1, keepdim=True)
        memory_key = torch.cat([memory_key, norm], dim=-1)
        query_key = torch.cat([2.0 * query_key, -torch.ones_like(query_key[..., :1])], dim=-1)
    return F.scaled_dot_product_attention(
        query_key, memory_key, memory_value, attn_mask=mask, scale=scale
    )


def both(a: Tensor, b: Tensor) -> Tensor:
    """The logit of sigmoid(a) * sigmoid(b), for logits that broadcast; exact for large ones."""
    a, b = torch.broadcast_tensors(a, b)
    # 1 / (p q) - 1 = e^-a + e^-b + e^-(a + b)
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)


class SegmentationNetwork(nn.Module):
    """Encoders, key and value heads, Fusion Cell and decoder of the segmentation task.

    Args:
        config: the architecture.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        encoder = ENCODERS[config.encoder]
        c4, c8, c16 = encoder.channels
        d16, d8, d4 = config.decoder_channels
        self.query_encoder = encoder()
        self.memory_encoder = encoder(extra_channels=2)
        self.key_head = nn.Conv2d(c16, config.key_channels, 3, padding=1)
        self.query_value_head = nn.Conv2d(c16, config.query_channels, 3, padding=1)
        self.template_head = ResidualBlock(2 * c16, config.template_channels)
        self.value_head = nn.Conv2d(config.template_channels, config.value_channels, 1)
        self.memory_key_head = (
            nn.Conv2d(config.template_channels, config.key_channels, 3, padding=1)
            if config.key_source == "template"
            else None
        )
        self.fusion = FusionCell(config.template_channels)
        self.pair_scorer: PairScorer | None = None
        self.decode16 = ResidualBlock(config.value_channels + config.query_channels, d16)
        self.refine8 = Refine(d16, c8, d8)
        self.refine4 = Refine(d8, c4, d4)
        self.classify = nn.Conv2d(d4, 1, 3, padding=1)
        self.presence = PresenceHead(d16) if config.presence else None
        for name in ("mean", "std"):
            # not of the weights, so real also where the rest is made without numbers
            value = torch.tensor(getattr(encoder, name), dtype=torch.float32, device="cpu")
            self.register_buffer(name, value.view(1, 3, 1, 1), False)
        for head in (self.key_head, self.query_value_head, self.memory_key_head):
            if head is not None and head.bias is not None:
                nn.init.orthogonal_(head.weight.flatten(1))
                nn.init.zeros_(head.bias)

    def add_pair_scorer(self) -> PairScorer:
        """The scorer of the update rule ``learned``; made, untrained, where there is none."""
        if self.pair_scorer is None:
            self.pair_scorer = PairScorer(self.config.template_channels)
        return self.pair_scorer

    def encode_query(self, image: Tensor) -> Query:
        """Images [B, 3, H, W] -> their Query."""
        stride4, stride8, stride16 = self.query_encoder((image - self.mean) / self.std)
        return Query(
            key=self.key_head(stride16),
            value=self.query_value_head(stride16),
            stride16=stride16,
            skip8=self.refine8.project_skip(stride8),
            skip4=self.refine4.project_skip(stride4),
        )

    def encode_memory(self, image: Tensor, masks: Tensor, stride16: Tensor) -> Tensor:
        """Templates of objects.

        Args:
            image: [1, 3, H, W], a frame that all objects share, or [N, 3, H, W].
            masks: [N, 2, H, W] probabilities: the object's, and the other objects' sum.
            stride16: of the frame's Query, [1, C16, h, w] or [N, C16, h, w].

        Returns:
            X [N, C, h, w].
        """
        normalised = (image - self.mean) / self.std
        _, _, features = self.memory_encoder(normalised, masks)
        stride16 = stride16.expand(features.shape[0], -1, -1, -1)
        return self.template_head(torch.cat([features, stride16], dim=1))

    def memory_value(self, template: Tensor) -> Tensor:
        """X [N, C, h, w] -> values [N, Cv, h, w]."""
        return self.value_head(template)

    def memory_key(self, template: Tensor, image_key: Tensor) -> Tensor:
        """Keys [N, Ck, h, w] of templates.

        With ``key_source: template`` they are made of X [N, C, h, w]. With ``image`` they are the
        frame's own key (image_key, [N, Ck, h, w]); a fused slot keeps the key of the template
        that stayed, whose cells it still describes.
        """
        return image_key if self.memory_key_head is None else self.memory_key_head(template)

    def decode(self, read: Tensor, value: Tensor, skip8: Tensor, skip4: Tensor) -> Tensor:
        """Logits of objects at stride 4.

        Args:
            read: [N, Cv, h, w] from the memory.
            value, skip8, skip4: of the Query, one row that all objects share, or N rows.

        Returns:
            [N, 1, 4h, 4w]; the sigmoid is the object's probability.
        """
        return self.decode_with_presence(read, value, skip8, skip4)[0]

    def decode_with_presence(
        self, read: Tensor, value: Tensor, skip8: Tensor, skip4: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As ``decode``, and the logits [N] of the objects being there, None without that head.

        The presence is in the first result already: each pixel's probability is multiplied by it,
        so that an object that is not there has no mask, whatever its outline would be.
        """
        value = value.expand(read.shape[0], -1, -1, -1)
        x = self.decode16(torch.cat([read, value], dim=1))
        presence = None if self.presence is None else self.presence(x)
        x = self.refine8(x, skip8.expand(x.shape[0], -1, -1, -1))
        x = self.refine4(x, skip4.expand(x.shape[0], -1, -1, -1))
        logits = self.classify(F.relu(x))
        if presence is None:
            return logits, None
        return both(logits, presence[:, None, None, None]), presence
