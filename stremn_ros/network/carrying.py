"""The head that carries a frame's layers to where they will be. No state, no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.network.steering import REACH, SMALLEST_SPREAD, Steer

SHARPNESS = 30.0  # of the soft maximum over displacements
OVERLAP_IS_RARE = 2.0  # taken from the logit of "in all layers"
FAINTEST = -60.0  # exponent of the transport's weights


class Division(NamedTuple):
    """A frame in layers."""

    layers: Tensor  # [B, L, H, W]
    features: Tensor  # what the decoder says of each [B, L, F]


class Carried(NamedTuple):
    """What the layers become."""

    frames: Tensor  # [B, T, 1, H, W]
    layers: Tensor  # of the frame that was divided [B, L, H, W]
    path: Tensor  # from there, in pixels [B, L, T, 2] (rows, columns)
    ages: Tensor  # how many frames before the newest it was [B]
    replayed: Tensor | None  # [B, N, 1, H, W]: the frames seen, made of them, oldest first


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


def track_through(layers: Tensor, frames: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """Where each layer of one frame of a clip is in all of them.

    Args:
        layers: of frame number ``own`` [B, L, H, W]; frames: [B, N, H, W], the oldest first.

    Returns:
        Displacements in pixels [B, L, N, 2] and the match [B, L, N], see ``track``; in the frame
        itself 0 and 1.
    """
    frame, clips = frames[:, own], layers.shape[:2]
    where, match = [layers.new_zeros(*clips, 1, 2)], [layers.new_ones(*clips, 1)]
    if own:
        found, sure = track(layers, frame, frames[:, :own].flip(1))
        where.insert(0, found.flip(2))
        match.insert(0, sure.flip(2))
    if own + 1 < frames.shape[1]:
        found, sure = track(layers, frame, frames[:, own + 1 :])
        where.append(found)
        match.append(sure)
    return torch.cat(where, dim=2), torch.cat(match, dim=2)


class Carrier(nn.Module):
    """Divides frames into layers, finds these in the frames seen, and carries them on.

    A pixel belongs to one layer, or to all where things overlap. Where they do in the newest frame,
    an earlier one is easier to divide: several are, and those layers are taken of which the frames
    seen can best be made.

    Args:
        fine, maps: channels of the decoder's last block, and of each map gathered under a layer.
        layers: how many; horizon: frames to predict; past: earlier frames that are searched.
    """

    def __init__(
        self, fine: int, maps: tuple[int, ...], layers: int, horizon: int, past: int
    ) -> None:
        super().__init__()
        self.divide = nn.Conv2d(fine, 4 * (layers + 1), 3, padding=1)
        self.steer = Steer(sum(maps), horizon, past)

    def division(self, fine: Tensor, maps: list[Tensor], frame: Tensor) -> Division:
        """Frames [B, 1, H, W] in layers.

        Args:
            fine: [B, F, H/2, W/2]; maps: each [B, C, h, w], gathered under the layers.
        """
        *one, several = F.pixel_shuffle(self.divide(fine), 2).split(1, dim=1)
        shares = torch.cat([*one, several - OVERLAP_IS_RARE], dim=1).softmax(dim=1)
        layers = (shares[:, :-1] + shares[:, -1:]) * frame
        features = [_gathered(x, layers.detach()) for x in maps]
        return Division(layers, torch.cat(features, dim=2))

    def forward(self, divisions: list[Division], ages: Sequence[int], frames: Tensor) -> Carried:
        """The coming frames.

        Args:
            divisions: of frames; ages: how many frames before the newest each of them was.
            frames: all that were seen, the oldest first, [B, N, 1, H, W], N from 2 to past + 1.
        """
        several = len(ages) > 1
        found = [
            self._carry(division, frames, age, self.training or several)
            for division, age in zip(divisions, ages, strict=True)
        ]
        if not several:
            return found[0]
        errors = torch.stack(
            [
                (carried.replayed - frames).square().mean(dim=(1, 2, 3, 4))
                for carried in found
                if carried.replayed is not None
            ]
        )
        best, clips = errors.argmin(dim=0), torch.arange(len(frames), device=frames.device)
        return Carried(*(torch.stack(parts)[best, clips] for parts in zip(*found, strict=True)))

    def _carry(self, division: Division, frames: Tensor, age: int, replay: bool) -> Carried:
        layers, still = division.layers, division.layers.detach()
        last = frames.shape[1] - 1
        where, match = track_through(still, frames[:, :, 0], last - age)
        replayed = None
        if replay:
            replayed = _unite(transport(layers, where, torch.full_like(where, SMALLEST_SPREAD)))
        now = where[:, :, last:]
        past = (where[:, :, :last] - now).flip(2)
        centers, size = _centers(still) + now[:, :, 0], (layers.shape[2], layers.shape[3])
        known = match[:, :, :last].flip(2)
        path, spread = self.steer(centers, size, past, known, division.features)
        path = path + now
        ages = torch.full((len(frames),), age, device=frames.device)
        return Carried(_unite(transport(layers, path, spread)), layers, path, ages, replayed)


def _unite(carried: Tensor) -> Tensor:
    """[B, T, L, H, W] -> [B, T, 1, H, W]: light that any of the layers holds."""
    return 1.0 - (1.0 - carried.clamp(max=1.0)).prod(dim=2, keepdim=True)


def _centers(layers: Tensor) -> Tensor:
    """Centers of gravity in pixels [B, L, 2]; of an empty layer, the frame's middle."""
    mass = layers.sum(dim=(2, 3))
    centers = []
    for axis in (3, 2):
        length = layers.shape[5 - axis]
        middle = (length - 1) / 2.0
        places = torch.arange(length, device=layers.device, dtype=layers.dtype) - middle
        centers.append((layers.sum(dim=axis) * places).sum(dim=2) / mass.clamp(min=1.0) + middle)
    return torch.stack(centers, dim=2)


def _gathered(maps: Tensor, layers: Tensor) -> Tensor:
    """Mean of maps [B, C, h, w] under each layer: [B, L, C]."""
    cells = layers.shape[-2] // maps.shape[-2], layers.shape[-1] // maps.shape[-1]
    share = F.avg_pool2d(layers, cells)
    share = share / share.sum(dim=(2, 3), keepdim=True).clamp(min=1e-4)
    return torch.einsum("blhw,bchw->blc", share, maps)
