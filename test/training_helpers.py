"""The scene as a clip for training, and the segmenter that training is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from shapes import scene

from stremn_ros.segmenter import Segmenter

TINY_NETWORK: dict[str, Any] = {
    "encoder": "tiny",
    "template_channels": 8,
    "key_channels": 4,
    "value_channels": 8,
    "query_channels": 4,
    "decoder_channels": [8, 8, 8],
}


def clip(frames: int) -> tuple[list, torch.Tensor, torch.Tensor]:
    """Pairs of frame and mask, and both as a batch of one: images, labels."""
    pairs = [scene(step, (96, 128)) for step in range(frames)]
    images = torch.from_numpy(np.stack([frame for frame, _ in pairs]))[None].movedim(-1, 2).float()
    return pairs, images, torch.from_numpy(np.stack([labels for _, labels in pairs]))[None]


def check_same(segmenter: Segmenter, pairs: list, logits: Sequence[torch.Tensor]) -> None:
    """A segmenter that was seeded with the first pair gives the probabilities of these logits."""
    for (frame, _), expected in zip(pairs[1:], logits, strict=True):
        segmenter.segment(frame)
        seen = segmenter._reader.frame
        assert seen is not None
        for number in (1, 2):
            share = expected[0].softmax(dim=0)[number]
            assert (seen.probabilities[number] - share).abs().mean() < 2e-3
        segmenter.remember()
