"""What is remembered of clips while they are seen frame by frame, and what is predicted of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stremn_ros.errors import InputError
from stremn_ros.imaging.motion import HalfFlow
from stremn_ros.memory import SlotMemory
from stremn_ros.model_folder import Network
from stremn_ros.network import space_time_read
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.network.flow_prediction import FlowEncoding, FlowPredictionNetwork
from stremn_ros.network.prediction import STACK, Decoded, Encoding, PredictionNetwork
from stremn_ros.runtime.flow_stages import FlowStages

_Encoding = TypeVar("_Encoding", Encoding, FlowEncoding)


class Future(NamedTuple):
    """What is predicted."""

    frames: Tensor  # [B, T, C, H, W] in 0..1
    spread: Tensor | None  # [B, T, H, W]: expected absolute error, where the network says it

    def last(self) -> Future:
        """The last frame alone, T 1."""
        return Future(self.frames[:, -1:], None if self.spread is None else self.spread[:, -1:])


class ClipState(ABC, Generic[_Encoding]):
    """What is remembered of clips that are seen frame by frame, all of one length and size.

    A template is written after the read of its frame: with every ``update_every``-th frame, from
    the first on that completes a stack. With a ``span`` the memory has two rows for each clip,
    which restart in turns, every ``2 * span`` frames, and the older one is read: what is read
    then reaches back ``span`` to ``2 * span`` frames, as in training, however long the stream.

    Args:
        memory: with a row for each clip, or two with a span; clips: how many.
        horizon: how many frames the network predicts at once.
        kept: of the newest frames; encodings: of the newest encodings.
        update_every, span: see above, span 0 for no new beginnings.
    """

    def __init__(
        self,
        memory: SlotMemory,
        clips: int,
        horizon: int,
        kept: int,
        encodings: int,
        update_every: int,
        span: int,
    ) -> None:
        self.memory, self.clips, self.update_every = memory, clips, update_every
        self.horizon = horizon
        self._half = max(1, span // update_every) if span else 0
        self.frames: deque[Tensor] = deque(maxlen=kept)
        self._encodings: deque[_Encoding] = deque(maxlen=encodings)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.memory.reset()
        self.frames.clear()
        self._encodings.clear()
        self.seen = self._writes = 0
        self._due = False

    def copy(self, other: ClipState[_Encoding]) -> None:
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
        encoding = self._encode()
        if encoding is not None:
            self._encodings.append(encoding)
            self._due = (self.seen - STACK) % self.update_every == 0

    def predict(self, steps: Sequence[int] | None = None) -> Decoded:
        """The frames that follow, not clipped.

        Args:
            steps: which of them, 1 for the next frame up to the network's horizon; None for all.

        Raises:
            InputError: fewer frames than a stack were seen.
        """
        if not self._encodings:
            raise InputError(f"a prediction needs {STACK} frames; {self.seen} were seen")
        return self._decode(steps)

    @abstractmethod
    def _encode(self) -> _Encoding | None:
        """The newest frames' encoding; None while they are too few."""

    @abstractmethod
    def _decode(self, steps: Sequence[int] | None) -> Decoded:
        """What follows, of what was encoded and is remembered."""

    def _contents(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and mask of the rows that are read: those that began earlier."""
        keys, values, mask = self.memory.contents()
        rows = [self.memory.rows[name] for name in self._read_ids()]
        if rows != list(range(len(keys))):
            keys, values = keys[rows], values[rows]
            mask = None if mask is None else mask[rows]
        return keys, values, mask

    def _read_ids(self) -> Sequence[int]:
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


class StackedState(ClipState[Encoding]):
    """Of a network that sees three stacked frames.

    Args:
        network: in evaluation mode; clips: how many; size: (rows, columns), multiples of its
        stride. The rest as in ``new_state``.
    """

    def __init__(
        self,
        network: PredictionNetwork,
        clips: int,
        size: tuple[int, int],
        slots: int,
        rule: str,
        update_every: int,
        span: int,
    ) -> None:
        self.network = network
        config = network.config
        memory = SlotMemory(
            clips * (2 if span else 1),
            slots,
            (config.template_channels, size[0] // network.stride, size[1] // network.stride),
            config.key_channels,
            config.value_channels,
            fuse=network.fusion,
            project=lambda x, key: (network.memory_key(x, key), network.memory_value(x)),
            rule=rule,
            device=next(network.parameters()).device,
        )
        # of encodings as far back as references lie
        encodings = config.ages(config.kept)[-1] + 1
        super().__init__(memory, clips, config.horizon, config.kept, encodings, update_every, span)

    def _encode(self) -> Encoding | None:
        if len(self.frames) < STACK:
            return None
        return self.network.encode(torch.stack(list(self.frames)[-STACK:], dim=1))

    def _decode(self, steps: Sequence[int] | None) -> Decoded:
        if not self._writes:  # the very first stack has only itself to read
            self._write()
        keys, values, mask = self._contents()
        ages = self.network.config.ages(self.seen)
        queries = [self._encodings[-1 - age] for age in ages]
        height, width = queries[0].key.shape[-2:]
        cells = torch.cat([query.key.flatten(2) for query in queries], dim=2).transpose(1, 2)
        affinity = self.network.config.affinity
        read = space_time_read(cells, keys, values, mask, affinity).transpose(1, 2)
        reads = torch.cat(read.unflatten(2, (len(ages), height, width)).unbind(2))
        asked = Encoding(*(torch.cat(maps) for maps in zip(*queries)))
        frames = torch.stack(list(self.frames), dim=1)
        decoded = self.network.decode(reads, asked, frames, ages)
        if steps is None:
            return decoded
        return Decoded(decoded.frames[:, [step - 1 for step in steps]])  # made all together


class FlowState(ClipState[FlowEncoding]):
    """Of a network that is given the optical flow.

    Args:
        stages: of the network; the rest as in ``StackedState``.

    Attributes:
        with_memory: False leaves the memory out of all predictions, to see what it is worth.
    """

    with_memory = True

    def __init__(
        self,
        stages: FlowStages,
        clips: int,
        size: tuple[int, int],
        slots: int,
        rule: str,
        update_every: int,
        span: int,
    ) -> None:
        self.stages = stages
        config, stride = stages.config, stages.stride
        memory = SlotMemory(
            clips * (2 if span else 1),
            slots,
            (config.template_channels, size[0] // stride, size[1] // stride),
            config.key_channels,
            config.value_channels,
            fuse=stages.fuse,
            project=stages.project,
            compare=stages.compare,
            rule=rule,
            device=stages.device,
        )
        self._flow = HalfFlow()
        self._flows: deque[Tensor] = deque(maxlen=2)
        self._images: NDArray[np.uint8] | None = None  # of the newest frame
        super().__init__(memory, clips, config.horizon, 2, 1, update_every, span)

    def reset(self) -> None:
        super().reset()
        self._flows.clear()
        self._images = None

    def copy(self, other: ClipState[FlowEncoding]) -> None:
        super().copy(other)
        assert isinstance(other, FlowState)
        self._flows.extend(other._flows)
        self._images = other._images

    def _encode(self) -> FlowEncoding | None:
        before, self._images = self._images, to_images(self.frames[-1])
        if before is None:
            return None
        flows = np.stack([self._flow(*pair) for pair in zip(before, self._images, strict=True)])
        self._flows.append(torch.from_numpy(flows).to(self.stages.device))
        if len(self._flows) < STACK - 1:
            return None
        return self.stages.encode(*self.frames, *self._flows)

    def _decode(self, steps: Sequence[int] | None) -> Decoded:
        contents = self._contents() if self._writes and self.with_memory else None
        return self.stages.predict(
            self._encodings[-1], self.frames[-1], self._flows[-1], contents, steps
        )


def new_state(
    network: PredictionNetwork | FlowPredictionNetwork | FlowStages,
    clips: int,
    size: tuple[int, int],
    slots: int = 5,
    rule: str = "least_similar",
    update_every: int = 2,
    span: int = 0,
) -> StackedState | FlowState:
    """The state of clips for a network.

    Args:
        network: in evaluation mode, or the stages of one that is given the flow.
        clips: how many; size: (rows, columns), multiples of the network's stride.
        slots, rule: of the memory; update_every, span: see ClipState.
    """
    if isinstance(network, FlowPredictionNetwork):
        network = FlowStages(network, next(network.parameters()).device)
    if isinstance(network, FlowStages):
        return FlowState(network, clips, size, slots, rule, update_every, span)
    return StackedState(network, clips, size, slots, rule, update_every, span)


def to_images(frames: Tensor) -> NDArray[np.uint8]:
    """[B, C, H, W] in 0..1 -> uint8 [B, H, W, C]."""
    whole = (frames.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).cpu().numpy())


def extend(state: StackedState | FlowState, steps: Sequence[int]) -> Future:
    """Frames that follow, however far the network sees at once, clipped to 0..1.

    Beyond the network's own horizon it takes its predictions for frames seen; ``state`` is then
    at the end of them. The expected error of a frame that was taken for seen is added to that of
    what was predicted from it.

    Args:
        state: of what was seen.
        steps: which frames are wanted, in rising order; 1 is the next one.
    """
    frames: list[Tensor] = []
    spreads: list[Tensor] = []
    before: Tensor | float = 0.0  # the expected error of what the next frames are made of
    for first in range(0, steps[-1], state.horizon):  # of the frames that the network sees at once
        wanted = [step - first for step in steps if first < step <= first + state.horizon]
        goes_on = steps[-1] > first + state.horizon
        decoded = state.predict(None if goes_on else wanted)
        future = decoded.frames.clamp(0.0, 1.0)
        kept = [step - 1 for step in wanted] if goes_on else slice(None)
        frames.append(future[:, kept])
        if decoded.spread is not None:
            spread = decoded.spread + before
            spreads.append(spread[:, kept])
            before = spread[:, -1:]
        if goes_on:
            for frame in future.unbind(1):
                state.observe(frame)
    return Future(torch.cat(frames, dim=1), torch.cat(spreads, dim=1) if spreads else None)


@torch.no_grad()
def forecast(
    network: Network,
    frames: Tensor,
    horizon: int,
    slots: int = 5,
    rule: str = "least_similar",
    update_every: int = 2,
    with_memory: bool = True,
) -> Future:
    """The frames that follow a batch of clips.

    Args:
        network: in evaluation mode; frames: [B, T, C, H, W] in 0..1, T at least 3.
        with_memory: False leaves the memory out, of a network that is given the flow.

    Raises:
        InputError: sides that are no multiples of the network's stride, or ``with_memory`` is False
            for a network that cannot do without.
    """
    if isinstance(network, ConvLstm):
        return Future(network(frames, horizon).clamp(0.0, 1.0), None)
    clips, size = len(frames), (frames.shape[-2], frames.shape[-1])
    if any(side % network.stride for side in size):
        raise InputError(
            f"the frames are {size[0]}x{size[1]}; this model needs sides that are multiples of "
            f"{network.stride}"
        )
    state = new_state(network, clips, size, slots, rule, update_every)
    if isinstance(state, FlowState):
        state.with_memory = with_memory
    elif not with_memory:
        raise InputError("only a model of the architecture `flow` can do without its memory")
    for t in range(frames.shape[1]):
        state.observe(frames[:, t])
    return extend(state, range(1, horizon + 1))
