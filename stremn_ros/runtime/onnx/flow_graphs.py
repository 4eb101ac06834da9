"""The stages of a prediction network that is given the optical flow, as ONNX Runtime runs them.

Sampling along the flow is left to PyTorch, between the graphs: it is ten times as fast at it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.network.flow_prediction import Carried, FlowEncoding, FlowPredictionNetwork, twice
from stremn_ros.runtime.building.export_stage import StageSpec
from stremn_ros.runtime.onnx.graphs import (
    Compare,
    FastFusion,
    Fusion,
    GraphTable,
    plain_read,
    specs_of,
)

STAGES = ("encode", "move", "mix", "heads", "fusion", "compare")


class _Encode(nn.Module):
    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, newest: Tensor, flow: Tensor, earlier: Tensor, flow_earlier: Tensor
    ) -> tuple[Tensor, ...]:
        return self.network.encode_aligned(newest, flow, earlier, flow_earlier)[:-1]


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


class _Mix(nn.Module):
    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, **carried: Tensor) -> tuple[Tensor, ...]:
        decoded = self.network.mix(Carried(**carried))
        assert decoded.spread is not None
        return decoded.frames, decoded.spread


class _FastMix(nn.Module):
    """The same with fewer passes over the whole frame.

    A convolution of a map that was unshuffled is one of the map itself, with twice the kernel and
    the stride; the two frames' parts are one, and so are the last two convolutions.
    """

    def __init__(self, network: FlowPredictionNetwork) -> None:
        super().__init__()
        self.network = network
        config = network.config
        whole = network.choose2[0]
        assert isinstance(whole, nn.Conv2d)
        coarse, *frames = whole.weight.detach().split(
            (config.mixing, 4 * config.colours, 4 * config.colours), dim=1
        )
        self.coarse = nn.Conv2d(config.mixing, config.mixing, 3, padding=1)
        self.coarse.weight, self.coarse.bias = nn.Parameter(coarse), whole.bias
        sharp, difference = (
            part.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
            for part in frames
        )
        self.fine = nn.Conv2d(2 * config.colours, config.mixing, 6, 2, 2, bias=False)
        self.fine.weight = nn.Parameter(torch.cat([sharp - difference, difference], dim=1))
        last = network.mixing, network.spread
        outputs = sum(part.out_channels for part in last)
        self.last = nn.Conv2d(config.mixing, outputs, 1)
        for name in ("weight", "bias"):
            joint = torch.cat([getattr(part, name).detach() for part in last])
            setattr(self.last, name, nn.Parameter(joint))

    def forward(self, **maps: Tensor) -> tuple[Tensor, ...]:
        carried = Carried(**maps)
        network = self.network
        chosen = network.choose4(network.seen_at_quarter(carried))
        chosen = network.choose2[1](self.coarse(twice(chosen)) + self.fine(carried.fine))
        both = F.pixel_shuffle(self.last(chosen), 2)
        decoded = network.compose(carried, both[:, :-1], both[:, -1:])
        assert decoded.spread is not None
        return decoded.frames, decoded.spread


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

    frame, half = (1, config.colours, rows, columns), (1, 2, rows // 2, columns // 2)
    seen = {
        "newest": (example(*frame), maps(16)),
        "flow": (4.0 * example(*half) - 2.0, maps(8)),
        "earlier": (example(*frame), maps(16)),
        "flow_earlier": (4.0 * example(*half) - 2.0, maps(8)),
    }
    with torch.no_grad():
        encoding = network.encode_aligned(*(tensor for tensor, _ in seen.values()))
        read = torch.zeros(1, config.value_channels, h, w, dtype=torch.float32, device="cpu")
        features, motion = network.move(read, encoding, seen["flow"][0])
        carried = network.carry(features, motion, seen["newest"][0], encoding.earlier)

    def given(parts: FlowEncoding | Carried) -> dict[str, Any]:
        return {
            name: (tensor, maps(tensor.shape[2] // h)) for name, tensor in parts._asdict().items()
        }

    asked = given(encoding)
    del asked["earlier"]
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
        "encode": (_Encode(network), _Encode(network), seen, FlowEncoding._fields[:-1]),
        "move": (
            _Move(network),
            _Move(network),
            {"flow": seen["flow"], **memory, **asked},
            ("features", "motion"),
        ),
        "mix": (_FastMix(network), _Mix(network), given(carried), ("frames", "spread")),
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
