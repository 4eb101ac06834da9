"""The CPU graphs' forms of convolutions against the convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stremn_ros.network.blocks import ResidualBlock
from stremn_ros.runtime.onnx.graphs import (
    _OnePlane,
    _Parts,
    _Whole,
    _WinogradParts,
    _WinogradWhole,
)
from stremn_ros.runtime.onnx.winograd import Winograd


@pytest.mark.parametrize("size", [(15, 27), (1, 1), (2, 3), (4, 5), (16, 16)])
@pytest.mark.parametrize("channels", [(5, 3), (1, 7), (64, 32)])
def test_it_is_the_convolution(size: tuple[int, int], channels: tuple[int, int]) -> None:
    """At sizes that tiles fit and do not fit; sums in float64 are the reference."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(*channels, 3, padding=1)
    x = torch.randn(*size, channels[0])
    fast = Winograd(convolution)(x)
    expected = convolution.double()(x.double().permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    assert fast.shape == (*size, channels[1])
    torch.testing.assert_close(fast.double(), expected, atol=1e-5, rtol=0)


def test_an_impulse_gives_the_kernel() -> None:
    """One pixel shows which way the kernel lies: not transposed, not turned."""
    convolution = nn.Conv2d(1, 1, 3, padding=1)
    x = torch.zeros(7, 8, 1)
    x[3, 4] = 1.0
    found = Winograd(convolution)(x)[2:5, 3:6, 0] - convolution.bias
    torch.testing.assert_close(found, convolution.weight[0, 0].flip(0, 1), atol=1e-6, rtol=0)


def test_one_without_a_bias() -> None:
    torch.manual_seed(4)
    convolution = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    x = torch.randn(7, 9, 6)
    expected = convolution(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    torch.testing.assert_close(Winograd(convolution)(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
    ],
)
def test_no_other_convolution_is_taken(convolution: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match="no dense 3x3 convolution"):
        Winograd(convolution)


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (16, 16)])
def test_a_residual_block_of_two_parts_in_the_forms_of_the_graphs(
    inputs: int, outputs: int
) -> None:
    """With a 1x1 convolution beside it, and without; joined before, or mapped apart."""
    torch.manual_seed(2)
    block = ResidualBlock(inputs, outputs)
    own, rest = torch.randn(1, 10, 7, 11), torch.randn(1, inputs - 10, 7, 11)
    parts, whole = _Parts(block, 10), _Whole(block)
    with torch.no_grad():
        expected = block(torch.cat([own, rest], dim=1))
        for form in (parts, whole, _WinogradParts(parts), _WinogradWhole(whole)):
            found = form(own, form.project(rest))
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_one_plane_of_taps_and_their_sum() -> None:
    torch.manual_seed(3)
    convolution = nn.Conv2d(12, 1, 3, padding=1)
    x = torch.randn(2, 12, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(_OnePlane(convolution)(x), convolution(x), atol=1e-5, rtol=0)
