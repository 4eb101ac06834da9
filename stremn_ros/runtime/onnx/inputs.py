"""What the graphs are exported and compared with: example inputs, and what may differ of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stremn_ros.runtime.building.export_stage import StageSpec

# name -> example, dynamic dimensions
Inputs = dict[str, tuple[Tensor, dict[int, Any]]]
# stage -> graph, what it must compute, inputs, names of the outputs
GraphTable = dict[str, tuple[nn.Module, nn.Module, Inputs, tuple[str, ...]]]


class Examples:
    """Random inputs for one object or clip.

    Args:
        h, w: of its templates, which may be of any size. fewest: cells that a memory must have.
    """

    def __init__(self, h: int, w: int, fewest: int = 0) -> None:
        self.h, self.w = h, w
        self._generator = torch.Generator().manual_seed(0)
        self.rows = torch.export.Dim("h", min=2, max=256)
        self.columns = torch.export.Dim("w", min=2, max=256)
        # of the memory: slots times h times w
        self.cells = torch.export.Dim("cells", min=max(4, fewest), max=1 << 24)

    def random(self, *shape: int) -> Tensor:
        """0..1."""
        return torch.rand(*shape, generator=self._generator, dtype=torch.float32, device="cpu")

    def places(self, shape: torch.Size) -> Tensor:
        """Of cells of ``memory``, int64."""
        many = 3 * self.h * self.w
        return torch.randint(many, shape, generator=self._generator, device="cpu")

    def maps(self, factor: int) -> dict[int, Any]:
        """The dimensions of maps that are ``factor`` times as fine as templates."""
        if factor == 1:
            return {2: self.rows, 3: self.columns}
        return {2: factor * self.rows, 3: factor * self.columns}

    def memory(self, key_channels: int, value_channels: int) -> Inputs:
        """Of three slots."""
        many = 3 * self.h * self.w
        bias = torch.zeros(1, 1, many, dtype=torch.float32, device="cpu")
        return {
            "keys": (self.random(1, many, key_channels), {1: self.cells}),
            "values": (self.random(1, many, value_channels), {1: self.cells}),
            "bias": (bias, {2: self.cells}),
        }

    def pair(self, channels: int) -> Inputs:
        """Two templates to fuse."""
        one, other = (self.random(1, channels, self.h, self.w) * 2.0 - 1.0 for _ in range(2))
        return {"x_i": (one, self.maps(1)), "x_j": (other, self.maps(1))}

    def compared(self, channels: int) -> Inputs:
        """A template's keys and those of three slots."""
        own_cells = torch.export.Dim("own_cells", min=4, max=1 << 16)
        slots = torch.export.Dim("slots", min=1, max=1 << 16)
        own, others = (self.random(1, n, self.h * self.w, channels) for n in (1, 3))
        return {"own": (own, {2: own_cells}), "others": (others, {1: slots, 2: own_cells})}


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
