"""A click network on PyTorch or on ONNX Runtime: one crop of an image at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stremn_ros.errors import ModelError, RuntimeUnavailableError
from stremn_ros.network.clicks import ClickNetwork
from stremn_ros.runtime.building.builder import build_onnx
from stremn_ros.runtime.device import choose_device
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.onnx.sessions import new_session

log = logging.getLogger(__name__)

STAGE = "clicks"  # the only graph of a click network
RUNTIMES = ("auto", "torch", "onnxruntime")


class TorchClicks:
    """Runs a click network on eager PyTorch.

    Attributes:
        name: of the runtime, for people.
    """

    def __init__(self, network: ClickNetwork, device: torch.device) -> None:
        network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.eval()
        self._device = device
        self.name = f"torch ({device})"

    def __call__(
        self, crop: NDArray[np.uint8], hints: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float]:
        """A mask and how good it is predicted to be.

        Args:
            crop: RGB uint8 [S, S, 3]; hints: float32 [PLANES, S, S], see ``imaging.hints``.

        Returns:
            The probability float32 [S / 4, S / 4] of each pixel, and the predicted IoU, 0..1.
        """
        image = np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32)
        logits, quality = self._run(image, np.ascontiguousarray(hints[None]))
        # the exponential of a large number is infinite, and the probability then 0, as it should
        with np.errstate(over="ignore"):
            probability = 1.0 / (1.0 + np.exp(-logits[0, 0]))
            predicted = float(1.0 / (1.0 + np.exp(-quality[0])))
        return np.asarray(probability, np.float32), predicted

    def _run(
        self, image: NDArray[np.float32], hints: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            logits, quality = self._network(
                torch.from_numpy(image).to(self._device), torch.from_numpy(hints).to(self._device)
            )
        return logits.cpu().numpy(), quality.cpu().numpy()


class OnnxClicks(TorchClicks):
    """Runs a click network's export on ONNX Runtime's CPU provider.

    On one thread: a mask may take a moment longer, the frames of a stream may not.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported.
        ModelError: there is no export of this model, or one that is damaged.
    """

    def __init__(self, model: Path) -> None:
        onnxruntime = check_onnxruntime()
        self._session: Any = new_session(checked_files(model)[STAGE], threads=1)
        self.name = f"onnxruntime {onnxruntime.__version__} (cpu)"

    def _run(
        self, image: NDArray[np.float32], hints: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, quality = self._session.run(None, {"image": image, "hints": hints})
        return logits, quality


def make_clicks(
    network: ClickNetwork, runtime: str, device: str, model: Path, auto_build: bool = False
) -> TorchClicks:
    """A click network on a runtime; the log says which.

    ``auto`` takes ONNX Runtime on a CPU where it is installed and the model was exported, else
    PyTorch.

    Args:
        model: the folder that the network came from, to which its export belongs.
        auto_build: export the model first where that is missing, in a separate process.

    Raises:
        RuntimeUnavailableError: the runtime or device is unknown or not there.
        ModelError: the runtime was asked for, but its export is missing or damaged.
    """
    if runtime not in RUNTIMES:
        raise RuntimeUnavailableError(f"runtime {runtime!r} is unknown; use one of {RUNTIMES}")
    chosen = choose_device(device)
    if runtime == "onnxruntime" and chosen.type != "cpu":
        raise RuntimeUnavailableError("runtime onnxruntime runs on the CPU; use device cpu")
    if runtime == "torch" or chosen.type != "cpu":
        return TorchClicks(network, chosen)
    try:
        check_onnxruntime()
        if auto_build:
            build_onnx(model)
        return OnnxClicks(model)
    except (ModelError, RuntimeUnavailableError) as error:
        if runtime != "auto":
            raise
        log.info("%s runs on PyTorch: %s", model.name, error)
        return TorchClicks(network, chosen)
