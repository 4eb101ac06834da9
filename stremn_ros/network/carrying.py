"""The head that carries the last frame's layers to where they will be. No state, no files."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_SPREAD = 0.3  # pixels; below it the transport's gradient vanishes
REACH = 4  # pixels a frame: the fastest movement that is tracked
SHARPNESS = 30.0  # of the soft maximum over displacements
HIDDEN = 256
REPLAYED = 2  # every n-th of the past frames is made of the layers
OVERLAP_IS_RARE = 2.0  # taken from the logit of "in all layers"
FAINTEST = -60.0  # exponent of the transport's weights


class Carried(NamedTuple):
    """What the layers become."""

    frames: Tensor  # [B, T, 1, H, W]
    layers: Tensor  # of the last frame [B, L, H, W]
    path: Tensor  # where they are carried, in pixels [B, L, T, 2] (rows, columns)
    replayed: Tensor | None  # [B, (K + 1) // 2, 1, H, W]: past frames made of them; in training


def transport(layers: Tensor, path: Tensor, spread: Tensor) -> Tensor:
    """Layers carried along their paths and blurred by how uncertain these are.

    Args:
        layers: [B, L, H, W]; path: displacement in pixels [B, L, T, 2] (rows, columns); spread: its
        standard deviation, same shape.

    Returns:
        [B, T, L, H, W].
    """
    weights = []
    for axis, length in enumerate(layers.shape[-2:]):
        cells = torch.arange(length, device=layers.device, dtype=layers.dtype)
        far = torch.arange(1 - length, length, device=layers.device, dtype=layers.dtype)
        mean, scale = path[..., axis, None], -0.5 / spread[..., axis, None].square()
        total = ((far - mean).square() * scale).exp().sum(dim=-1).clamp(min=1e-6)
        steps = cells[:, None] - cells[None] - mean[..., None]
        # the bound keeps exp from denormal numbers, which take ten times as long
        weight = (steps.square() * scale[..., None]).clamp(min=FAINTEST).exp()
        weights.append(weight / total[..., None, None])
    return (weights[0] @ layers[:, :, None] @ weights[1].transpose(-1, -2)).transpose(1, 2)


def track(
    layers: Tensor, frame: Tensor, others: Tensor, reach: int = REACH
) -> tuple[Tensor, Tensor]:
    """Where each layer of a frame is in other frames: template matching at every displacement.

    The n-th other frame is searched ``reach * n`` pixels around. The match is 1 minus the squared
    difference of the two frames, weighted by the layer, and divided by the frame's weighted energy.
    What covers a layer in the other frame costs little, what is missing there costs all.

    Args:
        layers: [B, L, H, W]; frame: which they are parts of [B, H, W]; others: [B, K, H, W], the
        nearest in time first; all in 0..1.

    Returns:
        Displacements in pixels [B, L, K, 2] (rows, columns): the match's soft maximum; and the
        match at its best [B, L, K], at most 1, 0 for an empty layer. Without a gradient: they are
        measured.
    """
    with torch.no_grad():
        height, width = layers.shape[-2:]
        count = others.shape[1]
        farthest = [min(reach * count, side - 1) for side in (height, width)]
        padded = (height + farthest[0], width + farthest[1])
        template = layers * frame[:, None]
        own = torch.fft.rfft2(torch.stack([template, layers]), s=padded).conj()
        theirs = torch.fft.rfft2(torch.stack([others, others.square()]), s=padded)
        # the sum of w (frame - other)^2, without the term that is the same everywhere
        product = 2.0 * own[0, :, :, None] * theirs[0, :, None]
        product = product - own[1, :, :, None] * theirs[1, :, None]
        match = torch.fft.irfft2(product, s=padded)
        steps = [torch.arange(-most, most + 1, device=layers.device) for most in farthest]
        match = match[..., steps[0] % padded[0], :][..., steps[1] % padded[1]]
        energy = (template * frame[:, None]).sum(dim=(2, 3)).clamp(min=1.0)
        match = match / energy[:, :, None, None, None]
        limit = reach * torch.arange(1, count + 1, device=layers.device)
        inside = [(step.abs() <= limit[:, None]) for step in steps]
        match = match.masked_fill(~(inside[0][:, :, None] & inside[1][:, None]), -torch.inf)
        chances = (SHARPNESS * match).flatten(3).softmax(dim=3).view_as(match)
        rows, columns = (step.to(layers.dtype) for step in steps)
        where = torch.stack(
            [(chances.sum(dim=4) * rows).sum(dim=3), (chances.sum(dim=3) * columns).sum(dim=3)],
            dim=3,
        )
        return where, match.amax(dim=(3, 4))


class Carrier(nn.Module):
    """Divides the last frame into layers, measures where each was, and carries it on.

    A pixel belongs to one layer, or to all where things overlap. Rows and columns are steered by
    the same small network, one axis at a time, and what is mirrored moves as in a mirror.

    Args:
        fine, maps: channels of the decoder's last block, and of each map gathered under a layer.
        layers: how many; horizon: frames to predict; past: earlier frames that are searched.
    """

    def __init__(
        self, fine: int, maps: tuple[int, ...], layers: int, horizon: int, past: int
    ) -> None:
        super().__init__()
        self.horizon, self.past = horizon, past
        self.divide = nn.Conv2d(fine, 4 * (layers + 1), 3, padding=1)
        inputs = 2 * (1 + 2 * past) + past + sum(maps) + 1
        self.steer = nn.Sequential(
            nn.Linear(inputs, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, 2 * horizon),
        )
        last = self.steer[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def layers(self, fine: Tensor, frame: Tensor) -> Tensor:
        """The last frame's share in each layer [B, L, H, W]."""
        *one, several = F.pixel_shuffle(self.divide(fine), 2).split(1, dim=1)
        shares = torch.cat([*one, several - OVERLAP_IS_RARE], dim=1).softmax(dim=1)
        return (shares[:, :-1] + shares[:, -1:]) * frame

    def forward(self, fine: Tensor, maps: list[Tensor], frame: Tensor, past: Tensor) -> Carried:
        """The coming frames.

        Args:
            fine: [B, F, H/2, W/2]; maps: each [B, C, h, w], gathered under the layers.
            frame: the newest [B, 1, H, W]; past: those before, the newest first, [B, K, 1, H, W],
            K from 1 to ``past``.
        """
        layers = self.layers(fine, frame)
        still = layers.detach()
        where, match = track(still, frame[:, 0], past[:, :, 0])
        path, spread = self._paths(still, where, match, maps)
        replayed = None
        if self.training:
            back = where[:, :, ::REPLAYED]
            replayed = _unite(transport(layers, back, torch.full_like(back, SMALLEST_SPREAD)))
        return Carried(_unite(transport(layers, path, spread)), layers, path, replayed)

    def _paths(
        self, layers: Tensor, where: Tensor, match: Tensor, maps: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Displacement and spread in pixels, each [B, L, T, 2]."""
        known = where.shape[2]
        ages = torch.arange(1, known + 1, device=where.device, dtype=where.dtype)
        speeds = where / ages[:, None]
        missing = self.past - known
        axes = torch.cat(
            [
                _centres(layers)[:, :, None],
                F.pad(where, (0, 0, 0, missing)) / (REACH * 2.0),
                F.pad(speeds, (0, 0, 0, missing)) / (REACH / 2.0),
            ],
            dim=2,
        ).transpose(2, 3)
        shared = [F.pad(match, (0, missing)), *(_gathered(x, layers) for x in maps)]
        both = torch.cat(shared, dim=2)[:, :, None].expand(-1, -1, 2, -1)
        which = torch.tensor([0.0, 1.0], device=where.device).view(1, 1, 2, 1)
        which = which.expand(*both.shape[:2], -1, -1)
        known_both = torch.cat([axes, axes.flip(2)], dim=3)
        mirrored = torch.stack([known_both, -known_both])
        rest = torch.cat([both, which], dim=3).expand(2, -1, -1, -1, -1)
        steered = self.steer(torch.cat([mirrored, rest], dim=4))
        bend, spread = steered.unflatten(4, (2, self.horizon)).permute(4, 0, 1, 2, 5, 3)
        bend, spread = (bend[0] - bend[1]) / 2.0, spread.mean(dim=0)
        steps = torch.arange(1, self.horizon + 1, device=where.device, dtype=where.dtype)[:, None]
        # of the last frame alone it is too coarse, where there are more
        velocity = -speeds[:, :, min(1, known - 1) : 4].mean(dim=2, keepdim=True)
        spread = 0.5 * (1.0 + 0.3 * steps) * F.softplus(spread + 0.5) + SMALLEST_SPREAD
        return steps * velocity + REACH * bend, spread


def _unite(carried: Tensor) -> Tensor:
    """[B, T, L, H, W] -> [B, T, 1, H, W]: light that any of the layers holds."""
    return 1.0 - (1.0 - carried.clamp(max=1.0)).prod(dim=2, keepdim=True)


def _centres(layers: Tensor) -> Tensor:
    """Centres of gravity [B, L, 2], -1..1."""
    mass = layers.sum(dim=(2, 3)).clamp(min=1.0)
    centres = []
    for axis in (3, 2):
        places = torch.linspace(-1.0, 1.0, layers.shape[5 - axis], device=layers.device)
        centres.append((layers.sum(dim=axis) * places).sum(dim=2) / mass)
    return torch.stack(centres, dim=2)


def _gathered(maps: Tensor, layers: Tensor) -> Tensor:
    """Mean of maps [B, C, h, w] under each layer: [B, L, C]."""
    cells = layers.shape[-2] // maps.shape[-2], layers.shape[-1] // maps.shape[-1]
    share = F.avg_pool2d(layers, cells)
    share = share / share.sum(dim=(2, 3), keepdim=True).clamp(min=1e-4)
    return torch.einsum("blhw,bchw->blc", share, maps)
