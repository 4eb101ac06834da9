"""Frames in and out of files: videos and folders of images are read, mp4 is written."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stremn_ros.errors import InputError, StremnError

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
DEFAULT_FPS = 24.0  # of a folder of images, which states none (DAVIS is 24)

# Containers without an index give an estimated frame count. A video that ends this close to the
# stated count has simply ended; one that ends earlier is damaged.
_COUNT_SLACK_FRAMES = 2
_COUNT_SLACK_FRACTION = 0.01


def natural_key(name: str) -> list[tuple[int, Any]]:
    """Sort key under which "img2" comes before "img10"."""
    return [
        (0, int(part)) if part.isdigit() else (1, part.lower())
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files of a folder (by suffix, hidden files left out) in natural order."""
    return sorted(
        (
            path
            for path in Path(folder).iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith(".")
            and path.is_file()
        ),
        key=lambda path: natural_key(path.name),
    )


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file as RGB uint8 [H, W, 3]; InputError when it is missing or cannot be decoded."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, an image file is needed")
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:  # for instance a header that claims an absurd size
        raise InputError(f"{path}: cannot be decoded as an image ({error})") from error
    if image is None:
        raise InputError(f"{path}: cannot be decoded as an image (empty, damaged or not readable)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: str | os.PathLike[str], image: np.ndarray, quality: int = 95) -> None:
    """Writes RGB uint8 [H, W, 3] under the format that the suffix names; the folder is made.

    ``quality``: of a JPEG, 0..100.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = cv2.imwrite(
            str(path),
            cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in (".jpg", ".jpeg") else [],
        )
    except cv2.error as error:
        raise InputError(f"{path}: cannot be written as an image ({error})") from error
    if not done:
        raise StremnError(f"{path}: could not be written (disk full, or no permission?)")


def _resized(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or frame.shape[:2] == size:
        return frame
    shrinking = size[0] < frame.shape[0]
    return cv2.resize(
        frame, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    )


class Frames:
    """The frames of a video file or of a folder of images; iterate as often as you like.

    Attributes: path; fps (float); count (frames that an iteration yields; for some video
    containers an estimate until the first iteration has ended); size (height, width) of the
    frames yielded; names (one per frame: the file's name, or "frame 12"). Iterating yields RGB
    uint8 [H, W, 3]. Images of a folder may differ in size; without `size` each comes as it is,
    and `size` is that of the first. InputError names the frame that cannot be decoded.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        end: int | None,
        size: int | tuple[int, int] | None,
        folder_fps: float,
    ) -> None:
        self.path = path
        self.fps = float(folder_fps)
        self._start = start
        self._files: list[Path] | None = None
        if path.is_dir():
            files = list_images(path)
            if not files:
                raise InputError(
                    f"{path}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})"
                )
            total = len(files)
            self._files = files[start:end]
            if not self._files:
                raise InputError(f"{path}: has {total} frames, none of them in {start} to {end}")
            native = read_image(self._files[0]).shape[:2]
            self.count = len(self._files)
        else:
            native, total = self._probe()
            self.count = max(total - start, 0) if end is None else max(min(total, end) - start, 0)
            if total and not self.count:
                raise InputError(f"{path}: has {total} frames, none of them in {start} to {end}")
        self._end = end
        self._total = total
        self._target: tuple[int, int] | None
        if isinstance(size, (int, np.integer)):
            self._target = (int(size), max(1, round(native[1] * int(size) / native[0])))
        else:
            self._target = None if size is None else (int(size[0]), int(size[1]))
        self.size: tuple[int, int] = self._target or (int(native[0]), int(native[1]))

    def _probe(self) -> tuple[tuple[int, int], int]:
        """Decodes one frame: only that shows that the file is a video, and how it is rotated."""
        capture = self._open()
        try:
            ok, frame = capture.read()
            if not ok or frame is None:
                raise InputError(f"{self.path}: opens as a video, but frame 0 cannot be decoded")
            fps = capture.get(cv2.CAP_PROP_FPS)
            if math.isfinite(fps) and 0.1 <= fps <= 1000.0:
                self.fps = float(fps)
            total = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        # A stream without an index reports zero or a negative number
        return frame.shape[:2], int(total) if math.isfinite(total) and total > 0 else 0

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise InputError(
                f"{self.path}: cannot be opened as a video (damaged, not a video, or "
                "of a codec that this OpenCV lacks); a folder of images works too"
            )
        return capture

    @property
    def names(self) -> list[str]:
        if self._files is not None:
            return [path.name for path in self._files]
        return [f"frame {self._start + index}" for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._files is None:
            yield from self._iterate_video()
        else:
            for path in self._files:
                yield _resized(read_image(path), self._target)

    def _iterate_video(self) -> Iterator[np.ndarray]:
        capture = self._open()
        index = 0
        try:
            while self._end is None or index < self._end:
                # Frames before the start are decoded and dropped: seeking is off by a few frames
                # with many codecs.
                if index < self._start:
                    if not capture.grab():
                        break
                else:
                    ok, frame = capture.read()
                    if not ok or frame is None:
                        break
                    yield _resized(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), self._target)
                index += 1
        finally:
            capture.release()
        wanted = self._total if self._end is None else min(self._total, self._end)
        slack = max(_COUNT_SLACK_FRAMES, math.ceil(_COUNT_SLACK_FRACTION * self._total))
        if index < wanted - slack:
            raise InputError(
                f"{self.path}: frame {index} of {self._total} cannot be decoded "
                "(the file is damaged or cut short)"
            )
        if index <= self._start:
            raise InputError(f"{self.path}: has {index} frames, none of them from {self._start} on")
        if index < wanted:
            _log.warning(
                "%s: ended after %d frames, its header says %d", self.path, index, self._total
            )
        self.count = index - self._start


def open_frames(
    path: str | os.PathLike[str],
    start: int = 0,
    end: int | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    folder_fps: float = DEFAULT_FPS,
) -> Frames:
    """Opens a video file or a folder of images (in natural order) for reading.

    Frames start (inclusive) to end (exclusive, None for all) are read. size: None keeps the
    source's, (height, width) resizes, one int gives the rows and keeps the aspect. folder_fps is
    reported as the rate of a folder. Raises InputError for what is missing, empty or unreadable;
    iterating raises it for a frame that cannot be decoded.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if start < 0 or (end is not None and end <= start):
        raise InputError(f"start {start} and end {end}: 0 <= start < end is needed")
    sides = () if size is None else (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(sides) > 2 or any(side < 1 for side in sides):
        raise InputError(f"size {size}: rows, or (height, width), each at least 1, is needed")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not path.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path}: is a single image; a video or a folder of images is needed")
    return Frames(path, int(start), None if end is None else int(end), size, folder_fps)


class VideoWriter:
    """Writes RGB uint8 [H, W, 3] frames of one size as mp4; a context manager.

    The file appears under its name only when the block ends without an error; until then it has
    a temporary name beside it. Odd sizes are padded by one row or column (the codec needs even
    ones). Raises InputError for a wrong frame or no frame at all, StremnError when the file could
    not be written.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = DEFAULT_FPS) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{self.path}: the name of a video to write must end in .mp4")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps {fps}: a positive number is needed")
        self.fps = float(fps)
        self.count = 0
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise InputError(
                f"a frame is {frame.dtype} {list(frame.shape)}; RGB uint8 [H, W, 3] is needed"
            )
        if self._writer is None:
            self._shape = frame.shape
            height, width = frame.shape[:2]
            self._writer = cv2.VideoWriter(
                str(self._temporary),
                cv2.VideoWriter.fourcc(*"mp4v"),
                self.fps,
                (width + width % 2, height + height % 2),
            )
            if not self._writer.isOpened():
                raise StremnError(
                    f"{self.path}: cannot be opened for writing "
                    "(no permission, or an OpenCV without FFmpeg)"
                )
        if frame.shape != self._shape:
            raise InputError(
                f"frame {self.count} is {list(frame.shape)}, "
                f"the first was {list(self._shape or ())}"
            )
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(image)
        self.count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is not None:
                return
            if not self.count:
                raise InputError(f"{self.path}: no frame was written to the video")
            self._check()
            os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check(self) -> None:
        """OpenCV reports no failed write (a full disk), so the result is opened once."""
        capture = cv2.VideoCapture(str(self._temporary))
        try:
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        finally:
            capture.release()
        if written != self.count:
            raise StremnError(
                f"{self.path}: {written} of {self.count} frames reached the file "
                "(is the disk full?)"
            )
