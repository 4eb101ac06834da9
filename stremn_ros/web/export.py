"""What was followed on the page, as files: masks, overlay video, a table of the objects, seeds."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from stremn_ros.errors import StremnError
from stremn_ros.files import write_text
from stremn_ros.imaging.video import VideoWriter
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


@dataclass(frozen=True)
class Footage:
    """The frames of a source from its first one on, to write pictures of.

    Attributes:
        frames: RGB uint8 [H, W, 3], in order. Its attribute ``error``, where it has one, says why
            they ended early. fps: per second. size: rows and columns of the first.
        names: of the frames, for their masks; empty for numbers.
    """

    frames: Iterable[NDArray[np.uint8]]
    fps: float
    size: tuple[int, int]
    names: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class GivenMask:
    """A mask uint8 [H, W] that a person accepted for an object in a frame."""

    frame: int
    object_id: int
    name: str
    mask: NDArray[np.uint8]


def write_results(
    footage: Footage,
    path: Path,
    topic: str,
    records: Mapping[int, Record],
    given: Sequence[GivenMask],
    out: Path,
    tell: Callable[[int], bool],
) -> Path:
    """Writes what was followed; DIR is a new folder in `out`.

    DIR/masks/*.png, DIR/overlay.mp4 and DIR/objects.csv are of all frames up to the last one with
    masks; one that was not segmented has an empty mask. DIR/seeds.yaml and DIR/seeds/*.png are the
    masks that were given: `stremn label` takes them.

    Args:
        footage: of the source, up to that frame. path: of the video, folder or recording.
        topic: of a recording. records: by the number of the frame. given: by a person.
        tell: called with each frame's number; False ends it.

    Raises:
        StremnError: it cannot be written, or `tell` ended it. What was written stays.
    """
    folder = _new_folder(out, path.name.partition(".")[0] or "video")
    _write_seeds(folder, path, topic, given)
    names = footage.names
    table = [csv_line(COLUMNS)]
    with VideoWriter(folder / "overlay.mp4", footage.fps) as video:
        for number, frame in enumerate(footage.frames):
            if not tell(number):
                raise StremnError(f"the export was ended; {folder} holds {number} masks")
            record = records.get(number)
            labels = np.zeros(frame.shape[:2], np.uint8) if record is None else record.labels
            name = names[number] if names else f"{number:0{MASK_DIGITS}d}"
            write_label_png(folder / "masks" / f"{name}.png", labels)
            shown = overlay(frame, labels)
            if shown.shape[:2] != footage.size:  # a folder may mix sizes, a video cannot
                shown = np.asarray(cv2.resize(shown, footage.size[::-1]), np.uint8)
            video.write(shown)
            for item in record.objects if record is not None else ():
                table.append(csv_line([number, *_row(item)]))
    write_text(folder / "objects.csv", "".join(table))
    if (error := getattr(footage.frames, "error", None)) is not None:
        raise error
    return folder


def _write_seeds(folder: Path, path: Path, topic: str, given: Sequence[GivenMask]) -> None:
    lines = []
    for each in given:
        mask = f"seeds/{each.frame:0{MASK_DIGITS}d}_{each.object_id}.png"
        write_label_png(folder / mask, (each.mask > 0).astype(np.uint8) * np.uint8(each.object_id))
        seed = {"recording": path.name, "topic": topic, "frame": each.frame}
        seed |= {"id": each.object_id, "name": each.name, "mask": mask}
        lines.append({key: value for key, value in seed.items() if value != ""})
    if lines:
        command = shlex.join(["stremn", "label", str(path), "--seeds", str(folder / "seeds.yaml")])
        command = " ".join(command.splitlines())  # a name may have a line break, a comment may not
        use = f"# every frame from these masks: {command} --out DIR\n"
        write_text(folder / "seeds.yaml", use + yaml.safe_dump(lines, sort_keys=False))


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
