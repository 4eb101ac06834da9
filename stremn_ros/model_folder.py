"""Model folders: config.yaml and weights.safetensors, found by name, checked when read."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from stremn_ros.errors import InputError, ModelError
from stremn_ros.files import sha256, write_text, write_with
from stremn_ros.forking import note_use
from stremn_ros.mappings import build
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.network.clicks import ClickNetwork, ClicksConfig
from stremn_ros.network.conv_lstm import ConvLstm, ConvLstmConfig
from stremn_ros.network.flow_prediction import FlowPredictionConfig, FlowPredictionNetwork
from stremn_ros.network.prediction import PredictionConfig, PredictionNetwork
from stremn_ros.options import SegmenterOptions
from stremn_ros.resources import shared_places
from stremn_ros.text_files import read_yaml

WEIGHTS = "weights.safetensors"
# beside them where the rule `learned` was trained; apart, so that either can be trained again
SCORER = "pair_scorer.safetensors"
SCORER_PREFIX = "pair_scorer."
CONFIG = "config.yaml"
# the tasks of models
SEGMENTATION, PREDICTION, CLICKS = TASKS = ("segmentation", "prediction", "clicks")
DIGESTS = "sha256"  # in it: of the files of weights

_Network = TypeVar("_Network", bound=torch.nn.Module)


Network = PredictionNetwork | FlowPredictionNetwork | ConvLstm
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Network]] = {
    "stremn": lambda values: PredictionNetwork(PredictionConfig.from_mapping(values)),
    "flow": lambda values: FlowPredictionNetwork(FlowPredictionConfig.from_mapping(values)),
    "convlstm": lambda values: ConvLstm(ConvLstmConfig.from_mapping(values)),
}


def model_folders() -> list[Path]:
    """Where models are looked for: $STREMN_MODELS, the source tree, then the install prefixes."""
    folders = []
    if os.environ.get("STREMN_MODELS"):
        folders.append(Path(os.environ["STREMN_MODELS"]))
    return list(dict.fromkeys([*folders, *shared_places("models")]))


def available_models() -> list[str]:
    """Names of the models that can be loaded: folders with a configuration and weights."""
    names = {
        path.parent.name
        for folder in model_folders()
        for path in folder.glob(f"*/{WEIGHTS}")
        if (path.parent / CONFIG).is_file()
    }
    return sorted(names)


def find_model(model: str | os.PathLike[str]) -> Path:
    """Folder of a model, given its name or the folder's path.

    Raises:
        ModelError: there is none; the message lists the names that exist.
    """
    model = os.fspath(model)
    if not model:
        raise ModelError(f"no model was named; available are {available_models()}")
    candidates = [folder / model for folder in model_folders()]
    with contextlib.suppress(RuntimeError):  # ~nobody
        # a folder of the working directory that is called as a model is does not hide it
        candidates.insert(0 if os.sep in model else len(candidates), Path(model).expanduser())
    for candidate in candidates:
        if os.path.isfile(candidate / CONFIG):  # False for a name too long, too
            # "." has no name, and results and exports are called as the model is
            nameless = candidate.name in ("", os.pardir)
            return candidate.resolve() if nameless else candidate
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
        digests: sha256 of the files of weights, by name; a file without one is not checked.
        path: of the file.
    """

    network: SegmentationConfig
    defaults: Mapping[str, Any]
    digests: Mapping[str, str]
    path: Path

    def options(self) -> SegmenterOptions:
        """The segmenter's options by the defaults; ModelError names the one that cannot be."""
        return build(SegmenterOptions, self.defaults, f"{self.path}: defaults", ModelError)


def read_config(folder: Path) -> ModelSpec:
    """config.yaml of a segmentation model; ModelError says what is wrong with it."""
    path = folder / CONFIG
    values = read_model_config(path, SEGMENTATION)
    network = SegmentationConfig.from_mapping(values["network"])
    return ModelSpec(network, values["defaults"], read_digests(path, values), path)


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
    if architecture not in list(ARCHITECTURES):  # what is no text may be in no dict
        raise ModelError(
            f"architecture {architecture!r} is unknown; known are {sorted(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture](values)


def read_prediction_config(folder: Path) -> PredictionSpec:
    """config.yaml of a prediction model; ModelError says what is wrong with it."""
    path = folder / CONFIG
    values = read_model_config(path, PREDICTION)
    architecture = values.get("architecture", "stremn")
    digests = read_digests(path, values)
    return PredictionSpec(architecture, values["network"], values["defaults"], digests)


def read_task(path: Path) -> str:
    """Which of the tasks a config.yaml is for; ModelError if it is for none."""
    try:
        values = read_yaml(path)
    except InputError as error:
        raise ModelError(str(error)) from None
    task = values.get("task") if isinstance(values, dict) else None
    if task not in TASKS:
        raise ModelError(f"{path} must be a mapping with 'task: ...', one of {', '.join(TASKS)}")
    return str(task)


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


def read_digests(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """The digests in a configuration; ModelError where they are none."""
    digests = values.get(DIGESTS) or {}  # None where all its lines were taken out
    if not isinstance(digests, dict) or not all(
        isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        for digest in digests.values()
    ):
        raise ModelError(f"{path}: '{DIGESTS}' must map names of files to 64 hexadecimal digits")
    return digests


def check_digest(path: Path, digests: Mapping[str, str]) -> None:
    """ModelError where a file is not the one that its digest was made of.

    A flipped bit leaves a file that loads, and a network that sees a little less, or nothing.
    """
    expected = digests.get(path.name)
    if expected is not None and (found := sha256(path)) != expected:
        raise ModelError(
            f"{path} is damaged: its sha256 is {found[:12]}..., and {CONFIG} beside it says "
            f"{expected[:12]}...; fetch it again, or, if it was changed on purpose, take its line "
            f"out of '{DIGESTS}' in {CONFIG}"
        )


def load_network(folder: Path) -> tuple[SegmentationNetwork, ModelSpec]:
    """The network with its weights, in evaluation mode on the CPU.

    Raises:
        ModelError: files missing or damaged, or weights that do not fit the configuration.
    """
    spec = read_config(folder)
    network = _loaded(folder, spec.digests, lambda: SegmentationNetwork(spec.network))
    scorer = folder / SCORER
    if scorer.is_file():
        with without_numbers():
            pair_scorer = network.add_pair_scorer()
        assign_weights(pair_scorer, read_weights(scorer), str(scorer))
        check_digest(scorer, spec.digests)
    return network.eval(), spec


def load_prediction_network(folder: Path) -> tuple[Network, PredictionSpec]:
    """As ``load_network``, of a prediction model."""
    spec = read_prediction_config(folder)
    build = partial(build_prediction_network, spec.architecture, spec.network)
    return _loaded(folder, spec.digests, build), spec


@dataclass(frozen=True)
class ClicksSpec:
    """A parsed config.yaml.

    Attributes:
        network: the architecture.
        defaults: ``crop_size``, pixels squared, that the network was trained for.
        digests: sha256 of the files of weights, by name; a file without one is not checked.
    """

    network: ClicksConfig
    defaults: Mapping[str, Any]
    digests: Mapping[str, str]

    @property
    def crop_size(self) -> int:
        return int(self.defaults["crop_size"])


def read_click_config(folder: Path) -> ClicksSpec:
    """config.yaml of a click model; ModelError says what is wrong with it."""
    path = folder / CONFIG
    values = read_model_config(path, CLICKS)
    network = ClicksConfig.from_mapping(values["network"])
    check_crop_size(values["defaults"], f"{path}: ")
    return ClicksSpec(network, values["defaults"], read_digests(path, values))


def check_crop_size(defaults: Mapping[str, Any], where: str = "") -> None:
    """ModelError where a click model's defaults name no size of its crops, or a wrong one."""
    size = defaults.get("crop_size")
    if isinstance(size, bool) or not isinstance(size, int) or size % 16 or not 64 <= size <= 1024:
        raise ModelError(
            f"{where}defaults.crop_size is {size!r}; it must be a multiple of 16, 64 to 1024"
        )


def load_click_network(folder: Path) -> tuple[ClickNetwork, ClicksSpec]:
    """As ``load_network``, of a click model."""
    spec = read_click_config(folder)
    return _loaded(folder, spec.digests, lambda: ClickNetwork(spec.network)), spec


def _loaded(folder: Path, digests: Mapping[str, str], build: Callable[[], _Network]) -> _Network:
    path = weights_of(folder)
    with without_numbers():
        network = build()
    assign_weights(network, read_weights(path), str(path))
    check_digest(path, digests)
    return network.eval()


def weights_of(folder: Path) -> Path:
    """The file of a model's weights; ModelError where there is a configuration alone."""
    path = folder / WEIGHTS
    if not path.is_file():
        command = {SEGMENTATION: "segment", PREDICTION: "predict", CLICKS: "clicks"}
        told = " as README.md there says," if (folder / "README.md").is_file() else ""
        raise ModelError(
            f"{folder} has no {WEIGHTS}, it is a configuration only: train it,{told} with `stremn "
            f"train {command[read_task(folder / CONFIG)]}`, or fetch the file (Git LFS?)"
        )
    return path


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
        if os.fsencode(path) == str(path).encode(errors="replace"):
            return load_file(str(path))  # mapped, not copied; it takes names in UTF-8 only
        return load(path.read_bytes())
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


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file; the folder is made. Raises: as ``files.write_with``."""

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, str(temporary), metadata=metadata)
        except SafetensorError as error:  # a full disk, too, is no OSError there
            raise OSError(str(error)) from None
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone

    write_with(path, write)


def _task_of(network: SegmentationNetwork | Network | ClickNetwork) -> dict[str, str]:
    """The entries of config.yaml that say what a network is."""
    if isinstance(network, SegmentationNetwork):
        return {"task": SEGMENTATION}
    if isinstance(network, ClickNetwork):
        return {"task": CLICKS}
    if isinstance(network, FlowPredictionNetwork):
        return {"task": PREDICTION, "architecture": "flow"}
    architecture = "convlstm" if isinstance(network, ConvLstm) else "stremn"
    return {"task": PREDICTION, "architecture": architecture}


def save_model(
    folder: Path,
    network: SegmentationNetwork | Network | ClickNetwork,
    defaults: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes config.yaml and weights.safetensors (each under a temporary name, then renamed).

    A scorer of pairs goes into pair_scorer.safetensors beside them.
    """
    files: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, SCORER: {}}
    for key, value in network.state_dict().items():
        name = SCORER if key.startswith(SCORER_PREFIX) else WEIGHTS
        plain = value.detach().to(dtype).contiguous().cpu()
        files[name][key.removeprefix(SCORER_PREFIX)] = plain
    digests = {}
    for name, weights in files.items():
        if weights:
            write_tensors(folder / name, weights)
            digests[name] = sha256(folder / name)
    values = {
        **_task_of(network),
        DIGESTS: digests,
        "network": network.config.to_mapping(),
        "defaults": dict(defaults),
    }
    write_text(folder / CONFIG, yaml.safe_dump(values, sort_keys=False))
