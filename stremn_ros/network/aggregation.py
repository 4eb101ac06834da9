"""Soft aggregation: independent object probabilities to one distribution per pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def aggregate_logits(logits: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Class logits of background and objects from each object's own logit.

    Soft aggregation of STM (Oh et al., 2019): p_background = prod(1 - p_o); the result's softmax
    is the distribution over {background, objects}, normalised over the odds p / (1 - p).

    Args:
        logits: [..., O, H, W], one logit per object (sigmoid gives p_o).

    Returns:
        [..., O + 1, H, W]; index 0 is the background.
    """
    log_odds = logits
    if logits.shape[-3] == 1:  # the background is what the object is not
        return torch.cat([-logits.clamp(min=math.log(epsilon)), log_odds], dim=-3)
    # log prod(1 - p_o) = sum of log sigmoid(-logit), which needs no clamping of p
    log_background = torch.nn.functional.logsigmoid(-logits).sum(dim=-3, keepdim=True)
    remainder = -torch.expm1(log_background.clamp(max=-epsilon))
    background = log_background - torch.log(remainder.clamp(min=epsilon))
    return torch.cat([background, log_odds], dim=-3)
