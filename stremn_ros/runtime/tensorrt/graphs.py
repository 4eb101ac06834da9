"""A network's stages as the graphs of which TensorRT makes plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stremn_ros.network import Decoded, Query, SegmentationConfig, SegmentationNetwork
from stremn_ros.runtime.building.export_stage import StageSpec


class Part(nn.Module):
    """A stage of a network."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network


class QueryEncoder(Part):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.encode_query(image))


class MemoryEncoder(Part):
    def forward(
        self, masks: Tensor, stride16: Tensor, image: Tensor | None = None, **maps: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.network.encode_memory(image, masks, stride16, **maps),)


class Heads(Part):
    def forward(self, template: Tensor) -> tuple[Tensor, ...]:
        value = self.network.memory_value(template)
        if self.network.memory_key_head is None:  # the keys are the frame's own
            return (value,)
        return value, self.network.memory_key_head(template)


def masks_of(decoded: Decoded) -> tuple[Tensor, ...]:
    """What of the decoder's results a graph gives out: see ``decoder_outputs``."""
    parts = (decoded.logits, decoded.hidden, decoded.quality)
    return tuple(part for part in parts if part is not None)


def decoder_outputs(config: SegmentationConfig) -> tuple[str, ...]:
    """Names of what ``masks_of`` gives."""
    hidden = ("next_hidden",) if config.sensory_channels else ()
    return ("logits", *hidden, *(("quality",) if config.quality else ()))


def decoded_of(config: SegmentationConfig, results: Sequence[Tensor]) -> Decoded:
    """``masks_of`` undone."""
    found = dict(zip(decoder_outputs(config), results, strict=True))
    return Decoded(found["logits"], None, found.get("next_hidden"), found.get("quality"))


class _Decoder(Part):
    def forward(self, **maps: Tensor) -> tuple[Tensor, ...]:
        return masks_of(self.network.decode(**maps))


def query_maps(
    network: SegmentationNetwork, cells: tuple[int, int], example: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Example maps of a Query of one image with (h, w) cells, by name."""
    config, (h, w) = network.config, cells
    c4, c8, c16 = network.query_encoder.channels
    d16, d8, d4 = config.decoder_channels
    return {
        "key": example(1, config.query_key_channels, h, w),
        "skip16": example(1, 2 * d16, h, w),
        "stride16": example(1, c16, h, w),
        "stride8": example(1, c8, 2 * h, 2 * w),
        "stride4": example(1, c4, 4 * h, 4 * w),
        "skip8": example(1, d8, 2 * h, 2 * w),
        "skip4": example(1, d4, 4 * h, 4 * w),
    }


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
    image = example(1, 3, rows, columns) * 255.0
    maps = query_maps(network, (h, w), example)
    carried = {name: example(2, *shape) for name, shape in config.carried((h, w)).items()}
    # inputs: example, and whether its rows are objects
    table: dict[str, tuple[nn.Module, dict[str, tuple[Tensor, bool]], tuple[str, ...]]] = {
        "query_encoder": (QueryEncoder(network), {"image": (image, False)}, Query._fields),
        "memory_encoder": (
            MemoryEncoder(network),
            {
                **({} if network.memory_encoder is None else {"image": (image, False)}),
                "masks": (example(2, 2, rows, columns), True),
                **{name: (maps[name], False) for name in network.memory_maps},
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
                **{name: (maps[name], False) for name in ("skip16", "skip8", "skip4")},
                **{name: (tensor, True) for name, tensor in carried.items()},
            },
            decoder_outputs(config),
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
