"""Exports a network's stages to ONNX and keeps them in a cache that is checked before use."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RuntimeUnavailableError
from ..memory.fusion import FusionCell
from ..network import Query, SegmentationNetwork
from .cache import cache_folder, checked_entry, new_entry, sha256, write_key
from .models import CONFIG, WEIGHTS, load_network

log = logging.getLogger(__name__)

OPSET = 18
FORMAT = 3  # raise it when the stages' inputs or outputs change
STAGES = ("query_encoder", "memory_encoder", "heads", "read", "decoder", "fusion")


class _QueryEncoder(nn.Module):
    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.encode_query(image))


class _MemoryEncoder(_QueryEncoder):
    def forward(self, image: Tensor, masks: Tensor, stride16: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.network.encode_memory(image, masks, stride16),)


class _Heads(_QueryEncoder):
    def forward(self, template: Tensor) -> tuple[Tensor, ...]:
        value = self.network.memory_value(template)
        if self.network.memory_key_head is None:  # the keys are the frame's own
            return (value,)
        return value, self.network.memory_key_head(template)


class _Read(_QueryEncoder):
    def forward(  # type: ignore[override]
        self, query_key: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        """``space_time_read`` in plain operations, of which ONNX Runtime makes three."""
        cells = query_key.flatten(2).transpose(1, 2) / math.sqrt(query_key.shape[1])
        # what is subtracted for a whole memory cell rides in one more channel of the product
        less = -bias.transpose(1, 2).clamp(min=-1e4)
        if self.network.config.affinity == "l2":
            norm = keys.square().sum(dim=-1, keepdim=True) / math.sqrt(query_key.shape[1])
            cells, less = 2.0 * cells, less + norm
        one = -torch.ones_like(cells[..., :1])
        scores = torch.cat([cells, one], dim=-1) @ torch.cat([keys, less], dim=-1).transpose(1, 2)
        read = scores.softmax(dim=-1) @ values
        return (read.transpose(1, 2).unflatten(2, query_key.shape[-2:]),)


class _Decoder(_QueryEncoder):
    def forward(  # type: ignore[override]
        self, read: Tensor, value: Tensor, skip8: Tensor, skip4: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.network.decode(read, value, skip8, skip4),)


class _Half(nn.Module):
    """One half of a convolution's output channels."""

    def __init__(self, convolution: nn.Conv2d, index: int) -> None:
        super().__init__()
        self.convolution, self.index = convolution, index

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).chunk(2, dim=1)[self.index]


class _Fusion(nn.Module):
    """The Fusion Cell with the two convolutions of one input as one, so that it is read once.

    Both halves name the same convolution of the same input; a runtime computes it once.
    """

    def __init__(self, cell: FusionCell) -> None:
        super().__init__()
        self.cell = copy.deepcopy(cell)
        parts = self.cell.update_gate, self.cell.candidate
        joint = nn.Conv2d(parts[0].in_channels, 2 * parts[0].out_channels, 3, padding=1)
        for name in ("weight", "bias"):
            values = [getattr(part, name).detach() for part in parts]
            setattr(joint, name, nn.Parameter(torch.cat(values)))
        self.cell.update_gate = _Half(joint, 0)  # type: ignore[assignment]
        self.cell.candidate = _Half(joint, 1)  # type: ignore[assignment]

    def forward(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, ...]:
        return (self.cell(x_i, x_j),)


@dataclass(frozen=True)
class StageSpec:
    """One exported stage: its inputs (name -> example, dynamic dimensions) and outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]


def stage_specs(
    network: SegmentationNetwork, size: tuple[int, int], fixed: bool
) -> dict[str, StageSpec]:
    """The stages with example inputs at ``size`` (rows, columns), two objects.

    The number of objects is dynamic (1..255); height and width are, too, unless ``fixed``
    (TensorRT plans are built for one size).
    """
    config = network.config
    rows, columns = size
    h, w = rows // 16, columns // 16
    generator = torch.Generator().manual_seed(0)

    def example(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    objects = torch.export.Dim("objects", min=1, max=255)
    dim_h = torch.export.Dim("h", min=2, max=256)
    dim_w = torch.export.Dim("w", min=2, max=256)
    cells = torch.export.Dim("cells", min=4, max=1 << 24)  # of the memory: slots times h times w

    def dims(factor: int, batched: bool) -> dict[int, Any]:
        result: dict[int, Any] = {0: objects} if batched else {}
        if factor < 0:
            result[-factor] = cells
        elif not fixed:
            result[2] = dim_h if factor == 1 else factor * dim_h
            result[3] = dim_w if factor == 1 else factor * dim_w
        return result

    _, d8, d4 = config.decoder_channels
    c16 = network.query_encoder.channels[2]
    image = example(1, 3, rows, columns) * 255.0
    template = example(2, config.template_channels, h, w) * 2.0 - 1.0
    table: dict[str, tuple[nn.Module, dict[str, tuple[Tensor, int, bool]], tuple[str, ...]]] = {
        "query_encoder": (
            _QueryEncoder(network),
            {"image": (image, 16, False)},
            Query._fields,
        ),
        "memory_encoder": (
            _MemoryEncoder(network),
            {
                "image": (image, 16, False),
                "masks": (example(2, 2, rows, columns), 16, True),
                "stride16": (example(1, c16, h, w), 1, False),
            },
            ("template",),
        ),
        "heads": (
            _Heads(network),
            {"template": (template, 1, True)},
            ("value",) if config.key_source == "image" else ("value", "key"),
        ),
        "read": (
            _Read(network),
            {
                "query_key": (example(1, config.key_channels, h, w), 1, False),
                "keys": (example(2, 3 * h * w, config.key_channels), -1, True),
                "values": (example(2, 3 * h * w, config.value_channels), -1, True),
                "bias": (torch.zeros(2, 1, 3 * h * w), -2, True),
            },
            ("read",),
        ),
        "decoder": (
            _Decoder(network),
            {
                "read": (example(2, config.value_channels, h, w), 1, True),
                "value": (example(1, config.query_channels, h, w), 1, False),
                "skip8": (example(1, d8, 2 * h, 2 * w), 2, False),
                "skip4": (example(1, d4, 4 * h, 4 * w), 4, False),
            },
            ("logits",),
        ),
        "fusion": (
            _Fusion(network.fusion),
            {"x_i": (template, 1, True), "x_j": (template.flip(0), 1, True)},
            ("fused",),
        ),
    }
    return {
        name: StageSpec(
            module.eval(),
            {key: tensor for key, (tensor, _, _) in inputs.items()},
            {key: dims(factor, batched) for key, (_, factor, batched) in inputs.items()},
            outputs,
        )
        for name, (module, inputs, outputs) in table.items()
    }


def wanted_key(model: Path) -> dict[str, Any]:
    """What an export of this model folder must have been made of."""
    return {
        "format": FORMAT,
        "opset": OPSET,
        "weights": sha256(model / WEIGHTS),
        "config": sha256(model / CONFIG),
    }


def entry_folder(model: Path) -> Path:
    """The cache folder of a model's ONNX files."""
    key = wanted_key(model)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / f"{model.name}-onnx-{digest}"


def checked_files(model: Path) -> dict[str, Path]:
    """The stages' ONNX files of a model, compared with their key before anything is parsed.

    Raises:
        ModelError: there is no export, or it is incomplete, altered or of other weights; the
        message names both keys where they differ, and the command that makes a new one.
    """
    folder = entry_folder(model)
    names = {stage: f"{stage}.onnx" for stage in STAGES}
    checked_entry(
        folder,
        wanted_key(model),
        list(names.values()),
        f"{model.name} has no ONNX export",
        f"make it with: stremn export {model} --runtime onnx",
    )
    return {stage: folder / name for stage, name in names.items()}


def export_onnx(
    model: Path,
    size: tuple[int, int] = (240, 432),
    progress: Callable[[str], None] = log.info,
) -> dict[str, float]:
    """Exports a model's stages into the cache and compares each with PyTorch.

    Args:
        model: the model's folder; size: rows and columns of the comparison; progress: told what
            is going on, a line per stage.

    Returns:
        The largest absolute difference of any output, for each stage.

    Raises:
        ModelError: the model cannot be loaded. RuntimeUnavailableError: onnx, onnxscript or
        onnxruntime are not installed, or a stage differs by more than 1e-2.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  the exporter's own message is long and late
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"exporting needs onnx, onnxscript and onnxruntime ({error}); "
            "pip install onnx onnxscript onnxruntime"
        ) from None
    network, _ = load_network(model)
    differences: dict[str, float] = {}
    with new_entry(entry_folder(model)) as folder:
        for number, (name, spec) in enumerate(stage_specs(network, size, fixed=False).items(), 1):
            progress(f"{model.name}: exporting {name} ({number} of {len(STAGES)})")
            path = folder / f"{name}.onnx"
            export_stage(spec, path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences[name] = difference(spec, session)
            progress(
                f"{model.name}: {name} differs from PyTorch by at most {differences[name]:.2g}"
            )
            if not differences[name] < 1e-2:
                raise RuntimeUnavailableError(
                    f"the export of {name} differs from PyTorch by {differences[name]:.3g}"
                )
        write_key(
            folder,
            wanted_key(model),
            [f"{name}.onnx" for name in STAGES],
            torch=torch.__version__,
            onnxruntime=onnxruntime.__version__,
            differences=differences,
        )
    return differences


def export_stage(spec: StageSpec, path: Path, packed: bool = False) -> None:
    """Writes one stage as ONNX, without the exporter's chatter.

    packed: give the inputs as one tuple of any length, for a module whose forward takes *inputs.
    """
    import warnings

    dynamic = tuple(spec.dynamic.values())
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                spec.module,
                tuple(spec.inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(dynamic,) if packed else dynamic,
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
        expected = spec.module(*spec.inputs.values())
    actual = session.run(None, {name: tensor.numpy() for name, tensor in spec.inputs.items()})
    return max(
        float((torch.from_numpy(a) - e).abs().max() / (e.abs().max() if relative else 1.0))
        for a, e in zip(actual, expected, strict=True)
    )
