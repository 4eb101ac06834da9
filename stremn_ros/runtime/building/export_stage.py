"""A stage of a network as an ONNX file, and how far that is from PyTorch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18


@dataclass(frozen=True)
class StageSpec:
    """One exported stage: its inputs (name -> example, dynamic dimensions) and outputs.

    Attributes:
        module: what is exported, called with the inputs by name; reference: what the export must
            do, where that is another module. It may leave out the last outputs, which then are not
            compared.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]
    reference: nn.Module | None = None


class _ByName(nn.Module):
    """A module called with positional inputs, which the exporter wants, that takes them by name."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.module(**dict(zip(self.names, inputs, strict=True)))


def export_stage(spec: StageSpec, path: Path) -> None:
    """Writes one stage as ONNX, without the exporter's chatter."""
    import warnings

    dynamic = tuple(spec.dynamic.values())
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _ByName(spec.module, list(spec.inputs)).eval(),
                tuple(spec.inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(dynamic,),
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert program is not None
    program.save(str(path))


def difference(spec: StageSpec, session: Any, relative: bool = False) -> float:
    """Largest difference of a session's outputs from the stage's in PyTorch.

    relative: as a share of the largest absolute value of each output.
    """
    with torch.inference_mode():
        expected = (spec.reference or spec.module)(**spec.inputs)
    actual = session.run(None, {name: tensor.numpy() for name, tensor in spec.inputs.items()})
    return max(
        float((torch.from_numpy(a) - e).abs().max() / (e.abs().max() if relative else 1.0))
        for a, e in zip(actual[: len(expected)], expected, strict=True)
    )
