"""A network's stages as the graphs that ONNX Runtime runs fastest on a CPU.

One object at a time: on a CPU a batch saves nothing, and with one row all maps that are added have
one shape, so that ONNX Runtime keeps them in its blocked layout from the image to the logits and
adds within the convolutions. Each graph is compared with the network as it is when it is exported.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.imaging.hints import PLANES
from stremn_ros.memory.fusion import FusionCell
from stremn_ros.memory.similarity import align, mutual_similarity, selective_terms
from stremn_ros.model_folder import CLICKS, ClicksSpec
from stremn_ros.network import Query, SegmentationNetwork, space_time_read
from stremn_ros.network.blocks import ResidualBlock
from stremn_ros.network.clicks import ClickNetwork
from stremn_ros.runtime.building.export_stage import StageSpec
from stremn_ros.runtime.cuda.precision import folded
from stremn_ros.runtime.onnx.winograd import Winograd
from stremn_ros.runtime.tensorrt.graphs import (
    Heads,
    MemoryEncoder,
    Part,
    QueryEncoder,
    decoder_outputs,
    masks_of,
    query_maps,
)


class _Object(Part):
    """Read and decoder of one object."""

    def forward(
        self,
        key: Tensor,
        value: Tensor,
        skip8: Tensor,
        skip4: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        **carried: Tensor,
    ) -> tuple[Tensor, ...]:
        read = self.read(key, keys, values, bias)
        return masks_of(self.network.decode(read, value, skip8, skip4, **carried))

    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        cells = query_key.flatten(2).transpose(1, 2)
        read = space_time_read(cells, keys, values, bias, self.network.config.affinity)
        return read.transpose(1, 2).unflatten(2, query_key.shape[-2:])


def plain_read(
    query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor, affinity: str, channels: int
) -> Tensor:
    """``space_time_read`` in plain operations, of which ONNX Runtime makes three.

    Args:
        query_key: [1, Ck, h, w]; keys, values, bias: [1, M, Ck], [1, M, Cv], [1, 1, M].
        affinity, channels: of the network's configuration (``key_channels``).
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
    read = scores.softmax(dim=-1) @ values
    return read.transpose(1, 2).unflatten(2, query_key.shape[-2:])


class _FastObject(_Object):
    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        config = self.network.config
        return plain_read(query_key, keys, values, bias, config.affinity, config.key_channels)


class _Segment(nn.Module):
    """All that a frame with one object wants, in one graph: its maps are not brought into another
    layout between encoder and decoder, and what nobody else reads is not written."""

    def __init__(self, one: _Object) -> None:
        super().__init__()
        self.one = one

    def forward(
        self, image: Tensor, keys: Tensor, values: Tensor, bias: Tensor, **carried: Tensor
    ) -> tuple[Tensor, ...]:
        network = self.one.network
        query: Query = network.encode_query(image)
        maps = (query.key, query.value, query.skip8, query.skip4)
        masks = self.one(*maps, keys, values, bias, **carried)
        return query.key, *(getattr(query, name) for name in network.memory_maps), *masks


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

    def forward(self, image: Tensor, masks: Tensor, stride16: Tensor) -> tuple[Tensor, ...]:
        normalized = (image - self.network.mean) / self.network.std
        _, _, features = self.encoder(torch.cat([normalized, masks], dim=1))
        return (self.network.template_head(torch.cat([features, stride16], dim=1)),)


class _WinogradBlock(nn.Module):
    """A ``ResidualBlock`` of one map with its two convolutions in Winograd's form."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.first, self.second = Winograd(block.conv1), Winograd(block.conv2)
        self.skip = block.skip

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, h, w] -> [1, outputs, h, w]; between them the channels lie last."""
        x = x[0].permute(1, 2, 0)
        y = self.second(F.relu(self.first(F.relu(x))))
        if self.skip is not None:  # 1x1
            x = F.linear(x, self.skip.weight.flatten(1), self.skip.bias)
        return (x + y).permute(2, 0, 1)[None]


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


# stage -> graph, what it must compute, inputs (example, dynamic dimensions), names of the outputs
GraphTable = dict[str, tuple[nn.Module, nn.Module, dict[str, Any], tuple[str, ...]]]


def specs_of(table: GraphTable) -> dict[str, StageSpec]:
    """The stages of a table, to be exported and compared."""
    return {
        name: StageSpec(
            module.eval(),
            {key: tensor for key, (tensor, _) in inputs.items()},
            {key: dimensions for key, (_, dimensions) in inputs.items()},
            outputs,
            reference.eval(),
        )
        for name, (module, reference, inputs, outputs) in table.items()
    }


def cpu_specs(
    network: SegmentationNetwork, size: tuple[int, int], winograd: bool = True
) -> dict[str, StageSpec]:
    """The graphs with example inputs at ``size`` (rows, columns); for one object, of any size.

    winograd: False leaves every convolution one that can be quantized.
    """
    config, fast = network.config, _plain_image(network)
    fast.classify = _OnePlane(fast.classify)  # type: ignore[assignment]
    if winograd:
        # where maps are small and channels many; finer maps lose by it
        for name in ("template_head", "decode16"):
            setattr(fast, name, _WinogradBlock(getattr(fast, name)))
    rows, columns = size
    h, w = rows // 16, columns // 16
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

    # name -> example, dynamic dimensions
    image = {"image": (example(1, 3, rows, columns) * 255.0, maps(16))}
    memory = {
        "keys": (example(1, 3 * h * w, config.memory_key_channels), {1: cells}),
        "values": (example(1, 3 * h * w, config.value_channels), {1: cells}),
        "bias": (torch.zeros(1, 1, 3 * h * w, dtype=torch.float32, device="cpu"), {2: cells}),
    }
    carried = {
        name: (example(1, *shape), maps(shape[1] // h))
        for name, shape in config.carried((h, w)).items()
    }
    query = {
        name: (tensor, maps(tensor.shape[2] // h))
        for name, tensor in query_maps(network, (h, w), example).items()
    }
    asked = {name: query[name] for name in ("key", "value", "skip8", "skip4")}
    seen = {
        **({} if network.memory_encoder is None else image),
        "masks": (example(1, 2, rows, columns), maps(16)),
        **{name: query[name] for name in network.memory_maps},
    }
    one, other = (example(1, config.template_channels, h, w) * 2.0 - 1.0 for _ in range(2))
    compared = {
        "own": (example(1, 1, h * w, config.key_channels), {2: own_cells}),
        "others": (example(1, 3, h * w, config.key_channels), {1: slots, 2: own_cells}),
    }
    values = ("value",) if config.key_source == "image" else ("value", "key")
    table: GraphTable = {
        "query_encoder": (QueryEncoder(fast), QueryEncoder(network), image, Query._fields),
        "segment": (
            _Segment(_FastObject(fast)),
            _Segment(_Object(network)),
            {**image, **memory, **carried},
            ("key", *network.memory_maps, *decoder_outputs(config)),
        ),
        "object": (
            _FastObject(fast),
            _Object(network),
            {**asked, **memory, **carried},
            decoder_outputs(config),
        ),
        "memory_encoder": (
            (MemoryEncoder if network.memory_encoder is None else _FastMemoryEncoder)(fast),
            MemoryEncoder(network),
            seen,
            ("template",),
        ),
        "heads": (Heads(fast), Heads(network), {"template": (one, maps(1))}, values),
        "fusion": (
            (_WinogradFusion if winograd else FastFusion)(network.fusion),
            Fusion(network.fusion),
            {"x_i": (one, maps(1)), "x_j": (other, maps(1))},
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
