"""What was followed on the page, as files: masks, overlay video, a table of the objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import StremnError
from stremn_ros.files import write_text
from stremn_ros.imaging.video import VideoWriter, WhatComes, open_frames
from stremn_ros.imaging.visualization import overlay, write_label_png
from stremn_ros.text_files import csv_line

MASK_DIGITS = 5
COLUMNS = ("frame", "id", "name", "state", "score", "area", "x", "y", "width", "height")


class Record(Protocol):
    """The masks of one frame."""

    @property
    def labels(self) -> NDArray[np.uint8]: ...

    @property
    def objects(self) -> tuple[Mapping[str, Any], ...]: ...


def write_results(
    path: Path, records: Mapping[int, Record], out: Path, tell: Callable[[int], bool]
) -> Path:
    """Writes DIR/masks/*.png, DIR/overlay.mp4 and DIR/objects.csv; DIR is a new folder in `out`.

    Frames up to the last one with masks are written; one that was not segmented has an empty mask.

    Args:
        path: of the video or folder. records: by the number of the frame.
        tell: called with each frame's number; False ends it.

    Raises:
        StremnError: it cannot be written, or `tell` ended it. What was written stays.
    """
    folder = _new_folder(out, path.name.partition(".")[0] or "video")
    last = max(records)
    source = open_frames(path, 0, last + 1)
    names = [Path(name).stem for name in source.names] if path.is_dir() else []
    if len(set(names)) < len(names):
        names = []  # a.jpg beside a.png: their masks would have one name
    table = [csv_line(COLUMNS)]
    frames = WhatComes(source)
    with VideoWriter(folder / "overlay.mp4", source.fps) as video:
        for number, frame in zip(itertools.count(), frames):
            if not tell(number):
                raise StremnError(f"the export was ended; {folder} holds {number} masks")
            record = records.get(number)
            labels = np.zeros(frame.shape[:2], np.uint8) if record is None else record.labels
            name = names[number] if names else f"{number:0{MASK_DIGITS}d}"
            write_label_png(folder / "masks" / f"{name}.png", labels)
            shown = overlay(frame, labels)
            if shown.shape[:2] != source.size:  # a folder may mix sizes, a video cannot
                shown = np.asarray(cv2.resize(shown, source.size[::-1]), np.uint8)
            video.write(shown)
            for item in record.objects if record is not None else ():
                table.append(csv_line([number, *_row(item)]))
    write_text(folder / "objects.csv", "".join(table))
    if frames.error is not None:
        raise frames.error
    return folder


def _row(item: Mapping[str, Any]) -> list[Any]:
    score = item.get("score")
    shown = "" if score is None else score
    return [item["id"], str(item["name"]), item["state"], shown, item["area"], *item["box"]]


def _new_folder(out: Path, name: str) -> Path:
    """out/name-1, or the next that is not there: an export never writes over another."""
    for number in itertools.count(1):
        folder = out / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            reason = error.strerror or error
            raise StremnError(f"{folder}: cannot be made ({reason})") from None
        return folder
    raise AssertionError  # count() does not end
