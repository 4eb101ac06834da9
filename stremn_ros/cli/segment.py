"""`stremn segment`: follow the objects of a first mask through a video."""

from __future__ import annotations

import argparse
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import (
    add_click_model,
    add_hints,
    add_model_options,
    check_apart,
    check_writable,
    counted,
    empty_folder,
    first_mask,
    folder,
    hint_names,
    load_hint_masks,
    load_segmenter,
)
from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import write_json
from stremn_ros.results import MAX_ID, ObjectState

log = logging.getLogger(__name__)

MASK_DIGITS = 5
CONTACT_TILES = 12  # frames of a long video that are on the contact sheet


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "segment",
        parents=[common],
        help="follow the objects of a first mask through a video",
        description="Follows every object of the first frame's mask through a video or a folder "
        "of images; or one object, from a box, points or a polygon in that frame. Writes "
        "OUT/masks/*.png (indexed, pixel value = object id), OUT/overlay.mp4, "
        "OUT/contact_sheet.png and OUT/summary.json.",
    )
    parser.add_argument("video", metavar="VIDEO_OR_FOLDER", help="video, or folder of images")
    parser.add_argument(
        "--mask",
        metavar="FIRST.png",
        help="mask of the first frame, of its size; each value 1..254 is one object. 255 is no "
        "object beside such values, and the one object where it is alone",
    )
    add_hints(parser)
    add_click_model(parser)
    parser.add_argument(
        "--id",
        type=int,
        metavar="N",
        help="id, and so color, of the object from a box, points or a polygon (default: 1)",
    )
    parser.add_argument(
        "--out", type=folder, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame, the mask's (default: 0)"
    )
    parser.add_argument("--end", type=int, metavar="N", help="stop before this frame")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace masks that are in the folder already"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from stremn_ros.imaging.masks import ids_in
    from stremn_ros.imaging.video import WhatComes, open_frames, write_image
    from stremn_ros.imaging.visualization import contact_sheet, overlay, write_label_png

    _check(options)
    out = Path(options.out)
    check_writable(out)
    check_apart(options.video, out, out / "masks", out / "overlay.mp4")
    for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
        check_writable(out / name, file=True)
    source = open_frames(options.video, options.start, options.end)
    mask = None if options.mask is None else first_mask(options.mask, source)
    readable = WhatComes(source)
    frames = iter(readable)
    first = next(frames)  # before anything is written: there may be none from --start on
    if mask is None:
        mask = _mask_of_hints(options, first)
    ids = ids_in(mask)
    segmenter = load_segmenter(options, len(ids))
    masks = empty_folder(out / "masks", options.overwrite)
    names = [Path(name).stem for name in source.names] if Path(options.video).is_dir() else []
    if len(set(names)) < len(names):
        names = []  # a.jpg beside a.png: their masks would have one name
    sheet = _ContactFrames()
    busy, objects, labels = 0.0, [], mask
    begin = time.perf_counter()
    shown = itertools.chain([first], frames)
    bar = tqdm(shown, total=source.count or None, unit="frame", disable=options.quiet)
    count = 0
    failure: Exception | None = None
    with _Overlay(out / "overlay.mp4", source.fps, source.size) as video:
        try:
            for frame in bar:
                started = time.perf_counter()
                if not count:
                    segmenter.seed(frame, mask)
                else:
                    result = segmenter.step(frame)
                    labels, objects = result.labels, result.objects
                    busy += time.perf_counter() - started
                index = options.start + count
                name = names[count] if names else f"{index:0{MASK_DIGITS}d}"
                write_label_png(masks / f"{name}.png", labels)
                video.write(overlay(frame, labels))
                sheet.add(frame, labels, _caption(name, not count, objects))
                count += 1
        except Exception as error:  # what was made until then is kept, whatever it is
            if not count:
                raise
            failure = error
    failure = failure or readable.error
    write_image(
        out / "contact_sheet.png", contact_sheet(sheet.frames, sheet.labels, None, sheet.captions)
    )
    elapsed = time.perf_counter() - begin
    states = {str(item.id): item.state.name for item in objects}
    summary = {
        "frames": count,
        "objects": ids,
        "states_at_end": states,
        "ended_early": str(failure) if failure else None,
        "overlay": None if video.problem else video.path.name,
        "frames_per_second": round((count - 1) / busy, 2) if busy else None,
        "frames_per_second_with_files": round(count / elapsed, 2),
        "model": options.model,
        "runtime": segmenter.runtime_name,
        "processing_size": segmenter.processing_size,
        "memory_bytes": segmenter.memory_bytes,
    }
    write_json(out / "summary.json", summary)
    size = "x".join(str(side) for side in segmenter.processing_size or ())
    gone = [label for label, state in states.items() if state != "TRACKED"]
    speed = summary["frames_per_second"]
    print(
        f"{counted(count, 'frame')}, {counted(len(ids), 'object')}"
        + (f" (not seen at the end: {', '.join(gone)})" if gone else "")
        + (f", {speed:.1f} frames per second" if speed else "")
        + f" ({summary['frames_per_second_with_files']:.1f} with files) on "
        f"{segmenter.runtime_name} at {size}; results are in {out}"
    )
    if failure is not None:
        raise failure
    return 0


def _check(options: argparse.Namespace) -> None:
    given = hint_names(options)
    if options.mask is not None and given:
        raise InputError(f"--mask already says where the objects are: leave out {given[0]}")
    if options.id is not None:
        if options.mask is not None:
            raise InputError("--mask already says which id each object has: leave out --id")
        if not 1 <= options.id <= MAX_ID:
            raise InputError(f"--id is {options.id}; ids are 1..{MAX_ID}")
    if options.mask is None and not set(given) - {"--not"}:
        raise InputError(
            "say where the object is in the first frame: --mask, --box, --polygon or --points; or "
            f"click it: stremn view {options.video}"
        )


def _mask_of_hints(options: argparse.Namespace, frame: Any) -> Any:
    """The mask of one object in the first frame, uint8 [H, W]; a doubtful one is reported."""
    hints = {
        "box": options.box,
        "polygon": options.polygon,
        "inside": options.points,
        "outside": options.outside,
    }
    masks = load_hint_masks(options)
    made = masks.make(frame, **hints)
    if doubt := made.doubt(masks.agreement(frame, made.mask, **hints)):
        log.warning(
            "the mask made of these hints is doubtful, as %s: look at the first mask, and give a "
            "closer box or more points",
            doubt,
        )
    return made.mask * (options.id or 1)


class _Overlay:
    """The overlay video, as far as it can be written: the masks are what matters."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        from stremn_ros.imaging.video import VideoWriter

        self.path, self.problem = path, ""
        self._size = size
        self._writer = VideoWriter(path, fps)

    def __enter__(self) -> _Overlay:
        self.path.unlink(missing_ok=True)  # an older run's is not taken for this one's
        self._writer.__enter__()
        try:
            self._writer.open(self._size)
        except StremnError as error:
            self._give_up(error)
        return self

    def write(self, frame: Any) -> None:
        if self.problem:
            return
        if frame.shape[:2] != self._size:  # a folder may mix sizes, a video cannot
            import cv2

            frame = cv2.resize(frame, (self._size[1], self._size[0]))
        self._writer.write(frame)

    def __exit__(self, *error: Any) -> None:
        try:
            self._writer.__exit__(*error)
        except StremnError as problem:
            if not self.problem:
                self._give_up(problem)

    def _give_up(self, error: Exception) -> None:
        self.problem = str(error)
        log.warning("there is no overlay video: %s", error)


def _caption(name: str, given: bool, objects: Sequence[Any]) -> str:
    if given:
        return f"{name}  given"
    if len(objects) > 3:
        seen = sum(item.state is ObjectState.TRACKED for item in objects)
        return f"{name}  {seen} of {len(objects)} seen"
    return f"{name}  " + "  ".join(
        f"{item.id}: {item.score:.2f}"
        if item.state is ObjectState.TRACKED
        else f"{item.id}: {item.state.name.lower()}"
        for item in objects
    )


class _ContactFrames:
    """Evenly spread frames of a video of unknown length, the first and the last among them."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Any, Any, str]] = []
        self._last: tuple[int, Any, Any, str] | None = None
        self._step = 1
        self._count = 0

    def add(self, frame: Any, labels: Any, caption: str) -> None:
        import cv2

        # a tile is 480 wide; a strip that stands on end is kept small all the same
        share = min(480 / frame.shape[1], 960 / frame.shape[0])
        size = [max(1, round(side * share)) for side in frame.shape[1::-1]]
        item = (
            self._count,
            cv2.resize(frame, size, interpolation=cv2.INTER_AREA),
            cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST),
            caption,
        )
        if self._count % self._step == 0:
            self._kept.append(item)
        if len(self._kept) >= 2 * CONTACT_TILES:
            self._kept = self._kept[::2]
            self._step *= 2
        self._last = item
        self._count += 1

    def _all(self) -> list[tuple[int, Any, Any, str]]:
        if self._last is None:
            return []
        items = self._kept
        if items[-1][0] != self._last[0]:
            items = [*items, self._last]
        if len(items) <= CONTACT_TILES:
            return items
        share = (len(items) - 1) / (CONTACT_TILES - 1)
        return [items[round(n * share)] for n in range(CONTACT_TILES)]

    @property
    def frames(self) -> list[Any]:
        return [item[1] for item in self._all()]

    @property
    def labels(self) -> list[Any]:
        return [item[2] for item in self._all()]

    @property
    def captions(self) -> list[str]:
        return [item[3] for item in self._all()]
