"""The GPU path as far as a CPU can run it: half precision, recordings, staging of frames."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from shapes import TINY_MODEL, scene

from stremn_ros.errors import RuntimeUnavailableError
from stremn_ros.model_folder import load_network
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.network.encoders import FrozenNorm
from stremn_ros.runtime import staging
from stremn_ros.runtime.choose import make_stages
from stremn_ros.runtime.cuda.precision import MixedNetwork, folded
from stremn_ros.runtime.cuda.recorded import MOST, Graphed
from stremn_ros.runtime.cuda.stages import CudaStages
from stremn_ros.runtime.staging import KERNEL, CpuStager, MappedStager, PinnedStager, make_stager
from stremn_ros.segmenter import Segmenter

CPU = torch.device("cpu")


def lite0() -> SegmentationNetwork:
    """The default architecture with normalisations that are not the identity."""
    torch.manual_seed(0)
    network = SegmentationNetwork(SegmentationConfig())
    for module in network.modules():
        if isinstance(module, FrozenNorm):
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


def test_folding_changes_no_result_and_not_the_original() -> None:
    network = lite0()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.rand(1, 3, 32, 48) * 255.0
    masks = torch.rand(2, 2, 32, 48)
    with torch.no_grad():
        expected, found = network.encode_query(image), folded(network).encode_query(image)
        for name, a, b in zip(expected._fields, expected, found, strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max(), name
        a = network.encode_memory(image, masks, expected.stride16)
        b = folded(network).encode_memory(image, masks, expected.stride16)
        assert (a - b).abs().max() <= 1e-4 * a.abs().max()
    norms = [part for part in folded(network).modules() if isinstance(part, FrozenNorm)]
    assert norms
    assert all((norm.scale() - 1.0).abs().max() < 1e-6 for norm in norms)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inside_single_outside(dtype: torch.dtype) -> None:
    network, _ = load_network(TINY_MODEL)
    mixed = MixedNetwork(network, dtype)
    image, masks = torch.rand(1, 3, 64, 96) * 255.0, torch.rand(2, 2, 64, 96)
    with torch.no_grad():
        expected, found = network.encode_query(image), mixed.encode_query(image)
        pairs = list(zip(expected, found, strict=True))
        pairs.append(
            (
                network.encode_memory(image, masks, expected.stride16),
                mixed.encode_memory(image, masks, expected.stride16),
            )
        )
        template = pairs[-1][0]
        pairs.append((network.memory_value(template), mixed.memory_value(template)))
        read = torch.rand(2, network.config.value_channels, 4, 6)
        rest = expected.skip16, expected.skip8, expected.skip4
        pairs.append((network.decode(read, *rest).logits, mixed.decode(read, *rest).logits))
    for a, b in pairs:
        assert b.dtype == torch.float32
        assert 0 < (a - b).abs().max() < (0.01 if dtype == torch.float16 else 0.08) * a.abs().max()
    assert mixed.fusion is network.fusion
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())
    assert all(value.dtype == torch.float32 for value in mixed.fusion.state_dict().values())


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        MixedNetwork(load_network(TINY_MODEL)[0], torch.float64)


def test_masks_of_half_precision_agree() -> None:
    segmenters = [
        Segmenter(make_stages(load_network(TINY_MODEL)[0], "torch", "cpu"), processing_size=96),
        Segmenter(CudaStages(load_network(TINY_MODEL)[0], CPU), processing_size=96),
    ]
    agree = []
    for segmenter in segmenters:
        segmenter.seed(*scene(0))
    for number in range(1, 10):
        one, two = (segmenter.step(scene(number)[0]).labels for segmenter in segmenters)
        agree.append((one == two).mean())
    assert min(agree) > 0.995
    assert "float16" in segmenters[1].runtime_name


class Recorder:
    """Stands in for CUDA graphs: keeps the function, its inputs and outputs."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.made = fail, 0

    def __call__(self, function: Any, inputs: list[torch.Tensor]) -> Any:
        if self.fail:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.made += 1
        result = function(*inputs)

        def play() -> torch.Tensor:
            result.copy_(function(*inputs))
            return result

        return play


def test_a_recording_is_made_once_for_each_shape_and_played() -> None:
    recorder = Recorder()
    graphed = Graphed(lambda a, b: a + 2 * b, CPU, recorder)
    for number in range(3):
        a = torch.full((2, 3), float(number))
        assert torch.equal(graphed(a, torch.ones(2, 3)), a + 2)
    assert recorder.made == graphed.recordings == 1
    first = graphed(torch.zeros(2, 3), torch.ones(2, 3))
    assert graphed(torch.ones(2, 3), torch.ones(2, 3)) is first, "memory of the recording"
    assert graphed(torch.ones(4, 3), torch.ones(4, 3)).shape == (4, 3)
    assert graphed.recordings == 2
    for size in range(1, MOST + 5):
        assert graphed(torch.ones(1, size), torch.ones(1, size)).sum() == 3 * size
    assert graphed.recordings == MOST


def test_where_nothing_can_be_recorded_the_function_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    graphed = Graphed(torch.sin, CPU, Recorder(fail=True))
    for _ in range(2):
        assert torch.equal(graphed(torch.ones(2)), torch.sin(torch.ones(2)))
    assert caplog.text.count("no CUDA graph can be recorded") == 1
    plain = Graphed(torch.sin, CPU)
    assert torch.equal(plain(torch.ones(2)), torch.sin(torch.ones(2)))
    assert plain.recordings == 0


SIZES = [
    ((480, 854), (240, 432)),
    ((480, 640), (304, 400)),
    ((64, 96), (64, 96)),
    ((1080, 1920), (304, 544)),
    ((100, 150), (240, 352)),
    ((37, 53), (32, 48)),
]


def frame_of(size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (9, 12, 3), np.uint8)
    smooth = staging.resize(coarse, size).astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 20, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_pinned_staging_equals_the_cpu_s(source: tuple[int, int], size: tuple[int, int]) -> None:
    stager = PinnedStager(CPU, pin=False)
    frames = [frame_of(source), frame_of(source)[::-1].copy(), frame_of(source)[:, ::-1].copy()]
    staged = [stager(frame, size) for frame in frames]
    for frame, found in zip(frames, staged, strict=True):
        expected = CpuStager(CPU)(frame, size)
        assert torch.equal(found, expected)
        assert found.shape == (1, 3, *size)
    assert torch.equal(stager(frames[0], (32, 32)), CpuStager(CPU)(frames[0], (32, 32)))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The CUDA kernel's source as C++, with a loop in place of the GPU's threads."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "make setup asks for a C++ compiler"
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(
        "#include <cmath>\n#include <cstddef>\n"
        "#define __global__ static\n#define OUT float\n"
        "struct Index { int x, y; };\n"
        "static Index blockIdx, threadIdx, blockDim;\n"
        # static wants C++ linkage
        + KERNEL.replace('extern "C" ', "")
        + 'extern "C" void run(const unsigned char *source, int rows, int columns, float *result,\n'
        "    int out_rows, int out_columns, int swap, const float *mean, const float *scale) {\n"
        "    blockDim.x = 32; blockDim.y = 8;\n"
        "    for (blockIdx.y = 0; blockIdx.y * 8 < out_rows; ++blockIdx.y)\n"
        "    for (blockIdx.x = 0; blockIdx.x * 32 < out_columns; ++blockIdx.x)\n"
        "    for (threadIdx.y = 0; threadIdx.y < 8; ++threadIdx.y)\n"
        "    for (threadIdx.x = 0; threadIdx.x < 32; ++threadIdx.x)\n"
        "        prepare(source, rows, columns, result, out_rows, out_columns, swap,\n"
        "                mean[0], mean[1], mean[2], scale[0], scale[1], scale[2]);\n}\n"
    )
    library = folder / "kernel.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", str(folder / "kernel.cpp"), "-o", str(library)],
        check=True,
        capture_output=True,
    )
    function = ctypes.CDLL(str(library)).run

    def run(
        frame: np.ndarray,
        size: tuple[int, int],
        swap: bool = False,
        mean: tuple[float, ...] = (0, 0, 0),
        scale: tuple[float, ...] = (1, 1, 1),
    ) -> np.ndarray:
        result = np.full((3, *size), np.nan, np.float32)
        vectors = [np.array(values, np.float32) for values in (mean, scale)]
        function(
            ctypes.c_void_p(frame.ctypes.data),
            *(ctypes.c_int(side) for side in frame.shape[:2]),
            ctypes.c_void_p(result.ctypes.data),
            *(ctypes.c_int(side) for side in size),
            ctypes.c_int(swap),
            *(ctypes.c_void_p(vector.ctypes.data) for vector in vectors),
        )
        return result

    return run


@pytest.mark.parametrize(("source", "size"), SIZES)
def test_the_fused_kernel_is_within_one_level_of_the_cpu_s(
    kernel: Any, source: tuple[int, int], size: tuple[int, int]
) -> None:
    frame = frame_of(source)
    expected = CpuStager(CPU)(frame, size)[0].numpy()
    found = kernel(frame, size)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 1.0
    assert np.abs(found - expected).mean() < 0.25


def test_the_fused_kernel_swaps_and_normalises(kernel: Any) -> None:
    frame = frame_of((48, 64))
    bgr = np.ascontiguousarray(frame[..., ::-1])
    mean, scale = (127.0, 100.0, 90.0), (1 / 128.0, 0.02, 0.01)
    plain = kernel(frame, (32, 48))
    found = kernel(bgr, (32, 48), True, mean, scale)
    wanted = (plain - np.array(mean)[:, None, None]) * np.array(scale)[:, None, None]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_cpu_gets_the_cpu_s_stager_and_no_pycuda_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(make_stager(CPU), CpuStager)
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    with pytest.raises(RuntimeUnavailableError, match="pycuda cannot be imported"):
        MappedStager(torch.device("cuda"))


def test_an_integrated_gpu_without_pycuda_takes_pinned_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stremn_ros")
    board = type("Board", (), {"is_integrated": True})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: board)
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    assert isinstance(make_stager(torch.device("cuda")), PinnedStager)
    assert "pycuda cannot be imported" in caplog.text
