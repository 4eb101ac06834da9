"""The preallocated bank of slots: what is remembered of each object, in a constant number of bytes.

Rows belong to objects and are kept dense (0..n-1) so that a read needs no gathering; a row moves
when another object is removed, which is why callers speak of rows only through ``rows``. Within a
row a slot stays where it was written; its age is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CapacityError, InputError, UnknownObjectError
from .rules import RULES
from .similarity import slot_similarity

MIN_SLOTS, MAX_SLOTS = 2, 16

Fuse = Callable[[Tensor, Tensor], Tensor]
Project = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SlotMemory:
    """Slots of up to ``objects`` objects: [objects, slots, ...], allocated once.

    Slot 0 of an object holds its seed and is locked: it is read, but never fused. When an object's
    slots are full, its rule picks a pair (i, j) of the others, i is distilled into j by the Fusion
    Cell and the new template takes i's place (paper, 3.2). With two slots there is nothing to
    fuse and the second holds the newest template: STM's first-and-previous memory.

    Args:
        objects: rows to allocate.
        slots: K, 2..16, the seed's included.
        template_shape: (C, h, w) of a template X.
        key_channels, value_channels: Ck and Cv.
        fuse: templates i and j [N, C, h, w] -> the new j (FusionCell).
        project: templates [N, C, h, w] and image keys [N, Ck, h, w] -> keys [N, Ck, h, w] and
            values [N, Cv, h, w].
        rule: a name in ``rules.RULES``.
        device, dtype: of the bank.

    Raises:
        InputError: slots out of range, or an unknown rule.
    """

    def __init__(
        self,
        objects: int,
        slots: int,
        template_shape: tuple[int, int, int],
        key_channels: int,
        value_channels: int,
        *,
        fuse: Fuse,
        project: Project,
        rule: str = "least_similar",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not MIN_SLOTS <= slots <= MAX_SLOTS:
            raise InputError(f"slots is {slots}; it must be {MIN_SLOTS}..{MAX_SLOTS}")
        if objects < 1:
            raise InputError(f"objects is {objects}; it must be at least 1")
        channels, height, width = template_shape
        cells = height * width

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(objects, slots, *shape, device=device, dtype=dtype)

        self.capacity, self.slots = objects, slots
        self.template_shape = template_shape
        self.templates = zeros(channels, height, width)
        self.keys = zeros(cells, key_channels)
        self.values = zeros(cells, value_channels)
        # additive mask of a read: -inf over the cells of an empty slot
        self._bias = zeros(cells)[:, None] - torch.inf
        self.similarity = np.zeros((objects, slots, slots), np.float32)
        self._used = np.zeros(objects, np.int64)
        self._order = np.zeros((objects, slots), np.int64)  # slots by age, the seed first
        self._updates = np.zeros(objects, np.int64)
        self.born = np.zeros((objects, slots), np.int64)  # update at which a slot was written
        self.fusions = np.zeros((objects, slots), np.int64)  # how often it absorbed another
        self.rows: dict[int, int] = {}
        self._fuse, self._project = fuse, project
        self.rule = rule

    @property
    def rule(self) -> str:
        """Name of the update rule; may be changed between frames."""
        return self._rule_name

    @rule.setter
    def rule(self, name: str) -> None:
        if name not in RULES:
            raise InputError(f"update rule {name!r} is unknown; known are {sorted(RULES)}")
        self._rule_name, self._rule = name, RULES[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; a constant of the object."""
        return sum(t.numel() * t.element_size() for t in self._tensors) + sum(
            array.nbytes for array in self._arrays.values()
        )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.templates, self.keys, self.values, self._bias

    @property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "similarity": self.similarity,
            "used": self._used,
            "order": self._order,
            "updates": self._updates,
            "born": self.born,
            "fusions": self.fusions,
        }

    @property
    def _parts(self) -> dict[str, Tensor]:
        """All that a row holds but its bias, which follows from the slots in use."""
        arrays = {name: torch.from_numpy(array) for name, array in self._arrays.items()}
        return {"templates": self.templates, "keys": self.keys, "values": self.values, **arrays}

    @property
    def ids(self) -> list[int]:
        """Object ids in the order of their rows."""
        return sorted(self.rows, key=self.rows.__getitem__)

    def used(self, object_id: int) -> int:
        """Slots in use by an object."""
        return int(self._used[self._row(object_id)])

    def order(self, object_id: int) -> list[int]:
        """An object's slots by age: the seed's, then oldest to newest."""
        row = self._row(object_id)
        return self._order[row, : self._used[row]].tolist()

    def seed(self, object_id: int, template: Tensor, image_key: Tensor) -> None:
        """Starts an object, or starts it again: its row holds this template only, locked.

        Args:
            template: [C, h, w]; image_key: [Ck, h, w] of the frame.

        Raises:
            CapacityError: all rows are taken; nothing is changed.
        """
        if object_id not in self.rows and len(self.rows) == self.capacity:
            raise CapacityError(
                f"there is room for {self.capacity} objects (max_objects); remove one first"
            )
        row = self.rows.setdefault(object_id, len(self.rows))
        self._clear(row)
        where = torch.tensor([row])
        self._write(where, torch.tensor([0]), template[None], image_key[None], compare=False)
        self._order[row, 0] = 0
        self._used[row] = 1
        self._bias[row, :, 0] = 0.0

    def remove(self, object_id: int) -> None:
        """Forgets an object; the last row moves into the hole.

        Raises:
            UnknownObjectError: the id is not in the bank.
        """
        row = self._row(object_id)
        last = len(self.rows) - 1
        if row != last:
            moved = next(key for key, value in self.rows.items() if value == last)
            for buffer in self._tensors:
                buffer[row].copy_(buffer[last])
            for array in self._arrays.values():
                array[row] = array[last]
            self.rows[moved] = row
        self._clear(last)
        del self.rows[object_id]

    def adopt(self, other: SlotMemory) -> None:
        """Takes over every object of another bank, slot by slot; the other objects are untouched.

        An object that is here already is replaced by the other bank's.

        Args:
            other: of the same slots, shapes and types; it is only read.

        Raises:
            InputError: banks that do not fit. CapacityError: not enough free rows. Nothing is
            changed in either case.
        """
        pairs = list(zip(self._tensors, other._tensors, strict=True))
        if any(a.shape[1:] != b.shape[1:] or a.dtype != b.dtype for a, b in pairs):
            here, there = (
                f"{bank.slots} slots of {tuple(bank.template_shape)}" for bank in (self, other)
            )
            raise InputError(f"a bank of {there} does not fit into one of {here}")
        if len(self.rows.keys() | other.rows.keys()) > self.capacity:
            raise CapacityError(
                f"there is room for {self.capacity} objects (max_objects), and "
                f"{len(self.rows)} are here; remove some first"
            )
        for object_id in other.ids:
            source = other.rows[object_id]
            row = self.rows.setdefault(object_id, len(self.rows))
            for mine, theirs in pairs:
                mine[row].copy_(theirs[source])
            for name, array in self._arrays.items():
                array[row] = other._arrays[name][source]

    def layout(self, objects: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of each tensor of ``state`` for so many objects."""
        return {
            name: (part.dtype, (objects, *part.shape[1:])) for name, part in self._parts.items()
        }

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the objects' rows hold, on the CPU: name -> [objects, ...]."""
        count = len(self.rows)
        return {
            name: part[:count].to("cpu", copy=True).contiguous()
            for name, part in self._parts.items()
        }

    def restore(self, object_ids: Sequence[int], state: Mapping[str, Tensor]) -> None:
        """Puts what ``state`` gave in the place of everything here; it then goes on from there.

        Args:
            object_ids: different ids in the order of the rows.
            state: as ``state`` returns it, from a bank of the same slots and shapes.

        Raises:
            InputError: a part that is missing, misshapen, not finite or contradicts another.
            CapacityError: more objects than rows. Nothing is changed in either case.
        """
        count = len(object_ids)
        if count > self.capacity:
            raise CapacityError(
                f"{count} objects do not fit: there is room for {self.capacity} (max_objects)"
            )
        for name, (dtype, shape) in self.layout(count).items():
            part = state.get(name)
            if part is None or part.dtype != dtype or tuple(part.shape) != shape:
                found = "missing" if part is None else f"{part.dtype} {list(part.shape)}"
                raise InputError(f"{name} must be {dtype} {list(shape)}; it is {found}")
            if dtype.is_floating_point and not torch.isfinite(part).all():
                raise InputError(f"{name} holds NaN or infinity")
            if not dtype.is_floating_point and bool((part < 0).any()):
                raise InputError(f"{name} holds a negative number")
        used = state["used"].numpy()
        for n, slots in enumerate(used):
            order = state["order"][n, :slots].tolist()
            if not 1 <= slots <= self.slots or order[0] or sorted(order) != list(range(slots)):
                raise InputError(
                    f"object {object_ids[n]} is said to use {slots} slots in the order {order}, "
                    "which cannot be"
                )
        self.reset()
        for name, part in self._parts.items():
            part[:count].copy_(state[name])
        for row, slots in enumerate(used):
            self._bias[row, :, :slots] = 0.0
        self.rows = {object_id: row for row, object_id in enumerate(object_ids)}

    def reset(self) -> None:
        """Forgets every object."""
        for row in range(len(self.rows)):
            self._clear(row)
        self.rows.clear()

    def remember(self, object_ids: Sequence[int], templates: Tensor, image_keys: Tensor) -> None:
        """Takes in the newest template of some objects.

        Args:
            object_ids: n different ids; templates: [n, C, h, w]; image_keys: [n, Ck, h, w].

        Raises:
            UnknownObjectError: an id is not in the bank; nothing is changed.
        """
        rows = np.array([self._row(object_id) for object_id in object_ids], np.int64)
        if not len(rows):
            return
        slots = np.empty(len(rows), np.int64)
        full: list[int] = []
        for n, row in enumerate(rows):
            used = self._used[row]
            if used < self.slots:
                slots[n] = used
                self._order[row, used] = used
                self._used[row] += 1
                self._bias[row, :, used] = 0.0
            else:
                full.append(n)
        if full:
            slots[full] = self._make_room(rows[full])
        self._write(torch.from_numpy(rows), torch.from_numpy(slots), templates, image_keys)
        self._updates[rows] += 1
        self.born[rows, slots] = self._updates[rows]
        self.fusions[rows, slots] = 0

    def contents(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a read attends to, for the rows in use.

        Returns:
            keys [n, M, Ck], values [n, M, Cv], and an additive mask [n, 1, M], or None where every
            slot among the M cells is in use.
        """
        count = len(self.rows)
        used = self._used[:count]
        most = int(used.max(initial=0))
        keys = self.keys[:count, :most].flatten(1, 2)
        values = self.values[:count, :most].flatten(1, 2)
        if (used == most).all():
            return keys, values, None
        return keys, values, self._bias[:count, :, :most].flatten(2)

    def _row(self, object_id: int) -> int:
        try:
            return self.rows[object_id]
        except KeyError:
            raise UnknownObjectError(
                f"object {object_id} is not tracked; tracked are {sorted(self.rows)}"
            ) from None

    def _clear(self, row: int) -> None:
        self._used[row] = 0
        self._bias[row] = -torch.inf
        self._updates[row] = 0
        self.born[row] = 0
        self.fusions[row] = 0

    def _make_room(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fuses a pair in each of these full rows; returns the slot that became free in each."""
        freed = np.empty(len(rows), np.int64)
        chosen: list[list[tuple[int, int]]] = []
        for n, row in enumerate(rows):
            unlocked = self._order[row, 1:]
            pairs = []
            if len(unlocked) > 1:
                table = self.similarity[row][np.ix_(unlocked, unlocked)]
                pairs = [(int(unlocked[i]), int(unlocked[j])) for i, j in self._rule(table)]
            freed[n] = pairs[0][0] if pairs else unlocked[0]
            chosen.append(pairs)
        for step in range(len(chosen[0])):  # a rule names equally many pairs for every object
            where = torch.from_numpy(rows)
            i = torch.tensor([pairs[step][0] for pairs in chosen])
            j = torch.tensor([pairs[step][1] for pairs in chosen])
            fused = self._fuse(self.templates[where, i], self.templates[where, j])
            _, height, width = self.template_shape
            kept_keys = self.keys[where, j].transpose(1, 2).unflatten(2, (height, width))
            self._write(where, j, fused, kept_keys)
            self.fusions[rows, j.numpy()] += self.fusions[rows, i.numpy()] + 1
        for n, row in enumerate(rows):
            order = [slot for slot in self._order[row] if slot != freed[n]]
            self._order[row] = [*order, freed[n]]
        return freed

    def _write(
        self,
        rows: Tensor,
        slots: Tensor,
        templates: Tensor,
        image_keys: Tensor,
        compare: bool = True,
    ) -> None:
        keys, values = self._project(templates, image_keys)
        keys, values = keys.flatten(2).transpose(1, 2), values.flatten(2).transpose(1, 2)
        self.templates[rows, slots] = templates.to(self.templates.dtype)
        self.keys[rows, slots] = keys.to(self.keys.dtype)
        self.values[rows, slots] = values.to(self.values.dtype)
        if compare and self.slots > 2:
            own = self.keys[rows, slots][:, None]
            others = self.keys[rows]
            forward = slot_similarity(own, others).float().cpu().numpy()
            backward = slot_similarity(others, own).float().cpu().numpy()
            r, s = rows.numpy(), slots.numpy()
            self.similarity[r, s, :] = forward
            self.similarity[r, :, s] = backward
