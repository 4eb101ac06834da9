"""The stages of a prediction network that is given the optical flow, as ONNX Runtime runs them.

Sampling along the flow is left to PyTorch, between the graphs: it is ten times as fast at it. What
is made of the sampled frames is FlowDecoder's work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stremn_ros.network.flow_prediction import FlowEncoding, FlowPredictionNetwork
from stremn_ros.runtime.building.export_stage import StageSpec
from stremn_ros.runtime.onnx.graphs import Compare, FastFusion, Fusion, plain_read
from stremn_ros.runtime.onnx.inputs import Examples, GraphTable, specs_of

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
    examples = Examples(rows // network.stride, columns // network.stride)
    random, maps = examples.random, examples.maps
    half = rows // 2, columns // 2
    flow = (4.0 * random(1, 2, *half) - 2.0, maps(8))
    seen = {"seen": (2.0 * random(1, 8 * config.colours + 4, *half) - 1.0, maps(8))}
    encoded = FlowEncoding._fields[:-1]
    with torch.no_grad():
        encoding = zip(encoded, network.encode_seen(seen["seen"][0]), strict=True)
    asked = {name: (tensor, maps(tensor.shape[2] // examples.h)) for name, tensor in encoding}
    memory = examples.memory(config.key_channels, config.value_channels)
    pair = examples.pair(config.template_channels)
    compared = examples.compared(config.key_channels)
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
            {"template": pair["x_i"]},
            ("key", "value"),
        ),
        "fusion": (
            FastFusion(network.fusion),
            Fusion(network.fusion),
            pair,
            ("fused",),
        ),
        "compare": (Compare(), Compare(), compared, ("forward", "backward")),
    }
    return specs_of(table)
