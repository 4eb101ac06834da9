"""Static int8 of an export's largest convolutions, calibrated on what the stages are really given.

Dense convolutions of more than one pixel are quantized, and what lies between them: they are most
of the work, and their sums of hundreds of products forgive rounding. Depthwise and 1x1
convolutions, the keys, the read and the sums at stride 4, where the mask's outline is made, stay
in single precision. So does the query encoder: a frame with one object does not run it, save for
the seed, whose keys every later frame is compared with.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.errors import InputError, RuntimeUnavailableError
from stremn_ros.model_folder import load_network
from stremn_ros.network import Query, SegmentationNetwork
from stremn_ros.runtime.building.cache import (
    checked_entry,
    keyed_folder,
    new_entry,
    one_builder,
    write_key,
)
from stremn_ros.runtime.building.export_stage import export_stage
from stremn_ros.runtime.onnx.export import checked_files, wanted_key
from stremn_ros.runtime.onnx.graphs import cpu_specs
from stremn_ros.runtime.onnx.library import import_onnxruntime
from stremn_ros.runtime.onnx.sessions import Sessions
from stremn_ros.runtime.onnx.stages import OnnxStages

log = logging.getLogger(__name__)

FORMAT = 4  # raise it when what is quantized, or how, changes
STAGES = ("segment", "object", "memory_encoder", "fusion")
EXAMPLE = (96, 160)  # rows and columns that the graphs are traced with; they take any
FEWEST_INPUTS, FEWEST_OUTPUTS = 32, 8  # channels of a convolution that is worth it
# 1x1 convolutions between large ones, whose maps would else be brought out of int8 and back
BETWEEN = ("decode16.skip.weight", "decode16.rest_skip.weight", "refine8.reduce.weight")
# where in the memory a frame looks: its keys' rounding is one error over the whole mask
EXACT = ("key_head.weight",)
SAMPLES = 48  # of each stage; the calibration holds them and their maps in memory
EVERY = {"memory_encoder": 2, "fusion": 2}  # calls from one sample to the next
EVERY_OTHER = 8

Sample = dict[str, NDArray[np.float32]]


def int8_key(model: Path) -> dict[str, Any]:
    """What an int8 export of this model folder must have been made of."""
    return {**wanted_key(model), "int8": FORMAT}


def int8_folder(model: Path) -> Path:
    """The cache folder of a model's int8 files."""
    return keyed_folder(f"{model.name}-int8", int8_key(model))


def int8_files(model: Path) -> dict[str, Path]:
    """The stages' files, those of ``STAGES`` in int8, compared with their keys before use.

    Raises:
        ModelError: there is no such export, or it is incomplete, altered or of other weights.
    """
    folder, files = int8_folder(model), checked_files(model)
    names = {stage: f"{stage}.onnx" for stage in STAGES}
    checked_entry(
        folder,
        int8_key(model),
        list(names.values()),
        f"{model.name} has no int8 export",
        f"make it with: stremn export {model} --runtime onnx --int8 VIDEO --mask MASK",
    )
    return {**files, **{stage: folder / name for stage, name in names.items()}}


class RecordingSessions(Sessions):
    """Sessions in single precision that keep samples of what they are given.

    A frame with one object runs as one graph and several as others: each is recorded as if it had
    run, so that one recording serves both.

    Args: as of ``Sessions``.
    """

    def __init__(self, files: Mapping[str, Path], threads: int = 0) -> None:
        super().__init__(files, threads)
        self.samples: dict[str, list[Sample]] = {stage: [] for stage in STAGES}
        self._calls: dict[str, int] = {}
        self._image: Tensor | None = None
        # the keys that this frame's weights were made of, by where in memory the weights lie
        self._where: dict[int, dict[str, Tensor]] = {}

    def run(self, stage: str, **inputs: Tensor) -> list[Tensor]:
        if stage == "query_encoder":
            self._image = inputs["image"].clone()
            self._where.clear()
        calls = self._calls[stage] = self._calls.get(stage, -1) + 1
        if calls % EVERY.get(stage, EVERY_OTHER) == 0:
            self._keep(stage, inputs)
        results = super().run(stage, **inputs)
        if stage == "affinity":
            where = {name: inputs[name].clone() for name in ("keys", "bias")}
            self._where[results[0].data_ptr()] = where
        return results

    def _keep(self, stage: str, inputs: dict[str, Tensor]) -> None:
        memory: dict[str, Tensor] = {
            name: inputs[name] for name in ("values", "previous", "hidden") if name in inputs
        }
        if stage == "segment":
            query = Query(*super().run("query_encoder", image=inputs["image"]))
            where = {name: inputs[name] for name in ("keys", "bias")}
            names = ("weights", "places")  # of all cells there are no places
            reading = dict(
                zip(names, super().run("affinity", key=query.key, **where), strict=False)
            )
            maps = {name: getattr(query, name) for name in ("skip16", "skip8", "skip4")}
            self._add("object", {**reading, **maps, **memory})
        elif stage == "object":
            assert self._image is not None
            where = self._where[inputs["weights"].data_ptr()]
            self._add("segment", {"image": self._image, **where, **memory})
        if stage in self.samples:
            self._add(stage, inputs)

    def _add(self, stage: str, inputs: dict[str, Tensor]) -> None:
        samples = self.samples[stage]
        if len(samples) < SAMPLES:
            samples.append({name: tensor.numpy().copy() for name, tensor in inputs.items()})


class RecordingStages(OnnxStages):
    """ONNX Runtime with ``RecordingSessions``.

    Args:
        network, model: see ``OnnxStages``.
    """

    _sessions: RecordingSessions

    def __init__(self, network: SegmentationNetwork, model: Path) -> None:
        super().__init__(network, model, sessions=RecordingSessions)

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """By stage."""
        return self._sessions.samples


def export_int8(
    model: Path,
    samples: dict[str, list[Sample]],
    progress: Callable[[str], None] = log.info,
    **notes: Any,
) -> dict[str, float]:
    """Quantizes the stages of a model's export and keeps them in the cache.

    Args:
        model: the model's folder, which has been exported; samples: from ``RecordingStages``;
        progress: receives the current step; notes: kept beside the files, e.g. the recordings'
            names.

    Returns:
        For each stage the largest relative difference (L2) of any output from single precision,
        over the last samples.

    Raises:
        InputError: too few samples.
        ModelError: there is no export to quantize.
        RuntimeUnavailableError: onnx or onnxruntime are not installed.
    """
    try:
        import_onnxruntime("quantization")  # wants onnx
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"int8 needs onnx and onnxruntime ({error}); pip install onnx onnxruntime"
        ) from None
    for stage in STAGES:
        if len(samples[stage]) < 4:
            raise InputError(
                f"the recordings gave {len(samples[stage])} samples of {stage}, 4 are needed: give "
                "longer ones, of 100 frames for instance, in which the object stays in sight"
            )
    files = checked_files(model)
    network, _ = load_network(model)
    plain = cpu_specs(network, EXAMPLE, winograd=False)
    differences: dict[str, float] = {}
    with one_builder(int8_folder(model)), new_entry(int8_folder(model)) as folder:
        for number, stage in enumerate(STAGES, 1):
            progress(f"{model.name}: quantizing {stage} ({number} of {len(STAGES)})")
            target = folder / f"{stage}.onnx"
            with tempfile.TemporaryDirectory() as temporary:
                source = Path(temporary) / f"{stage}.onnx"
                export_stage(plain[stage], source)
                _quantize(source, target, samples[stage])
            differences[stage] = _difference(files[stage], target, samples[stage][-2:])
            progress(f"{model.name}: {stage} in int8 differs by {100 * differences[stage]:.2g} %")
        write_key(
            folder,
            int8_key(model),
            [f"{stage}.onnx" for stage in STAGES],
            differences=differences,
            **notes,
        )
    return differences


def _quantize(source: Path, target: Path, samples: list[Sample]) -> None:
    import onnx

    quantization = import_onnxruntime("quantization")
    preparing = import_onnxruntime("quantization.shape_inference")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._next: Iterator[Sample] = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self._next, None)

    with tempfile.TemporaryDirectory() as temporary:
        prepared = Path(temporary) / source.name
        preparing.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        chosen = worth_quantizing(onnx.load(str(prepared)).graph)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # sums of two products of 8 bits do not fit into the 16 bits of AVX2
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Resize", "Add", "Relu"],
            nodes_to_quantize=chosen,
        )


def worth_quantizing(graph: Any) -> list[str]:
    """Names of a graph's nodes (an onnx.GraphProto) that are to be in int8.

    These are its large convolutions, and what lies between them alone, so that maps need not be
    brought into single precision and back: enlargements and sums of their outputs, and a ReLU that
    alone reads one. The last costs nothing: it is a quantized output that starts at zero.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    chosen: list[str] = []
    made: dict[str, str] = {}  # tensor -> operation, of the nodes chosen
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type == "Conv":
            fits = _large(node, shapes)
        elif node.op_type == "Add":
            fits = all(name in made for name in node.input)
        elif node.op_type == "Resize":
            fits = source in made
        else:
            fits = node.op_type == "Relu" and made.get(source) == "Conv" and readers[source] == 1
        if fits:
            chosen.append(node.name)
            made[node.output[0]] = node.op_type
    return chosen


def _large(convolution: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    weight = convolution.input[1]
    outputs, inputs, *kernel = shapes[weight]
    groups = next((a.i for a in convolution.attribute if a.name == "group"), 1)
    wide = inputs >= FEWEST_INPUTS and outputs >= FEWEST_OUTPUTS
    if weight.endswith(EXACT) or groups != 1 or not wide:
        return False
    return max(kernel) > 1 or weight.endswith(BETWEEN)


def _difference(single: Path, quantized: Path, samples: list[Sample]) -> float:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    a, b = (
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (single, quantized)
    )
    worst = 0.0
    for sample in samples:
        for x, y in zip(a.run(None, sample), b.run(None, sample), strict=True):
            worst = max(worst, float(np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-12)))
    return worst
