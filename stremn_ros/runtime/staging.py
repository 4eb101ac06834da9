"""Frames on their way to the network: resized, on the device, planar.

One small interface with three ways behind it, all of the same result: OpenCV on the CPU; the same
with a pinned buffer and a copy that does not wait, for a GPU; and, where pycuda and a GPU that
shares the CPU's memory are there, a mapped buffer that one fused kernel reads in place. The last
two were never executed, which needs a GPU; the kernel's arithmetic is tested on the CPU.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.errors import RuntimeUnavailableError
from stremn_ros.imaging.resize import resize

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Size = tuple[int, int]

# Averages when shrinking and interpolates when enlarging, as OpenCV does, and rounds as it does.
# One thread makes the three values of one pixel; OUT is float or __half.
KERNEL = r"""
extern "C" __global__ void prepare(
    const unsigned char *source, int rows, int columns, OUT *result, int out_rows, int out_columns,
    int swap, float mean0, float mean1, float mean2, float scale0, float scale1, float scale2)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= out_columns || y >= out_rows) return;
    const float step_y = (float)rows / out_rows, step_x = (float)columns / out_columns;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    if (step_y >= 1.0f && step_x >= 1.0f) {
        const float top = y * step_y, bottom = fminf((y + 1) * step_y, (float)rows);
        const float left = x * step_x, right = fminf((x + 1) * step_x, (float)columns);
        float area = 0.0f;
        for (int v = (int)top; v < rows && v < bottom; ++v) {
            const float height = fminf(v + 1.0f, bottom) - fmaxf((float)v, top);
            for (int u = (int)left; u < columns && u < right; ++u) {
                const float weight = height * (fminf(u + 1.0f, right) - fmaxf((float)u, left));
                const unsigned char *pixel = source + 3 * ((size_t)v * columns + u);
                for (int c = 0; c < 3; ++c) sum[c] += weight * pixel[c];
                area += weight;
            }
        }
        for (int c = 0; c < 3; ++c) sum[c] /= area;
    } else {
        const float v = (y + 0.5f) * step_y - 0.5f, u = (x + 0.5f) * step_x - 0.5f;
        const int v0 = (int)floorf(v), u0 = (int)floorf(u);
        for (int dv = 0; dv < 2; ++dv) {
            const float weight_v = dv ? v - v0 : 1.0f - (v - v0);
            const int row = v0 + dv < 0 ? 0 : (v0 + dv >= rows ? rows - 1 : v0 + dv);
            for (int du = 0; du < 2; ++du) {
                const float weight = weight_v * (du ? u - u0 : 1.0f - (u - u0));
                const int column = u0 + du < 0 ? 0 : (u0 + du >= columns ? columns - 1 : u0 + du);
                const unsigned char *pixel = source + 3 * ((size_t)row * columns + column);
                for (int c = 0; c < 3; ++c) sum[c] += weight * pixel[c];
            }
        }
    }
    const float mean[3] = {mean0, mean1, mean2}, scale[3] = {scale0, scale1, scale2};
    const size_t plane = (size_t)out_rows * out_columns, place = (size_t)y * out_columns + x;
    for (int c = 0; c < 3; ++c)
        result[c * plane + place] = (OUT)((rintf(sum[swap ? 2 - c : c]) - mean[c]) * scale[c]);
}
"""
THREADS = (32, 8, 1)


class FrameStager(Protocol):
    """Brings frames to the device."""

    name: str

    def __call__(self, frame: Image, size: Size) -> Tensor:
        """RGB uint8 [H, W, 3] -> float [1, 3, rows, columns] in 0..255 on the device."""
        ...


class CpuStager:
    """OpenCV, then PyTorch on the CPU (or, for tests, a plain copy to another device)."""

    name = "OpenCV"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, frame: Image, size: Size) -> Tensor:
        # a frame of this size may be a view, mirrored or read-only, which PyTorch does not take
        small = np.require(resize(frame, size), requirements=["C", "W"])
        image = torch.from_numpy(small).to(self._device)
        return image.permute(2, 0, 1)[None].float()


class PinnedStager:
    """OpenCV into a pinned buffer, from which a copy starts that nothing waits for.

    Two buffers take turns: a frame is written while the last one's copy may still be under way.

    Args:
        device: a GPU; pin: False uses ordinary memory, for tests without a GPU.
    """

    name = "OpenCV and pinned memory"

    def __init__(self, device: torch.device, pin: bool = True) -> None:
        self._device, self._pin = device, pin
        self._buffers: list[Tensor] = []
        self._copied: list[Any] = [None, None]
        self._turn = 0

    def __call__(self, frame: Image, size: Size) -> Tensor:
        shape = (*size, 3)
        if not self._buffers or self._buffers[0].shape != shape:
            self._wait()
            self._buffers = [
                torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=self._pin)
                for _ in range(2)
            ]
        self._turn = 1 - self._turn
        if self._copied[self._turn] is not None:
            self._copied[self._turn].synchronize()
        buffer = self._buffers[self._turn]
        np.copyto(buffer.numpy(), resize(frame, size))
        image = buffer.to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            self._copied[self._turn] = torch.cuda.Event()
            self._copied[self._turn].record()
        elif image is buffer:  # the CPU, in a test: the buffer is written again
            image = image.clone()
        return image.permute(2, 0, 1)[None].float()

    def _wait(self) -> None:
        for event in self._copied:
            if event is not None:
                event.synchronize()
        self._copied = [None, None]


class MappedStager:
    """A mapped buffer, read in place by one kernel that resizes and makes planes of the colors.

    For a GPU that shares the CPU's memory (Jetson). It works in the primary context, which is
    PyTorch's; never executed on the machine it was written on.

    Args:
        device: the GPU; dtype: torch.float32 or torch.float16, of what it makes.

    Raises:
        RuntimeUnavailableError: pycuda cannot be imported, or the kernel not be compiled.
    """

    name = "pycuda, mapped memory"

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        try:
            import pycuda.driver as driver
            from pycuda.compiler import SourceModule
        except (ImportError, RuntimeError) as error:
            raise RuntimeUnavailableError(f"pycuda cannot be imported ({error})") from None
        torch.cuda.init()
        torch.zeros(1, device=device)  # PyTorch makes the context, pycuda joins it
        driver.init()
        self._driver, self._device, self._dtype = driver, device, dtype
        self._context = driver.Device(device.index or 0).retain_primary_context()
        self._context.push()
        try:
            out = "__half" if dtype == torch.float16 else "float"
            source = f"#include <cuda_fp16.h>\n#define OUT {out}\n{KERNEL}"
            self._kernel = SourceModule(source, no_extern_c=True).get_function("prepare")
            self._stream = driver.Stream()
        except Exception as error:  # nvcc is missing, or says no
            raise RuntimeUnavailableError(f"pycuda cannot compile the kernel ({error})") from None
        finally:
            self._context.pop()
        self._torch_stream = torch.cuda.ExternalStream(self._stream.handle, device=device)
        self._buffers: list[Any] = []
        self._turn = 0

    def __call__(self, frame: Image, size: Size) -> Tensor:
        # memory given back by PyTorch's stream may still be in use there
        self._torch_stream.wait_stream(torch.cuda.current_stream(self._device))
        result = torch.empty(1, 3, *size, dtype=self._dtype, device=self._device)
        self._context.push()
        try:
            buffer, used = self._buffer(frame.shape)
            used.synchronize()
            np.copyto(buffer, frame)
            grid = (-(-size[1] // THREADS[0]), -(-size[0] // THREADS[1]))
            self._kernel(
                np.intp(buffer.base.get_device_pointer()),
                *(np.int32(side) for side in frame.shape[:2]),
                np.intp(result.data_ptr()),
                *(np.int32(side) for side in size),
                np.int32(0),
                *(np.float32(value) for value in (0, 0, 0, 1, 1, 1)),
                block=THREADS,
                grid=grid,
                stream=self._stream,
            )
            used.record(self._stream)
        finally:
            self._context.pop()
        torch.cuda.current_stream(self._device).wait_stream(self._torch_stream)
        return result.float()

    def _buffer(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        driver = self._driver
        if not self._buffers or self._buffers[0][0].shape != shape:
            self._stream.synchronize()
            mapped = driver.host_alloc_flags.DEVICEMAP
            self._buffers = [
                (driver.pagelocked_empty(shape, np.uint8, mem_flags=mapped), driver.Event())
                for _ in range(2)
            ]
        self._turn = 1 - self._turn
        return self._buffers[self._turn]


def make_stager(device: torch.device) -> FrameStager:
    """The stager for a device; the log says why it is not the mapped one on a GPU."""
    if device.type != "cuda":
        return CpuStager(device)
    if not getattr(torch.cuda.get_device_properties(device), "is_integrated", False):
        log.debug("frames go through pinned memory: the GPU has its own memory")
        return PinnedStager(device)
    try:
        return MappedStager(device)
    except RuntimeUnavailableError as error:
        log.info("frames go through pinned memory: %s", error)
        return PinnedStager(device)
