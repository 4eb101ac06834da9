"""A network's stages as the graphs that ONNX Runtime runs fastest on a CPU.

One object at a time: on a CPU a batch saves nothing, and with one row all maps that are added have
one shape, so that ONNX Runtime keeps them in its blocked layout from the image to the logits and
adds within the convolutions. Each graph is compared with the network as it is when it is exported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.imaging.hints import PLANES
from stremn_ros.memory.fusion import FusionCell
from stremn_ros.memory.similarity import align, mutual_similarity, selective_terms
from stremn_ros.model_folder import CLICKS, ClicksSpec
from stremn_ros.network import Query, SegmentationNetwork, nearest_weights, space_time_read
from stremn_ros.network.blocks import ResidualBlock
from stremn_ros.network.clicks import ClickNetwork
from stremn_ros.runtime.building.export_stage import StageSpec
from stremn_ros.runtime.cuda.precision import folded
from stremn_ros.runtime.onnx.inputs import Examples, GraphTable, specs_of
from stremn_ros.runtime.onnx.winograd import Winograd
from stremn_ros.runtime.tensorrt.graphs import (
    Heads,
    Part,
    QueryEncoder,
    decoder_outputs,
    masks_of,
    query_maps,
)


class _Affinity(Part):
    """How much of each memory cell a cell of the frame reads, [1, h, w, M]; or of the nearest ones,
    [1, h, w, n]."""

    def forward(self, key: Tensor, keys: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        config, cells = self.network.config, key.flatten(2).transpose(1, 2)
        if config.read_cells:
            # of two that are as near, each runtime may take the other first: no places to compare
            weights, _ = nearest_weights(cells, keys, config.read_cells, bias, config.affinity)
        else:
            every = torch.eye(keys.shape[1], device=keys.device)[None]
            weights = space_time_read(cells, keys, every, bias, config.affinity)
        return (weights.unflatten(1, key.shape[-2:]),)


class _FastAffinity(Part):
    """``_Affinity``, with the places of the nearest cells."""

    def forward(self, key: Tensor, keys: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        made = plain_weights(key, keys, bias, *_how(self.network))
        return tuple(each.unflatten(1, key.shape[-2:]) for each in made)


class _Object(Part):
    """What one object reads, with weights and places of ``_FastAffinity``, and its decoder."""

    def forward(
        self,
        weights: Tensor,
        values: Tensor,
        skip16: Tensor,
        skip8: Tensor,
        skip4: Tensor,
        places: Tensor | None = None,
        **carried: Tensor,
    ) -> tuple[Tensor, ...]:
        made = [each.flatten(1, 2) for each in (weights, places) if each is not None]
        read = _weighted(made, values).transpose(1, 2)
        read = read.unflatten(2, weights.shape[1:3])
        return masks_of(self.network.decode(read, skip16, skip8, skip4, **carried))


def plain_weights(
    query_key: Tensor, keys: Tensor, bias: Tensor, affinity: str, channels: int, nearest: int = 0
) -> tuple[Tensor, ...]:
    """The weights of ``space_time_read`` in plain operations, of which ONNX Runtime makes few.

    Args:
        query_key: [1, Ck, h, w]; keys, bias: [1, M, Ck], [1, 1, M]. affinity, channels, nearest: of
            the network's configuration (``key_channels``, ``read_cells``).

    Returns:
        Weights [1, hw, M]; where only the nearest cells are read, theirs [1, hw, n] and their
        places [1, hw, n].
    """
    cells = query_key.flatten(2).transpose(1, 2)
    # what is subtracted for a whole memory cell rides in one more channel of the product
    less = -bias.transpose(1, 2).clamp(min=-1e4)
    scale = 1.0 / math.sqrt(channels)
    if affinity == "selective":
        cells, keys = selective_terms(cells, keys)
    elif affinity == "l2":
        cells, less = 2.0 * cells, less + scale * keys.square().sum(dim=-1, keepdim=True)
    cells = scale * cells
    one = -torch.ones_like(cells[..., :1])
    scores = torch.cat([cells, one], dim=-1) @ torch.cat([keys, less], dim=-1).transpose(1, 2)
    if not nearest:
        return (scores.softmax(dim=-1),)
    scores, places = scores.topk(nearest, dim=-1)
    return scores.softmax(dim=-1), places


def plain_read(
    query_key: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    affinity: str,
    channels: int,
    nearest: int = 0,
) -> Tensor:
    """``space_time_read`` with ``plain_weights``; values: [1, M, Cv]."""
    read = _weighted(plain_weights(query_key, keys, bias, affinity, channels, nearest), values)
    return read.transpose(1, 2).unflatten(2, query_key.shape[-2:])


def _weighted(made: Sequence[Tensor], values: Tensor) -> Tensor:
    """Sums [1, hw, Cv] of values [1, M, Cv], with what ``plain_weights`` gives."""
    weights, *places = made
    if not places:
        return weights @ values
    rows = values[0][places[0].flatten()].unflatten(0, weights.shape[1:])
    return (weights[0, :, None] @ rows).transpose(0, 1)


def _how(network: SegmentationNetwork) -> tuple[str, int, int]:
    """How a network reads its memory, as ``plain_weights`` wants it."""
    config = network.config
    return config.affinity, config.key_channels, config.read_cells


class _Segment(Part):
    """All that a frame with one object wants, in one graph: its maps are not brought into another
    layout between encoder and decoder, and what nobody else reads is not written."""

    def forward(
        self, image: Tensor, keys: Tensor, values: Tensor, bias: Tensor, **carried: Tensor
    ) -> tuple[Tensor, ...]:
        query: Query = self.network.encode_query(image)
        read = self.read(query.key, keys, values, bias)
        decoded = self.network.decode(read, query.skip16, query.skip8, query.skip4, **carried)
        remembered = (getattr(query, name) for name in self.network.memory_maps)
        return query.key, *remembered, *masks_of(decoded)

    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        config, cells = self.network.config, query_key.flatten(2).transpose(1, 2)
        read = space_time_read(cells, keys, values, bias, config.affinity, config.read_cells)
        return read.transpose(1, 2).unflatten(2, query_key.shape[-2:])


class _FastSegment(_Segment):
    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return plain_read(query_key, keys, values, bias, *_how(self.network))


class _TemplateSkip(Part):
    """The frame's part of the templates of all objects."""

    def forward(self, stride16: Tensor) -> tuple[Tensor, ...]:
        return (self.network.template_head.project(stride16),)


class _MemoryEncoder(Part):
    """The template of one object, with what ``_TemplateSkip`` gives."""

    def forward(
        self, masks: Tensor, template_skip: Tensor, image: Tensor | None = None, **maps: Tensor
    ) -> tuple[Tensor, ...]:
        features = self.network.mask_features(image, masks, **maps)
        return (self.network.template_head(features, template_skip),)


class _FastMemoryEncoder(Part):
    """The stems of image and masks are one convolution of five planes."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__(network)
        assert network.memory_encoder is not None
        encoder = copy.deepcopy(network.memory_encoder)
        stem = encoder.stem
        assert encoder.conv_extra is not None
        joint = torch.cat([stem.weight.detach(), encoder.conv_extra.weight.detach()], dim=1)
        stem.weight, stem.in_channels = nn.Parameter(joint), joint.shape[1]
        encoder.conv_extra = None
        self.encoder = encoder

    def forward(self, image: Tensor, masks: Tensor, template_skip: Tensor) -> tuple[Tensor, ...]:
        normalized = (image - self.network.mean) / self.network.std
        _, _, features = self.encoder(torch.cat([normalized, masks], dim=1))
        return (self.network.template_head(features, template_skip),)


def _of_inputs(convolution: nn.Conv2d, channels: slice, bias: bool = True) -> nn.Conv2d:
    """What a convolution makes of some of its input channels, as one of its own."""
    weight = convolution.weight.detach()[:, channels].clone()
    part = nn.Conv2d(
        weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2, bias=bias
    )
    part.weight = nn.Parameter(weight)
    if bias:
        part.bias = convolution.bias
    return part


class _Parts(nn.Module):
    """A ``ResidualBlock`` whose input has two parts, with whole convolutions for each: a quantizer
    looks for those.

    Args:
        block: with a ``skip``. own: channels of the first part.
    """

    def __init__(self, block: ResidualBlock, own: int) -> None:
        super().__init__()
        mine, others = slice(0, own), slice(own, None)
        skip = block.skip or _identity(block.conv1.in_channels)
        self.conv1, self.conv2 = _of_inputs(block.conv1, mine), block.conv2
        self.skip = _of_inputs(skip, mine)
        self.rest_conv1 = _of_inputs(block.conv1, others, bias=False)
        self.rest_skip = _of_inputs(skip, others, bias=False)

    def forward(self, x: Tensor, projected: Tensor) -> Tensor:
        first, past = projected.chunk(2, dim=1)
        return self.conv2(F.relu(self.conv1(F.relu(x)) + first)) + (self.skip(x) + past)

    def project(self, rest: Tensor) -> Tensor:
        return torch.cat([self.rest_conv1(F.relu(rest)), self.rest_skip(rest)], dim=1)


class _Whole(nn.Module):
    """A ``ResidualBlock`` that takes both parts of its input together: less work for one object."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.skip = block.skip or _identity(block.conv1.in_channels)

    def forward(self, x: Tensor, rest: Tensor) -> Tensor:
        x = torch.cat([x, rest], dim=1)
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + self.skip(x)

    def project(self, rest: Tensor) -> Tensor:
        """Nothing is made of it yet."""
        return rest


class _WinogradWhole(nn.Module):
    """``_Whole`` of one map, as ``_WinogradParts``."""

    def __init__(self, whole: _Whole) -> None:
        super().__init__()
        self.first, self.second = Winograd(whole.conv1), Winograd(whole.conv2)
        self.skip = whole.skip

    def forward(self, x: Tensor, rest: Tensor) -> Tensor:
        x = torch.cat([x, rest], dim=1)[0].permute(1, 2, 0)
        y = self.second(F.relu(self.first(F.relu(x))))
        x = F.linear(x, self.skip.weight.flatten(1), self.skip.bias)  # 1x1
        return (x + y).permute(2, 0, 1)[None]

    def project(self, rest: Tensor) -> Tensor:
        return rest


def _identity(channels: int) -> nn.Conv2d:
    identity = nn.Conv2d(channels, channels, 1)
    identity.weight = nn.Parameter(torch.eye(channels)[..., None, None])
    assert identity.bias is not None
    nn.init.zeros_(identity.bias)
    return identity


class _WinogradParts(nn.Module):
    """``_Parts`` of one map, with the 3x3 convolutions in Winograd's form, channels last."""

    def __init__(self, parts: _Parts) -> None:
        super().__init__()
        self.first, self.second = Winograd(parts.conv1), Winograd(parts.conv2)
        self.rest = Winograd(parts.rest_conv1)
        self.skip, self.rest_skip = parts.skip, parts.rest_skip

    def forward(self, x: Tensor, projected: Tensor) -> Tensor:
        """[1, C, h, w] -> [1, outputs, h, w]."""
        x, projected = x[0].permute(1, 2, 0), projected[0].permute(1, 2, 0)
        first, past = projected.chunk(2, dim=2)
        y = self.second(F.relu(self.first(F.relu(x)) + first))
        x = F.linear(x, self.skip.weight.flatten(1), self.skip.bias)  # 1x1
        return (x + past + y).permute(2, 0, 1)[None]

    def project(self, rest: Tensor) -> Tensor:
        rest = rest[0].permute(1, 2, 0)
        past = F.linear(rest, self.rest_skip.weight.flatten(1))
        return torch.cat([self.rest(F.relu(rest)), past], dim=2).permute(2, 0, 1)[None]


class _OnePlane(nn.Module):
    """A 3x3 convolution to one plane as a 1x1 convolution to its nine taps, and their sum.

    Blocked layouts compute 8 or 16 planes at least, of which all but one would be of no use.
    """

    TAPS = 16  # a whole block; those after the ninth are zero

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        inputs = convolution.in_channels
        assert convolution.bias is not None
        self.taps = nn.Conv2d(inputs, self.TAPS, 1, bias=False)
        self.sum = nn.Conv2d(self.TAPS, 1, 3, padding=1)
        self.sum.bias = convolution.bias
        with torch.no_grad():
            self.taps.weight.zero_()
            self.taps.weight[:9] = convolution.weight.view(inputs, 9).T[..., None, None]
            self.sum.weight.zero_()
            self.sum.weight.view(self.TAPS, 9).fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(self.taps(x))


class _Half(nn.Module):
    """One half of a convolution's output channels."""

    def __init__(self, convolution: nn.Conv2d, index: int) -> None:
        super().__init__()
        self.convolution, self.index = convolution, index

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).chunk(2, dim=1)[self.index]


class Fusion(nn.Module):
    def __init__(self, cell: FusionCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, ...]:
        return (self.cell(x_i, x_j),)


def _joint(*parts: nn.Conv2d) -> nn.Conv2d:
    """3x3 convolutions of one input as one, their outputs in a row."""
    outputs = sum(part.out_channels for part in parts)
    joint = nn.Conv2d(parts[0].in_channels, outputs, 3, padding=1)
    for name in ("weight", "bias"):
        values = [getattr(part, name).detach() for part in parts]
        setattr(joint, name, nn.Parameter(torch.cat(values)))
    return joint


class FastFusion(Fusion):
    """The Fusion Cell with the two convolutions of one input as one, so that it is read once.

    Both halves name the same convolution of the same input; a runtime computes it once.
    """

    def __init__(self, cell: FusionCell) -> None:
        super().__init__(copy.deepcopy(cell))
        parts = self.cell.update_gate, self.cell.candidate
        joint = _joint(*parts)
        self.cell.update_gate = _Half(joint, 0)  # type: ignore[assignment]
        self.cell.candidate = _Half(joint, 1)  # type: ignore[assignment]


class _WinogradFusion(nn.Module):
    """The Fusion Cell with its convolutions in Winograd's form, channels last throughout: so the
    alignment wants them, too. The two convolutions of one input are one."""

    def __init__(self, cell: FusionCell) -> None:
        super().__init__()
        self.filtered = cell.filtered
        self.filter_gate = Winograd(cell.filter_gate)
        self.joint = Winograd(_joint(cell.update_gate, cell.candidate))

    def forward(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, ...]:
        """As ``FusionCell.forward``, for one pair."""
        size = x_i.shape[2:]
        i, j = (x.flatten(2).transpose(1, 2) for x in (x_i, x_j))

        def convolve(convolution: Winograd, a: Tensor, b: Tensor) -> Tensor:
            together = torch.cat([a, b], dim=2)[0].unflatten(0, size)
            return convolution(together).flatten(0, 1)[None]

        kept = torch.sigmoid(convolve(self.filter_gate, i, align(i, j)))
        i_at_j = align(j, kept * i if self.filtered else i)
        update, candidate = convolve(self.joint, i_at_j, j).chunk(2, dim=2)
        update = torch.sigmoid(update)
        fused = (1.0 - update) * j + update * torch.tanh(candidate)
        return (fused.transpose(1, 2).unflatten(2, size),)


class Compare(nn.Module):
    def forward(self, own: Tensor, others: Tensor) -> tuple[Tensor, ...]:
        return mutual_similarity(own, others)


def _plain_image(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy that divides by the image's deviation, and normalizes, in the first weights."""
    network = folded(network)
    for encoder in filter(None, (network.query_encoder, network.memory_encoder)):
        encoder.stem.weight.data.div_(network.std.view(1, 3, 1, 1))
    network.std = torch.ones_like(network.std[:, :1])  # a division by one number 1 is left out
    return network.eval()


def cpu_specs(
    network: SegmentationNetwork, size: tuple[int, int], winograd: bool = True
) -> dict[str, StageSpec]:
    """The graphs with example inputs at ``size`` (rows, columns); for one object, of any size.

    winograd: False leaves every convolution one that can be quantized.
    """
    config, fast = network.config, _plain_image(network)
    fast.classify = _OnePlane(fast.classify)  # type: ignore[assignment]
    c16 = network.query_encoder.channels[2]
    shared = {"template_head": c16, "decode16": config.query_channels}  # channels of the frame
    for name, channels in shared.items():
        block = getattr(fast, name)
        parts = _Parts(block, block.conv1.in_channels - channels)
        # Winograd's form where maps are small and channels many; finer maps lose by it
        setattr(fast, name, _WinogradParts(parts) if winograd else parts)
    whole = _Whole(network.decode16)
    alone = copy.deepcopy(fast)
    alone.decode16 = _WinogradWhole(whole) if winograd else whole  # type: ignore[assignment]
    rows, columns = size
    h, w = rows // 16, columns // 16
    nearest = config.read_cells
    examples = Examples(h, w, fewest=nearest)
    random, maps = examples.random, examples.maps
    image = {"image": (random(1, 3, rows, columns) * 255.0, maps(16))}
    memory = examples.memory(config.memory_key_channels, config.value_channels)
    carried = {
        name: (random(1, *shape), maps(shape[1] // h))
        for name, shape in config.carried((h, w)).items()
    }
    query = {
        name: (tensor, maps(tensor.shape[2] // h))
        for name, tensor in query_maps(network, (h, w), random).items()
    }
    weights = random(1, h, w, nearest or 3 * h * w)
    of_frame = {1: examples.rows, 2: examples.columns}
    asked = {
        "weights": (
            weights / weights.sum(dim=3, keepdim=True),
            of_frame if nearest else {**of_frame, 3: examples.cells},
        ),
        "values": memory["values"],
        **{name: query[name] for name in ("skip16", "skip8", "skip4")},
    }
    if nearest:
        asked["places"] = (examples.places(weights.shape), of_frame)
    skips = 2 * network.template_head.conv1.out_channels
    seen = {
        **({} if network.memory_encoder is None else image),
        "masks": (random(1, 2, rows, columns), maps(16)),
        **{name: query[name] for name in network.memory_maps if name != "stride16"},
        "template_skip": (random(1, skips, h, w) * 2.0 - 1.0, maps(1)),
    }
    pair = examples.pair(config.template_channels)
    compared = examples.compared(config.key_channels)
    values = ("value",) if config.key_source == "image" else ("value", "key")
    table: GraphTable = {
        "query_encoder": (QueryEncoder(fast), QueryEncoder(network), image, Query._fields),
        "segment": (
            _FastSegment(alone),
            _Segment(network),
            {**image, **memory, **carried},
            ("key", *network.memory_maps, *decoder_outputs(config)),
        ),
        "affinity": (
            _FastAffinity(fast),
            _Affinity(network),
            {"key": query["key"], "keys": memory["keys"], "bias": memory["bias"]},
            ("weights", "places") if nearest else ("weights",),
        ),
        "object": (
            _Object(fast),
            _Object(network),
            {**asked, **carried},
            decoder_outputs(config),
        ),
        "template_skip": (
            _TemplateSkip(fast),
            _TemplateSkip(network),
            {"stride16": query["stride16"]},
            ("template_skip",),
        ),
        "memory_encoder": (
            (_MemoryEncoder if network.memory_encoder is None else _FastMemoryEncoder)(fast),
            _MemoryEncoder(network),
            seen,
            ("template",),
        ),
        "heads": (Heads(fast), Heads(network), {"template": pair["x_i"]}, values),
        "fusion": (
            (_WinogradFusion if winograd else FastFusion)(network.fusion),
            Fusion(network.fusion),
            pair,
            ("fused",),
        ),
        "compare": (Compare(), Compare(), compared, ("forward", "backward")),
    }
    return specs_of(table)


def click_specs(network: ClickNetwork, spec: ClicksSpec) -> dict[str, StageSpec]:
    """The graph of a click network, for one crop of its own size."""
    size = spec.crop_size
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "image": torch.rand(1, 3, size, size, generator=generator, device="cpu") * 255.0,
        "hints": (torch.rand(1, PLANES, size, size, generator=generator) > 0.9).float(),
    }
    fast = folded(network)
    # as `_plain_image` has it: divided by the deviation in the first weights
    fast.encoder.stem.weight.data.div_(fast.std.view(1, 3, 1, 1))
    fast.std = torch.ones_like(fast.std[:, :1])
    nothing: dict[str, dict[int, Any]] = {name: {} for name in inputs}
    return {CLICKS: StageSpec(fast.eval(), inputs, nothing, ("logits", "quality"), network.eval())}
