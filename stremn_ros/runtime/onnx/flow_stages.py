"""The stages of a prediction network that is given the optical flow, on ONNX Runtime's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from stremn_ros.network.flow_prediction import (
    FLOW_UNIT,
    FlowEncoding,
    FlowPredictionNetwork,
    aligned,
)
from stremn_ros.network.prediction import Decoded
from stremn_ros.runtime.flow_stages import FlowStages
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.onnx.sessions import Sessions, zeros
from stremn_ros.runtime.threads import frame_scope

NO_CELLS = 4  # that stand for no memory: their values are zero, and so is what is read of them


def seen(newest: Tensor, flow: Tensor, earlier: Tensor, flow_earlier: Tensor) -> Tensor:
    """What the encoder's convolutions are given, as in ``encode_aligned``: ONNX Runtime takes
    five times as long to unshuffle a map."""
    colors = newest.shape[1]
    result = flow.new_empty(len(flow), 8 * colors + 4, *flow.shape[2:])
    frame, difference, *moved = result.split((4 * colors, 4 * colors, 2, 2), dim=1)
    for out, image in ((frame, newest), (difference, earlier - newest)):
        for row in (0, 1):
            for column in (0, 1):
                out[:, 2 * row + column :: 4] = image[:, :, row::2, column::2]
    torch.mul(flow, FLOW_UNIT, out=moved[0])
    torch.sub(flow, flow_earlier, out=moved[1])
    return result


class OnnxFlowStages(FlowStages):
    """Runs a network on ONNX Runtime's CPU provider, one clip at a time.

    Args:
        network: of the model; model: the folder whose export is loaded.
        threads: 0 takes PyTorch's number.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported.
        ModelError: there is no export of this model, or one that is damaged.
    """

    def __init__(self, network: FlowPredictionNetwork, model: Path, threads: int = 0) -> None:
        super().__init__(network, torch.device("cpu"), threads)
        check_onnxruntime()  # before its files: without it nobody wants them
        self._sessions = Sessions(checked_files(model), threads)
        self.name = f"onnxruntime {self._sessions.version} (cpu)"
        config = network.config
        self._nothing = (
            zeros(1, NO_CELLS, config.key_channels),
            zeros(1, NO_CELLS, config.value_channels),
            None,
        )

    def scope(self) -> AbstractContextManager[None]:
        return frame_scope()

    @torch.inference_mode()
    def encode(
        self, before: Tensor, newest: Tensor, flow_before: Tensor, flow: Tensor
    ) -> FlowEncoding:
        earlier, flow_earlier = aligned(before, flow_before, flow)
        maps = self._sessions.each("encode", seen=seen(newest, flow, earlier, flow_earlier))
        return FlowEncoding(*(*maps, earlier))

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self._sessions.each("heads", template=template)
        return key, value

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self._sessions.each("fusion", x_i=x_i, x_j=x_j)[0]

    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        forward, backward = self._sessions.each("compare", own=own, others=others)
        return forward, backward

    @torch.inference_mode()
    def predict(
        self,
        encoding: FlowEncoding,
        newest: Tensor,
        flow: Tensor,
        contents: tuple[Tensor, Tensor, Tensor | None] | None,
        steps: Sequence[int] | None = None,
    ) -> Decoded:
        memory = self._sessions.memory(*(contents or self._nothing))
        asked = encoding._asdict()
        earlier = asked.pop("earlier")
        features, motion = self._sessions.each("move", flow=flow, **memory, **asked)
        assert self._decoder is not None
        return self._decoder(features, motion, newest, earlier, steps or self.network.all_steps)
