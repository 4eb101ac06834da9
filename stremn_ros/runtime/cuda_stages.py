"""The stages on an NVIDIA GPU with PyTorch: half precision, CUDA graphs, a stream for updates.

Written without a GPU at hand: what can run on a CPU is tested there, the rest is unverified
(docs/performance.md lists it). ``TorchStages`` on a GPU is the plain way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from ..network import Query, SegmentationNetwork
from .graphs import Graphed
from .precision import MixedNetwork
from .torch_stages import TorchStages


class CudaStages(TorchStages):
    """Runs a network's stages as CUDA graphs with half-precision encoders and decoder.

    The memory's update runs on a stream of its own: the next frame's encoder starts at once, and
    only its read waits for the update.

    Args:
        network: in float32; device: a GPU (a CPU runs the same without graphs and streams, for
            tests); dtype: of encoders, heads and decoder.
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
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._updated: Any = None
        self.name = f"torch {str(dtype).removeprefix('torch.')} with CUDA graphs ({device})"

    def update_scope(self) -> AbstractContextManager[None]:
        return nullcontext() if self._stream is None else self._on_own_stream()

    @contextlib.contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield
            self._updated = torch.cuda.Event()
            self._updated.record(self._stream)

    def _wait_for_update(self) -> None:
        if self._updated is not None:
            torch.cuda.current_stream(self.device).wait_event(self._updated)
            self._updated = None

    @torch.inference_mode()
    def encode_query(self, image: Tensor) -> Query:
        # a query outlives the call: the update reads it while the next frame's is being made
        return Query(*(part.clone() for part in self._encode_query(image)))

    @torch.inference_mode()
    def encode_memory(self, image: Tensor, masks: Tensor, stride16: Tensor) -> Tensor:
        return cast(Tensor, self._encode_memory(image, masks, stride16))

    @torch.inference_mode()
    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        return self.mixed.memory_key(template, image_key), self._value(template)

    @torch.inference_mode()
    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return cast(Tensor, self._fuse(x_i, x_j))

    @torch.inference_mode()
    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        self._wait_for_update()
        return super().read(query_key, keys, values, mask)

    @torch.inference_mode()
    def decode(self, read: Tensor, query: Query) -> Tensor:
        return cast(Tensor, self._decode(read, query.value, query.skip8, query.skip4))
