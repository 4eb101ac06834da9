"""The stages of a prediction network that is given the optical flow, here on eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stremn_ros.network import space_time_read
from stremn_ros.network.flow_prediction import FlowEncoding, FlowPredictionNetwork
from stremn_ros.network.prediction import Decoded
from stremn_ros.runtime.base import MemoryStages
from stremn_ros.runtime.flow_decoder import FlowDecoder


class FlowStages(MemoryStages):
    """Runs a network's stages on PyTorch without gradients; the base of other runtimes.

    Tensors lie on ``device``; none is kept between calls.

    Args:
        network: of the model; threads: on a CPU; 0 takes PyTorch's number.
    """

    network: FlowPredictionNetwork

    def __init__(
        self, network: FlowPredictionNetwork, device: torch.device, threads: int = 0
    ) -> None:
        self.network = network.to(device).eval()
        self.config, self.stride = network.config, network.stride
        self.device = device
        self.name = f"torch ({device})"
        self._decoder = FlowDecoder(network, threads) if device.type == "cpu" else None

    @torch.inference_mode()
    def encode(
        self, before: Tensor, newest: Tensor, flow_before: Tensor, flow: Tensor
    ) -> FlowEncoding:
        """The last two frames [B, C, H, W] and their flows [B, 2, H/2, W/2]."""
        return self.network.encode(
            torch.stack([before, newest], dim=1), torch.stack([flow_before, flow], dim=1)
        )

    @torch.inference_mode()
    def predict(
        self,
        encoding: FlowEncoding,
        newest: Tensor,
        flow: Tensor,
        contents: tuple[Tensor, Tensor, Tensor | None] | None,
        steps: Sequence[int] | None = None,
    ) -> Decoded:
        """The coming frames [B, S, C, H, W] and the error to expect of them.

        Args:
            encoding: of the last two frames; newest: [B, C, H, W]; flow: [B, 2, H/2, W/2].
            contents: keys [B, M, Ck], values [B, M, Cv] and mask of the memory; None: no memory.
            steps: which of them, 1 for the next frame; None for all that the network sees.
        """
        height, width = encoding.key.shape[-2:]
        if contents is None:
            read = newest.new_zeros(len(newest), self.config.value_channels, height, width)
        else:
            cells = encoding.key.flatten(2).transpose(1, 2)
            read = space_time_read(cells, *contents, self.config.affinity)
            read = read.transpose(1, 2).unflatten(2, (height, width))
        if self._decoder is None:
            return self.network.decode(read, encoding, newest, flow, steps)
        moved = self.network.move(read, encoding, flow)
        return self._decoder(*moved, newest, encoding.earlier, steps or self.network.all_steps)
