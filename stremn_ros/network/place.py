"""Where each object just was: what a frame hands to the next one, in a constant number of bytes.

Reading the memory compares appearance only, so of two things that look alike either may be taken.
Both parts here tell the decoder where the object was in the previous frame. They are added to the
decoder's maps by convolutions that begin at zero, so a network that was trained without them
begins as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def zero_conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that gives zero until it is trained."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class PreviousMask(nn.Module):
    """The masks of the previous frame as an input of the decoder at strides 16, 8 and 4.

    Args:
        channels: widths of the decoder at strides 16, 8 and 4.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        d16, d8, d4 = channels
        self.down8 = nn.Conv2d(2, 16, 3, stride=2, padding=1)
        self.down16 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.to16 = zero_conv(32, d16, 3)
        self.to8 = zero_conv(16, d8, 1)
        self.to4 = zero_conv(2, d4, 3)

    def forward(self, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities [N, 2, 4h, 4w] of the object and of all others -> maps to add.

        Returns:
            [N, d16, h, w], [N, d8, 2h, 2w], [N, d4, 4h, 4w].
        """
        stride8 = F.relu(self.down8(previous))
        stride16 = F.relu(self.down16(stride8))
        return self.to16(stride16), self.to8(stride8), self.to4(previous)


class SensoryMemory(nn.Module):
    """A small recurrent map at stride 16, updated with every frame (XMem, Cheng et al., 2022).

    A gated recurrent unit takes in the decoder's maps at all strides and the object's logits.

    Args:
        width: channels of the map.
        template: channels of the template it starts from.
        channels: widths of the decoder at strides 16, 8 and 4.
    """

    def __init__(self, width: int, template: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        d16, d8, d4 = channels
        self.width = width
        self.first = nn.Conv2d(template, width, 1)
        self.from16 = nn.Conv2d(d16, width, 1)
        self.from8 = nn.Conv2d(d8, width, 1)
        self.from4 = nn.Conv2d(d4 + 1, width, 1)
        self.gates = nn.Conv2d(2 * width, 3 * width, 3, padding=1)
        self.to16 = zero_conv(width, d16, 3)

    def start(self, template: Tensor) -> Tensor:
        """The map [N, width, h, w] of an object that was just seeded; template [N, C, h, w]."""
        return torch.tanh(self.first(template))

    def forward(
        self, hidden: Tensor, stride16: Tensor, stride8: Tensor, stride4: Tensor, logits: Tensor
    ) -> Tensor:
        """The map after a frame.

        Args:
            hidden: [N, width, h, w] before it; stride16, stride8, stride4: the decoder's maps;
            logits: [N, 1, 4h, 4w].
        """
        # 1x1 convolutions commute with the pooling, which comes first: it leaves fewer cells
        seen = self.from16(stride16) + self.from8(F.avg_pool2d(stride8, 2))
        finest = torch.cat([stride4, logits.clamp(-10.0, 10.0)], dim=1)
        seen = seen + self.from4(F.avg_pool2d(finest, 4))
        forget, update, new = self.gates(torch.cat([seen, hidden], dim=1)).chunk(3, dim=1)
        forget, update, new = torch.sigmoid(forget), torch.sigmoid(update), torch.tanh(new)
        return forget * hidden * (1.0 - update) + update * new
