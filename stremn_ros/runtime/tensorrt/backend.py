"""All calls of TensorRT, in one file for 10.3, 10.13, 10.16, 11 and TensorRT-RTX.

Named-tensor calls only, strongly typed networks, and every name that one of them lacks behind
``hasattr``. PyTorch is not imported here: on a board that shares its memory between CPU and GPU,
the process that builds a plan does without it.

Building was run with TensorRT-RTX 1.7. ``Engine`` was never executed: that needs a GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stremn_ros.errors import RuntimeUnavailableError
from stremn_ros.files import write_bytes

log = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
WORKSPACE_BYTES = 1 << 30

Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape]  # least, usual and largest shape of an input


def find_tensorrt() -> Any:
    """The TensorRT module that is installed.

    Raises:
        RuntimeUnavailableError: none can be imported; the message has each import's error.
    """
    errors = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
            if hasattr(module, "Builder"):
                return module
            errors.append(f"{name}: has no Builder")
        except Exception as error:  # a missing library of its own raises what it likes
            errors.append(f"{name}: {type(error).__name__}: {error}")
    raise RuntimeUnavailableError(
        f"TensorRT cannot be imported ({'; '.join(errors)}); it comes with JetPack, or from "
        "NVIDIA for a desktop GPU; or use runtime torch"
    )


def is_rtx(trt: Any) -> bool:
    """Whether it is TensorRT-RTX, which builds plans where there is no GPU."""
    return "rtx" in trt.__name__


def flags(trt: Any) -> list[str]:
    """The builder's settings that a plan depends on, in words."""
    return ["STRONGLY_TYPED", f"WORKSPACE={WORKSPACE_BYTES}", f"module={trt.__name__}"]


def _logger(trt: Any, say: Callable[[str], None]) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                say(f"TensorRT: {message}")

    return Logger()


def build_plan(
    trt: Any,
    onnx: Path,
    profiles: Mapping[str, Profile],
    timing_cache: Path | None = None,
) -> bytes:
    """Parses an ONNX file and builds a plan of it.

    Args:
        trt: of ``find_tensorrt``; onnx: strongly typed, with float32 inputs and outputs.
        profiles: of each input; timing_cache: read and written where it is supported.

    Raises:
        RuntimeUnavailableError: the file cannot be parsed or built; the message has TensorRT's.
    """
    said: list[str] = []
    logger = _logger(trt, said.append)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        said += [str(parser.get_error(n)) for n in range(parser.num_errors)]
        raise RuntimeUnavailableError(f"TensorRT cannot parse {onnx.name}: {'; '.join(said)}")
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit") and hasattr(trt, "MemoryPoolType"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    cache = _load_timing_cache(config, timing_cache)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        if name not in profiles:
            raise RuntimeUnavailableError(f"{onnx.name} has an input {name!r} without a profile")
        profile.set_shape(name, *profiles[name])
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeUnavailableError(
            f"TensorRT cannot build {onnx.name}: {'; '.join(said) or 'it gave no reason'}"
        )
    if cache is not None and timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    value = 0
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):  # the second is gone, or needed, or implied
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            value |= 1 << int(flag)
    return value


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None or not hasattr(config, "create_timing_cache"):
        return None
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    try:
        cache = config.create_timing_cache(content)
        return cache if cache is not None and config.set_timing_cache(cache, False) else None
    except Exception as error:  # a cache only saves time
        log.debug("no timing cache: %s", error)
        return None


class Engine:
    """A plan that was loaded, and its context; never executed on the machine it was written on.

    Raises:
        RuntimeUnavailableError: TensorRT refuses the plan.
    """

    def __init__(self, trt: Any, plan: bytes, name: str) -> None:
        said: list[str] = []
        self._logger = _logger(trt, said.append)  # TensorRT keeps no reference to it
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        context = None if self._engine is None else self._engine.create_execution_context()
        if context is None:
            raise RuntimeUnavailableError(
                f"TensorRT refuses the plan of {name}: {'; '.join(said) or 'it gave no reason'}"
            )
        self._context = context
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        inputs = trt.TensorIOMode.INPUT
        self.inputs = [item for item in names if self._engine.get_tensor_mode(item) == inputs]
        self.outputs = [item for item in names if item not in self.inputs]

    def shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Sets the inputs' shapes; returns the outputs'."""
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise RuntimeUnavailableError(f"the plan has no profile for {name} of {shape}")
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self.outputs}

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Starts the plan on a CUDA stream; addresses: on the device, of inputs and outputs."""
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise RuntimeUnavailableError("TensorRT could not start the plan")
