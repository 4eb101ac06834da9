"""Losses of the prediction task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.network.carrying import Carried, track

LEAST_ERROR = 1e-4  # mean squared error of a frame below which a better one is worth little


@dataclass(frozen=True)
class PredictionLoss:
    """Weights of the prediction loss: L1, L2 and the scale-invariant gradient (paper, 4.2).

    Each is the mean over pixels and frames times 100.

    Attributes:
        l1, l2, gradient: weights.
        shrinkage: (a, c) of the shrinkage loss (Lu et al., 2018), which scales every pixel's error
            by 1 / (1 + exp(a (c - |error|))), so that many small errors do not drown the large
            ones; null leaves L1 and L2 as they are.
        coarse: weight of L2 at a half, a quarter and an eighth of the resolution, where a thing
            drawn next to its place counts less than one drawn far away.
        replay: weight, for the head ``layers``, of L2 between the frames seen and what the layers
            of the last one make of them: says what belongs together.
        path: weight, for the same head, of the distance between a layer's path and where template
            matching finds the layer in the true frames, in pixels; a pixel's colour says nothing
            of a thing that is drawn a digit's width away. Also that of the loss on bare paths.
        log_l2: weight of the natural logarithm of each frame's mean squared error, which is what a
            mean PSNR is made of, divided by 100 here; first: how much the first frame of a
            prediction counts in it, beside 1 for each of the others.
        ssim: weight of 1 minus the structural similarity, the mean over windows of 7 x 7.
        spread: weight of the negative log-likelihood of the absolute errors under a Laplace
            distribution of the spread that the network says (FlowPredictionNetwork).
    """

    l1: float = 0.0
    l2: float = 1.0
    gradient: float = 0.0
    shrinkage: tuple[float, float] | None = None
    coarse: float = 0.0
    replay: float = 0.0
    path: float = 0.0
    log_l2: float = 0.0
    first: float = 1.0
    ssim: float = 0.0
    spread: float = 0.0

    def __call__(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Frames [B, T, C, H, W] in 0..1 twice -> a scalar."""
        error = (prediction - truth).abs()
        factor = torch.ones_like(error)
        if self.shrinkage is not None:
            factor = shrinkage_factor(error, *self.shrinkage)
        loss = prediction.new_zeros(())
        if self.l1:
            loss = loss + self.l1 * (factor * error).mean()
        if self.l2:
            loss = loss + self.l2 * (factor * error.square()).mean()
        if self.gradient:
            loss = loss + self.gradient * scale_invariant_gradient(prediction, truth)
        if self.coarse:
            difference = (prediction - truth).flatten(0, 1)
            for _ in range(3):
                difference = F.avg_pool2d(difference, 2)
                loss = loss + self.coarse * difference.square().mean()
        if self.log_l2:
            each = (prediction - truth).square().flatten(2).mean(dim=2)
            share = each.new_ones(each.shape[1])
            share[0] = self.first
            mean = ((each + LEAST_ERROR).log() * (share / share.mean())).mean()
            loss = loss + 0.01 * self.log_l2 * mean
        if self.ssim:
            loss = loss + self.ssim * (1.0 - structural_similarity(prediction, truth))
        return 100.0 * loss

    def of_spread(self, spread: Tensor, prediction: Tensor, truth: Tensor) -> Tensor:
        """Of what the network says of its own errors, which are given: [B, T, H, W] and frames."""
        error = (prediction.detach() - truth).abs().mean(dim=2)
        return self.spread * (error / spread + spread.log()).mean()

    def of_layers(self, carried: Carried, seen: Tensor, coming: Tensor) -> Tensor:
        """What is asked of the layers themselves.

        Args:
            carried: all clips' layers from frames of one age; seen: the frames seen that they were
            looked for in, oldest first [B, N, 1, H, W]; coming: the true frames [B, T, 1, H, W].
        """
        loss = carried.path.new_zeros(())
        if self.replay and carried.replayed is not None:
            loss = loss + self.replay * 100.0 * (carried.replayed - seen).square().mean()
        if self.path:
            age = int(carried.ages[0])
            own = seen.shape[1] - 1 - age
            later = torch.cat([seen[:, own + 1 :], coming], dim=1)[:, :, 0]
            where, match = track(carried.layers.detach(), seen[:, own, 0], later)
            where, match = where[:, :, age:], match[:, :, age:]
            off = F.smooth_l1_loss(carried.path, where, reduction="none").mean(dim=3)
            loss = loss + self.path * (match.clamp(min=0.0) * off).mean()
        return loss

    def of_paths(self, path: Tensor, spread: Tensor, truth: Tensor) -> Tensor:
        """Of paths that are known to the pixel, and of how uncertain they are said to be.

        Args:
            path, spread: displacement and its standard deviation in pixels [B, L, T, 2]; truth: the
            true displacement, same shape.
        """
        off = F.smooth_l1_loss(path, truth)
        surprise = 0.5 * (path.detach() - truth).square() / spread.square() + spread.log()
        return self.path * (off + 0.1 * surprise.mean())


def shrinkage_factor(error: Tensor, a: float, c: float) -> Tensor:
    """1 / (1 + exp(a (c - error))), by which the shrinkage loss scales an error's penalty."""
    return torch.sigmoid(a * (error - c))


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Frames [B, T, C, H, W] in 0..1 twice -> the mean over windows of 7 x 7, a scalar.

    As ``evaluation.prediction_metrics.ssim``, but differentiable, and with the population's
    covariance in place of the sample's.
    """
    x, y = a.flatten(0, 1), b.flatten(0, 1)

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 7, 1)

    mx, my = mean(x), mean(y)
    vx, vy = mean(x * x) - mx * mx, mean(y * y) - my * my
    covariance = mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    above = (2.0 * mx * my + c1) * (2.0 * covariance + c2)
    return (above / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def scale_invariant_gradient(
    prediction: Tensor, truth: Tensor, spacings: tuple[int, ...] = (1, 2, 4, 8, 16)
) -> Tensor:
    """Difference of normalized gradients (Ummenhofer et al., 2017, Eq. 6 and 7).

    Args:
        prediction, truth: [..., H, W] in 0..1; spacings: between the pixels compared.

    Returns:
        A scalar: for each spacing the mean length of the difference of the two-component
        gradients (f(p + h) - f(p)) / (|f(p + h)| + |f(p)|), summed over the spacings.
    """
    total = prediction.new_zeros(())
    for spacing in spacings:
        if spacing >= min(prediction.shape[-2:]):
            break
        parts = [
            _gradient(prediction, spacing, dim) - _gradient(truth, spacing, dim) for dim in (-2, -1)
        ]
        total = total + (parts[0].square() + parts[1].square() + 1e-6).sqrt().mean()
    return total


def _gradient(image: Tensor, spacing: int, dim: int) -> Tensor:
    height, width = image.shape[-2:]
    here = image[..., : height - spacing, : width - spacing]
    rows, columns = (spacing, 0) if dim == -2 else (0, spacing)
    there = image[..., rows : rows + height - spacing, columns : columns + width - spacing]
    # the floor keeps the black of Moving MNIST, 0 / 0, from amplifying noise
    return (there - here) / (there.abs() + here.abs() + 0.05)
