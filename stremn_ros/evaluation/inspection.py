"""What the memory holds while a video goes by: recorded frame by frame, and drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from stremn_ros.errors import StremnError
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.imaging.visualization import overlay
from stremn_ros.memory import NEW, ObjectMemory
from stremn_ros.segmenter import Segmenter

TILE = 220  # columns of a small picture
MOST_TIMES = 2000  # frames of the attention that are drawn


@dataclass(frozen=True)
class Stay:
    """A template in a slot: from the frame that wrote it to the one that ended it (None: not yet).

    origin: the frame whose template it is. absorbed: (frame of the fusion, frames whose templates
    came in with it). into: the slot that it was distilled into at its end.
    """

    slot: int
    origin: int
    absorbed: list[tuple[int, list[int]]] = field(default_factory=list)
    end: int | None = None
    into: int | None = None

    @property
    def frames(self) -> list[int]:
        """All frames that it holds something of."""
        held = {self.origin}
        for _, frames in self.absorbed:
            held.update(frames)
        return sorted(held)


@dataclass
class History:
    """The memory of one object over a video.

    mirrored: the slot of the seed's mirror image, None where there is none.
    attention: per frame the share of each slot (by its place), nan where it was empty.
    fusions: (frame, i, j); i is NEW for a template that was fused at once.
    """

    id: int
    stays: list[Stay] = field(default_factory=list)
    mirrored: int | None = None
    fusions: list[tuple[int, int, int]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    attention: list[list[float]] = field(default_factory=list)
    final: ObjectMemory | None = None

    def now(self, slot: int) -> Stay | None:
        """The template that a slot holds at the end."""
        return next((s for s in reversed(self.stays) if s.slot == slot and s.end is None), None)

    def name(self, slot: int) -> str:
        return "seed" if slot == 0 else "mirrored" if slot == self.mirrored else f"slot {slot}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "mirrored": self.mirrored,
            "stays": [
                {
                    "slot": stay.slot,
                    "origin": stay.origin,
                    "frames": stay.frames,
                    "absorbed": [{"at": at, "frames": frames} for at, frames in stay.absorbed],
                    "end": stay.end,
                    "into": stay.into,
                }
                for stay in self.stays
            ],
            "fusions": [
                {"frame": frame, "from": None if i == NEW else i, "into": j}
                for frame, i, j in self.fusions
            ],
            "attention": [
                {"frame": t, "slots": [None if np.isnan(x) else round(x, 4) for x in shares]}
                for t, shares in zip(self.times, self.attention, strict=True)
            ],
            "final": None if self.final is None else self.final.as_dict(),
        }


class Recorder:
    """Follows the objects of a first mask and notes what their memory does.

    Args:
        segmenter: fresh. frame: RGB uint8 [H, W, 3]; mask: [H, W] of it. number: of that frame.
    """

    def __init__(
        self, segmenter: Segmenter, frame: np.ndarray, mask: np.ndarray, number: int = 0
    ) -> None:
        self.segmenter = segmenter
        self.ids = segmenter.seed(frame, mask)
        self.histories = {}
        for label in self.ids:
            slots = segmenter.memory.order(label)
            stays = [Stay(slot, number) for slot in slots]
            self.histories[label] = History(label, stays, slots[1] if slots[1:] else None)
        self.pictures = {number: _small(frame, mask)}
        # a memory that grows counts the mirror image
        known = segmenter.memory.last_update
        self._updates = {label: known[label].number if label in known else 0 for label in self.ids}

    def step(self, frame: np.ndarray, number: int) -> np.ndarray:
        """Segments and remembers a frame; returns its labels [H, W]."""
        result = self.segmenter.segment(frame)
        for memory in self.segmenter.look_inside(result.labels):
            history = self.histories[memory.id]
            shares = [np.nan] * self.segmenter.memory.slots
            for content in memory.slots:
                if content.attention is not None:
                    shares[content.slot] = content.attention
            history.times.append(number)
            history.attention.append(shares)
        self.segmenter.remember()
        written = [label for label in self.ids if self._note(label, number)]
        if written:
            self.pictures[number] = _small(frame, result.labels)
            held = {frame for h in self.histories.values() for s in h.stays if s.end is None
                    for frame in (s.origin,)}  # fmt: skip
            self.pictures = {key: self.pictures[key] for key in self.pictures if key in held}
        return result.labels

    def _note(self, label: int, number: int) -> bool:
        """Takes over an update of the bank; whether there was one."""
        update = self.segmenter.memory.last_update.get(label)
        if update is None or update.number == self._updates[label]:
            return False
        self._updates[label] = update.number
        history = self.histories[label]
        for i, j in update.pairs:
            history.fusions.append((number, i, j))
            source = None if i == NEW else history.now(i)
            target = history.now(j)
            if target is not None:
                target.absorbed.append((number, [number] if source is None else source.frames))
        if update.slot is not None:
            old = history.now(update.slot)
            if old is not None:
                into = update.pairs[0][1] if update.pairs else None
                history.stays[history.stays.index(old)] = Stay(
                    old.slot, old.origin, old.absorbed, number, into
                )
            history.stays.append(Stay(update.slot, number))
        return True

    def finish(self) -> list[History]:
        """The histories, with what the memory holds at the end."""
        for memory in self.segmenter.look_inside():
            self.histories[memory.id].final = memory
        return [self.histories[label] for label in self.ids]


def record(
    segmenter: Segmenter, frames: Iterable[np.ndarray], mask: np.ndarray, first: int = 0
) -> tuple[list[History], dict[int, np.ndarray]]:
    """Plays a video whose first frame has the mask [H, W].

    Returns:
        The history of each object, and by frame number a small picture of each template held.
    """
    recorder: Recorder | None = None
    for number, frame in enumerate(frames, first):
        if recorder is None:
            recorder = Recorder(segmenter, frame, mask, number)
        else:
            recorder.step(frame, number)
    if recorder is None:
        raise StremnError("the video has no frames")
    return recorder.finish(), recorder.pictures


def _small(frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
    drawn = overlay(frame, labels)
    height = max(1, round(drawn.shape[0] * TILE / drawn.shape[1]))
    return cv2.resize(drawn, (TILE, height), interpolation=cv2.INTER_AREA)


def draw(
    history: History,
    pictures: dict[int, np.ndarray],
    path: str | os.PathLike[str],
    title: str = "",
) -> None:
    """Draws one object's memory as a PNG: slots over time, attention, similarity, the end."""
    from matplotlib import colormaps

    final = history.final
    slots = sorted({stay.slot for stay in history.stays})
    last = history.times[-1] if history.times else history.stays[0].origin + 1
    first = history.stays[0].origin
    held = [] if final is None else final.slots
    columns = max(2, len(held))
    figure = new_figure(max(11.0, 2.0 * columns), 11)
    grid = figure.add_gridspec(4, 1, height_ratios=[0.7 + 0.25 * len(slots), 1.4, 1.9, 2.2])
    tiles, tables = grid[2].subgridspec(1, columns), grid[3].subgridspec(1, 2)
    colors = colormaps["viridis"]

    def color(frame: int) -> Any:
        return colors((frame - first) / max(1, last - first))

    timeline = figure.add_subplot(grid[0])
    for stay in history.stays:
        end = last + 1 if stay.end is None else stay.end
        timeline.barh(
            stay.slot, end - stay.origin, left=stay.origin, height=0.72, color=color(stay.origin),
            edgecolor="white", linewidth=0.8,
        )  # fmt: skip
        if end - stay.origin > 0.025 * (last - first):
            dark = (stay.origin - first) < 0.6 * (last - first)
            timeline.text(
                stay.origin + 0.004 * (last - first), stay.slot, str(stay.origin), va="center",
                fontsize=8, color="white" if dark else "black", clip_on=True,
            )  # fmt: skip
    for frame, i, j in history.fusions:
        if i == NEW:
            timeline.plot(frame, j, "v", color="crimson", markersize=5)
        else:
            timeline.annotate(
                "", (frame, j), (frame, i),
                arrowprops={"arrowstyle": "->", "color": "crimson", "linewidth": 1.1},
            )  # fmt: skip
    timeline.set_yticks(slots, [history.name(slot) for slot in slots])
    timeline.invert_yaxis()
    timeline.set_xlim(first, last + 1)
    timeline.set_title(
        "what each slot holds: the frame its template is of; red: distilled into", fontsize=10
    )

    shares = figure.add_subplot(grid[1], sharex=timeline)
    if history.times:
        step = -(-len(history.times) // MOST_TIMES)
        width = max(len(row) for row in history.attention)
        table = np.array([row + [np.nan] * (width - len(row)) for row in history.attention[::step]])
        for slot in slots:
            line = 100 * table[:, slot]
            shares.plot(history.times[::step], line, label=history.name(slot), linewidth=1.4)
        shares.legend(frameon=False, fontsize=8, ncols=min(len(slots), 8))
    shares.set_ylim(0, 100)
    shares.set_ylabel("percent")
    shares.set_xlabel("frame")
    shares.set_title("attention of the object's cells to each slot", fontsize=10)
    shares.grid(alpha=0.3)

    for column, content in enumerate(held):
        panel = figure.add_subplot(tiles[column])
        template = history.now(content.slot)
        panel.set_axis_off()
        if template is None:
            continue
        if template.origin in pictures:
            picture = pictures[template.origin]
            panel.imshow(picture[:, ::-1] if content.slot == history.mirrored else picture)
        others = [frame for frame in template.frames if frame != template.origin]
        text = f"{history.name(content.slot)}: frame {template.origin}"
        if others:
            named = ", ".join(map(str, others[-4:]))
            text += f"\n+ {'... ' if len(others) > 4 else ''}{named}"
        panel.set_title(text, fontsize=9)

    similar = figure.add_subplot(tables[0])
    names = [_name(history, content.slot) for content in held]
    if final is not None and final.similarity:
        values = np.array(final.similarity)
        off = values[~np.eye(len(values), dtype=bool)]
        low = float(off[off > 0].min()) if (off > 0).any() else 0.0
        image = similar.imshow(values, cmap="magma", vmin=low - 0.02, vmax=1.0)
        for y in range(len(values)):
            for x in range(len(values)):
                bright = values[y, x] > (low + 1.0) / 2
                similar.text(
                    x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=9,
                    color="black" if bright else "white",
                )  # fmt: skip
        similar.set_xticks(range(len(names)), names, fontsize=9)
        similar.set_yticks(range(len(names)), names, fontsize=9)
        similar.set_title("similarity of row to column at the end (Eq. 1)", fontsize=10)
        figure.colorbar(image, ax=similar, shrink=0.8)
    else:
        similar.set_axis_off()
    mean = figure.add_subplot(tables[1])
    if history.attention and held:
        bars = []
        for c in held:
            used = [row[c.slot] for row in history.attention if c.slot < len(row)]
            used = [share for share in used if not np.isnan(share)]
            bars.append(100 * float(np.mean(used)) if used else 0.0)  # of the last frame: not yet
        shown = mean.bar(names, bars, color=[color(_origin(history, c.slot)) for c in held])
        mean.bar_label(shown, fmt="%.0f", fontsize=9)
        mean.set_ylabel("percent")
        mean.set_title("attention to each place, mean over the frames it was in use", fontsize=10)
    figure.suptitle(title or f"object {history.id}")
    save_figure(figure, path)


def _origin(history: History, slot: int) -> int:
    stay = history.now(slot)
    return 0 if stay is None else stay.origin


def _name(history: History, slot: int) -> str:
    name = history.name(slot)
    return f"{name}\n({_origin(history, slot)})" if name.startswith("slot") else name
