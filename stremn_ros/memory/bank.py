"""The preallocated bank of slots: what is remembered of each object, in a constant number of bytes.

Rows belong to objects and are kept dense (0..n-1) so that a read needs no gathering; a row moves
when another object is removed, which is why callers speak of rows only through ``rows``. Within a
row a slot stays where it was written; its age is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stremn_ros.errors import CapacityError, InputError, ModelError, UnknownObjectError
from stremn_ros.memory.rules import RULES, Table, find_rule
from stremn_ros.memory.similarity import change, mutual_similarity

MIN_SLOTS, MAX_SLOTS = 2, 16

Fuse = Callable[[Tensor, Tensor], Tensor]
Project = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Compare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Score = Callable[[Tensor, Tensor], Tensor]

NEW = -1  # stands for the new template among slots


@dataclass(frozen=True)
class Update:
    """What the last update of an object did.

    Attributes:
        number: of the update, from 1.
        pairs: the slots (i, j) that were fused, i into j, in this order; i is NEW where the new
            template itself was fused (input_to_memory).
        slot: where the new template lies now; None where it was only fused.
    """

    number: int
    pairs: tuple[tuple[int, int], ...]
    slot: int | None


class SlotMemory:
    """Slots of up to ``objects`` objects: [objects, slots, ...], allocated once.

    Slot 0 of an object holds its seed and is locked: it is read, but never fused. Masks that are
    given later (``learn``) are locked beside it, in all but two slots at most. When an object's
    slots are full, its rule picks a pair (i, j) of the others, i is distilled into j by the Fusion
    Cell and the new template takes i's place (paper, 3.2). With two slots there is nothing to
    fuse and the second holds the newest template: STM's first-and-previous memory. With
    ``input_to_memory`` (I2M, Eq. 9) the new template itself is distilled into a slot and not kept.

    Args:
        objects: rows to allocate.
        slots: K, 2..16, the seed's included.
        template_shape: (C, h, w) of a template X.
        key_channels, value_channels: Ck and Cv.
        fuse: templates i and j [N, C, h, w] -> the new j (FusionCell).
        project: templates [N, C, h, w] and image keys [N, Ck, h, w] -> keys [N, Ck, h, w] and
            values [N, Cv, h, w].
        compare: keys [N, 1, hw, Ck] and [N, K, hw, Ck] -> similarities (a, b) and (b, a), each
            [N, K] (``mutual_similarity``).
        score: templates [N, n, C, h, w] and similarities [N, n, n] -> scores [N, n, n]
            (PairScorer), for the rule ``learned``.
        rule: a name in ``rules.RULES``; input_to_memory: see above.
        carried: name -> shape of what each frame hands to the next one for an object, beside its
            slots (``carried[name]``: [objects, *shape], zero until ``carry`` writes it).
        device, dtype: of the bank.

    Raises:
        InputError: slots out of range, an unknown rule, or one without an input_to_memory form.
        ModelError: the rule needs a scorer.
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
        compare: Compare = mutual_similarity,
        score: Score | None = None,
        rule: str = "least_similar",
        input_to_memory: bool = False,
        carried: Mapping[str, tuple[int, ...]] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not MIN_SLOTS <= slots <= MAX_SLOTS:
            raise InputError(f"slots is {slots}; it must be {MIN_SLOTS}..{MAX_SLOTS}")
        if objects < 1:
            raise InputError(f"objects is {objects}; it must be at least 1")
        self.capacity, self.slots = objects, slots
        self.template_shape = template_shape
        self.rows: dict[int, int] = {}
        self.last_update: dict[int, Update] = {}
        self._fuse, self._project = fuse, project
        self._compare, self._score = compare, score
        self.input_to_memory = input_to_memory
        self.rule = rule
        self.carried = {
            name: torch.zeros(objects, *shape, device=device, dtype=dtype)
            for name, shape in (carried or {}).items()
        }
        self._allocate(key_channels, value_channels, torch.device(device), dtype)

    def _allocate(
        self, key_channels: int, value_channels: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        channels, height, width = self.template_shape
        cells = height * width
        objects, slots = self.capacity, self.slots

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(objects, slots, *shape, device=device, dtype=dtype)

        self.templates = zeros(channels, height, width)
        self.keys = zeros(cells, key_channels)
        self.values = zeros(cells, value_channels)
        # additive mask of a read: -inf over the cells of an empty slot
        self._bias = zeros(cells)[:, None] - torch.inf
        self.similarity = np.zeros((objects, slots, slots), np.float32)
        self._used = np.zeros(objects, np.int64)
        self._locked = np.zeros(objects, np.int64)  # slots with what was given
        self._order = np.zeros((objects, slots), np.int64)  # what was given first, then by age
        self._updates = np.zeros(objects, np.int64)
        self.born = np.zeros((objects, slots), np.int64)  # update at which a slot was written
        self.fusions = np.zeros((objects, slots), np.int64)  # how often it absorbed another

    @property
    def rule(self) -> str:
        """Name of the update rule; may be changed between frames."""
        return self._rule_name

    @rule.setter
    def rule(self, name: str) -> None:
        rule = find_rule(name)
        if rule.grows != self.grows:
            raise InputError(
                f"update rule {name!r} needs a memory that "
                f"{'grows' if rule.grows else 'is fixed'}: load the model with this rule"
            )
        if self.input_to_memory and rule.absorb is None:
            able = [key for key, value in RULES.items() if value.absorb is not None]
            raise InputError(
                f"update rule {name!r} has no input_to_memory form; these have: {able}"
            )
        if rule.scored and self._score is None:
            raise ModelError(
                f"update rule {name!r} needs a scorer, and this model was trained without one "
                "(no pair_scorer.safetensors in its folder); train one with `stremn train segment` "
                "and update_rule: learned, or take another rule"
            )
        self._rule_name, self._rule = name, rule
        self._trim()

    @property
    def grows(self) -> bool:
        """Whether the bytes depend on the number of frames; True for the baseline only."""
        return False

    @property
    def _limit(self) -> int:
        """Slots of an object that the rule uses."""
        return self.slots if self._rule.limit is None else min(self.slots, self._rule.limit)

    @property
    def most_locked(self) -> int:
        """Slots of an object that what is given may take; two are left for what is remembered."""
        return max(1, self._limit - 2)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; a constant of the object."""
        return sum(t.numel() * t.element_size() for t in self._tensors) + sum(
            array.nbytes for array in self._arrays.values()
        )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.templates, self.keys, self.values, self._bias, *self.carried.values()

    @property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "similarity": self.similarity,
            "used": self._used,
            "locked": self._locked,
            "order": self._order,
            "updates": self._updates,
            "born": self.born,
            "fusions": self.fusions,
        }

    @property
    def _parts(self) -> dict[str, Tensor]:
        """All that a row holds but its bias, which follows from the slots in use."""
        arrays = {name: torch.from_numpy(array) for name, array in self._arrays.items()}
        maps = {"templates": self.templates, "keys": self.keys, "values": self.values}
        return {**maps, **self.carried, **arrays}

    @property
    def ids(self) -> list[int]:
        """Object ids in the order of their rows."""
        return sorted(self.rows, key=self.rows.__getitem__)

    def used(self, object_id: int) -> int:
        """Slots in use by an object."""
        return int(self._used[self._row(object_id)])

    def locked(self, object_id: int) -> int:
        """Slots of an object that hold what was given: its seed, and what it learned since."""
        return int(self._locked[self._row(object_id)])

    def updates(self, object_id: int) -> int:
        """Templates that an object's memory took in since its seed."""
        return int(self._updates[self._row(object_id)])

    def order(self, object_id: int) -> list[int]:
        """An object's slots: the seed's, those of other given masks, then oldest to newest."""
        row = self._row(object_id)
        return [int(slot) for slot in self._order[row, : self._used[row]]]

    def seed_key(self, object_id: int) -> Tensor:
        """Keys [cells, Ck] of an object's seed."""
        row = self._row(object_id)
        return self.keys[row, self._order[row, 0]]

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
        projected = self._project(template[None], image_key[None])  # may run out of memory
        row = self.rows.setdefault(object_id, len(self.rows))
        self._clear(row)
        for buffer in self.carried.values():
            buffer[row] = 0.0
        self.last_update.pop(object_id, None)
        where, first = (torch.tensor([index], device="cpu") for index in (row, 0))
        self._put(where, first, template[None], *projected)
        self._order[row, 0] = 0
        self._used[row] = self._locked[row] = 1
        self._bias[row, :, 0] = 0.0

    def learn(self, object_id: int, template: Tensor, image_key: Tensor) -> None:
        """Locks another template beside an object's seed; what it remembers stays.

        Where ``most_locked`` are locked already, it takes the place of the oldest after the seed,
        or of the seed where that is the only one.

        Args:
            template: [C, h, w]; image_key: [Ck, h, w] of the frame.

        Raises:
            UnknownObjectError: the id is not in the bank; nothing is changed.
        """
        row = self._row(object_id)
        projected = self._project(template[None], image_key[None])  # may run out of memory
        locked = int(self._locked[row])
        if locked < self.most_locked:
            slot = self._free_slot(row)
            place = locked
            self._locked[row] += 1
        else:
            slot = int(self._order[row, min(1, locked - 1)])
            place = locked - 1
        used = int(self._used[row])
        order = [int(each) for each in self._order[row, :used] if each != slot]
        self._order[row, :used] = [*order[:place], slot, *order[place:]]
        where, there = (torch.tensor([index], device="cpu") for index in (row, slot))
        self._put(where, there, template[None], *projected)
        self.born[row, slot] = self.fusions[row, slot] = 0

    def _free_slot(self, row: int) -> int:
        """A slot of an object for a new template: an empty one, or one that was fused."""
        rows = np.array([row])
        if self._used[row] < self._limit:
            return int(self._take(rows)[0])
        return int(self._make_room(rows)[1][0])

    def carry(self, object_ids: Sequence[int], **values: Tensor) -> None:
        """Keeps what a frame hands to the next one: name=[n, *shape] for each of these objects.

        Raises:
            UnknownObjectError: an id is not in the bank; nothing is changed.
        """
        # Through NumPy: a default device of torch that another library set does not matter to it.
        rows = torch.from_numpy(np.array([self._row(each) for each in object_ids], np.int64))
        for name, value in values.items():
            self.carried[name][rows] = value.to(self.carried[name].dtype)

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
        self.last_update.pop(object_id, None)

    def rename(self, object_id: int, new: int) -> None:
        """Gives an object another id.

        Raises:
            UnknownObjectError: the id is not in the bank.
            InputError: the new one is.
        """
        row = self._row(object_id)
        if new in self.rows:
            raise InputError(f"there is an object {new} already; remove it first")
        del self.rows[object_id]
        self.rows[new] = row
        self.last_update.pop(object_id, None)

    def drop_newest(self, object_id: int) -> None:
        """Forgets the newest template of an object, unless that was given.

        Raises:
            UnknownObjectError: the id is not in the bank.
        """
        row = self._row(object_id)
        last = int(self._used[row]) - 1
        if last < self._locked[row]:
            return
        slot = int(self._order[row, last])
        if slot != last:  # slots in use stay the first ones
            for buffer in (self.templates, self.keys, self.values):
                buffer[row, slot] = buffer[row, last]
            for array in (self.born, self.fusions):
                array[row, slot] = array[row, last]
            self.similarity[row, slot] = self.similarity[row, last]
            self.similarity[row, :, slot] = self.similarity[row, :, last]
            order = self._order[row, :last]
            order[order == last] = slot
        self._used[row] = last
        self._bias[row, :, last] = -torch.inf
        self.last_update.pop(object_id, None)

    def adopt(self, other: SlotMemory) -> None:
        """Takes over every object of another bank, slot by slot; the other objects are untouched.

        An object that is here already is replaced by the other bank's.

        Args:
            other: of the same slots, shapes and types; it is only read.

        Raises:
            InputError: banks that do not fit.
            CapacityError: not enough free rows. Nothing is changed in either case.
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
            self.last_update.pop(object_id, None)
        self._trim()

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
        absent = {  # in older files
            "locked": torch.ones(count, dtype=torch.int64, device="cpu"),
            **{name: torch.zeros_like(part[:count]) for name, part in self.carried.items()},
        }
        state = {**absent, **state}
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
            locked = int(state["locked"][n])
            if not 1 <= locked <= min(slots, max(1, self.slots - 2)):
                raise InputError(
                    f"object {object_ids[n]} is said to have {locked} of {slots} slots locked, "
                    "which cannot be"
                )
        self.reset()
        for name, part in self._parts.items():
            part[:count].copy_(state[name])
        for row, slots in enumerate(used):
            self._bias[row, :, :slots] = 0.0
        self.rows = {object_id: row for row, object_id in enumerate(object_ids)}
        self._trim()

    def reset(self) -> None:
        """Forgets every object."""
        for row in range(len(self.rows)):
            self._clear(row)
        self.rows.clear()
        self.last_update.clear()

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
        room = self._used[rows] < self._limit
        pairs: list[list[tuple[int, int]]] = [[] for _ in rows]
        slots = np.full(len(rows), NEW)
        slots[room] = self._take(rows[room])
        for locked in np.unique(self._locked[rows[~room]]):  # the same number of pairs in each
            full = np.flatnonzero(~room & (self._locked[rows] == locked))
            if self.input_to_memory:
                chosen = self._absorb(rows[full], templates[full], image_keys[full])
            else:
                chosen, slots[full] = self._make_room(rows[full])
            for n, fused in zip(full, chosen, strict=True):
                pairs[n] = fused
        self._updates[rows] += 1
        kept = np.flatnonzero(slots != NEW)
        if len(kept):
            r, s = rows[kept], slots[kept]
            self._write(torch.from_numpy(r), torch.from_numpy(s), templates[kept], image_keys[kept])
            self.born[r, s] = self._updates[r]
            self.fusions[r, s] = 0
        for object_id, row, slot, fused in zip(object_ids, rows, slots, pairs, strict=True):
            place = None if slot == NEW else int(slot)
            self.last_update[object_id] = Update(int(self._updates[row]), tuple(fused), place)

    def changes(
        self, object_ids: Sequence[int], image_key: Tensor, probabilities: Tensor
    ) -> NDArray[np.float32]:
        """How much each object has changed since its newest template (``similarity.change``).

        Args:
            image_key: [Ck, h, w] of a frame; probabilities: [n, H, W] of the objects in it.

        Raises:
            UnknownObjectError: an id is not in the bank.
        """
        channels, h, w = image_key.shape
        rows = [self._row(object_id) for object_id in object_ids]
        newest = [self._order[row, self._used[row] - 1] for row in rows]
        keys = self.keys[rows, newest][..., :channels]
        shares = F.adaptive_avg_pool2d(probabilities, (h, w)).flatten(1)
        found = change(image_key.flatten(1).T.to(keys.dtype), keys, shares.to(keys.dtype))
        return np.asarray(found.cpu().numpy(), np.float32)

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
        self._used[row] = self._locked[row] = 0
        self._bias[row] = -torch.inf
        self._updates[row] = 0
        self.born[row] = 0
        self.fusions[row] = 0

    def _take(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Puts the next empty slot of each row to use; returns them."""
        slots = self._used[rows]
        self._order[rows, slots] = slots
        self._used[rows] += 1
        for row, slot in zip(rows, slots, strict=True):
            self._bias[row, :, slot] = 0.0
        return slots

    def _trim(self) -> None:
        """Where a rule for two slots follows another one, leaves the seed and the newest."""
        for row in range(len(self.rows)):
            self._locked[row] = min(self._locked[row], self.most_locked)
            if self._used[row] <= self._limit:
                continue
            newest = int(self._order[row, self._used[row] - 1])
            for buffer in (self.templates, self.keys, self.values):
                buffer[row, 1] = buffer[row, newest]
            for array in (self.born, self.fusions):
                array[row, 1] = array[row, newest]
            self._order[row, :2] = 0, 1
            self._used[row] = 2
            self._bias[row, :, 2:] = -torch.inf

    def _unlocked(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots [rows, n] of full rows that may be fused; equally many are locked in each row."""
        return self._order[rows, self._locked[rows[0]] : self._limit]

    def _make_room(
        self, rows: NDArray[np.int64]
    ) -> tuple[list[list[tuple[int, int]]], NDArray[np.int64]]:
        """Fuses a pair in each of these full rows, in which equally many slots are locked.

        Returns:
            For each row the pairs of slots that were fused, and the slot that became free.
        """
        unlocked = self._unlocked(rows)
        if unlocked.shape[1] == 1:
            return [[] for _ in rows], unlocked[:, 0].copy()
        chosen = [
            [(int(slots[i]), int(slots[j])) for i, j in self._rule.choose(table)]
            for slots, table in zip(unlocked, self._tables(rows, unlocked), strict=True)
        ]
        for step in range(len(chosen[0])):  # a rule names equally many pairs for every object
            where = torch.from_numpy(rows)
            i, j = torch.tensor([pairs[step] for pairs in chosen], device="cpu").unbind(1)
            self._distil(rows, j, self.templates[where, i])
            self.fusions[rows, j.numpy()] += self.fusions[rows, i.numpy()] + 1
        freed = np.array([pairs[0][0] for pairs in chosen], np.int64)
        for row, slot in zip(rows, freed, strict=True):
            order = self._order[row, : self._limit]
            order[:] = [*order[order != slot], slot]
        return chosen, freed

    def _tables(self, rows: NDArray[np.int64], unlocked: NDArray[np.int64]) -> Table:
        """What the rule chooses by: [rows, n, n] over the unlocked slots [rows, n]."""
        r = rows[:, None, None]
        table = self.similarity[r, unlocked[:, :, None], unlocked[:, None, :]]
        if not self._rule.scored:
            return table
        assert self._score is not None
        templates = self.templates[torch.from_numpy(rows)[:, None], torch.from_numpy(unlocked)]
        seen = torch.from_numpy(table).to(templates.device)
        return self._score(templates, seen).float().cpu().numpy()

    def _absorb(
        self, rows: NDArray[np.int64], templates: Tensor, image_keys: Tensor
    ) -> list[list[tuple[int, int]]]:
        """Distils new templates into a slot of each full row (I2M); returns the pairs."""
        assert self._rule.absorb is not None
        unlocked = self._unlocked(rows)
        keys, _ = self._project(templates, image_keys)
        where = torch.from_numpy(rows)[:, None]
        others = self.keys[where, torch.from_numpy(unlocked)]
        own = keys.flatten(2).transpose(1, 2).to(others.dtype)
        similarity = self._compare(own[:, None], others)[0].float().cpu().numpy()
        slots = [
            int(row[self._rule.absorb(near)])
            for row, near in zip(unlocked, similarity, strict=True)
        ]
        self._distil(rows, torch.tensor(slots, device="cpu"), templates.to(self.templates.dtype))
        self.fusions[rows, slots] += 1
        return [[(NEW, slot)] for slot in slots]

    def _distil(self, rows: NDArray[np.int64], j: Tensor, source: Tensor) -> None:
        """Fuses templates [n, C, h, w] into slot j of each row, whose image key it keeps."""
        where = torch.from_numpy(rows)
        fused = self._fuse(source, self.templates[where, j])
        _, height, width = self.template_shape
        key = self.keys[where, j].transpose(1, 2).unflatten(2, (height, width))
        self._write(where, j, fused, key, rewrite=True)

    def _put(
        self, rows: Tensor, slots: Tensor, templates: Tensor, keys: Tensor | None, values: Tensor
    ) -> None:
        """Copies templates and what was projected from them; keys None: these stay."""
        self.templates[rows, slots] = templates.to(self.templates.dtype)
        self.values[rows, slots] = values.flatten(2).transpose(1, 2).to(self.values.dtype)
        if keys is not None:
            self.keys[rows, slots] = keys.flatten(2).transpose(1, 2).to(self.keys.dtype)

    def _write(
        self,
        rows: Tensor,
        slots: Tensor,
        templates: Tensor,
        image_keys: Tensor,
        rewrite: bool = False,
    ) -> None:
        keys, values = self._project(templates, image_keys)
        kept = rewrite and keys is image_keys  # a fused slot keeps its key, and its similarities
        self._put(rows, slots, templates, None if kept else keys, values)
        if kept:
            return
        if self._limit > 2:
            r, s = rows.numpy(), slots.numpy()
            distinct, same = self._distinct(r, s)
            row, slot = rows[distinct], slots[distinct]
            forward, backward = self._compare(self.keys[row, slot][:, None], self.keys[row])
            self.similarity[r, s, :] = forward.float().cpu().numpy()[same]
            self.similarity[r, :, s] = backward.float().cpu().numpy()[same]

    def _distinct(
        self, rows: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[list[int], list[int]]:
        """Rows whose keys must be compared, as places in ``rows``; and for each row, which of them.

        A frame's key is that of all its objects, so objects that were seeded and remembered
        together have the same keys in the same slots: one comparison serves all.
        """
        distinct: list[int] = []
        same: list[int] = []
        for n, row in enumerate(rows):
            used = int(self._used[row])
            for place, first in enumerate(distinct):
                other = rows[first]
                if (
                    slots[first] == slots[n]
                    and self._used[other] == used
                    and torch.equal(self.keys[other, :used], self.keys[row, :used])
                ):
                    same.append(place)
                    break
            else:
                same.append(len(distinct))
                distinct.append(n)
        return distinct, same
