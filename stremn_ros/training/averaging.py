"""The mean of the weights of several trainings of one segmentation network.

    python -m stremn_ros.training.averaging --out MEAN MODEL MODEL ...

Weights of a short training with small batches are noisy: each run follows some things better and
others worse. Where the runs began from one model, the mean of their weights keeps most of what each
has learned and loses noise ("model soup", Wortsman et al., ICML 2022). A frame costs the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stremn_ros.errors import InputError, StremnError
from stremn_ros.model_folder import find_model, load_network, save_model


def average_models(
    models: Sequence[str], out: Path, left_out: Sequence[tuple[str, str]] = ()
) -> None:
    """Writes a model whose weights are the mean of those of others, in float16.

    A scorer of pairs is the mean of those of the models that have one.

    Args:
        models: names or folders, of one architecture; the first gives the defaults.
        left_out: (model, beginning of parameters' names) whose weights do not count, as where one
            of the models has keys of another size.

    Raises:
        InputError: fewer than two models, they differ, ``left_out`` names nothing, or ``out`` is
            one of them.
    """
    if len(models) < 2:
        raise InputError("the mean needs at least two models")
    folders = [find_model(model) for model in models]
    if out.exists() and any(out.samefile(folder) for folder in folders):
        raise InputError(f"{out} is one of the models, which the mean would replace: give another")
    loaded = [load_network(folder) for folder in folders]
    network, spec = loaded[0]
    for model, (other, _) in zip(models[1:], loaded[1:], strict=True):
        if other.config != network.config:
            raise InputError(f"{model} has another network than {models[0]}")
    # where only some have a scorer, which a training without the rule `learned` leaves out
    network = next((each for each, _ in loaded if each.pair_scorer is not None), network)
    states = [each.state_dict() for each, _ in loaded]
    for model, start in left_out:
        if model not in models:
            raise InputError(f"{model} is not among the models: {', '.join(models)}")
        if not any(name.startswith(start) for name in network.state_dict()):
            raise InputError(f"no parameter's name begins with {start}")
    mean: dict[str, Tensor] = {}
    for name, weight in network.state_dict().items():
        counted = [
            state[name].float()
            for model, state in zip(models, states, strict=True)
            if name in state
            and not any(model == own and name.startswith(start) for own, start in left_out)
        ]
        if not counted:
            raise InputError(f"{name} is left out of every model")
        mean[name] = torch.stack(counted).mean(dim=0).to(weight.dtype)
    network.load_state_dict(mean)
    save_model(out, network, spec.defaults, torch.float16)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="names or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new model")
    parser.add_argument(
        "--leave-out",
        nargs=2,
        action="append",
        default=[],
        metavar=("MODEL", "NAME"),
        help="do not count this model's parameters whose names begin with NAME",
    )
    options = parser.parse_args(arguments)
    try:
        average_models(options.models, options.out, [tuple(pair) for pair in options.leave_out])
    except StremnError as error:
        print(f"averaging: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
