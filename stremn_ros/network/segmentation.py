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

from stremn_ros.memory.fusion import FusionCell
from stremn_ros.memory.scorer import PairScorer
from stremn_ros.memory.similarity import selective_terms
from stremn_ros.network.blocks import PresenceHead, QualityHead, Refine, ResidualBlock
from stremn_ros.network.config import SegmentationConfig
from stremn_ros.network.encoders import ENCODERS
from stremn_ros.network.mask_encoder import MaskEncoder
from stremn_ros.network.place import PreviousMask, SensoryMemory, zero_conv


class Query(NamedTuple):
    """What the query encoder makes of frames: all that depends on the image alone."""

    # [B, Ck, h, w]; with affinity ``selective`` [B, 2 Ck + 1, h, w]: the key, how strongly each
    # cell attracts as a memory cell, and how much each of the key's channels counts in a query
    key: Tensor
    # [B, 2 D16, h, w], of the query value, which Eq. 10 joins to what is read: its part of the
    # decoder's first block, the same for every object
    skip16: Tensor
    stride16: Tensor  # [B, C16, h, w], like the next two an input of the memory encoder
    stride8: Tensor  # [B, C8, 2h, 2w]
    stride4: Tensor  # [B, C4, 4h, 4w]
    skip8: Tensor  # [B, D8, 2h, 2w], projected for the decoder
    skip4: Tensor  # [B, D4, 4h, 4w]

    @property
    def seen(self) -> Seen:
        """What remembering the frames needs."""
        return Seen(self.key, self.stride16, self.stride8, self.stride4)


class Seen(NamedTuple):
    """What is kept of a Query until its frame is remembered; fields as there."""

    key: Tensor
    stride16: Tensor
    stride8: Tensor | None  # None where the memory encoder does not need it
    stride4: Tensor | None

    def clone(self) -> Seen:
        """With its own tensors."""
        key, stride16, *others = self
        return Seen(
            key.clone(), stride16.clone(), *(None if m is None else m.clone() for m in others)
        )


class Decoded(NamedTuple):
    """What the decoder makes of objects."""

    logits: Tensor  # [N, 1, 4h, 4w]; the sigmoid is the object's probability
    presence: Tensor | None  # [N] logits of the object being there; in ``logits`` already
    hidden: Tensor | None  # [N, S, h, w], the sensory memory after this frame
    quality: Tensor | None = None  # [N] logits of the IoU that the mask is predicted to have


def space_time_read(
    query_key: Tensor,
    memory_key: Tensor,
    memory_value: Tensor,
    mask: Tensor | None = None,
    affinity: str = "dot",
    nearest: int = 0,
) -> Tensor:
    """What the memory holds for each query cell (paper, Eq. 10, before the concatenation).

    Args:
        query_key: [N, hw, Ck].
        memory_key: [N, M, Ck], M = slots * hw.
        memory_value: [N, M, Cv].
        mask: additive, broadcast to [N, hw, M]; -inf where a slot is empty.
        affinity: ``dot`` q.k; ``l2`` -|q - k|^2 (without the query's own norm, which the softmax
            cancels); ``selective`` -s sum_c e_c (q_c - k_c)^2, where query_key is [q, *, e] and
            memory_key [k, s] (XMem, Eq. 2). All are scaled by 1/sqrt(Ck).
        nearest: each cell reads only so many memory cells, those of the largest affinities (STCN);
            0 for all.

    Returns:
        [N, hw, Cv].
    """
    if nearest:
        weights, places = nearest_weights(query_key, memory_key, nearest, mask, affinity)
        rows, cells = memory_value.shape[:2]
        places = places + cells * torch.arange(rows, device=places.device)[:, None, None]
        # no tensor of all the values that are read: that would be as large as the affinities were
        read = F.embedding_bag(
            places.flatten(0, 1),
            memory_value.flatten(0, 1),
            per_sample_weights=weights.flatten(0, 1),
            mode="sum",
        )
        return read.unflatten(0, (rows, -1))
    query_key, memory_key, scale = _affinity_terms(query_key, memory_key, affinity)
    return F.scaled_dot_product_attention(
        query_key, memory_key, memory_value, attn_mask=mask, scale=scale
    )


def space_time_weights(query_key: Tensor, memory_key: Tensor, affinity: str = "dot") -> Tensor:
    """How much ``space_time_read`` takes of each memory cell: [N, hw, M], each row adds up to 1."""
    query_key, memory_key, scale = _affinity_terms(query_key, memory_key, affinity)
    return (query_key @ memory_key.transpose(1, 2) * scale).softmax(dim=-1)


def nearest_weights(
    query_key: Tensor, memory_key: Tensor, nearest: int, mask: Tensor | None, affinity: str
) -> tuple[Tensor, Tensor]:
    """Of which cells ``space_time_read`` takes how much, where each cell reads the nearest ones.

    Returns:
        Weights [N, hw, n], falling, each row adds up to 1; the memory cells' places, int64
        [N, hw, n]. n is ``nearest``, or M where that is less.
    """
    query_key, memory_key, scale = _affinity_terms(query_key, memory_key, affinity)
    scores = query_key @ memory_key.transpose(1, 2) * scale
    if mask is not None:
        scores = scores + mask
    scores, places = scores.topk(min(nearest, scores.shape[2]), dim=-1)
    return scores.softmax(dim=-1), places


def _affinity_terms(
    query_key: Tensor, memory_key: Tensor, affinity: str
) -> tuple[Tensor, Tensor, float]:
    """Vectors whose dot product is the affinity, and its scale."""
    if affinity == "selective":
        query_key, memory_key = selective_terms(query_key, memory_key)
        return query_key, memory_key, 1.0 / math.sqrt((query_key.shape[-1] - 1) // 2)
    scale = 1.0 / math.sqrt(query_key.shape[-1])
    if affinity == "l2":
        # 2 q.k - |k|^2 as one dot product: the norms ride in one more channel
        norm = memory_key.square().sum(dim=-1, keepdim=True)
        memory_key = torch.cat([memory_key, norm], dim=-1)
        query_key = torch.cat([2.0 * query_key, -torch.ones_like(query_key[..., :1])], dim=-1)
    return query_key, memory_key, scale


def logit_of_product(a: Tensor, b: Tensor) -> Tensor:
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
        self.memory_encoder = self.mask_encoder = None
        if config.memory_encoder == "image":
            self.memory_encoder = encoder(extra_channels=2)
            seen = c16
        else:
            self.mask_encoder = MaskEncoder((c4, c8))
            seen = MaskEncoder.outputs
        self.key_head = nn.Conv2d(c16, config.key_channels, 3, padding=1)
        self.query_value_head = nn.Conv2d(c16, config.query_channels, 3, padding=1)
        self.template_head = ResidualBlock(seen + c16, config.template_channels)
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
        self.quality = QualityHead(d16) if config.quality else None
        self.shrinkage_head = self.selection_head = None
        if config.affinity == "selective":
            self.shrinkage_head = zero_conv(c16, 1, 3)
            self.selection_head = zero_conv(c16, config.key_channels, 3)
        self.previous_mask = PreviousMask(config.decoder_channels) if config.previous_mask else None
        self.sensory = None
        if config.sensory_channels:
            self.sensory = SensoryMemory(
                config.sensory_channels, config.template_channels, config.decoder_channels
            )
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
        key = self.key_head(stride16)
        if self.shrinkage_head is not None and self.selection_head is not None:
            # both are one where their heads give zero, and the affinity is ``l2``
            shrinkage = F.softplus(self.shrinkage_head(stride16) + math.log(math.e - 1.0))
            selection = 2.0 * torch.sigmoid(self.selection_head(stride16))
            key = torch.cat([key, shrinkage, selection], dim=1)
        return Query(
            key=key,
            skip16=self.decode16.project(self.query_value_head(stride16)),
            stride16=stride16,
            stride8=stride8,
            stride4=stride4,
            skip8=self.refine8.project_skip(stride8),
            skip4=self.refine4.project_skip(stride4),
        )

    @property
    def memory_maps(self) -> tuple[str, ...]:
        """The maps of a Query that ``encode_memory`` needs."""
        return ("stride16",) if self.mask_encoder is None else ("stride16", "stride8", "stride4")

    def encode_memory(
        self,
        image: Tensor | None,
        masks: Tensor,
        stride16: Tensor,
        stride8: Tensor | None = None,
        stride4: Tensor | None = None,
    ) -> Tensor:
        """Templates of objects.

        Args:
            image: [1, 3, H, W], a frame that all objects share, or [N, 3, H, W]; not looked at
                with the memory encoder ``mask``.
            masks: [N, 2, H, W] probabilities: the object's, and the other objects' sum.
            stride16, stride8, stride4: of the frame's Query, one row or N; ``memory_maps`` names
                those that are needed.

        Returns:
            X [N, C, h, w].
        """
        features = self.mask_features(image, masks, stride8, stride4)
        return self.template_head(features, self.template_head.project(stride16))

    def mask_features(
        self,
        image: Tensor | None,
        masks: Tensor,
        stride8: Tensor | None = None,
        stride4: Tensor | None = None,
    ) -> Tensor:
        """What the memory encoder makes of objects [N, C16, h, w]; see ``encode_memory``."""
        if self.memory_encoder is not None:
            assert image is not None
            return self.memory_encoder((image - self.mean) / self.std, masks)[2]
        assert self.mask_encoder is not None
        assert stride8 is not None
        assert stride4 is not None
        return self.mask_encoder(masks, stride4, stride8)

    def memory_value(self, template: Tensor) -> Tensor:
        """X [N, C, h, w] -> values [N, Cv, h, w]."""
        return self.value_head(template)

    def memory_key(self, template: Tensor, image_key: Tensor) -> Tensor:
        """Keys [N, Ck, h, w] of templates.

        With ``key_source: template`` they are made of X [N, C, h, w]. With ``image`` they are the
        frame's own key (of image_key, ``Query.key``, the channels that a memory cell has); a
        fused slot keeps the key of the template that stayed, whose cells it still describes.
        """
        if self.memory_key_head is not None:
            return self.memory_key_head(template)
        return image_key[:, : self.config.memory_key_channels]

    def decode(
        self,
        read: Tensor,
        skip16: Tensor,
        skip8: Tensor,
        skip4: Tensor,
        previous: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Decoded:
        """Masks of objects.

        Args:
            read: [N, Cv, h, w] from the memory.
            skip16, skip8, skip4: of the Query, one row that all objects share, or N rows.
            previous: [N, 2, 4h, 4w], for a network with ``previous_mask``: the probabilities of
                the object and of all others in the previous frame.
            hidden: [N, S, h, w], for a network with a sensory memory: that after the previous
                frame.

        The presence is in the logits already: each pixel's probability is multiplied by it, so
        that an object that is not there has no mask, whatever its outline would be.
        """
        rows = read.shape[0]
        x16 = self.decode16(read, skip16)
        skip8, skip4 = skip8.expand(rows, -1, -1, -1), skip4.expand(rows, -1, -1, -1)
        if self.previous_mask is not None:
            assert previous is not None
            add16, add8, add4 = self.previous_mask(previous)
            x16, skip8, skip4 = x16 + add16, skip8 + add8, skip4 + add4
        if self.sensory is not None:
            assert hidden is not None
            x16 = x16 + self.sensory.to16(hidden)
        presence = None if self.presence is None else self.presence(x16)
        x8 = self.refine8(x16, skip8)
        x4 = self.refine4(x8, skip4)
        logits = self.classify(F.relu(x4))
        if presence is not None:
            logits = logit_of_product(logits, presence[:, None, None, None])
        quality = None if self.quality is None else self.quality(x16, logits)
        if self.sensory is None:
            return Decoded(logits, presence, None, quality)
        assert hidden is not None
        return Decoded(logits, presence, self.sensory(hidden, x16, x8, x4, logits), quality)
