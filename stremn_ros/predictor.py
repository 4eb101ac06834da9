"""Online prediction of the coming frames: frames in, frames out, with a memory of fixed size."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.errors import InputError, ModelError
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.motion import FlowExtrapolation, candidates
from stremn_ros.imaging.resize import resize
from stremn_ros.imaging.sizes import checked_size, fitted_size
from stremn_ros.memory import SlotMemory
from stremn_ros.model_folder import Network, find_model, load_prediction_network
from stremn_ros.network import space_time_read
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.network.prediction import STACK, STRIDE, Encoding, PredictionNetwork
from stremn_ros.runtime.choose import choose_device

MAX_HORIZON = 100
MAX_SIDE = 2048  # of the processing size


class ClipState:
    """What is remembered of clips that are seen frame by frame, all of one length and size.

    A template is written after the read of its frame: with every ``update_every``-th frame, from
    the first on that completes a stack. With a ``span`` the memory has two rows for each clip,
    which restart in turns, every ``2 * span`` frames, and the older one is read: what is read
    then reaches back ``span`` to ``2 * span`` frames, as in training, however long the stream.

    Args:
        network: in evaluation mode; clips: how many; size: (rows, columns), multiples of 8.
        slots, rule: of the memory; update_every, span: see above, span 0 for no new beginnings.
    """

    def __init__(
        self,
        network: PredictionNetwork,
        clips: int,
        size: tuple[int, int],
        slots: int = 5,
        rule: str = "least_similar",
        update_every: int = 2,
        span: int = 0,
    ) -> None:
        self.network, self.clips, self.update_every = network, clips, update_every
        config = network.config
        device = next(network.parameters()).device
        self._half = max(1, span // update_every) if span else 0
        self.memory = SlotMemory(
            clips * (2 if span else 1),
            slots,
            (config.template_channels, size[0] // STRIDE, size[1] // STRIDE),
            config.key_channels,
            config.value_channels,
            fuse=network.fusion,
            project=lambda x, key: (network.memory_key(x, key), network.memory_value(x)),
            rule=rule,
            device=device,
        )
        self._flow = FlowExtrapolation() if config.head == "blend" else None
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.memory.reset()
        config = self.network.config
        self.frames: deque[Tensor] = deque(maxlen=config.kept)
        self.seen = self._writes = 0
        # of the newest frames, each when it was the newest: as far back as references lie
        self._encodings: deque[Encoding] = deque(maxlen=config.ages(config.kept)[-1] + 1)
        self._due = False

    def copy(self, other: ClipState) -> None:
        """Becomes what ``other`` is, of the same network and sizes; no buffer is allocated."""
        self.reset()
        self.memory.adopt(other.memory)
        self.frames.extend(other.frames)
        self.seen, self._writes = other.seen, other._writes
        self._encodings.extend(other._encodings)
        self._due = other._due

    def observe(self, frame: Tensor) -> None:
        """The next frame of each clip, [B, C, H, W] in 0..1."""
        if self._due:
            self._write()
        self.frames.append(frame)
        self.seen += 1
        if len(self.frames) < STACK:
            return
        stack = torch.stack(list(self.frames)[-STACK:], dim=1)
        self._encodings.append(self.network.encode(stack))
        self._due = (self.seen - STACK) % self.update_every == 0

    def predict(self) -> Tensor:
        """The frames that follow, [B, horizon of the network, C, H, W], not clipped.

        Raises:
            InputError: fewer frames than a stack were seen.
        """
        if not self._encodings:
            raise InputError(f"a prediction needs {STACK} frames; {self.seen} were seen")
        if not self._writes:  # the very first stack has only itself to read
            self._write()
        keys, values, mask = self.memory.contents()
        rows = [self.memory.rows[name] for name in self._read_ids()]
        if rows != list(range(len(keys))):
            keys, values = keys[rows], values[rows]
            mask = None if mask is None else mask[rows]
        ages = self.network.config.ages(self.seen)
        queries = [self._encodings[-1 - age] for age in ages]
        height, width = queries[0].key.shape[-2:]
        cells = torch.cat([query.key.flatten(2) for query in queries], dim=2).transpose(1, 2)
        affinity = self.network.config.affinity
        read = space_time_read(cells, keys, values, mask, affinity).transpose(1, 2)
        reads = torch.cat(read.unflatten(2, (len(ages), height, width)).unbind(2))
        asked = Encoding(*(torch.cat(maps) for maps in zip(*queries)))
        frames = torch.stack(list(self.frames), dim=1)
        return self.network.decode(reads, asked, frames, self._candidates(), ages).frames

    def _candidates(self) -> Tensor | None:
        if self._flow is None:
            return None
        previous, newest = (_to_images(self.frames[n]) for n in (-2, -1))
        horizon = self.network.config.horizon
        given = np.stack(
            [candidates(self._flow, a, b, horizon) for a, b in zip(previous, newest, strict=True)]
        )
        tensor = torch.from_numpy(np.ascontiguousarray(given.transpose(0, 1, 2, 5, 3, 4)))
        return tensor.to(self.frames[-1].device).float() / 255.0

    def _read_ids(self) -> Sequence[int]:
        """Ids of the memory's rows that are read: those that began earlier."""
        if not self._half or self._writes <= self._half:
            return range(self.clips)
        newest = (self._writes - 1) // self._half % 2
        return range(self.clips) if newest else range(self.clips, 2 * self.clips)

    def _write(self) -> None:
        query = self._encodings[-1]
        begins: set[int] = set()
        if not self._writes:
            begins = {0}
        elif self._half and self._writes % self._half == 0:
            begins = {self._writes // self._half % 2}
        for row in (0, 1) if self._half else (0,):
            ids = range(row * self.clips, (row + 1) * self.clips)
            if row in begins:
                for n, name in enumerate(ids):
                    self.memory.seed(name, query.template[n], query.key[n])
            elif ids[0] in self.memory.rows:
                self.memory.remember(ids, query.template, query.key)
        self._writes += 1
        self._due = False


def _to_images(frames: Tensor) -> NDArray[np.uint8]:
    """[B, C, H, W] in 0..1 -> uint8 [B, H, W, C]."""
    whole = (frames.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).cpu().numpy())


def extend(state: ClipState, horizon: int) -> Tensor:
    """``horizon`` frames, however many the network predicts at once: [B, horizon, C, H, W] in 0..1.

    Beyond the network's own horizon it takes its predictions for frames seen; ``state`` is then
    at the end of them.
    """
    parts = [state.predict().clamp(0.0, 1.0)]
    own = parts[0].shape[1]
    while own * len(parts) < horizon:
        for n in range(own):
            state.observe(parts[-1][:, n])
        parts.append(state.predict().clamp(0.0, 1.0))
    return torch.cat(parts, dim=1)[:, :horizon]


@torch.no_grad()
def forecast(
    network: Network,
    frames: Tensor,
    horizon: int,
    slots: int = 5,
    rule: str = "least_similar",
    update_every: int = 2,
) -> Tensor:
    """The frames that follow a batch of clips.

    Args:
        network: in evaluation mode; frames: [B, T, C, H, W] in 0..1, T at least 3.

    Returns:
        [B, horizon, C, H, W] in 0..1.
    """
    if isinstance(network, ConvLstm):
        return network(frames, horizon).clamp(0.0, 1.0)
    clips, size = len(frames), (frames.shape[-2], frames.shape[-1])
    state = ClipState(network, clips, size, slots, rule, update_every)
    for t in range(frames.shape[1]):
        state.observe(frames[:, t])
    return extend(state, horizon)


class Predictor:
    """Predicts the coming frames of one stream.

    Args:
        network: of the model.
        processing_size: shorter side that the network works at (the longer follows from the first
            frame's aspect), or (rows, columns); rounded to multiples of 8. Predictions come out at
            the frames' size.
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
        network: PredictionNetwork,
        *,
        processing_size: int | tuple[int, int] = 128,
        slots: int = 5,
        update_rule: str = "least_similar",
        update_every: int = 2,
        memory_span: int = 10,
        observe: int = 10,
    ) -> None:
        if observe < STACK:
            raise InputError(f"observe is {observe}; the network needs at least {STACK} frames")
        if update_every < 1:
            raise InputError(f"update_every is {update_every}; it must be at least 1")
        if memory_span < 0:
            raise InputError(f"memory_span is {memory_span}; it must be 0 (never) or more frames")
        self.network = network.eval()
        self.horizon, self.observe = network.config.horizon, observe
        self._requested_size = checked_size(processing_size, MAX_SIDE)
        self._options: dict[str, Any] = {
            "slots": slots,
            "rule": update_rule,
            "update_every": update_every,
            "span": memory_span,
        }
        self._device = next(network.parameters()).device
        # shows at once whether slots and rule are right; the real one is made for the first frame
        ClipState(network, 1, (STRIDE, STRIDE), **self._options)
        self._state: ClipState | None = None
        self._ahead: ClipState | None = None
        self._size: tuple[int, int] | None = None  # of the frames
        self._expected: Tensor | None = None
        self.error: float | None = None
        self.change: float | None = None

    @classmethod
    def load(cls, model: str = "predict_rgb", *, device: str = "auto", **options: Any) -> Predictor:
        """A predictor with a model's weights.

        Args:
            model: a name under models/, or a path to a model folder.
            device: auto, cpu, cuda or cuda:N.
            **options: arguments of ``Predictor``; what is absent or None is the model's default.

        Raises:
            ModelError: no such model, a damaged one, or one that cannot run online.
            RuntimeUnavailableError: no such device.
            InputError: an option out of range.
        """
        network, spec = load_prediction_network(find_model(model))
        if isinstance(network, ConvLstm):
            raise ModelError(f"{model} is the ConvLSTM baseline, which only `evaluate` runs")
        network = network.to(choose_device(device))
        given = {key: value for key, value in options.items() if value is not None}
        return cls(network, **{**spec.defaults, **given})

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
        self._expected = self.error = self.change = None
        self._size = None

    @torch.no_grad()
    def step(
        self, frame: NDArray[np.uint8], horizon: int | None = None
    ) -> NDArray[np.uint8] | None:
        """Takes in a frame and predicts those that follow.

        Afterwards ``error`` is the mean absolute difference, 0..1, between this frame and what
        was predicted for it one frame ago, at the processing size, and ``change`` that between
        this frame and the one before it; None where nothing was predicted.

        Args:
            frame: uint8 [H, W, 3], RGB.
            horizon: how many frames to predict; None for the network's own number.

        Returns:
            uint8 [horizon, H, W, 3], or None until ``observe`` frames were seen.

        Raises:
            InputError: not such a frame, of another size than the ones before (reset first), or a
                horizon out of range. Nothing is changed.
        """
        check_frame(frame)
        horizon = self.horizon if horizon is None else horizon
        if not 1 <= horizon <= MAX_HORIZON:
            raise InputError(f"horizon is {horizon}; it must be 1..{MAX_HORIZON}")
        size = (frame.shape[0], frame.shape[1])
        if self._size is not None and size != self._size:
            raise InputError(
                f"the frame is {size[0]}x{size[1]}, those before were {self._size[0]}x"
                f"{self._size[1]}; reset the predictor to change the size"
            )
        state = self._prepared(size)
        tensor = self._to_tensor(frame)
        self.error = self.change = None
        if self._expected is not None:
            self.error = float((self._expected - tensor).abs().mean())
            self.change = float((state.frames[-1] - tensor).abs().mean())
        state.observe(tensor)
        self._expected = None
        if state.seen < self.observe:
            return None
        if horizon > self.horizon:
            assert self._ahead is not None
            self._ahead.copy(state)
            future = extend(self._ahead, horizon)
        else:
            future = state.predict().clamp(0.0, 1.0)
        self._expected = future[:, 0].clone()
        return self._to_frames(future[0, :horizon], size)

    def _processing(self, size: tuple[int, int]) -> tuple[int, int]:
        return fitted_size(self._requested_size, size, STRIDE)

    def _prepared(self, size: tuple[int, int]) -> ClipState:
        """The state for frames of this size; made again only where the working size changes."""
        self._size = size
        height, width = self._processing(size)
        cells = (height // STRIDE, width // STRIDE)
        if self._state is None or self._state.memory.template_shape[1:] != cells:
            self._state, self._ahead = (
                ClipState(self.network, 1, (height, width), **self._options) for _ in range(2)
            )
        return self._state

    def _to_tensor(self, frame: NDArray[np.uint8]) -> Tensor:
        height, width = self._processing((frame.shape[0], frame.shape[1]))
        if self.network.config.colours == 1:
            frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, :, None]  # type: ignore[assignment]
        if frame.shape[:2] != (height, width):
            frame = resize(frame, (height, width)).reshape(height, width, -1)
        tensor = torch.from_numpy(np.ascontiguousarray(frame)).to(self._device)
        return tensor.permute(2, 0, 1)[None].float() / 255.0

    def _to_frames(self, future: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        images = _to_images(future)
        if images.shape[3] == 1:
            images = np.repeat(images, 3, axis=3)
        if images.shape[1:3] == size:
            return images
        return np.stack(
            [cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for image in images]
        ).astype(np.uint8)
