"""ConvLSTM (Shi et al., 2015): the baseline that the prediction network is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.errors import ModelError
from stremn_ros.network.config import NetworkConfig


@dataclass(frozen=True)
class ConvLstmConfig(NetworkConfig):
    """Architecture of the baseline.

    Attributes:
        colours: channels of a frame, 1 or 3.
        hidden: channels of each layer's state.
        kernel: of the convolutions, odd.
        patch: pixels squared that become the channels of one cell, as in the published runs.
    """

    colours: int = 1
    hidden: tuple[int, ...] = (48, 48)
    kernel: int = 3
    patch: int = 4

    def __post_init__(self) -> None:
        numbers = (*self.hidden, self.kernel, self.patch)
        if (
            self.colours not in (1, 3)
            or not self.hidden
            or not all(isinstance(number, int) and 1 <= number <= 4096 for number in numbers)
            or self.kernel % 2 == 0
        ):
            raise ModelError(
                "a ConvLSTM has 1 or 3 colours, a list of whole numbers as hidden and an odd "
                f"kernel; got {self}"
            )


class ConvLstm(nn.Module):
    """Layers of convolutional LSTM cells that see one frame after another and predict the next.

    Args:
        config: the architecture.
    """

    def __init__(self, config: ConvLstmConfig) -> None:
        super().__init__()
        self.config = config
        cells = config.colours * config.patch**2
        inputs = (cells, *config.hidden[:-1])
        self.gates = nn.ModuleList(
            nn.Conv2d(i + h, 4 * h, config.kernel, padding=config.kernel // 2)
            for i, h in zip(inputs, config.hidden, strict=True)
        )
        self.draw = nn.Conv2d(config.hidden[-1], cells, 1)

    def forward(self, frames: Tensor, horizon: int) -> Tensor:
        """Frames [B, T, C, H, W] in 0..1 -> the ``horizon`` frames that follow, not clipped."""
        count, seen = frames.shape[:2]
        side = self.config.patch
        rows, columns = frames.shape[-2] // side, frames.shape[-1] // side
        states = [
            (frames.new_zeros(count, width, rows, columns),) * 2 for width in self.config.hidden
        ]
        results: list[Tensor] = []
        for t in range(seen + horizon - 1):
            frame = frames[:, t] if t < seen else results[-1]
            x = F.pixel_unshuffle(frame, side)
            for n, gates in enumerate(self.gates):
                hidden, cell = states[n]
                i, f, o, g = gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
                cell = (f + 1.0).sigmoid() * cell + i.sigmoid() * g.tanh()
                x = o.sigmoid() * cell.tanh()
                states[n] = (x, cell)
            if t >= seen - 1:
                results.append(F.pixel_shuffle(self.draw(x), side))
        return torch.stack(results, dim=1)
