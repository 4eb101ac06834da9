"""Folders of prediction models: config.yaml with ``task: prediction`` and weights.safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stremn_ros.errors import ModelError
from stremn_ros.model_folder import (
    CONFIG,
    WEIGHTS,
    assign_weights,
    check_digest,
    read_digests,
    read_model_config,
    read_weights,
    without_numbers,
    write_model,
)
from stremn_ros.network.conv_lstm import ConvLstm, ConvLstmConfig
from stremn_ros.network.prediction import PredictionConfig, PredictionNetwork

TASK = "prediction"
Network = PredictionNetwork | ConvLstm
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Network]] = {
    "stremn": lambda values: PredictionNetwork(PredictionConfig.from_mapping(values)),
    "convlstm": lambda values: ConvLstm(ConvLstmConfig.from_mapping(values)),
}


@dataclass(frozen=True)
class PredictionSpec:
    """A parsed config.yaml.

    Attributes:
        architecture: a key of ``ARCHITECTURES``; network: its entries.
        defaults: values for the predictor where its caller names none (slots, update_rule,
            update_every, memory_span, processing_size).
        digests: sha256 of the files of weights, by name; a file without one is not checked.
    """

    architecture: str
    network: Mapping[str, Any]
    defaults: Mapping[str, Any]
    digests: Mapping[str, str]


def build_prediction_network(architecture: str, values: Mapping[str, Any]) -> Network:
    """A network with random weights; ModelError names what is wrong with the entries."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture {architecture!r} is unknown; known are {sorted(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture](values)


def read_prediction_config(folder: Path) -> PredictionSpec:
    """config.yaml of a prediction model; ModelError says what is wrong with it."""
    path = folder / CONFIG
    values = read_model_config(path, TASK)
    architecture = values.get("architecture", "stremn")
    digests = read_digests(path, values)
    return PredictionSpec(architecture, values["network"], values["defaults"], digests)


def load_prediction_network(folder: Path) -> tuple[Network, PredictionSpec]:
    """The network with its weights, in evaluation mode on the CPU.

    Raises:
        ModelError: files missing or damaged, or weights that do not fit the configuration.
    """
    spec = read_prediction_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; train it or fetch the file (Git LFS?)")
    with without_numbers():
        network = build_prediction_network(spec.architecture, spec.network)
    assign_weights(network, read_weights(path), str(path))
    check_digest(path, spec.digests)
    return network.eval(), spec


def save_prediction_model(
    folder: Path,
    network: Network,
    defaults: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes config.yaml and weights.safetensors (each under a temporary name, then renamed)."""
    values = {
        "task": TASK,
        "architecture": "convlstm" if isinstance(network, ConvLstm) else "stremn",
        "network": network.config.to_mapping(),
        "defaults": dict(defaults),
    }
    write_model(folder, values, {WEIGHTS: network.state_dict()}, dtype)
