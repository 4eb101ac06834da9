"""The memory of STM that grows with the video: what a fixed one is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stremn_ros.errors import CapacityError, InputError
from stremn_ros.memory.bank import NEW, SlotMemory, Update

LINEAR_FRAMES = 5  # between two templates of the rule `linear`, as in STM
CHUNK = 16  # templates by which the buffers grow
MAX_TEMPLATES = 2048  # 10,000 frames at one template every five


class GrowingMemory(SlotMemory):
    """The seed, a template every few updates, and the newest: bytes and time grow with the frames.

    As in STM only keys and values are kept (templates are needed to fuse, and nothing is fused),
    so its bytes are not made to look worse than they are.

    Args:
        keep_every: updates from one kept template to the next; the newest is written over while
            it lies nearer to the last one kept. With an update every five frames, 1 keeps a
            template every five frames, as the paper does.
        max_templates: of one object; ``remember`` refuses more.
        Others: as SlotMemory; ``slots`` is not used.
    """

    def __init__(
        self, *args: Any, keep_every: int = 1, max_templates: int = MAX_TEMPLATES, **options: Any
    ) -> None:
        if keep_every < 1 or max_templates < 2:
            raise InputError(
                f"keep_every {keep_every} must be at least 1, max_templates {max_templates} at "
                "least 2"
            )
        self.keep_every, self.max_templates = keep_every, max_templates
        super().__init__(*args, **options)

    @property
    def grows(self) -> bool:
        return True

    @property
    def _limit(self) -> int:
        return self.max_templates

    def _allocate(
        self, key_channels: int, value_channels: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.slots = min(CHUNK, self.max_templates)
        super()._allocate(key_channels, value_channels, device, dtype)
        self.templates = self.templates[:, :0].clone()
        self.similarity = self.similarity[:, :0, :0].copy()

    def _grow(self) -> None:
        """Makes the buffers a chunk longer."""
        more = min(CHUNK, self.max_templates - self.slots)

        def longer(buffer: Tensor, dim: int, fill: float = 0.0) -> Tensor:
            shape = list(buffer.shape)
            shape[dim] = more
            return torch.cat([buffer, buffer.new_full(shape, fill)], dim=dim)

        self.keys, self.values = longer(self.keys, 1), longer(self.values, 1)
        self._bias = longer(self._bias, 2, -torch.inf)
        pad = ((0, 0), (0, more))
        self._order = np.pad(self._order, pad)
        self.born, self.fusions = np.pad(self.born, pad), np.pad(self.fusions, pad)
        self.slots += more

    def learn(self, object_id: int, template: Tensor, image_key: Tensor) -> None:
        """Keeps another given template; CapacityError at max_templates."""
        row = self._row(object_id)
        self._updates[row] += self.keep_every  # so that it is kept, and the one before it
        self.remember([object_id], template[None], image_key[None])
        self._updates[row] += self.keep_every

    def remember(self, object_ids: Sequence[int], templates: Tensor, image_keys: Tensor) -> None:
        """As SlotMemory.remember; CapacityError at max_templates, and then nothing is changed."""
        rows = np.array([self._row(object_id) for object_id in object_ids], np.int64)
        if not len(rows):
            return
        slots = np.array([self._place(row) for row in rows])
        fresh = slots == NEW
        if (self._used[rows[fresh]] >= self.max_templates).any():
            raise CapacityError(
                f"the linear memory is full: it holds {self.max_templates} templates of an object. "
                "It is a baseline for short videos; update rule least_similar never fills"
            )
        while (self._used[rows[fresh]] >= self.slots).any():
            self._grow()
        slots[fresh] = self._take(rows[fresh])
        self._write(torch.from_numpy(rows), torch.from_numpy(slots), templates, image_keys)
        self._updates[rows] += 1
        self.born[rows, slots] = self._updates[rows]
        for object_id, row, slot in zip(object_ids, rows, slots, strict=True):
            self.last_update[object_id] = Update(int(self._updates[row]), (), int(slot))

    def repeat(self, templates: int) -> None:
        """Makes every object as long as after so many templates, by repeating its own.

        For measurements: time and bytes are those of a long video, without playing it.
        """
        for row in range(len(self.rows)):
            while (used := int(self._used[row])) < min(templates, self.max_templates):
                if used == self.slots:
                    self._grow()
                slot = int(self._take(np.array([row]))[0])
                for buffer in (self.keys, self.values):
                    buffer[row, slot] = buffer[row, slot % used]
                self.born[row, slot] = self.born[row, used - 1] + self.keep_every
                self._updates[row] = self.born[row, slot]

    def _place(self, row: int) -> int:
        """The newest slot where it is to be written over, else NEW."""
        used = int(self._used[row])
        if used < 2 or self.born[row, used - 1] - self.born[row, used - 2] >= self.keep_every:
            return NEW
        return used - 1

    def _write(
        self,
        rows: Tensor,
        slots: Tensor,
        templates: Tensor,
        image_keys: Tensor,
        rewrite: bool = False,
    ) -> None:
        self._put(rows, slots, templates, *self._project(templates, image_keys))

    def _put(
        self, rows: Tensor, slots: Tensor, templates: Tensor, keys: Tensor | None, values: Tensor
    ) -> None:
        if keys is not None:
            self.keys[rows, slots] = keys.flatten(2).transpose(1, 2).to(self.keys.dtype)
        self.values[rows, slots] = values.flatten(2).transpose(1, 2).to(self.values.dtype)

    def state(self) -> dict[str, Tensor]:
        raise InputError("a linear memory is a baseline and cannot be saved; use another rule")

    def restore(self, object_ids: Sequence[int], state: Mapping[str, Tensor]) -> None:
        raise InputError("a linear memory is a baseline and cannot be restored; use another rule")

    def drop_newest(self, object_id: int) -> None:
        """Not done: what was appended is kept."""

    def adopt(self, other: SlotMemory) -> None:
        raise InputError("a linear memory is a baseline and adopts no objects; use another rule")
