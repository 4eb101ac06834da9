"""Small prediction networks with fixed random weights, and clips for them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stremn_ros.model_folder import save_model
from stremn_ros.network.flow_prediction import FlowPredictionConfig, FlowPredictionNetwork
from stremn_ros.network.prediction import PredictionConfig, PredictionNetwork

WIDTHS = (4, 4, 8, 8, 8, 8)


def tiny_flow_network(colours: int = 3, horizon: int = 3) -> FlowPredictionNetwork:
    """With random weights in the last layers too, so that every part shows in the output."""
    torch.manual_seed(0)
    network = FlowPredictionNetwork(
        FlowPredictionConfig(
            colours=colours,
            widths=(8, 8, 8),
            carried=4,
            mixing=4,
            key_channels=4,
            value_channels=8,
            horizon=horizon,
        )
    )
    return _loud(network)


def tiny_network(head: str = "paint", colours: int = 3, horizon: int = 3) -> PredictionNetwork:
    """As ``tiny_flow_network``, of one that sees three stacked frames."""
    torch.manual_seed(0)
    network = PredictionNetwork(
        PredictionConfig(
            colours=colours,
            widths=WIDTHS,
            template_channels=8,
            key_channels=4,
            value_channels=8,
            horizon=horizon,
            head=head,
        )
    )
    return _loud(network)


_Network = TypeVar("_Network", bound=torch.nn.Module)


def _loud(network: _Network) -> _Network:
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def tiny_prediction_model(folder: Path, head: str = "flow", **options: int) -> str:
    """A model folder that loads and runs fast; head: one of PredictionConfig's, or flow."""
    defaults = {"processing_size": 64, "observe": 4, "memory_span": 6, "update_every": 2}
    network = tiny_flow_network(**options) if head == "flow" else tiny_network(head, **options)
    save_model(folder, network, defaults)
    return str(folder)


def moving_frames(count: int, rows: int = 64, columns: int = 64) -> NDArray[np.uint8]:
    """RGB [count, rows, columns, 3]: a bright square over a gradient, two pixels a frame."""
    y, x = np.mgrid[:rows, :columns]
    ground = np.stack([y * 128 // rows, x * 128 // columns, (x + y) % 64], axis=2).astype(np.uint8)
    frames = np.repeat(ground[None], count, axis=0)
    for n, frame in enumerate(frames):
        left = (2 * n) % (columns - 16)
        frame[20:36, left : left + 16] = (250, 200, 40)
    return frames
