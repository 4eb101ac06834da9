"""The last part of a network that is given the optical flow, for the CPU.

``FlowPredictionNetwork.carry`` and ``mix`` take most of a prediction's time, and they are no work
for large graphs: many small operations on whole frames. Here each step ahead is made by itself, in
maps that stay in the cache, with the layout that each operation is fastest in. Steps run on
several threads side by side, with one thread for each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.network.flow_prediction import (
    FLOW_UNIT,
    LEVELS,
    SEARCHES,
    SLOPE,
    FlowPredictionNetwork,
    expected_error,
    outside,
    twice,
)
from stremn_ros.network.prediction import Decoded
from stremn_ros.runtime.threads import one_thread

Convolution = tuple[Tensor, Tensor]  # weight, channels last; bias
GRIDS = 16  # kept; a frame's size needs four


class FlowDecoder:
    """``carry`` and ``mix`` of a network, the same up to float32's rounding.

    Args:
        network: on the CPU; its weights are taken as they are now.
        threads: how many steps are made at a time; 0 takes PyTorch's number of threads.
    """

    def __init__(self, network: FlowPredictionNetwork, threads: int = 0) -> None:
        config = network.config
        self._horizon, self._colors = config.horizon, config.colours
        self._threads = threads or torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0  # the process that the pool is of
        self._grids: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        first, second, fine = (
            part for part in (*network.choose4, *network.choose2) if isinstance(part, nn.Conv2d)
        )
        self._first, self._second = _taken(first), _taken(second)
        # of a block of 2x2 pixels one pixel after another: shuffles then copy whole pixels
        weight, bias = _taken(fine)
        coarse, blocks = weight.split((config.mixing, 8 * config.colours), dim=1)
        blocks = blocks.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)
        joint = torch.cat([coarse, blocks], dim=1)
        self._fine = joint.contiguous(memory_format=torch.channels_last), bias
        parts = _taken(network.mixing), _taken(network.spread)
        weight, bias = (
            torch.cat([part.unflatten(0, (-1, 4)) for part in each]).transpose(0, 1)
            for each in zip(*parts, strict=True)
        )
        # one convolution for the blocks' upper pixels, one for the lower
        self._last = [
            (w.flatten(0, 1).contiguous(memory_format=torch.channels_last), b.flatten())
            for w, b in zip(weight.split(2), bias.split(2), strict=True)
        ]

    def __call__(
        self,
        features: Tensor,
        motion: Tensor,
        newest: Tensor,
        earlier: Tensor,
        steps: Sequence[int],
    ) -> Decoded:
        """The frames [B, S, colours, H, W] at these steps, not clipped, and their expected error.

        Args:
            features: [B, carried, H/4, W/4]; motion: [B * T, 2, H/2, W/2] of all T steps: of
                ``FlowPredictionNetwork.move``.
            newest, earlier: [B, colours, H, W], as in ``carry``.
            steps: the S steps that are wanted, each from 1 to T.
        """
        height, width = newest.shape[-2:]
        frames = newest.new_empty(len(newest), len(steps), self._colors, height, width)
        spread = newest.new_empty(len(newest), len(steps), height, width)
        for factor in (1, 2, 4, 8):  # before threads ask for them
            self._grid(height // factor, width // factor)
        pyramids = [self._pyramid(*clip) for clip in zip(features, newest, earlier, strict=True)]
        motions = motion.unflatten(0, (-1, self._horizon))

        def make() -> None:
            for clip, n in left:
                out = frames[clip, n], spread[clip, n]
                self._make(pyramids[clip], motions[clip, steps[n] - 1], steps[n], *out)

        work = [(clip, n) for clip in range(len(newest)) for n in range(len(steps))]
        left = iter(work)  # what no thread has begun
        others = min(self._threads, len(work)) - 1
        with one_thread() if others else nullcontext():
            helping = [self._helpers().submit(make) for _ in range(others)]
            make()
            for helper in helping:
                if not helper.cancel():  # on a busy machine it may not have begun
                    helper.result()
        return Decoded(frames, spread=spread)

    def _helpers(self) -> ThreadPoolExecutor:
        if self._pool is None or self._owner != os.getpid():  # a fork has none of the threads
            self._owner = os.getpid()
            # each asks for PyTorch's number of threads as it starts, which is one by then
            self._pool = ThreadPoolExecutor(
                self._threads - 1, "flow-decoder", initializer=torch.get_num_threads
            )
        return self._pool

    def _grid(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Of ``grid_sample``: the places of the pixels [2, height, width], and what a displacement
        is multiplied by [2, 1, 1]; as planes, which it reads fastest."""
        if (height, width) not in self._grids:
            if len(self._grids) >= GRIDS:
                self._grids.clear()
            places = np.mgrid[:height, :width][::-1] + 0.5
            scale = np.array([2.0 / width, 2.0 / height]).reshape(2, 1, 1)
            base = (places * scale - 1.0).astype(np.float32)
            self._grids[height, width] = (
                torch.from_numpy(base),
                torch.from_numpy(scale.astype(np.float32)),
            )
        return self._grids[height, width]

    def _sampled(self, image: Tensor, displacement: Tensor) -> Tensor:
        """``sample`` of planes [C, h, w] at [2, h, w]."""
        base, scale = self._grid(image.shape[1], image.shape[2])
        places = torch.addcmul(base, displacement, scale).permute(1, 2, 0)[None]
        return F.grid_sample(image[None], places, padding_mode="border", align_corners=False)[0]

    def _pyramid(self, features: Tensor, newest: Tensor, earlier: Tensor) -> _Pyramid:
        newest = newest.contiguous()
        half, quarter, eighth = (_smaller(newest, factor) for factor in (2, 4, 8))
        # sampling is linear: what the frames differ by is carried as well as the frame itself
        fine = torch.cat([newest, earlier - newest])
        return _Pyramid(fine, half, torch.cat([features, quarter]), eighth)

    @torch.inference_mode()
    def _make(
        self, seen: _Pyramid, motion: Tensor, step: int, frame: Tensor, spread: Tensor
    ) -> None:
        """One step's frame [C, H, W] and expected error [H, W], written where they belong."""
        colors = self._colors
        back = -motion
        for _ in range(SEARCHES):
            back = self._sampled(motion, back).neg_()
        back4 = _smaller(back, 2) * 0.5
        fine = self._sampled(seen.fine, 2.0 * _twice(back))
        features = self._sampled(seen.features, back4)
        levels = [
            _twice(self._sampled(seen.half, back)),
            _twice(_twice(features[-colors:])),
            _twice(_twice(_twice(self._sampled(seen.eighth, 0.5 * _smaller(back4, 2))))),
        ]
        sharp, difference = fine.split(colors)

        height, width = frame.shape[-2:]
        parts = [
            features,
            _smaller(difference.abs(), 4),
            FLOW_UNIT * back4,
            outside(back4[None])[0],
            back4.new_full((1, *back4.shape[1:]), step / self._horizon),
        ]
        quarter = back4.new_empty(height // 4, width // 4, sum(len(part) for part in parts))
        for part, place in zip(parts, quarter.split([len(p) for p in parts], dim=2), strict=True):
            place.copy_(part.permute(1, 2, 0))
        chosen = _convolved(_convolved(quarter, self._first), self._second)

        mixing = chosen.shape[2]
        both = chosen.new_empty(height // 2, width // 2, mixing + 8 * colors)
        coarse, unshuffled = both.split((mixing, 8 * colors), dim=2)
        coarse.copy_(twice(chosen.permute(2, 0, 1)[None])[0].permute(1, 2, 0))
        pixels = torch.from_numpy(cv2.merge(list(fine.numpy())))
        rows = pixels.view(height // 2, 2, width // 2, 4 * colors)
        for n, half in enumerate(unshuffled.split(4 * colors, dim=2)):
            half.copy_(rows[:, n])
        chosen = _convolved(both, self._fine)
        planes = frame.new_empty(LEVELS + 2 + colors, height, width)
        for n, last in enumerate(self._last):
            rows = _convolved(chosen, last, active=False).view(height // 2, width, -1)
            cv2.split(rows.numpy(), list(planes[:, n::2].numpy()))
        weights, other, added, doubt = planes.split((LEVELS, 1, colors, 1))
        torch.addcmul(added, sharp, 1.0 - weights.sum(dim=0), out=frame)
        for weight, level in zip((*weights, other), (*levels, difference), strict=True):
            frame.addcmul_(level, weight)
        spread.copy_(expected_error(doubt[0]))


class _Pyramid(NamedTuple):
    """A clip's maps, as planes, that every step carries along."""

    fine: Tensor  # [2 colors, H, W]: the newest frame, and what the earlier one differs by
    half: Tensor  # [colors, H/2, W/2]
    features: Tensor  # [carried + colors, H/4, W/4]: the last are the newest frame's
    eighth: Tensor  # [colors, H/8, W/8]


def _taken(convolution: nn.Conv2d) -> Convolution:
    assert convolution.bias is not None
    weight = convolution.weight.detach().clone(memory_format=torch.channels_last)
    return weight, convolution.bias.detach().clone()


def _convolved(x: Tensor, convolution: Convolution, active: bool = True) -> Tensor:
    """[h, w, C] -> [h, w, outputs], padded, with leaky ReLU if ``active``."""
    weight, bias = convolution
    y = F.conv2d(x.permute(2, 0, 1)[None], weight, bias, padding=weight.shape[-1] // 2)
    y = F.leaky_relu_(y, SLOPE) if active else y
    return y[0].permute(1, 2, 0).contiguous()


def _smaller(planes: Tensor, factor: int) -> Tensor:
    """The means of blocks of each plane [C, h, w] whose sides are multiples of ``factor``."""
    channels, height, width = planes.shape
    size = (width // factor, channels * height // factor)
    small = cv2.resize(planes.reshape(-1, width).numpy(), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).view(channels, height // factor, width // factor)


def _twice(planes: Tensor) -> Tensor:
    """``twice`` of planes [C, h, w], whose channels are few."""
    channels, height, width = planes.shape
    large = np.empty((channels, 2 * height, 2 * width), np.float32)
    for plane, out in zip(planes.numpy(), large, strict=True):
        cv2.resize(plane, (2 * width, 2 * height), dst=out)
    return torch.from_numpy(large)
