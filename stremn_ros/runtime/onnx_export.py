"""Exports a network's stages to ONNX and keeps them in a cache that is checked before use.

A cache entry is a folder with one file per stage and ``key.json``, written last: what the files
were made of and the sha256 of each. An entry that is incomplete, altered or made of other weights
is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, RuntimeUnavailableError
from ..network import Query, SegmentationNetwork
from .models import CONFIG, WEIGHTS, load_network

log = logging.getLogger(__name__)

OPSET = 18
FORMAT = 1  # raise it when the stages' inputs or outputs change
STAGES = ("query_encoder", "memory_encoder", "decoder", "fusion")
KEY = "key.json"


class _QueryEncoder(nn.Module):
    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.encode_query(image))


class _MemoryEncoder(_QueryEncoder):
    def forward(self, image: Tensor, masks: Tensor, stride16: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.network.encode_memory(image, masks, stride16),)


class _Decoder(_QueryEncoder):
    def forward(  # type: ignore[override]
        self, read: Tensor, value: Tensor, skip8: Tensor, skip4: Tensor
    ) -> tuple[Tensor, ...]:
        return (self.network.decode(read, value, skip8, skip4),)


class _Fusion(_QueryEncoder):
    def forward(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.network.fusion(x_i, x_j),)


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

    def dims(factor: int, batched: bool) -> dict[int, Any]:
        result: dict[int, Any] = {0: objects} if batched else {}
        if not fixed:
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
            _Fusion(network),
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


def cache_folder() -> Path:
    """$STREMN_CACHE, or stremn_ros in the user's cache folder."""
    if os.environ.get("STREMN_CACHE"):
        return Path(os.environ["STREMN_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "stremn_ros"


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    remedy = f"make it with: stremn export {model} --runtime onnx"
    try:
        found = json.loads((folder / KEY).read_text())
        files = found["files"]
        key = found["key"]
    except FileNotFoundError:
        raise ModelError(f"{model.name} has no ONNX export in {folder}; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / KEY} cannot be read ({error}); {remedy}") from None
    wanted = wanted_key(model)
    if key != wanted:
        raise ModelError(f"{folder} was made of {key}, but wanted is {wanted}; {remedy}")
    result = {}
    for stage in STAGES:
        path = folder / f"{stage}.onnx"
        if not path.is_file() or files.get(stage) != sha256(path):
            raise ModelError(f"{path} is missing, cut short or altered; {remedy}")
        result[stage] = path
    return result


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
    target = entry_folder(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    differences: dict[str, float] = {}
    try:
        for number, (name, spec) in enumerate(stage_specs(network, size, fixed=False).items(), 1):
            progress(f"{model.name}: exporting {name} ({number} of {len(STAGES)})")
            path = temporary / f"{name}.onnx"
            _export_stage(spec, path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences[name] = _difference(spec, session)
            progress(
                f"{model.name}: {name} differs from PyTorch by at most {differences[name]:.2g}"
            )
            if not differences[name] < 1e-2:
                raise RuntimeUnavailableError(
                    f"the export of {name} differs from PyTorch by {differences[name]:.3g}"
                )
        key = {
            "key": wanted_key(model),
            "files": {name: sha256(temporary / f"{name}.onnx") for name in STAGES},
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "differences": differences,
        }
        (temporary / KEY).write_text(json.dumps(key, indent=2))
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return differences


def _export_stage(spec: StageSpec, path: Path) -> None:
    import warnings

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
                dynamic_shapes=tuple(spec.dynamic.values()),
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert program is not None
    program.save(str(path))


def _difference(spec: StageSpec, session: Any) -> float:
    with torch.inference_mode():
        expected = spec.module(*spec.inputs.values())
    actual = session.run(None, {name: tensor.numpy() for name, tensor in spec.inputs.items()})
    return max(
        float((torch.from_numpy(a) - e).abs().max()) for a, e in zip(actual, expected, strict=True)
    )
