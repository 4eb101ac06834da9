"""A network's stages as the graphs of which TensorRT makes plans."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..network import Query, SegmentationNetwork
from .exporting import StageSpec


class Part(nn.Module):
    """A stage of a network."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network


class QueryEncoder(Part):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.encode_query(image))


class MemoryEncoder(Part):
    def forward(self, image: Tensor, masks: Tensor, stride16: Tensor) -> tuple[Tensor, ...]:
        return (self.network.encode_memory(image, masks, stride16),)


class Heads(Part):
    def forward(self, template: Tensor) -> tuple[Tensor, ...]:
        value = self.network.memory_value(template)
        if self.network.memory_key_head is None:  # the keys are the frame's own
            return (value,)
        return value, self.network.memory_key_head(template)


class _Decoder(Part):
    def forward(
        self, read: Tensor, value: Tensor, skip8: Tensor, skip4: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.network.decode(read, value, skip8, skip4),)


def stage_specs(network: SegmentationNetwork, size: tuple[int, int]) -> dict[str, StageSpec]:
    """The stages with example inputs at ``size`` (rows, columns), which is fixed, two objects.

    The number of objects is dynamic, 1..255.
    """
    config = network.config
    rows, columns = size
    h, w = rows // 16, columns // 16
    generator = torch.Generator().manual_seed(0)

    def example(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")

    objects = torch.export.Dim("objects", min=1, max=255)
    _, d8, d4 = config.decoder_channels
    c16 = network.query_encoder.channels[2]
    image = example(1, 3, rows, columns) * 255.0
    # inputs: example, and whether its rows are objects
    table: dict[str, tuple[nn.Module, dict[str, tuple[Tensor, bool]], tuple[str, ...]]] = {
        "query_encoder": (QueryEncoder(network), {"image": (image, False)}, Query._fields),
        "memory_encoder": (
            MemoryEncoder(network),
            {
                "image": (image, False),
                "masks": (example(2, 2, rows, columns), True),
                "stride16": (example(1, c16, h, w), False),
            },
            ("template",),
        ),
        "heads": (
            Heads(network),
            {"template": (example(2, config.template_channels, h, w) * 2.0 - 1.0, True)},
            ("value",) if config.key_source == "image" else ("value", "key"),
        ),
        "decoder": (
            _Decoder(network),
            {
                "read": (example(2, config.value_channels, h, w), True),
                "value": (example(1, config.query_channels, h, w), False),
                "skip8": (example(1, d8, 2 * h, 2 * w), False),
                "skip4": (example(1, d4, 4 * h, 4 * w), False),
            },
            ("logits",),
        ),
    }
    return {
        name: StageSpec(
            module.eval(),
            {key: tensor for key, (tensor, _) in inputs.items()},
            {key: {0: objects} if batched else {} for key, (_, batched) in inputs.items()},
            outputs,
        )
        for name, (module, inputs, outputs) in table.items()
    }
