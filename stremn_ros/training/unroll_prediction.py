"""The prediction network run over a clip with its memory in the loop, differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stremn_ros.memory.rules import RULES
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.network.flow_prediction import FlowEncoding, FlowPredictionNetwork
from stremn_ros.network.prediction import STACK, Decoded, Encoding, PredictionNetwork
from stremn_ros.training.unroll import ClipMemory


def unroll_prediction(
    network: PredictionNetwork | ConvLstm,
    frames: Tensor,
    slots: int,
    rule: str,
    update_every: int,
    horizon: int | None = None,
    ages: Sequence[int] | None = None,
) -> Decoded:
    """The frames that follow clips; what Predictor does online, on stacked tensors.

    Args:
        frames: [B, T, C, H, W] in 0..1, T at least 3; slots, rule, update_every: of the memory.
        horizon: for a ConvLSTM; the prediction network has its own.
        ages: of the frames that the head ``layers`` divides, counted back from the last; None for
            the network's references.

    Returns:
        frames [B, horizon, C, H, W], and how the head ``layers`` carried them.
    """
    if isinstance(network, ConvLstm):
        assert horizon is not None
        return Decoded(network(frames, horizon))
    clips, seen = frames.shape[:2]
    now = seen - 1
    ages = network.config.ages(seen) if ages is None else ages
    written = list(range(STACK - 1, now, update_every))
    ends = sorted({*written, *(now - age for age in ages)})
    stacks = torch.stack([frames[:, end - STACK + 1 : end + 1] for end in ends], dim=1)
    encoded = network.encode(stacks.flatten(0, 1))

    def at(maps: Tensor, end: int) -> Tensor:
        return maps.unflatten(0, (clips, len(ends)))[:, ends.index(end)]

    memory = ClipMemory(network, slots, RULES[rule])
    nobody = torch.zeros(clips, dtype=torch.bool, device=frames.device)
    for end in written or [now]:  # the very first stack has only itself to read
        memory.remember(at(encoded.template, end), at(encoded.key, end), nobody)
    queries = [Encoding(*(at(maps, now - age) for maps in encoded)) for age in ages]
    reads = [
        memory.read(query.key).transpose(1, 2).unflatten(2, query.key.shape[-2:])
        for query in queries
    ]
    return network.decode(
        torch.cat(reads),
        Encoding(*(torch.cat(maps) for maps in zip(*queries))),
        frames[:, -network.config.kept :],
        ages,
    )


def unroll_flow_prediction(
    network: FlowPredictionNetwork,
    frames: Tensor,
    flows: Tensor,
    slots: int,
    rule: str,
    update_every: int,
    with_memory: bool = True,
) -> Decoded:
    """The frames that follow clips, by a network that is given the optical flow.

    Args:
        frames: [B, T, C, H, W] in 0..1, T at least 3; flows: [B, T - 1, 2, H/2, W/2].
        slots, rule, update_every: of the memory; with_memory: False reads zeros instead.
    """
    clips, seen = frames.shape[:2]
    now = seen - 1
    written = list(range(STACK - 1, now, update_every)) if with_memory else []
    ends = [*written, now]
    encoded = network.encode(
        torch.stack([frames[:, end - 1 : end + 1] for end in ends], dim=1).flatten(0, 1),
        torch.stack([flows[:, end - 2 : end] for end in ends], dim=1).flatten(0, 1),
    )

    def at(maps: Tensor, n: int) -> Tensor:
        return maps.unflatten(0, (clips, len(ends)))[:, n]

    query = FlowEncoding(*(at(maps, -1) for maps in encoded))
    memory = ClipMemory(network, slots, RULES[rule])
    nobody = torch.zeros(clips, dtype=torch.bool, device=frames.device)
    for n in range(len(written)):
        memory.remember(at(encoded.template, n), at(encoded.key, n), nobody)
    height, width = query.key.shape[-2:]
    if written:
        read = memory.read(query.key).transpose(1, 2).unflatten(2, (height, width))
    else:
        read = query.key.new_zeros(clips, network.config.value_channels, height, width)
    return network.decode(read, query, frames[:, now], flows[:, -1])
