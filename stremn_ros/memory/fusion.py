"""The Fusion Cell: what is worth keeping of a slot that goes is distilled into one that stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stremn_ros.memory.similarity import align


class FusionCell(nn.Module):
    """Distils template i into template j (paper, Eq. 4-8).

    ``filter_gate`` is the paper's f, ``update_gate`` its h, ``candidate`` its g; each is one 3x3
    convolution from 2C to C channels. The update gate's bias starts negative, so that training
    begins near "keep template j".

    Args:
        channels: C, the template's channels.
        filtered: align the filtered template X'_i in Eq. 7 (False: X_i, as printed).
    """

    def __init__(self, channels: int, filtered: bool = True) -> None:
        super().__init__()
        self.filter_gate = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.update_gate = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.filtered = filtered
        assert self.update_gate.bias is not None
        nn.init.constant_(self.update_gate.bias, -3.0)

    def forward(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """Templates [B, C, H, W] twice (i goes, j stays) -> the new template j [B, C, H, W]."""
        cells_i, cells_j = _to_cells(x_i), _to_cells(x_j)
        j_at_i = _to_map(align(cells_i, cells_j), x_i)
        kept = torch.sigmoid(self.filter_gate(torch.cat([x_i, j_at_i], dim=1)))
        source = kept * x_i if self.filtered else x_i
        i_at_j = _to_map(align(cells_j, _to_cells(source)), x_j)
        both = torch.cat([i_at_j, x_j], dim=1)
        update = torch.sigmoid(self.update_gate(both))
        return (1.0 - update) * x_j + update * torch.tanh(self.candidate(both))


def _to_cells(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _to_map(cells: Tensor, like: Tensor) -> Tensor:
    return cells.transpose(1, 2).reshape_as(like)
