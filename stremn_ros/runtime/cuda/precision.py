"""Half precision where it pays: encoders, heads and decoder; the Fusion Cell stays in single.

A fused template is fused again and again, so its rounding errors would add up; the encoders' do
not outlive a frame.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from stremn_ros.network import Decoded, Query, SegmentationNetwork
from stremn_ros.network.encoders import FrozenNorm, SameConv2d

_Network = TypeVar("_Network", bound=nn.Module)
HALVES = (torch.float16, torch.bfloat16)


def folded(network: _Network) -> _Network:
    """A copy whose frozen normalizations are in the weights of the convolutions before them.

    In single precision, before anything is rounded: a running variance or a scale of the original
    may lie outside what half precision can tell from zero.
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        folds: dict[str, str] = getattr(module, "FOLDS", {})
        for name, part in module.named_children():
            if isinstance(part, FrozenNorm):
                _fold(module.get_submodule(folds[name]), part)
    return network


@torch.no_grad()
def _fold(convolution: nn.Module, norm: FrozenNorm) -> None:
    assert isinstance(convolution, SameConv2d)
    scale = norm.scale()
    convolution.weight.mul_(scale.view(-1, 1, 1, 1))
    norm.bias.sub_(norm.running_mean * scale)
    norm.running_mean.zero_()
    norm.weight.fill_(1.0)
    norm.running_var.fill_(1.0 - norm.eps)


class MixedNetwork(nn.Module):
    """A network that computes in ``dtype`` and takes and returns float32.

    Args:
        network: in float32; it is left as it is, and its Fusion Cell is used as it is.
        dtype: torch.float16 or torch.bfloat16; torch.float32 only folds the normalizations.
    """

    def __init__(self, network: SegmentationNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype not in (*HALVES, torch.float32):
            raise ValueError(f"{dtype} is no precision to run in; use one of {HALVES}")
        self.config = network.config
        self.dtype = dtype
        self.half_network = folded(network).to(dtype).eval()
        self.half_network.fusion = nn.Identity()  # type: ignore[assignment]
        self.fusion = network.fusion
        self.memory_key_head = network.memory_key_head
        self.query_encoder = self.half_network.query_encoder

    def _in(self, *tensors: Tensor) -> list[Tensor]:
        return [tensor.to(self.dtype) for tensor in tensors]

    @property
    def memory_maps(self) -> tuple[str, ...]:
        return self.half_network.memory_maps

    def encode_query(self, image: Tensor) -> Query:
        query = self.half_network.encode_query(*self._in(image))
        return Query(*(part.float() for part in query))

    def encode_memory(self, image: Tensor, masks: Tensor, *maps: Tensor) -> Tensor:
        """maps: those that ``memory_maps`` names, in that order."""
        return self.half_network.encode_memory(*self._in(image, masks, *maps)).float()

    def memory_value(self, template: Tensor) -> Tensor:
        return self.half_network.memory_value(*self._in(template)).float()

    def memory_key(self, template: Tensor, image_key: Tensor) -> Tensor:
        if self.memory_key_head is None:
            return image_key
        return self.half_network.memory_key(*self._in(template, image_key)).float()

    def decode(
        self,
        read: Tensor,
        skip16: Tensor,
        skip8: Tensor,
        skip4: Tensor,
        *carried: Tensor,
    ) -> Decoded:
        """carried: those of ``previous`` and ``hidden`` that the network has, in that order."""
        given = dict(zip(self.config.carried((1, 1)), self._in(*carried), strict=True))
        decoded = self.half_network.decode(*self._in(read, skip16, skip8, skip4), **given)
        presence, hidden, quality = (
            None if part is None else part.float()
            for part in (decoded.presence, decoded.hidden, decoded.quality)
        )
        return Decoded(decoded.logits.float(), presence, hidden, quality)
