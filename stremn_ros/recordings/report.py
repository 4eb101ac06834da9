"""report.html: one page that shows what came of a run, without a server.

For each track: a contact sheet, the score of each object over time, and the frames that are worth a
look, each with a picture: where an object is lost or comes again, where its score is low, and where
the forward and the backward pass disagree.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import StremnError
from stremn_ros.files import write_text
from stremn_ros.imaging import pictures
from stremn_ros.imaging.masks import decode_mask, encode_mask
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.imaging.visualization import contact_sheet, overlay
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.recordings.exporting import assemble
from stremn_ros.recordings.joining import FrameObject, Joining, Labelled
from stremn_ros.recordings.sources import Frame
from stremn_ros.recordings.track import Track
from stremn_ros.segmenter import ObjectState

TILES = 12  # of the contact sheet
PICTURES = 24  # of frames worth a look, of each track
LOW_SCORE = 0.75
LOW_AGREEMENT = 0.75
_BINS = 400  # of a chart
_WIDTH, _HEIGHT = 960, 84  # of a chart, in pixels
_SIDE = 360  # columns of a picture

# by the number of the state; what an object that is lost is drawn over
_SHADES = {ObjectState.OCCLUDED: "#fde68a", ObjectState.LOST: "#fca5a5"}


@dataclass(frozen=True)
class Look:
    """A frame worth a look: how much (larger is worse), of which object, and why."""

    weight: float
    frame: int
    id: int
    why: str


@dataclass
class _Chart:
    """An object's scores, in bins of frames."""

    least: NDArray[np.float64]
    total: NDArray[np.float64]
    count: NDArray[np.int64]
    state: NDArray[np.int64]
    states: dict[ObjectState, int] = field(default_factory=dict)


class Report:
    """The part of the page that tells of one track. What it holds does not grow with the frames."""

    def __init__(self, track: Track, joining: Joining) -> None:
        self._track = track
        self._joins = [join for joins in joining.joins.values() for join in joins]
        self._frames = len(track.index.stamps)
        self._bins = min(_BINS, self._frames)
        self._charts: dict[int, _Chart] = {}
        self._looks = self._read(joining)
        self._wanted = {look.frame for look in self._looks}
        spread = np.linspace(0, self._frames - 1, min(TILES, self._frames))
        self._spread = {round(float(place)) for place in spread}
        # packed: they wait for the end of the recording
        self._tiles: list[tuple[bytes, bytes, str]] = []
        self._pictures: dict[tuple[int, int], str] = {}

    def _read(self, joining: Joining) -> list[Look]:
        """Reads the scores of all frames; the frames worth a look, in order."""
        looks: list[Look] = []
        before: dict[int, ObjectState] = {}
        lowest: dict[int, tuple[float, int]] = {}
        window = max(10, self._frames // 40)
        for frame, seen in joining.outline():
            for object_id, found in seen.items():
                self._note(object_id, frame, found.score, found.state)
                was = before.get(object_id, found.state)
                if found.state is not was:
                    why = {
                        ObjectState.TRACKED: "seen again",
                        ObjectState.OCCLUDED: "no longer seen",
                        ObjectState.LOST: "lost",
                    }[found.state]
                    if found.state is not ObjectState.LOST:  # the picture is that of the start
                        looks.append(Look(0.6, frame, object_id, why))
                before[object_id] = found.state
                tracked = found.state is ObjectState.TRACKED
                if tracked and found.score < min(LOW_SCORE, lowest.get(object_id, (1.0, 0))[0]):
                    lowest[object_id] = found.score, frame
            if frame % window == window - 1 or frame == self._frames - 1:
                looks += [
                    Look(1.0 - score, at, n, f"low score: {score:.2f}")
                    for n, (score, at) in lowest.items()
                ]
                lowest.clear()
                looks = _chosen(looks, self._frames)
        for join in self._joins:
            if join.worst < LOW_AGREEMENT:
                looks.append(
                    Look(
                        1.2 - join.worst,
                        join.worst_frame,
                        join.id,
                        f"forward and backward disagree (IoU {join.worst:.2f})",
                    )
                )
            if join.agreement < LOW_AGREEMENT:
                why = f"joined where they agree best (IoU {join.agreement:.2f})"
                looks.append(Look(1.1 - join.agreement, join.at, join.id, why))
        return sorted(_chosen(looks, self._frames), key=lambda look: (look.frame, look.id))

    def _note(self, object_id: int, frame: int, score: float, state: ObjectState) -> None:
        chart = self._charts.get(object_id)
        if chart is None:
            chart = self._charts[object_id] = _Chart(
                np.full(self._bins, np.inf),
                np.zeros(self._bins),
                np.zeros(self._bins, np.int64),
                np.zeros(self._bins, np.int64),
            )
        place = frame * self._bins // self._frames
        chart.least[place] = min(chart.least[place], score)
        chart.total[place] += score
        chart.count[place] += 1
        chart.state[place] = max(chart.state[place], int(state))
        chart.states[state] = chart.states.get(state, 0) + 1

    def add(self, item: Labelled, frame: Frame | None) -> None:
        """Takes the next frame with its picture."""
        if frame is None or item.labels is None:
            return
        if item.frame in self._wanted:
            for look in self._looks:
                if look.frame == item.frame:
                    self._pictures[look.frame, look.id] = _picture(frame, item, look.id)
        if item.frame in self._spread:
            small, labels = _smaller(frame, item.labels)
            packed = _jpeg(small, 95), encode_mask(labels)
            self._tiles.append((*packed, f"frame {item.frame}"))

    def finish(self) -> None:
        """Writes the part of the page into the track's folder."""
        write_text(self._track.folder / "report.part", "".join(self._parts()))

    def _parts(self) -> Iterable[str]:
        track = self._track
        if self._tiles:
            frames = [pictures.decode(tile) for tile, _, _ in self._tiles]
            labels = [decode_mask(mask, caption) for _, mask, caption in self._tiles]
            sheet = contact_sheet(frames, labels, 4, [tile[2] for tile in self._tiles], 300)
            yield f'<img class="sheet" alt="contact sheet" src="{_inline(sheet)}">'
        yield "<h3>Score over time</h3>" + _LEGEND
        for object_id in sorted(self._charts):
            yield self._chart(object_id)
        yield f"<h3>Worth a look ({len(self._looks)})</h3>"
        if not self._looks:
            yield (
                f"<p>No frame: no score is below {LOW_SCORE}, no object was lost, and the passes "
                "agree.</p>"
            )
        yield '<div class="looks">'
        for look in self._looks:
            picture = self._pictures.get((look.frame, look.id), "")
            image = f'<img alt="frame {look.frame}" src="{picture}">' if picture else ""
            stamp = int(track.index.stamps[look.frame]) / NANOSECONDS
            yield (
                f"<figure>{image}<figcaption><b>frame {look.frame}</b> ({stamp:.3f} s)<br>"
                f"{_dot(look.id)} {html.escape(track.name_of(look.id))}: {html.escape(look.why)}"
                "</figcaption></figure>"
            )
        yield "</div></section>\n"

    def _chart(self, object_id: int) -> str:
        chart = self._charts[object_id]
        step = _WIDTH / self._bins
        parts = []
        for place in np.flatnonzero(chart.state):
            shade = _SHADES[ObjectState(int(chart.state[place]))]
            parts.append(
                f'<rect x="{place * step:.1f}" y="0" width="{step + 0.3:.1f}" '
                f'height="{_HEIGHT}" fill="{shade}"/>'
            )
        for level in (0.25, 0.5, 0.75):
            y = _HEIGHT * (1 - level)
            parts.append(f'<line x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}" class="grid"/>')
        color = _color(object_id)
        known = np.flatnonzero(chart.count)
        mean = chart.total[known] / chart.count[known]
        for values, style in ((chart.least[known], "least"), (mean, "mean")):
            # a gap between two bins of an object is a gap in the line
            for run in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known) > 1) + 1):
                points = " ".join(
                    f"{(known[n] + 0.5) * step:.1f},{_HEIGHT * (1 - values[n]):.1f}" for n in run
                )
                parts.append(f'<polyline points="{points}" class="{style}" stroke="{color}"/>')
        for seed in self._track.seeds:
            if object_id in seed.ids:
                kind = "accepted" if seed.accepted else "seed"
                parts.append(self._mark(seed.frame, kind, f"seed in frame {seed.frame}"))
        for join in self._joins:
            if join.id == object_id:
                parts.append(self._mark(join.at, "join", f"joined at frame {join.at}"))
        counts = ", ".join(
            f"{chart.states[state]} {state.name.lower()}"
            for state in ObjectState
            if chart.states.get(state)
        )
        total = int(chart.count.sum())
        return (
            f"<p>{_dot(object_id)} <b>{html.escape(self._track.name_of(object_id))}</b> "
            f"(id {object_id}): mean score {chart.total.sum() / total:.3f}; {counts} of "
            f'{self._frames} frames</p><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" class="chart" '
            f'preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'
        )

    def _mark(self, frame: int, kind: str, title: str) -> str:
        x = (frame + 0.5) * _WIDTH / self._frames
        return (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" class="{kind}">'
            f"<title>{title}</title></line>"
        )


def check_pictures() -> None:
    """Makes small pictures, so that OpenCV loads what it draws and packs those of the report with.

    Raises:
        StremnError: this OpenCV cannot; better before the long work than at its end.
    """
    frame = np.zeros((60, 80, 3), np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:40] = 1
    tracked = ObjectState.TRACKED
    found = FrameObject(1, tracked, 1.0, 400, (20, 20, 20, 20), (29.5, 29.5), "", "")
    try:
        _picture(frame, Labelled(0, 0, labels, [found]), found.id)
        _inline(contact_sheet([frame], [labels], 1, ["frame 0"], 300))
    except cv2.error as error:
        raise StremnError(
            f"OpenCV {cv2.__version__} cannot draw or pack a picture for the report ({error}): "
            "install opencv-python-headless"
        ) from None


def _chosen(looks: Sequence[Look], frames: int) -> list[Look]:
    """The most telling, none of the same object close to another."""
    apart = max(3, frames // 100)
    kept: list[Look] = []
    for look in sorted(looks, key=lambda look: (-look.weight, look.frame, look.id)):
        close = any(k.id == look.id and abs(k.frame - look.frame) < apart for k in kept)
        if not close:
            kept.append(look)
        if len(kept) == PICTURES:
            break
    return kept


def _smaller(
    frame: Frame, labels: NDArray[np.uint8], columns: int = _SIDE
) -> tuple[Frame, NDArray[np.uint8]]:
    share = min(columns / frame.shape[1], 2 * columns / frame.shape[0])
    size = [max(1, round(side * share)) for side in frame.shape[1::-1]]
    inter = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    return (
        np.asarray(cv2.resize(frame, size, interpolation=inter), np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def _picture(frame: Frame, item: Labelled, object_id: int) -> str:
    assert item.labels is not None
    small, labels = _smaller(frame, item.labels)
    drawn = overlay(small, labels)
    box = next((found.box for found in item.objects if found.id == object_id), (0, 0, 0, 0))
    if box[2]:
        share = small.shape[1] / frame.shape[1]
        x, y, width, height = (round(value * share) for value in box)
        cv2.rectangle(drawn, (x - 3, y - 3), (x + width + 3, y + height + 3), (255, 255, 255), 1)
    return _inline(drawn)


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _inline(image: NDArray[np.uint8]) -> str:
    """A picture within the page."""
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(image, 82)).decode()


def _color(object_id: int) -> str:
    return "rgb({},{},{})".format(*(int(v) for v in PALETTE[object_id]))


def _dot(object_id: int) -> str:
    return f'<span class="dot" style="background:{_color(object_id)}"></span>'


_LEGEND = (
    '<p class="legend">line: mean and lowest score, 0 at the bottom, 1 at the top &middot; '
    '<span style="background:#fde68a">occluded</span> '
    '<span style="background:#fca5a5">lost</span> &middot; <i class="seed"></i> seed '
    '<i class="accepted"></i> accepted <i class="join"></i> forward and backward joined</p>'
)
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em;
color:#1f2937}
h2{border-top:2px solid #e5e7eb;padding-top:1em}table{border-collapse:collapse}
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #e5e7eb}
.sheet{max-width:100%}.chart{width:100%;height:84px;background:#f9fafb;border:1px solid #d1d5db}
.grid{stroke:#e5e7eb}polyline{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke}
.least{opacity:.35}.chart line{vector-effect:non-scaling-stroke}
line.seed{stroke:#111827;stroke-width:2}line.accepted{stroke:#2563eb;stroke-width:3}
line.join{stroke:#d97706;stroke-width:2;stroke-dasharray:4 3}
.legend span{padding:0 .4em}.legend i{display:inline-block;width:0;height:1em;vertical-align:middle}
i.seed{border-left:2px solid #111827}i.accepted{border-left:3px solid #2563eb}
i.join{border-left:2px dashed #d97706}
.looks{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:290px}
figure img{width:100%}figcaption{font-size:13px}
.dot{display:inline-block;width:.8em;height:.8em;border-radius:50%}.problems{color:#b45309}
"""


def _head(result: Mapping[str, Any]) -> Iterable[str]:
    """What stands above a track's part: what it is of, and all that could not be read or used."""
    seconds = (result["last_stamp"] - result["first_stamp"]) / NANOSECONDS
    name, seeds = html.escape(result["name"]), result["seeds"]
    yield f'<section id="{name}"><h2>{name}</h2><p>{html.escape(result["recording"])}'
    yield f" &middot; {html.escape(result['topic'])}" if result["topic"] else ""
    yield f" &middot; {result['frames']} frames, {seconds:.1f} s &middot; seeds in "
    shown = [f"{seed['frame']}{' (accepted)' if seed['accepted'] else ''}" for seed in seeds]
    yield ("frames " if len(shown) > 1 else "frame ") + ", ".join(shown[:20])
    yield f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    yield "</p>"
    if result["problems"]:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in result["problems"])
        yield f'<ul class="problems">{items}</ul>'


def write_report(
    path: Path,
    title: str,
    facts: Sequence[tuple[str, Any]],
    parts: Sequence[tuple[Mapping[str, Any], Path]],
) -> None:
    """Puts the parts of all tracks together into one page.

    Args:
        facts: what stands at the top: (name, value).
        parts: of each track: what the manifest tells of it, and what ``Report.finish`` wrote.
    """
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts
    )

    def text() -> Iterable[str]:
        yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        yield f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        yield f"<h1>{html.escape(title)}</h1><table>{rows}</table>\n"
        for result, part in parts:
            yield from _head(result)
            yield part.read_text(encoding="utf-8")
        yield "</body></html>\n"

    assemble(path, text())
