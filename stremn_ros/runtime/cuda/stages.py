"""The stages on an NVIDIA GPU with PyTorch: half precision and CUDA graphs.

Written without a GPU at hand: what can run on a CPU is tested there, the rest is unverified
(docs/performance.md lists it). ``TorchStages`` on a GPU is the plain way.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from stremn_ros.network import Decoded, Query, Seen, SegmentationNetwork
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.cuda.precision import MixedNetwork
from stremn_ros.runtime.cuda.recorded import Graphed


class CudaStages(TorchStages):
    """Runs a network's stages as CUDA graphs with half-precision encoders and decoder.

    All of it is on one stream. A mask goes out before the memory is updated, so that the update
    runs while the next frame is on its way; a separate stream would let it run beside that
    frame's encoder, too, at the price of a race for every tensor that both touch.

    Args:
        network: in float32; device: a GPU (a CPU runs the same without graphs, for tests).
        dtype: of encoders, heads and decoder.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        device: torch.device,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__(network, device)
        mixed = MixedNetwork(self.network, dtype).to(device)
        self.mixed = mixed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._encode_query = Graphed(self.mixed.encode_query, device)
        self._encode_memory = Graphed(self.mixed.encode_memory, device)
        self._value = Graphed(self.mixed.memory_value, device)
        self._fuse = Graphed(self.network.fusion, device)
        self._decode = Graphed(self.mixed.decode, device)
        self.name = f"torch {str(dtype).removeprefix('torch.')} with CUDA graphs ({device})"

    @torch.inference_mode()
    def encode_query(self, image: Tensor) -> Query:
        # a query outlives the call, whose results lie in memory that the next one writes again
        return Query(*(part.clone() for part in self._encode_query(image)))

    @torch.inference_mode()
    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor:
        maps = (getattr(seen, name) for name in self.network.memory_maps)
        return cast(Tensor, self._encode_memory(image, masks, *maps))

    @torch.inference_mode()
    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        return self.mixed.memory_key(template, image_key), self._value(template)

    @torch.inference_mode()
    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return cast(Tensor, self._fuse(x_i, x_j))

    @torch.inference_mode()
    def decode(
        self, read: Tensor, query: Query, previous: Tensor | None, hidden: Tensor | None
    ) -> Decoded:
        carried = (part for part in (previous, hidden) if part is not None)
        return cast(Decoded, self._decode(read, query.skip16, query.skip8, query.skip4, *carried))
