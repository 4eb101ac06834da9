"""Model folders: config.yaml and weights.safetensors, found by name, checked when read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, ModelError
from ..network import SegmentationConfig, SegmentationNetwork
from ..text_files import read_yaml
from .forking import note_use

WEIGHTS = "weights.safetensors"
# beside them where the rule `learned` was trained; apart, so that either can be trained anew
SCORER = "pair_scorer.safetensors"
SCORER_PREFIX = "pair_scorer."
CONFIG = "config.yaml"


def model_folders() -> list[Path]:
    """Where models are looked for: $STREMN_MODELS, the source tree, then the install prefixes."""
    folders = []
    if os.environ.get("STREMN_MODELS"):
        folders.append(Path(os.environ["STREMN_MODELS"]))
    folders.append(Path(__file__).resolve().parents[2] / "models")
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders += [Path(prefix) / "share" / "stremn_ros" / "models" for prefix in prefixes if prefix]
    return list(dict.fromkeys(folders))


def available_models() -> list[str]:
    """Names of the models that can be loaded: folders with a configuration and weights."""
    names = {
        path.parent.name
        for folder in model_folders()
        for path in folder.glob(f"*/{WEIGHTS}")
        if (path.parent / CONFIG).is_file()
    }
    return sorted(names)


def find_model(model: str) -> Path:
    """Folder of a model, given its name or the folder's path.

    Raises:
        ModelError: there is none; the message lists the names that exist.
    """
    if not model:
        raise ModelError(f"no model was named; available are {available_models()}")
    candidates = []
    if os.sep in model:
        with contextlib.suppress(RuntimeError):  # ~nobody
            candidates.append(Path(model).expanduser())
    candidates += [folder / model for folder in model_folders()]
    for candidate in candidates:
        if (candidate / CONFIG).is_file():
            return candidate
    raise ModelError(
        f"no model {model!r}: it must be a folder with {CONFIG} and {WEIGHTS}, or one of "
        f"{available_models()}"
    )


@dataclass(frozen=True)
class ModelSpec:
    """A parsed config.yaml.

    Attributes:
        network: the architecture.
        defaults: values for the segmenter where its caller names none (slots, update_rule,
            processing_size).
    """

    network: SegmentationConfig
    defaults: Mapping[str, Any]


def read_config(folder: Path) -> ModelSpec:
    """config.yaml of a segmentation model; ModelError says what is wrong with it."""
    path = folder / CONFIG
    values = read_model_config(path, "segmentation")
    return ModelSpec(SegmentationConfig.from_mapping(values["network"]), values["defaults"])


def read_model_config(path: Path, task: str) -> dict[str, Any]:
    """A model's config.yaml with its parts `network` and `defaults`; ModelError if it is none."""
    try:
        values = read_yaml(path)
    except InputError as error:
        raise ModelError(str(error)) from None
    if not isinstance(values, dict) or values.get("task") != task:
        raise ModelError(f"{path} must be a mapping with 'task: {task}'")
    parts = {name: values.get(name, {}) for name in ("network", "defaults")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ModelError(f"{path}: 'network' and 'defaults' must be mappings")
    return {**values, **parts}


def load_network(folder: Path) -> tuple[SegmentationNetwork, ModelSpec]:
    """The network with its weights, in evaluation mode on the CPU.

    Raises:
        ModelError: files missing or damaged, or weights that do not fit the configuration.
    """
    spec = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; train it or fetch the file (Git LFS?)")
    with without_numbers():
        network = SegmentationNetwork(spec.network)
    assign_weights(network, read_weights(path), str(path))
    scorer = folder / SCORER
    if scorer.is_file():
        with without_numbers():
            pair_scorer = network.add_pair_scorer()
        assign_weights(pair_scorer, read_weights(scorer), str(scorer))
    return network.eval(), spec


def without_numbers() -> torch.device:
    """Within ``with without_numbers():`` modules are made that wait for their weights.

    To draw numbers that the weights replace takes time, is wrong where another library has set
    another default dtype, and hangs in a child process that was forked from one that used PyTorch.
    """
    return torch.device("meta")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ModelError if it is damaged or missing."""
    note_use()
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file: {error}") from None


def assign_weights(network: torch.nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Loads weights of any float type as float32; ModelError names what does not fit."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or extra or misshapen:
        raise ModelError(
            f"{name} does not fit the network: missing {missing[:3]}, unknown {extra[:3]}, "
            f"of another shape {misshapen[:3]} ({len(missing)}, {len(extra)}, {len(misshapen)})"
        )
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{name}: {key} holds NaN or infinity; the file is damaged")
    network.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)


def save_model(
    folder: Path,
    network: SegmentationNetwork,
    defaults: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes config.yaml and weights.safetensors (each under a temporary name, then renamed).

    A scorer of pairs goes into pair_scorer.safetensors beside them.
    """
    weights, scorer = {}, {}
    for key, value in network.state_dict().items():
        if key.startswith(SCORER_PREFIX):
            scorer[key.removeprefix(SCORER_PREFIX)] = value
        else:
            weights[key] = value
    values = {
        "task": "segmentation",
        "network": network.config.to_mapping(),
        "defaults": dict(defaults),
    }
    write_model(folder, values, {WEIGHTS: weights, SCORER: scorer}, dtype)


def write_model(
    folder: Path,
    values: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Tensor]],
    dtype: torch.dtype,
) -> None:
    """Writes config.yaml (values) and the files of weights, those that hold any."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in files.items():
        if weights:
            plain = {
                key: value.detach().to(dtype).contiguous().cpu() for key, value in weights.items()
            }
            temporary = folder / f".{name}.tmp"
            save_file(plain, str(temporary))
            temporary.chmod(0o644)  # safetensors leaves it to its owner alone
            temporary.replace(folder / name)
    temporary = folder / f".{CONFIG}.tmp"
    temporary.write_text(yaml.safe_dump(dict(values), sort_keys=False))
    temporary.replace(folder / CONFIG)
