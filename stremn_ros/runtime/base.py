"""The stages of a segmentation network: what every runtime offers, here on eager PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from stremn_ros.memory.similarity import mutual_similarity
from stremn_ros.network import Decoded, Query, Seen, SegmentationNetwork, space_time_read
from stremn_ros.network.flow_prediction import FlowPredictionNetwork


class MemoryStages:
    """The stages that a memory needs, of any network that has one, on PyTorch without gradients."""

    network: SegmentationNetwork | FlowPredictionNetwork
    device: torch.device

    def scope(self) -> AbstractContextManager[None]:
        """Entered around a frame's work: settings for what PyTorch does between the stages."""
        return nullcontext()

    @torch.inference_mode()
    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.memory_key(template, image_key), self.network.memory_value(template)

    @torch.inference_mode()
    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self.network.fusion(x_i, x_j)

    @torch.inference_mode()
    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [N, 1, hw, Ck] and [N, K, hw, Ck] -> both similarities [N, K]."""
        channels = self.network.config.key_channels
        return mutual_similarity(own[..., :channels], others[..., :channels])


class TorchStages(MemoryStages):
    """Runs a network's stages on PyTorch without gradients; the base of all other runtimes.

    Shapes as in ``network.SegmentationNetwork``. Tensors lie on ``device``; none is kept between
    calls, and a result may be overwritten by the next call of the same stage.
    """

    network: SegmentationNetwork

    def __init__(self, network: SegmentationNetwork, device: torch.device) -> None:
        # channels_last is what oneDNN and cuDNN convolve fastest in
        network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()
        self.config = network.config
        self.device = device
        self.name = f"torch ({device})"

    def prepare(self, size: tuple[int, int]) -> None:
        """Before frames come: makes ready what this processing size, (rows, columns), wants."""

    @torch.inference_mode()
    def encode_query(self, image: Tensor) -> Query:
        return self.network.encode_query(image)

    @torch.inference_mode()
    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor:
        return self.network.encode_memory(image, masks, seen.stride16, seen.stride8, seen.stride4)

    @torch.inference_mode()
    def start(self, template: Tensor) -> Tensor:
        """The sensory memory of objects that were just seeded; for a network that has one."""
        assert self.network.sensory is not None
        return self.network.sensory.start(template)

    @torch.inference_mode()
    def score(self, templates: Tensor, similarity: Tensor) -> Tensor:
        """Templates [N, n, C, h, w] and similarities [N, n, n] -> [N, n, n]; needs a scorer."""
        assert self.network.pair_scorer is not None
        return self.network.pair_scorer(templates, similarity)

    @torch.inference_mode()
    def read(self, query_key: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Query key [1, Ck, h, w], memory [N, M, C] -> [N, Cv, h, w]."""
        h, w = query_key.shape[-2:]
        cells = query_key.flatten(2).transpose(1, 2).expand(keys.shape[0], -1, -1)
        config = self.config
        read = space_time_read(cells, keys, values, mask, config.affinity, config.read_cells)
        return read.transpose(1, 2).unflatten(2, (h, w))

    @torch.inference_mode()
    def decode(
        self, read: Tensor, query: Query, previous: Tensor | None, hidden: Tensor | None
    ) -> Decoded:
        return self.network.decode(read, query.skip16, query.skip8, query.skip4, previous, hidden)

    def segment(
        self,
        image: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        previous: Tensor | None,
        hidden: Tensor | None,
    ) -> tuple[Seen, Decoded] | None:
        """``encode_query``, ``read`` and ``decode`` in one, where the runtime gains by it.

        Returns:
            What is remembered of the frame, and the masks; None where the three are to be called:
            in PyTorch they are as fast one by one.
        """
        return None
