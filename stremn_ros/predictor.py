"""Online prediction of the coming frames: frames in, frames out, with a memory of fixed size."""

from __future__ import annotations

import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_type_hints

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.clip_state import FlowState, Future, StackedState, extend, new_state, to_images
from stremn_ros.errors import InputError, ModelError, RuntimeUnavailableError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.resize import resize
from stremn_ros.imaging.sizes import checked_size, fitted_size, whole_number
from stremn_ros.mappings import build
from stremn_ros.memory.bank import MAX_SLOTS, MIN_SLOTS
from stremn_ros.model_folder import (
    CONFIG,
    PredictionSpec,
    find_model,
    load_prediction_network,
)
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.network.flow_prediction import FlowPredictionNetwork
from stremn_ros.network.prediction import STACK, PredictionNetwork
from stremn_ros.runtime.choose import check_prediction_runtime, choose_device, make_flow_stages
from stremn_ros.runtime.flow_stages import FlowStages

MAX_HORIZON = 100
MAX_SIDE = 2048  # of the processing size
TOLERANCE = 0.05  # of the confidence: 13 gray levels


def confidence(spread: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """How sure a prediction is, as an image.

    Args:
        spread: [rows, columns], the expected absolute error of each pixel (``Predictor.spread``);
        size: (H, W) of the image.

    Returns:
        uint8 [H, W]: 255 times the probability that a pixel is within ``TOLERANCE`` of what will
        come, by the Laplace distribution whose mean absolute error is the expected one.
    """
    sure = np.rint(-255.0 * np.expm1(-TOLERANCE / spread)).astype(np.uint8)
    if sure.shape != size:
        sure = cv2.resize(sure, size[::-1], interpolation=cv2.INTER_LINEAR)
    return sure


class Predictor:
    """Predicts the coming frames of one stream.

    Args:
        network: of the model, or the stages of one that is given the optical flow.
        processing_size: shorter side that the network works at (the longer follows from the first
            frame's aspect), or (rows, columns); rounded to multiples of the network's stride, 8 or
            16. Predictions come out at the frames' size.
        slots: of the memory.
        update_rule: of the memory; which two slots are fused.
        update_every: of the memory; it is written with every n-th frame.
        memory_span: the memory reaches back this many frames to twice as many; 0: to the start.
        observe: frames to see before the first prediction, at least 3.

    Raises:
        InputError: an argument out of range; the message gives the range.
    """

    def __init__(
        self,
        network: PredictionNetwork | FlowPredictionNetwork | FlowStages,
        *,
        processing_size: int | tuple[int, int] = 128,
        slots: int = 5,
        update_rule: str = "least_similar",
        update_every: int = 2,
        memory_span: int = 10,
        observe: int = 10,
    ) -> None:
        observe = whole_number(observe, "observe", STACK)
        if isinstance(network, FlowPredictionNetwork):
            network = FlowStages(network, next(network.parameters()).device)
        self.network: PredictionNetwork | FlowPredictionNetwork
        if isinstance(network, FlowStages):
            self.network, self._device = network.network, network.device
            self.runtime_name = network.name
        else:
            self.network, self._device = network.eval(), next(network.parameters()).device
            self.runtime_name = f"torch ({self._device})"
        self._source = network
        self.horizon, self.observe = network.config.horizon, observe
        self._requested_size = checked_size(processing_size, MAX_SIDE)
        self._options: dict[str, Any] = {
            "slots": whole_number(slots, "slots", MIN_SLOTS, MAX_SLOTS),
            "rule": update_rule,
            "update_every": whole_number(update_every, "update_every", 1),
            "span": whole_number(memory_span, "memory_span", 0),
        }
        # shows at once whether slots and rule are right; the real one is made for the first frame
        new_state(network, 1, (network.stride, network.stride), **self._options)
        self._state: StackedState | FlowState | None = None
        self._ahead: StackedState | FlowState | None = None
        self._size: tuple[int, int] | None = None  # of the frames
        self._expected: Tensor | None = None
        self.error: float | None = None
        self.change: float | None = None
        self.spread: NDArray[np.float32] | None = None

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "predict_rgb",
        *,
        device: str = "auto",
        runtime: str = "auto",
        auto_build: bool = False,
        **options: Any,
    ) -> Predictor:
        """A predictor with a model's weights.

        Args:
            model: a name under models/, or a path to a model folder.
            device: auto, cpu, cuda or cuda:N.
            runtime: auto, torch, or onnxruntime for a model of the architecture `flow` on a CPU.
            auto_build: export the model for ONNX Runtime where that has not been done.
            **options: arguments of ``Predictor``; what is absent or None is the model's default.

        Raises:
            ModelError: no such model, a damaged one, one that cannot run online, or its export is
                asked for and missing or damaged.
            RuntimeUnavailableError: no such device or runtime, or not for this model.
            InputError: an option out of range.
        """
        folder = find_model(model)
        network, spec = load_prediction_network(folder)
        if isinstance(network, ConvLstm):
            raise ModelError(f"{model} is the ConvLSTM baseline, which only `evaluate` runs")
        given = own_defaults(folder, spec)
        given.update((key, value) for key, value in options.items() if value is not None)
        if isinstance(network, FlowPredictionNetwork):
            return cls(make_flow_stages(network, runtime, device, folder, auto_build), **given)
        check_prediction_runtime(runtime)
        if runtime == "onnxruntime":
            raise RuntimeUnavailableError(
                f"{model} runs on PyTorch only; use runtime auto or torch, not {runtime!r}"
            )
        return cls(network.to(choose_device(device)), **given)

    @property
    def frames_seen(self) -> int:
        """Frames since the beginning or the last reset."""
        return 0 if self._state is None else self._state.seen

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(rows, columns) of the frames; None before the first one."""
        return self._size

    @property
    def processing_size(self) -> tuple[int, int] | None:
        """(rows, columns) that the network works at; None before the first frame."""
        return None if self._size is None else self._processing(self._size)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory; constant from the first frame on."""
        states = [state for state in (self._state, self._ahead) if state is not None]
        return sum(state.memory.nbytes for state in states)

    def reset(self) -> None:
        """Forgets every frame; the next may have another size."""
        if self._state is not None:
            self._state.reset()
        self._expected = self.error = self.change = self.spread = None
        self._size = None

    @torch.no_grad()
    def step(
        self, frame: NDArray[np.uint8], horizon: int | None = None, only_last: bool = False
    ) -> NDArray[np.uint8] | None:
        """Takes in a frame and predicts those that follow.

        Afterwards ``error`` is the mean absolute difference, 0..1, between this frame and what
        was predicted for it one frame ago, at the processing size, and ``change`` that between
        this frame and the one before it; None where nothing was predicted. ``spread``, float32
        [horizon, rows, columns] at the processing size, is the absolute error, 0..1, to expect of
        each pixel of the prediction; None without a prediction, or from a network that does not
        say it.

        Args:
            frame: uint8 [H, W, 3], RGB.
            horizon: how many frames to predict; None for the network's own number.
            only_last: return the last of them alone, and its ``spread``. It takes less time: of a
                network that is given the flow, the frames between are not made.

        Returns:
            uint8 [horizon, H, W, 3], or [1, H, W, 3] with ``only_last``; None until ``observe``
            frames were seen.

        Raises:
            InputError: not such a frame, of another size than the ones before (reset first), or a
                horizon out of range. Nothing is changed.
        """
        check_frame(frame)
        horizon = self.horizon if horizon is None else horizon
        horizon = whole_number(horizon, "horizon", 1, MAX_HORIZON)
        size = (frame.shape[0], frame.shape[1])
        if self._size is not None and size != self._size:
            raise InputError(
                f"the frame is {size[0]}x{size[1]}, those before were {self._size[0]}x"
                f"{self._size[1]}; reset the predictor to change the size"
            )
        state = self._prepared(size)
        tensor = self._to_tensor(frame)
        with self._source.scope() if isinstance(self._source, FlowStages) else nullcontext():
            future = self._advance(state, tensor, horizon, only_last)
        if future is None:
            return None
        if future.spread is not None:
            self.spread = future.spread[0].cpu().numpy()
        return self._to_frames(future.frames[0], size)

    def _advance(
        self, state: StackedState | FlowState, frame: Tensor, horizon: int, only_last: bool
    ) -> Future | None:
        """Takes in a frame [1, C, rows, columns]; what follows, or None."""
        expected, self._expected = self._expected, None
        self.error = self.change = self.spread = None
        if expected is not None:
            self.error = float((expected - frame).abs().mean())
            self.change = float((state.frames[-1] - frame).abs().mean())
        state.observe(frame)
        if state.seen < self.observe:
            return None
        ahead = state
        if horizon > self.horizon:
            assert self._ahead is not None
            self._ahead.copy(state)  # type: ignore[arg-type]
            ahead = self._ahead
        # the next frame is always made: ``error`` is told by it
        future = extend(ahead, sorted({1, horizon}) if only_last else range(1, horizon + 1))
        self._expected = future.frames[:, 0].clone()
        return future.last() if only_last else future

    def _processing(self, size: tuple[int, int]) -> tuple[int, int]:
        return fitted_size(self._requested_size, size, self._source.stride)

    def _prepared(self, size: tuple[int, int]) -> StackedState | FlowState:
        """The state for frames of this size; made again only where the working size changes."""
        self._size = size
        height, width = self._processing(size)
        cells = (height // self._source.stride, width // self._source.stride)
        if self._state is None or self._state.memory.template_shape[1:] != cells:
            self._state, self._ahead = (
                new_state(self._source, 1, (height, width), **self._options) for _ in range(2)
            )
        return self._state

    def _to_tensor(self, frame: NDArray[np.uint8]) -> Tensor:
        height, width = self._processing((frame.shape[0], frame.shape[1]))
        if self.network.config.colours == 1:
            frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, :, None]  # type: ignore[assignment]
        if frame.shape[:2] != (height, width):
            frame = resize(frame, (height, width)).reshape(height, width, -1)
        frame = np.require(frame, requirements=["C", "W"])  # it may be a read-only one
        tensor = torch.from_numpy(frame).to(self._device)
        return tensor.permute(2, 0, 1)[None].float() / 255.0

    def _to_frames(self, future: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        images = to_images(future)
        if images.shape[3] == 1:
            images = np.repeat(images, 3, axis=3)
        if images.shape[1:3] == size:
            return images
        return np.stack(
            [cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for image in images]
        ).astype(np.uint8)


def own_defaults(folder: Path, spec: PredictionSpec) -> dict[str, Any]:
    """A model's own values of what ``Predictor`` takes.

    Raises:
        ModelError: one that it does not take, or of another type.
    """
    kinds = get_type_hints(Predictor.__init__)
    fields = [(name, kinds[name], None) for name in kinds if name not in ("network", "return")]
    known = dataclasses.make_dataclass("Defaults", fields)
    made: Any = build(known, spec.defaults, f"{folder / CONFIG}: defaults", ModelError)
    return {name: getattr(made, name) for name in spec.defaults}
