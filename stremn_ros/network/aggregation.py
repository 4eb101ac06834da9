"""Soft aggregation: independent object probabilities to one distribution per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def aggregate_logits(logits: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Class logits of background and objects from each object's own logit.

    Soft aggregation of STM (Oh et al., 2019): p_background = prod(1 - p_o); the result's softmax
    is the distribution over {background, objects}, normalized over the odds p / (1 - p).

    Args:
        logits: [..., O, H, W], one logit per object (sigmoid gives p_o).

    Returns:
        [..., O + 1, H, W]; index 0 is the background.
    """
    log_odds = logits
    if logits.shape[-3] == 1:  # the background is what the object is not
        return torch.cat([-logits.clamp(min=math.log(epsilon)), log_odds], dim=-3)
    # log prod(1 - p_o) = sum of log sigmoid(-logit), which needs no clamping of p
    log_background = F.logsigmoid(-logits).sum(dim=-3, keepdim=True)
    remainder = -torch.expm1(log_background.clamp(max=-epsilon))
    background = log_background - torch.log(remainder.clamp(min=epsilon))
    return torch.cat([background, log_odds], dim=-3)


def object_probabilities(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Each object's probability: the softmax over background and objects, enlarged to a size.

    Args:
        logits: aggregated, [O + 1, h, w], the background first; size: rows and columns.

    Returns:
        [O, *size].
    """
    if len(logits) == 2:  # the softmax of two is the sigmoid of their difference
        odds = F.interpolate((logits[1:] - logits[:1])[None], size=size, mode="bilinear")[0]
        return odds.sigmoid_()
    return F.interpolate(logits[None], size=size, mode="bilinear")[0].softmax(dim=0)[1:]


def kept_shares(own: Tensor, aggregated: Tensor) -> Tensor:
    """Of each object's own mask, the share that is still its own beside the other objects.

    Args:
        own: [O, h, w], each object's own logit.
        aggregated: [O + 1, h, w], as of ``aggregate_logits``.

    Returns:
        [O], 0..1; 1 for an object without a mask of its own.
    """
    if len(own) == 1:
        return torch.ones(1, dtype=own.dtype, device=own.device)
    alone = own >= 0
    numbers = torch.arange(1, len(own) + 1, device=own.device)[:, None, None]
    # not argmax, which takes ten times as long on a CPU
    kept = alone & (aggregated.max(dim=0).indices == numbers)
    area = alone.flatten(1).sum(dim=1)
    return torch.where(area > 0, kept.flatten(1).sum(dim=1) / area.clamp(min=1), 1.0).to(own.dtype)
