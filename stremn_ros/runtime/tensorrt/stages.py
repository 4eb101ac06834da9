"""The stages on TensorRT: export, plans in the cache with the key they were built for, and use.

Encoders, heads and decoder are plans; the read, similarities and the Fusion Cell stay in PyTorch,
on the same stream and in the same memory. Plans have one height and width; the number of objects
is free up to a limit. Exporting and building run without a GPU with TensorRT-RTX; using a plan was
never executed.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.files import sha256
from stremn_ros.model_folder import CONFIG, WEIGHTS, load_network
from stremn_ros.network import Decoded, Query, Seen, SegmentationNetwork
from stremn_ros.runtime.building.cache import (
    KEY,
    cache_folder,
    checked_entry,
    keyed_folder,
    new_entry,
    write_key,
)
from stremn_ros.runtime.building.export_stage import OPSET, StageSpec, difference, export_stage
from stremn_ros.runtime.cuda.precision import folded
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.runtime.onnx.library import check_export
from stremn_ros.runtime.tensorrt.backend import Engine, Profile, find_tensorrt, flags, is_rtx
from stremn_ros.runtime.tensorrt.graphs import decoded_of, decoder_outputs, stage_specs

log = logging.getLogger(__name__)

FORMAT = 3  # raise it when the stages' inputs or outputs change
PLANS = ("query_encoder", "memory_encoder", "heads", "decoder")
OBJECTS = 8  # the most that a plan takes at a time
MOST_DIFFERENT = 0.02  # of the largest value of an output, in half precision


# ---------------------------------------------------------------- half-precision ONNX


class _Half(nn.Module):
    """A stage in half precision with float32 inputs and outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        halves = {name: part.half() for name, part in inputs.items()}
        return tuple(part.float() for part in self.module(**halves))


def onnx_key(model: Path, size: tuple[int, int]) -> dict[str, Any]:
    """What a half-precision export must have been made of."""
    return {
        "format": FORMAT,
        "opset": OPSET,
        "precision": "fp16, fp32 inputs and outputs",
        "size": list(size),
        "weights": sha256(model / WEIGHTS),
        "config": sha256(model / CONFIG),
    }


def onnx_folder(model: Path, size: tuple[int, int]) -> Path:
    """The cache folder of a model's half-precision ONNX files."""
    name = f"{model.name}-onnx-fp16-{size[0]}x{size[1]}"
    return keyed_folder(name, onnx_key(model, size))


def plan_folder(model: Path, size: tuple[int, int]) -> Path:
    """The cache folder of a model's plans; nothing of the machine is in its name."""
    return cache_folder() / f"{model.name}-tensorrt-{size[0]}x{size[1]}"


def plan_sizes(model: Path) -> list[tuple[int, int]]:
    """The sizes that a model has plans for, whether they fit or not, the latest build last."""
    shape = re.compile(re.escape(f"{model.name}-tensorrt-") + r"(\d+)x(\d+)")
    keys = sorted(cache_folder().glob(f"*/{KEY}"), key=lambda path: path.stat().st_mtime)
    found = (shape.fullmatch(key.parent.name) for key in keys)
    return [(int(match[1]), int(match[2])) for match in found if match]


def export_half(
    model: Path, size: tuple[int, int], progress: Callable[[str], None] = log.info
) -> dict[str, float]:
    """Exports a model's stages in half precision for one size and compares them with PyTorch.

    Returns:
        The largest difference of any output from PyTorch's float32, as a share of that output's
        largest value, for each stage.

    Raises:
        ModelError: the model cannot be loaded.
        RuntimeUnavailableError: onnx, onnxscript or onnxruntime are not installed, or a stage
            differs by more than 2 %.
    """
    onnxruntime = check_export()
    network, _ = load_network(model)
    whole = stage_specs(network, size)
    halves = stage_specs(folded(network).half(), size)
    differences: dict[str, float] = {}
    with new_entry(onnx_folder(model, size)) as folder:
        for number, name in enumerate(PLANS, 1):
            progress(f"{model.name}: exporting {name} in fp16 ({number} of {len(PLANS)})")
            spec, half = whole[name], halves[name]
            path = folder / f"{name}.onnx"
            export_stage(
                StageSpec(_Half(half.module).eval(), spec.inputs, spec.dynamic, spec.outputs),
                path,
            )
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            differences[name] = difference(spec, session, relative=True)
            progress(f"{model.name}: {name} in fp16 differs by at most {differences[name]:.2%}")
            if not differences[name] < MOST_DIFFERENT:
                raise RuntimeUnavailableError(
                    f"the fp16 export of {name} differs from PyTorch by {differences[name]:.1%}"
                )
        write_key(
            folder,
            onnx_key(model, size),
            [f"{name}.onnx" for name in PLANS],
            torch=torch.__version__,
            differences=differences,
        )
    return differences


# ---------------------------------------------------------------- keys of plans


def gpu_key(device: torch.device | None = None) -> dict[str, Any]:
    """What of a GPU a plan or a trial depends on; None where there is none."""
    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return dict.fromkeys(("gpu", "compute_capability", "multiprocessors"))
    found = torch.cuda.get_device_properties(device or 0)
    return {
        "gpu": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
    }


def machine_key(trt: Any) -> dict[str, Any]:
    """What of this machine a plan depends on; None where there is no GPU."""
    return {
        **gpu_key(),
        "tensorrt": f"{trt.__name__} {trt.__version__}",
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
        "flags": flags(trt),
    }


def checked_onnx(model: Path, size: tuple[int, int]) -> dict[str, str]:
    """The digests of the half-precision ONNX files; ModelError where one is missing or damaged."""
    found = checked_entry(
        onnx_folder(model, size),
        onnx_key(model, size),
        [f"{name}.onnx" for name in PLANS],
        f"{model.name} has no fp16 ONNX export for {size[0]}x{size[1]}",
        remedy(model, size),
    )
    return dict(found["files"])


def plan_key(model: Path, size: tuple[int, int], trt: Any) -> dict[str, Any]:
    """What plans of this model, of this size, on this machine must have been built for."""
    try:
        digests: Any = checked_onnx(model, size)
    except ModelError:
        digests = "missing or damaged"  # then no plan fits
    return {
        "format": FORMAT,
        "weights": sha256(model / WEIGHTS),
        "onnx": digests,
        "opset": OPSET,
        "precision": "fp16, fp32 inputs and outputs",
        "size": list(size),
        "objects": OBJECTS,
        **machine_key(trt),
    }


def remedy(model: Path, size: tuple[int, int]) -> str:
    """The command that builds the plans."""
    return f"build with: stremn export {model} --runtime tensorrt --size {size[0]}x{size[1]}"


def checked_plans(model: Path, size: tuple[int, int], trt: Any) -> dict[str, Path]:
    """The plans of a model for this machine, compared with their key before any is deserialised.

    Raises:
        ModelError: there are none, they were built for something else (both keys are named), or a
            file is missing, cut short or altered.
    """
    folder = plan_folder(model, size)
    names = {name: f"{name}.plan" for name in PLANS}
    checked_entry(
        folder,
        plan_key(model, size, trt),
        list(names.values()),
        f"{model.name} has no TensorRT plans for {size[0]}x{size[1]}",
        remedy(model, size),
    )
    return {name: folder / file for name, file in names.items()}


def profiles(spec: StageSpec) -> dict[str, Profile]:
    """Least, usual and largest shape of each input: only the number of objects varies."""
    result = {}
    for name, example in spec.inputs.items():
        shape = tuple(example.shape)
        if 0 in spec.dynamic[name]:
            rest = shape[1:]
            result[name] = ((1, *rest), (1, *rest), (OBJECTS, *rest))
        else:
            result[name] = (shape, shape, shape)
    return result


def plan_jobs(model: Path, size: tuple[int, int]) -> dict[str, Any]:
    """What the process that builds needs to know, without PyTorch: see ``builder``."""
    trt = find_tensorrt()
    if not is_rtx(trt) and not torch.cuda.is_available():
        raise RuntimeUnavailableError(
            f"TensorRT {trt.__version__} builds a plan on the GPU that will run it, and PyTorch "
            "sees none here; build on the robot"
        )
    network, _ = load_network(model)
    specs = stage_specs(network, size)
    source = onnx_folder(model, size)
    return {
        "folder": str(plan_folder(model, size)),
        "key": plan_key(model, size, trt),
        "timing_cache": str(cache_folder() / f"timing-{trt.__name__}-{trt.__version__}.bin"),
        "stages": {
            name: {"onnx": str(source / f"{name}.onnx"), "profiles": profiles(specs[name])}
            for name in PLANS
        },
    }


# ---------------------------------------------------------------- use


class _Plan:
    """An engine with output buffers in PyTorch's memory, on PyTorch's stream."""

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self._engine, self._device = engine, device
        self._outputs: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = {name: tensor.contiguous() for name, tensor in inputs.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
        results = self._engine.shapes(shapes)
        key = tuple(sorted(shapes.items()))
        if key not in self._outputs:
            self._outputs[key] = {
                name: torch.empty(shape, dtype=torch.float32, device=self._device)
                for name, shape in results.items()
            }
        outputs = self._outputs[key]
        addresses = {name: tensor.data_ptr() for name, tensor in {**given, **outputs}.items()}
        self._engine.run(addresses, torch.cuda.current_stream(self._device).cuda_stream)
        return outputs


class TensorRTStages(CudaStages):
    """Runs encoders, heads and decoder as TensorRT plans; see ``base.TorchStages``.

    The plans are loaded with the first frame, which tells the size, or by ``prepare``.

    Args:
        network: in float32, for what stays in PyTorch; model: its folder, which names the plans.
        build: called to build plans that are missing or do not fit; None refuses them.
        strict: raise where a size has no plans; otherwise PyTorch runs it, with a warning.

    Raises:
        RuntimeUnavailableError: TensorRT or a GPU is missing.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        model: Path,
        device: torch.device,
        build: Callable[[Path, tuple[int, int]], None] | None = None,
        strict: bool = True,
    ) -> None:
        self._trt = find_tensorrt()
        if device.type != "cuda":
            raise RuntimeUnavailableError(
                f"TensorRT runs on a GPU, and the device is {device}; use runtime onnxruntime or "
                "torch on a CPU"
            )
        super().__init__(network, device)
        self._model, self._build, self._strict = model, build, strict
        self._plans: dict[tuple[int, int], dict[str, _Plan] | None] = {}
        self._current: Mapping[str, _Plan] | None = None
        self.name = f"{self._trt.__name__} {self._trt.__version__} fp16 ({device})"

    def prepare(self, size: tuple[int, int]) -> None:
        """Builds and loads the plans of a size where building was asked for.

        The size is a guess, from an image of 16:9; where nothing may be built, plans for any size
        will do until a frame tells.

        Raises:
            ModelError: there are no plans of this model at all.
            RuntimeUnavailableError: the build failed.
        """
        if self._build is not None:
            self._use(size)
        elif self._strict and not plan_sizes(self._model):
            raise ModelError(
                f"{self._model.name} has no TensorRT plans in {cache_folder()}; "
                f"{remedy(self._model, size)}, or set auto_build"
            )

    def load_plans(self, size: tuple[int, int]) -> dict[str, _Plan]:
        """The plans for a size, built first where that was asked for.

        Raises:
            ModelError: no plans, or plans for something else.
            RuntimeUnavailableError: TensorRT refuses them.
        """
        try:
            paths = checked_plans(self._model, size, self._trt)
        except ModelError as error:
            if self._build is None:
                raise
            log.info("%s; building now, which takes minutes", error)
            self._build(self._model, size)
            paths = checked_plans(self._model, size, self._trt)
        return {
            name: _Plan(Engine(self._trt, path.read_bytes(), name), self.device)
            for name, path in paths.items()
        }

    def _use(self, size: tuple[int, int]) -> None:
        if size not in self._plans:
            try:
                self._plans[size] = self.load_plans(size)
            except (ModelError, RuntimeUnavailableError) as error:
                if self._strict:
                    raise
                log.warning("PyTorch runs instead of TensorRT: %s", error)
                self._plans[size] = None
        self._current = self._plans[size]

    @torch.inference_mode()
    def encode_query(self, image: Tensor) -> Query:
        self._use((image.shape[2], image.shape[3]))
        if self._current is None:
            return super().encode_query(image)
        found = self._current["query_encoder"](image=image)
        return Query(*(found[name].clone() for name in Query._fields))

    @torch.inference_mode()
    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor:
        if self._current is None or len(masks) > OBJECTS:
            return super().encode_memory(image, masks, seen)
        maps = {name: getattr(seen, name) for name in self.network.memory_maps}
        if self.network.memory_encoder is not None:
            maps["image"] = image
        return self._current["memory_encoder"](masks=masks, **maps)["template"]

    @torch.inference_mode()
    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        if self._current is None or len(template) > OBJECTS:
            return super().project(template, image_key)
        found = self._current["heads"](template=template)
        image_key = image_key[:, : self.config.memory_key_channels]
        return found.get("key", image_key), found["value"]

    @torch.inference_mode()
    def decode(
        self, read: Tensor, query: Query, previous: Tensor | None, hidden: Tensor | None
    ) -> Decoded:
        if self._current is None or len(read) > OBJECTS:
            return super().decode(read, query, previous, hidden)
        carried = {"previous": previous, "hidden": hidden}
        found = self._current["decoder"](
            read=read,
            skip16=query.skip16,
            skip8=query.skip8,
            skip4=query.skip4,
            **{name: part for name, part in carried.items() if part is not None},
        )
        return decoded_of(self.config, [found[name] for name in decoder_outputs(self.config)])
