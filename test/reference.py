"""The paper's equations once more, in float64 NumPy with plain loops: an independent reference."""

from __future__ import annotations

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. 1-2 for keys [HW, C]."""
    total = 0.0
    for p in a:
        best = -np.inf
        for q in b:
            best = max(best, float(p @ q) / float(np.linalg.norm(p) * np.linalg.norm(q)))
        total += best
    return total / len(a)


def fam(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Eq. 3 for templates [HW, C], scaled by 1/sqrt(C) as in attention."""
    return softmax(a @ b.T / np.sqrt(a.shape[1])) @ b


def conv3x3(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[C, h, w] -> [D, h, w], zero padding."""
    _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), h, w))
    for dy in range(3):
        for dx in range(3):
            out += np.einsum(
                "dc,chw->dhw", weight[:, :, dy, dx], padded[:, dy : dy + h, dx : dx + w]
            )
    return out + bias[:, None, None]


def cells(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).T


def maps(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return x.T.reshape(like.shape)


def fusion(cell: dict[str, np.ndarray], x_i: np.ndarray, x_j: np.ndarray, filtered: bool):
    """Eq. 4-8 for templates [C, h, w]; cell holds f, h, g as (weight, bias)."""
    x_j_at_i = maps(fam(cells(x_i), cells(x_j)), x_i)  # Eq. 4
    r = sigmoid(conv3x3(np.concatenate([x_i, x_j_at_i]), *cell["f"]))  # Eq. 5
    x_i_filtered = r * x_i  # Eq. 6
    source = x_i_filtered if filtered else x_i
    x_i_at_j = maps(fam(cells(x_j), cells(source)), x_j)  # Eq. 7
    both = np.concatenate([x_i_at_j, x_j])
    z = sigmoid(conv3x3(both, *cell["h"]))
    n = np.tanh(conv3x3(both, *cell["g"]))  # Eq. 8
    return (1 - z) * x_j + z * n


def read(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, affinity: str, nearest: int = 0
) -> np.ndarray:
    """Eq. 10 without the concatenation: query [HW, C], keys [M, C], values [M, D]; of all cells or
    of the nearest ones."""
    out = np.zeros((len(query), values.shape[1]))
    for n, q in enumerate(query):
        if affinity == "dot":
            score = keys @ q
        else:
            score = -((keys - q) ** 2).sum(axis=1)
        taken = np.argsort(-score)[: nearest or len(score)]
        out[n] = softmax(score[taken] / np.sqrt(query.shape[1])) @ values[taken]
    return out


def aggregate(p: np.ndarray) -> np.ndarray:
    """Soft aggregation of STM: probabilities [O, ...] -> distribution [O + 1, ...]."""
    full = np.concatenate([np.prod(1 - p, axis=0, keepdims=True), p])
    odds = full / (1 - full)
    return odds / odds.sum(axis=0, keepdims=True)


class Bank:
    """The memory update of 3.2 for one object, with lists that are cut and appended."""

    def __init__(self, slots: int, rule: str, fuse, score=None, absorb: bool = False) -> None:
        self.slots, self.rule, self.fuse, self.score = slots, rule, fuse, score
        self.absorb = absorb  # I2M
        if rule == "first_and_previous":
            self.slots = 2
        self.items: list[tuple[np.ndarray, np.ndarray]] = []  # (template, key [HW, C])

    def remember(self, template: np.ndarray, key: np.ndarray) -> None:
        if self.rule == "linear":
            self.items.append((template, key))
            return
        if len(self.items) == self.slots:
            if self.absorb:
                self._absorb(template, key)
                return
            self._make_room()
        self.items.append((template, key))

    def _absorb(self, template: np.ndarray, key: np.ndarray) -> None:
        """Eq. 9: the new template goes into a slot of the memory."""
        unlocked = range(1, len(self.items))

        def near(j: int) -> float:
            return similarity(key, self.items[j][1])

        j = {
            "oldest": lambda: 1,
            "newest": lambda: len(self.items) - 1,
            "least_similar": lambda: min(unlocked, key=near),
            "most_similar": lambda: max(unlocked, key=near),
        }[self.rule]()
        self.items[j] = (self.fuse(template, self.items[j][0]), self.items[j][1])

    def _make_room(self) -> None:
        last = len(self.items) - 1
        if last == 1:
            del self.items[1]
            return
        candidates = [(i, j) for i in range(1, last + 1) for j in range(i + 1, last + 1)]
        if self.rule == "oldest":
            pairs = [(1, j) for j in range(2, last + 1)]
        elif self.rule == "newest":
            pairs = [(last, j) for j in range(1, last)]
        elif self.rule == "learned":
            table = np.array(
                [[similarity(a[1], b[1]) for b in self.items[1:]] for a in self.items[1:]]
            )
            scores = self.score(np.stack([item[0] for item in self.items[1:]]), table)
            pairs = [max(candidates, key=lambda p: scores[p[0] - 1, p[1] - 1])]
        else:
            pick = min if self.rule == "least_similar" else max
            pairs = [
                pick(candidates, key=lambda p: similarity(self.items[p[0]][1], self.items[p[1]][1]))
            ]
        for i, j in pairs:
            template, key = self.items[j]
            self.items[j] = (self.fuse(self.items[i][0], template), key)
        del self.items[pairs[0][0]]
