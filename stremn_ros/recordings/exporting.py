"""Labels as files of training and annotation tools. Each writer takes the frames one by one.

- ``davis``: JPEGImages/480p/NAME, Annotations/480p/NAME (indexed PNG with the DAVIS palette), which
  `stremn train segment` and most tools for video objects read.
- ``coco``: coco/NAME.json: RLE masks with a track_id, as pycocotools reads them.
- ``cvat``: cvat/NAME.xml, "CVAT for video 1.1": a track of masks for each object.
- ``label-studio``: label_studio/NAME.json: tracks of boxes (Label Studio has no masks in videos).
- ``csv``, always: a line for each object and frame.

A file appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from stremn_ros import __version__
from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import UNKNOWN, write_with
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.recordings.joining import FrameObject, Labelled
from stremn_ros.recordings.sources import Frame
from stremn_ros.recordings.track import Track
from stremn_ros.text_files import csv_line

CSV_HEADER = (
    "track,recording,topic,frame,stamp,id,name,state,score,area,x,y,width,height,"
    "centroid_x,centroid_y,origin,agreement,accepted"
)


class Exporter(Protocol):
    """Writes the frames of one track."""

    def add(self, item: Labelled, frame: Frame | None) -> None:
        """Takes the next frame; its picture is None where it could not be decoded."""

    def finish(self) -> None:
        """Gives the files their names."""


@dataclass(frozen=True)
class Target:
    """Where a track's files go.

    Attributes:
        out: the folder of the results. work: a folder for what is not whole yet.
    """

    track: Track
    out: Path
    work: Path

    def stem(self, frame: int) -> str:
        """The name of a frame's files; all of a track have the same length."""
        return f"{frame:0{max(5, len(str(len(self.track.index.stamps) - 1)))}d}"


class Davis:
    """JPEG pictures and indexed PNG masks."""

    def __init__(self, target: Target) -> None:
        self._target = target
        inner = Path("480p") / target.track.name
        self.images = target.out / "davis" / "JPEGImages" / inner
        self.masks = target.out / "davis" / "Annotations" / inner
        for folder in (self.images, self.masks):  # of a step that did not end, of other frames
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, item: Labelled, frame: Frame | None) -> None:
        if frame is None or item.labels is None:
            return
        stem = self._target.stem(item.frame)
        write_image(self.images / f"{stem}.jpg", frame)
        write_label_png(self.masks / f"{stem}.png", item.labels)

    def finish(self) -> None:
        """Nothing is left to do."""


class _Text:
    """A text file in the making, in the folder of work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: TextIO = path.open("w+", encoding="utf-8", errors=UNKNOWN, newline="")
        self.count = 0

    def item(self, value: Any) -> None:
        """Adds an element of a JSON list."""
        self.file.write(",\n" if self.count else "")
        self.file.write(json.dumps(value, separators=(",", ":")))
        self.count += 1

    def text(self) -> Iterator[str]:
        self.file.seek(0)
        while part := self.file.read(1 << 16):
            yield part

    def remove(self) -> None:
        self.file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def assemble(path: Path, parts: Iterable[str]) -> None:
    """Writes a text file of many parts; it appears when it is whole, and a power cut keeps it."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors=UNKNOWN, newline="") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())

    write_with(path, write)


def _visible(item: Labelled) -> list[FrameObject]:
    return [found for found in item.objects if found.area]


class Coco:
    """COCO JSON; https://cocodataset.org/#format-data, with videos and track ids beside it."""

    def __init__(self, target: Target) -> None:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise StremnError(
                f"COCO files are written with the package pycocotools, which does not import here "
                f"({error}): pip install 'stremn_ros[recordings]', or leave coco out of --format"
            ) from None
        self._encode = mask.encode
        self._target, track = target, target.track
        names = sorted({track.name_of(n) for n in track.ids})
        self._categories = {name: number for number, name in enumerate(names, 1)}
        self._images = _Text(target.work / "coco_images")
        self._annotations = _Text(target.work / "coco_annotations")

    def add(self, item: Labelled, frame: Frame | None) -> None:
        if item.labels is None:
            return
        height, width = item.labels.shape
        self._images.item(
            {
                "id": item.frame,
                "video_id": 1,
                "frame_id": item.frame,
                "file_name": f"{self._target.track.name}/{self._target.stem(item.frame)}.jpg",
                "width": width,
                "height": height,
                "stamp": item.stamp,
                "accepted": item.accepted,
            }
        )
        for found in _visible(item):
            rle = self._encode(np.asfortranarray(item.labels == found.id, dtype=np.uint8))
            self._annotations.item(
                {
                    "id": self._annotations.count + 1,
                    "image_id": item.frame,
                    "category_id": self._categories[found.name],
                    "track_id": found.id,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "area": found.area,
                    "bbox": list(found.box),
                    "iscrowd": 0,
                    "score": round(found.score, 4),
                }
            )

    def finish(self) -> None:
        name = self._target.track.name
        head = {
            "info": {"description": name, "version": f"stremn {__version__}"},
            "licenses": [],
            "videos": [{"id": 1, "name": name}],
            "categories": [{"id": n, "name": text} for text, n in self._categories.items()],
        }

        def parts() -> Iterator[str]:
            yield json.dumps(head)[:-1] + ',\n"images": [\n'
            yield from self._images.text()
            yield '\n],\n"annotations": [\n'
            yield from self._annotations.text()
            yield "\n]}\n"

        assemble(self._target.out / "coco" / f"{name}.json", parts())
        self._images.remove()
        self._annotations.remove()


class _PerObject:
    """Text of each object, put together at the end."""

    def __init__(self, target: Target, kind: str) -> None:
        self._target = target
        self._spools = {n: _Text(target.work / f"{kind}_{n}") for n in target.track.ids}
        self._shown: dict[int, Any] = {}  # what each object showed in the last frame
        self._size = (0, 0)

    def _remove(self) -> None:
        for spool in self._spools.values():
            spool.remove()


class Cvat(_PerObject):
    """CVAT for video 1.1; https://docs.cvat.ai/docs/other/xml_format."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, "cvat")
        self._frames = len(target.track.index.stamps)

    def add(self, item: Labelled, frame: Frame | None) -> None:
        if item.labels is not None:
            self._size = item.labels.shape[:2]
        visible = {found.id: found for found in _visible(item)}
        for n, spool in self._spools.items():
            found = visible.get(n)
            if found is not None and item.labels is not None:
                x, y, width, height = found.box
                mask = item.labels[y : y + height, x : x + width] == n
                shape = (
                    f'rle="{", ".join(map(str, run_lengths(mask)))}" left="{x}" top="{y}" '
                    f'width="{width}" height="{height}"'
                )
                self._shown[n] = shape
                self._mask(spool, item.frame, 0, shape)
            elif n in self._shown:  # the track ends here, until the object comes again
                self._mask(spool, item.frame, 1, self._shown.pop(n))

    @staticmethod
    def _mask(spool: _Text, frame: int, outside: int, shape: str) -> None:
        spool.file.write(
            f'    <mask frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {shape} '
            'z_order="0"></mask>\n'
        )

    def finish(self) -> None:
        track = self._target.track
        names = sorted({track.name_of(n) for n in track.ids})

        def parts() -> Iterator[str]:
            rows, columns = self._size
            yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n'
            yield "  <version>1.1</version>\n  <meta>\n    <task>\n"
            yield f"      <name>{escape(track.name)}</name>\n"
            yield f"      <size>{self._frames}</size>\n      <mode>interpolation</mode>\n"
            yield f"      <start_frame>0</start_frame>\n      <stop_frame>{self._frames - 1}"
            yield "</stop_frame>\n      <labels>\n"
            for name in names:
                yield f"        <label><name>{escape(name)}</name><type>mask</type>"
                yield "<attributes></attributes></label>\n"
            yield "      </labels>\n      <original_size>"
            yield f"<width>{columns}</width><height>{rows}</height></original_size>\n"
            yield "    </task>\n  </meta>\n"
            for n, spool in self._spools.items():
                yield f'  <track id="{n}" label={quoteattr(track.name_of(n))} source="auto">\n'
                yield from spool.text()
                yield "  </track>\n"
            yield "</annotations>\n"

        assemble(self._target.out / "cvat" / f"{track.name}.xml", parts())
        self._remove()


class LabelStudio(_PerObject):
    """Label Studio's video object tracking: a task with one prediction, boxes in percent.

    In a video's own frames and seconds; frame 1 is the first, as Label Studio counts. It shows a
    box of "enabled": false, too, but none after it: so that is the last one that an object has
    before it is gone.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, "label_studio")
        stamps = target.track.index.stamps
        self._first = int(stamps[0])
        self._count = len(stamps)
        self._last = self._count - 1
        # the last frame lasts as long as the others, so that frames / duration is the rate
        seconds = (int(stamps[-1]) - self._first) / NANOSECONDS
        fps = target.track.fps
        self._duration = self._count / fps if fps else seconds * self._count / max(1, self._last)

    def add(self, item: Labelled, frame: Frame | None) -> None:
        visible = {found.id: found for found in _visible(item)}
        for n, spool in self._spools.items():
            found = visible.get(n)
            if n in self._shown:
                spool.item({**self._shown.pop(n), "enabled": found is not None})
            if found is not None and item.labels is not None:
                self._shown[n] = self._box(item, found, item.labels.shape)
                if item.frame == self._last:
                    spool.item(self._shown.pop(n))

    def _box(self, item: Labelled, found: FrameObject, size: tuple[int, ...]) -> dict[str, Any]:
        rows, columns = size
        x, y, width, height = found.box
        return {
            "frame": item.frame + 1,
            "time": round((item.stamp - self._first) / NANOSECONDS, 6),
            "enabled": True,
            "x": round(100 * x / columns, 4),
            "y": round(100 * y / rows, 4),
            "width": round(100 * width / columns, 4),
            "height": round(100 * height / rows, 4),
            "rotation": 0,
        }

    def finish(self) -> None:
        track = self._target.track

        def parts() -> Iterator[str]:
            data = {"video": Path(track.called).name, "topic": track.topic}
            yield f'[{{"data": {json.dumps(data)}, "predictions": [{{"model_version": '
            yield f'{json.dumps(f"stremn {__version__}")}, "result": [\n'
            first = True
            for n, spool in self._spools.items():
                if not spool.count:
                    continue
                yield "" if first else ",\n"
                first = False
                head = {
                    "id": f"{track.name}-{n}",
                    "type": "videorectangle",
                    "from_name": "box",
                    "to_name": "video",
                    "origin": "prediction",
                }
                value = {
                    "framesCount": self._count,
                    "duration": round(self._duration, 6),
                    "labels": [track.name_of(n)],
                }
                yield f'{json.dumps(head)[:-1]}, "value": {json.dumps(value)[:-1]}, "sequence": [\n'
                yield from spool.text()
                yield "\n]}}"
            yield "\n]}]}]\n"

        assemble(self._target.out / "label_studio" / f"{track.name}.json", parts())
        self._remove()


class Csv:
    """The lines of a track for objects.csv, in the folder of work."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._text = _Text(target.work / "csv")

    def add(self, item: Labelled, frame: Frame | None) -> None:
        track = self._target.track
        for found in item.objects:
            line = csv_line(
                [
                    track.name,
                    track.called,
                    track.topic,
                    item.frame,
                    f"{item.stamp // NANOSECONDS}.{item.stamp % NANOSECONDS:09d}",
                    found.id,
                    found.name,
                    found.state.name,
                    f"{found.score:.4f}",
                    found.area,
                    *found.box,
                    *(f"{value:.2f}" for value in found.centroid),
                    found.origin,
                    "" if found.agreement is None else f"{found.agreement:.4f}",
                    int(item.accepted),
                ]
            )
            self._text.file.write(line)

    def finish(self) -> None:
        assemble(self._target.track.folder / "objects.csv", self._text.text())
        self._text.remove()


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask, row by row; the first is of zeros, and may be 0."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], changes]))
    return [int(value) for value in lengths]


EXPORTERS: dict[str, Any] = {
    "davis": Davis,
    "coco": Coco,
    "cvat": Cvat,
    "label-studio": LabelStudio,
}
BAG_FORMATS = ("mcap", "bag", "mcap-sidecar")
FORMATS = (*EXPORTERS, *BAG_FORMATS)


def checked_formats(text: str) -> tuple[str, ...]:
    """Formats from words with commas between them, in the order of ``FORMATS``.

    Raises:
        InputError: an unknown one; the message lists those that there are.
    """
    words = {word.strip() for word in text.split(",") if word.strip()}
    if unknown := sorted(words - set(FORMATS)):
        raise InputError(f"format {unknown[0]!r} is unknown; there are {', '.join(FORMATS)}")
    if "mcap-sidecar" in words and (whole := sorted({"mcap", "bag"} & words)):
        raise InputError(f"{whole[0]} holds all that mcap-sidecar does; choose one of them")
    return tuple(name for name in FORMATS if name in words)
