"""Training checkpoints without pickles: tensors in a safetensors file, numbers in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stremn_ros.errors import InputError
from stremn_ros.model_folder import write_tensors


def save_checkpoint(
    path: Path,
    network: nn.Module,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    iteration: int,
    entries: Mapping[str, Any],
) -> None:
    """Everything a run needs to go on exactly where it was; written whole or not at all.

    Args:
        entries: of the training file, to tell where they change.

    Raises:
        InputError: it cannot be written (no permission, disk full); the message says why.
    """
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema/{key}": value for key, value in ema.items()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    steps: dict[str, float] = {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        tensors[f"exp_avg/{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq/{name}"] = state["exp_avg_sq"]
        steps[name] = float(state["step"])
    header = {"iteration": str(iteration), "steps": json.dumps(steps)}
    header["entries"] = json.dumps(entries)
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_tensors(path, plain, header)


def load_checkpoint(
    path: Path, network: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]]:
    """Restores what ``save_checkpoint`` wrote.

    Returns:
        The iteration to go on with, and the training file's entries so far (earlier versions kept
        none).

    Raises:
        InputError: the file is damaged, or no checkpoint of this network; nothing is changed then.
    """
    again = "remove it to begin again"
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118  the file cannot be iterated
                part, _, name = key.partition("/")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged ({error}): {again}; the model that was exported last is in "
            f"{path.parent / 'model'} until then"
        ) from None
    try:
        iteration, steps = int(header["iteration"]), json.loads(header["steps"])
        entries = json.loads(header.get("entries", "{}"))
    except (KeyError, ValueError):
        raise InputError(f"{path} is no checkpoint of a training: {again}") from None

    def shapes(part: str) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in parts.get(part, {}).items()}

    own = {name: value.shape for name, value in network.state_dict().items()}
    moments = {name: own.get(name) for name in steps}
    if not (
        shapes("network") == shapes("ema") == own
        and shapes("exp_avg") == shapes("exp_avg_sq") == moments
    ):
        raise InputError(
            f"{path} is of another network than the training file describes: give another run, or "
            f"{again}"
        )
    network.load_state_dict(parts["network"])
    for name, value in parts["ema"].items():
        ema[name].copy_(value)
    parameters = dict(network.named_parameters())
    for name, step in steps.items():
        parameter = parameters[name]
        state = optimizer.state[parameter] = {"step": torch.tensor(step)}
        for part in ("exp_avg", "exp_avg_sq"):
            # in the parameter's own memory format: the fused optimizer walks both side by side
            state[part] = torch.empty_like(parameter.detach()).copy_(parts[part][name])
    return iteration, entries
