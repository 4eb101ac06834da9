"""The prediction network run over a clip with its memory in the loop, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory.rules import RULES
from ..network.conv_lstm import ConvLstm
from ..network.prediction import STACK, Decoded, Encoding, PredictionNetwork
from .unroll import ClipMemory


def unroll_prediction(
    network: PredictionNetwork | ConvLstm,
    frames: Tensor,
    slots: int,
    rule: str,
    update_every: int,
    candidates: Tensor | None = None,
    horizon: int | None = None,
) -> Decoded:
    """The frames that follow clips; what Predictor does online, on stacked tensors.

    Args:
        frames: [B, T, C, H, W] in 0..1, T at least 3; slots, rule, update_every: of the memory.
        candidates: [B, horizon, N, C, H, W] for a network with the head ``blend``.
        horizon: for a ConvLSTM; the prediction network has its own.

    Returns:
        frames [B, horizon, C, H, W], and how the head ``layers`` carried them.
    """
    if isinstance(network, ConvLstm):
        assert horizon is not None
        return Decoded(network(frames, horizon))
    clips, seen = frames.shape[:2]
    written = list(range(STACK - 1, seen - 1, update_every))
    ends = [*written, seen - 1]
    stacks = torch.stack([frames[:, end - STACK + 1 : end + 1] for end in ends], dim=1)
    encoded = network.encode(stacks.flatten(0, 1))

    def at(maps: Tensor, n: int) -> Tensor:
        return maps.unflatten(0, (clips, len(ends)))[:, n]

    memory = ClipMemory(network, slots, RULES[rule])
    nobody = torch.zeros(clips, dtype=torch.bool, device=frames.device)
    # the very first stack has only itself to read
    for n in range(max(1, len(written))):
        memory.remember(at(encoded.template, n), at(encoded.key, n), nobody)
    now = len(ends) - 1
    query = Encoding(
        at(encoded.template, now),
        at(encoded.key, now),
        at(encoded.skip2, now),
        at(encoded.skip4, now),
    )
    read = memory.read(query.key).transpose(1, 2).unflatten(2, query.key.shape[-2:])
    return network.decode(read, query, frames[:, -network.config.kept :], candidates)
