"""Training checkpoints without pickles: tensors in a safetensors file, numbers in its header."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stremn_ros.files import write_with


def save_checkpoint(
    path: Path,
    network: nn.Module,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    iteration: int,
) -> None:
    """Everything a run needs to go on exactly where it was; written whole or not at all."""
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
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_with(path, lambda temporary: save_file(plain, str(temporary), metadata=header))


def load_checkpoint(
    path: Path, network: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Restores what ``save_checkpoint`` wrote and returns the iteration to go on with."""
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        parts: dict[str, dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118  the file cannot be iterated
            part, name = key.split("/", 1)
            parts.setdefault(part, {})[name] = file.get_tensor(key)
    network.load_state_dict(parts["network"])
    for name, value in parts["ema"].items():
        ema[name].copy_(value)
    steps = json.loads(header["steps"])
    parameters = dict(network.named_parameters())
    for name, step in steps.items():
        parameter = parameters[name]
        state = optimizer.state[parameter] = {"step": torch.tensor(step)}
        for part in ("exp_avg", "exp_avg_sq"):
            # in the parameter's own memory format: the fused optimizer walks both side by side
            state[part] = torch.empty_like(parameter.detach()).copy_(parts[part][name])
    return int(header["iteration"])
