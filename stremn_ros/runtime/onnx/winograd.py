"""3x3 convolutions with a third of the multiplications, as products of matrices.

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), F(3x3, 3x3):
nine results of a tile of 5x5 take 25 multiplications a channel instead of 81. It pays where maps
are small and channels many, and where they lie last: a tile's rows are then copied, not gathered
number by number. The weights are the left factor of each product: a library for products packs the
right one again each time, and the tiles are a tenth of the weights.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 3  # results to a side; 4 would read 1.4 times the weights for 0.8 of the products
TAPS = 3
SIDE = TILE + TAPS - 1  # of what a tile's results are made of
POINTS = (0, 1, -1, 2)  # at which the polynomials are evaluated, beside infinity

Matrix = list[list[Fraction]]


def _times(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant one first."""
    result = [Fraction(1)]
    for root in roots:
        higher, lower = [Fraction(0), *result], [*result, Fraction(0)]
        result = [a - root * b for a, b in zip(higher, lower, strict=True)]
    return result


def _transforms() -> tuple[Matrix, Matrix, Matrix]:
    """The three matrices of F(3, 3) after Toom and Cook: for results, weights and inputs."""
    points = [Fraction(point) for point in POINTS]
    results = [[p**row for p in points] + [Fraction(row == TILE - 1)] for row in range(TILE)]
    weights, inputs = [], []
    for point in points:
        others = [other for other in points if other != point]
        norm = Fraction(1)
        for other in others:
            norm *= point - other
        weights.append([point**tap / norm for tap in range(TAPS)])
        inputs.append([*_times(others), Fraction(0)])
    weights.append([Fraction(tap == TAPS - 1) for tap in range(TAPS)])
    inputs.append(_times(points))
    return results, weights, inputs


def _tensor(matrix: Matrix) -> Tensor:
    return torch.tensor([[float(number) for number in row] for row in matrix], dtype=torch.float64)


class Winograd(nn.Module):
    """A 3x3 convolution, stride 1, padded by 1, of one map whose channels lie last.

    Results differ from the convolution's by float32's rounding, some 1e-6 of the largest.

    Args:
        convolution: taken as it is now; its weights are copied.
    """

    of_results: Tensor
    of_inputs: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        c = convolution
        plain = (c.kernel_size, c.stride, c.padding, c.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        if not plain or c.groups != 1:
            raise ValueError(f"{c} is no dense 3x3 convolution of stride 1 with padding")
        results, weights, inputs = (_tensor(matrix) for matrix in _transforms())
        weight = torch.einsum("ai,bj,ocij->aboc", weights, weights, c.weight.detach().double())
        self.register_buffer("weight", weight.flatten(0, 1).float().contiguous())
        self.register_buffer("of_inputs", torch.kron(inputs, inputs).float())
        self.register_buffer("of_results", torch.kron(results, results).float())
        none = c.weight.new_zeros(c.out_channels)
        self.register_buffer("bias", none if c.bias is None else c.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[H, W, C] -> [H, W, outputs]."""
        h, w, channels = x.shape
        outputs = self.bias.shape[0]
        down, across = (h + TILE - 1) // TILE, (w + TILE - 1) // TILE
        padded = F.pad(x, (0, 0, 1, TILE * across + 1 - w, 1, TILE * down + 1 - h))
        # the same place of all tiles together: each transform is one product
        place = torch.arange(SIDE)
        rows = place[:, None, None, None] + TILE * torch.arange(down)[:, None]
        columns = place[:, None, None] + TILE * torch.arange(across)
        index = (rows * (TILE * across + 2) + columns).flatten()
        tiles = padded.flatten(0, 1).index_select(0, index).reshape(SIDE * SIDE, -1)
        tiles = (self.of_inputs @ tiles).reshape(SIDE * SIDE, -1, channels)
        products = self.weight @ tiles.transpose(1, 2)
        y = self.of_results @ products.reshape(SIDE * SIDE, -1)
        y = y.reshape(TILE * TILE, outputs, -1).transpose(1, 2)
        y = y.reshape(TILE, TILE, down, across, outputs) + self.bias
        return y.permute(2, 0, 3, 1, 4).reshape(TILE * down, TILE * across, outputs)[:h, :w]
