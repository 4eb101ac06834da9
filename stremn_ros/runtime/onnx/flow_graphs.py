"""The stages of a prediction network that is given the optical flow, as ONNX Runtime runs them.

Sampling along the flow is left to PyTorch, between the graphs: it is ten times as fast at it. What
is made of the sampled frames is FlowDecoder's work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stremn_ros.network.flow_prediction import FlowEncoding, FlowPredictionNetwork
from stremn_ros.runtime.building.export_stage import StageSpec
from stremn_ros.runtime.onnx.graphs import (
    Compare,
    FastFusion,
    Fusion,
    GraphTable,
    plain_read,
    specs_of,
)

STAGES = ("encode", "move", "heads", "fusion", "compare")


class _Encode(nn.Module):
    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, seen: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode_seen(seen)


class _Move(nn.Module):
    """Read, and the part of the decoder that corrects the flow."""

    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, flow: Tensor, keys: Tensor, values: Tensor, bias: Tensor, **encoding: Tensor
    ) -> tuple[Tensor, ...]:
        config = self.network.config
        read = plain_read(encoding["key"], keys, values, bias, config.affinity, config.key_channels)
        return self.network.move(read, FlowEncoding(**encoding, earlier=flow), flow)


class _Heads(nn.Module):
    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, template: Tensor) -> tuple[Tensor, ...]:
        return self.network.key_head(template), self.network.memory_value(template)


def flow_specs(network: FlowPredictionNetwork, size: tuple[int, int]) -> dict[str, StageSpec]:
    """The graphs with example inputs at ``size`` (rows, columns); for one clip, of any size."""
    config = network.config
    rows, columns = size
    h, w = rows // network.stride, columns // network.stride
    generator = torch.Generator().manual_seed(0)
    dim_h = torch.export.Dim("h", min=2, max=256)
    dim_w = torch.export.Dim("w", min=2, max=256)
    cells = torch.export.Dim("cells", min=4, max=1 << 24)  # of the memory: slots times h times w
    own_cells = torch.export.Dim("own_cells", min=4, max=1 << 16)
    slots = torch.export.Dim("slots", min=1, max=1 << 16)

    def example(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")

    def maps(factor: int) -> dict[int, Any]:
        if factor == 1:
            return {2: dim_h, 3: dim_w}
        return {2: factor * dim_h, 3: factor * dim_w}

    half = rows // 2, columns // 2
    flow = (4.0 * example(1, 2, *half) - 2.0, maps(8))
    seen = {"seen": (2.0 * example(1, 8 * config.colours + 4, *half) - 1.0, maps(8))}
    encoded = FlowEncoding._fields[:-1]
    with torch.no_grad():
        encoding = zip(encoded, network.encode_seen(seen["seen"][0]), strict=True)
    asked = {name: (tensor, maps(tensor.shape[2] // h)) for name, tensor in encoding}
    memory = {
        "keys": (example(1, 3 * h * w, config.key_channels), {1: cells}),
        "values": (example(1, 3 * h * w, config.value_channels), {1: cells}),
        "bias": (torch.zeros(1, 1, 3 * h * w, dtype=torch.float32, device="cpu"), {2: cells}),
    }
    one, other = (example(1, config.template_channels, h, w) * 2.0 - 1.0 for _ in range(2))
    compared = {
        "own": (example(1, 1, h * w, config.key_channels), {2: own_cells}),
        "others": (example(1, 3, h * w, config.key_channels), {1: slots, 2: own_cells}),
    }
    table: GraphTable = {
        "encode": (_Encode(network), _Encode(network), seen, encoded),
        "move": (
            _Move(network),
            _Move(network),
            {"flow": flow, **memory, **asked},
            ("features", "motion"),
        ),
        "heads": (
            _Heads(network),
            _Heads(network),
            {"template": (one, maps(1))},
            ("key", "value"),
        ),
        "fusion": (
            FastFusion(network.fusion),
            Fusion(network.fusion),
            {"x_i": (one, maps(1)), "x_j": (other, maps(1))},
            ("fused",),
        ),
        "compare": (Compare(), Compare(), compared, ("forward", "backward")),
    }
    return specs_of(table)
