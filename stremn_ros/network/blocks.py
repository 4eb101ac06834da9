"""Building blocks shared by the memory encoder's head and the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions before which the activation is applied, as in STM's decoder.

    The last channels of the input may be the same for many inputs, as what a frame's image gives
    is for all of its objects. ``project`` maps them once: a convolution of joined maps is the sum
    of a convolution of each.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, projected: Tensor | None = None) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, h, w].

        projected: of the last channels, which ``x`` then lacks; one row serves all.
        """
        if projected is None:
            y = self.conv2(F.relu(self.conv1(F.relu(x))))
            return y + (x if self.skip is None else self.skip(x))
        width, inputs = x.shape[1], self.conv1.in_channels
        first, past = projected.chunk(2, dim=1)
        y = F.conv2d(F.relu(x), self.conv1.weight[:, :width], self.conv1.bias, padding=1) + first
        if self.skip is None:
            x = F.pad(x, (0, 0, 0, 0, 0, inputs - width))
        else:
            x = F.conv2d(x, self.skip.weight[:, :width], self.skip.bias)
        return self.conv2(F.relu(y)) + x + past

    def project(self, rest: Tensor) -> Tensor:
        """What the input's last channels [B, C, h, w] add: [B, 2 outputs, h, w], without biases."""
        before = self.conv1.in_channels - rest.shape[1]
        first = F.conv2d(F.relu(rest), self.conv1.weight[:, before:], padding=1)
        if self.skip is None:
            past = F.pad(rest, (0, 0, 0, 0, before, 0))
        else:
            past = F.conv2d(rest, self.skip.weight[:, before:])
        return torch.cat([first, past], dim=1)


class Refine(nn.Module):
    """Doubles the resolution of a coarse map and adds a skip connection, as in STM's decoder."""

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, outputs, 1)
        self.skip = nn.Conv2d(skip, outputs, 3, padding=1)
        self.block = ResidualBlock(outputs, outputs)

    def project_skip(self, features: Tensor) -> Tensor:
        """Encoder features [B, skip, H, W] -> [B, outputs, H, W]; the same for every object."""
        return self.skip(features)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Coarse [N, coarse, H/2, W/2] and projected skip [N, outputs, H, W] -> [N, outputs, H, W].

        The reduction is a 1x1 convolution, so it commutes with the interpolation and is done
        first, at a quarter of the cost.
        """
        up = F.interpolate(self.reduce(coarse), scale_factor=2.0, mode="bilinear")
        return self.block(up + skip)


class PresenceHead(nn.Module):
    """Tells from the decoder's coarsest map whether the object is in the frame.

    The mean and the maximum over the cells go through two linear layers: an object may fill the
    picture or a single cell.
    """

    def __init__(self, inputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.cells = nn.Conv2d(inputs, hidden, 1)
        self.hidden = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, 1)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, 4.0)  # begins as if every object were there

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] -> logits [N]."""
        cells = F.relu(self.cells(F.relu(x))).flatten(2)
        pooled = torch.cat([cells.mean(dim=2), cells.amax(dim=2)], dim=1)
        return self.output(F.relu(self.hidden(pooled)))[:, 0]


class QualityHead(nn.Module):
    """Predicts how good an object's mask is: the IoU that it has with the truth.

    The mean probability inside a mask says how sure the network is of its pixels, and stays high
    on a mask that has gone over to another thing. This head looks at the decoder's coarsest map
    inside the mask and around it (Mask Scoring R-CNN and SAM have such a head).
    """

    def __init__(self, inputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.cells = nn.Conv2d(inputs, hidden, 1)
        self.hidden = nn.Linear(3 * hidden + 2, hidden)
        self.output = nn.Linear(hidden, 1)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, 1.5)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Map [N, inputs, h, w] and logits [N, 1, 4h, 4w] -> logits [N] of the IoU."""
        mask = torch.sigmoid(logits)
        inside = mask.flatten(1)
        total = inside.sum(dim=1)
        sure = inside.square().sum(dim=1) / (total + 1.0)  # the mean probability, weighted by it
        area = torch.log1p(total) / 10.0
        weight = F.avg_pool2d(mask, 4).flatten(2)  # [N, 1, cells]
        cells = F.relu(self.cells(F.relu(x))).flatten(2)
        own = (cells * weight).sum(dim=2) / (weight.sum(dim=2) + 0.1)
        pooled = torch.cat([own, cells.mean(dim=2), cells.amax(dim=2)], dim=1)
        pooled = torch.cat([pooled, sure[:, None], area[:, None]], dim=1)
        return self.output(F.relu(self.hidden(pooled)))[:, 0]
