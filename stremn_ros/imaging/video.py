"""Frames in and out of files: videos and folders of images are read, mp4 is written."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from stremn_ros.errors import InputError, StremnError
from stremn_ros.files import NewFile, write_bytes
from stremn_ros.imaging import pictures
from stremn_ros.imaging.checks import check_frame
from stremn_ros.imaging.cut_short import cut_short
from stremn_ros.imaging.listing import IMAGE_SUFFIXES, list_images, natural_key
from stremn_ros.imaging.resize import resize

__all__ = [
    "IMAGE_SUFFIXES",
    "Frames",
    "VideoCutShortError",
    "VideoWriter",
    "WhatComes",
    "list_images",
    "natural_key",
    "open_frames",
    "read_image",
    "write_image",
]

log = logging.getLogger(__name__)

DEFAULT_FPS = 24.0  # of a folder of images, which states none (DAVIS is 24)
# packets that are looked at, undecoded, for the number of frames and their rate
_PACKETS = 500
# of mpeg4, which the videos written are encoded with
LOWEST_RATE, HIGHEST_RATE = 0.005, 65535
LARGEST_SIDE = 8190
_RATES_DIFFER = 0.02  # share by which the mean rate may differ from the header's


class VideoCutShortError(InputError):
    """A video file ends before its end: the frames until there came, and none comes after them."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file as RGB uint8 [H, W, 3], as it is stored (`pictures.decode`).

    InputError when it is missing, cut short or cannot be decoded.
    """
    path = Path(path)
    data = _read(path)
    try:
        return pictures.decode(data)
    except InputError as error:
        raise InputError(f"{path}: cannot be decoded: {error}") from None


def _read(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():  # a device may have no end
        kind = "a folder" if path.is_dir() else "no file"
        raise InputError(f"{path}: is {kind}, an image file is needed")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def write_image(path: str | os.PathLike[str], image: np.ndarray, quality: int = 95) -> None:
    """Writes RGB uint8 [H, W, 3] under the format that the suffix names; the folder is made.

    The file appears when whole. ``quality``: of a JPEG, 0..100.
    """
    path = Path(path)
    try:
        jpeg = path.suffix.lower() in (".jpg", ".jpeg")
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else []
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise InputError(f"{path}: cannot be written as an image ({error})") from error
    if not done:
        raise InputError(f"{path}: cannot be written as an image")
    write_bytes(path, data.tobytes())


@contextlib.contextmanager
def _name_of(path: Path, flags: int = os.O_RDONLY) -> Iterator[str]:
    """What FFmpeg is told of a file or folder, whatever its name.

    It takes "12:30.mp4" for a protocol, so it is given the absolute path, which is none. A name
    that is not UTF-8 would end the process in OpenCV, so such a one is given by its descriptor.
    """
    name, descriptor = os.path.abspath(path), None
    try:
        name.encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, flags)
        name = f"/proc/self/fd/{descriptor}"
    try:
        yield name
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def _capture_of(path: Path, options: list[int]) -> Iterator[cv2.VideoCapture]:
    """A capture of a file, whatever its name."""
    with _name_of(path) as name:
        capture = cv2.VideoCapture(name, cv2.CAP_ANY, options)
        try:
            yield capture
        finally:
            capture.release()


def _packets(path: Path) -> tuple[int, float]:
    """(frames, frames per second), from the packets of a video, which are not decoded.

    Either is 0 where it is not known: the first for a long video, the second for a short one. Some
    containers hold packets that are not shown (a clip that was trimmed without encoding it again),
    so the frames may be fewer.
    """
    count, first, last = 0, math.inf, -math.inf
    try:
        with _capture_of(path, [cv2.CAP_PROP_FORMAT, -1]) as capture:
            while count < _PACKETS and capture.grab():
                when = capture.get(cv2.CAP_PROP_POS_MSEC)
                first, last = min(first, when), max(last, when)
                count += 1
    except cv2.error:  # a backend that cannot
        return 0, 0.0
    rate = 1000.0 * (count - 1) / (last - first) if count > 2 and last > first else 0.0
    return 0 if count == _PACKETS else count, rate


class Frames:
    """The frames of a video file or of a folder of images; iterate as often as you like.

    Attributes: path; fps (float: a video's mean rate, where frames come at no fixed one); count
    (frames that an iteration yields; of a video an estimate until the first iteration has ended, 0
    where there is none); size (height, width) of the frames yielded; names (one per frame: the
    file's name, or "frame 12"); orientation (of a folder: the tag of its first image, which is not
    followed; 1 for none). Iterating yields RGB uint8 [H, W, 3]. Images of a folder may differ in
    size; without `size` each comes as it is, and `size` is that of the first that can be read.
    InputError names the image that cannot be decoded. VideoCutShortError comes after the last frame
    of a video file that has fewer bytes than it says; a header that promises more frames than there
    are is no error.
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
        self.orientation = 1
        self._start, self._end = start, end
        self._files: list[Path] | None = None
        self._stated = 0  # frames, by the header
        native: tuple[int, ...]
        if path.is_dir():
            files = list_images(path)
            if not files:
                raise InputError(
                    f"{path}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})"
                )
            total = len(files)
            self._files = files[start:end]
            if not self._files:
                raise InputError(f"{path}: has {total} frames, none {_range_text(start, end)}")
            first, native = self._first_readable(self._files)
            self._look_at_orientation(first)
            self.count = len(self._files)
        else:
            native, total = self._probe()
            self.count = max(total - start, 0) if end is None else max(min(total, end) - start, 0)
        self._target: tuple[int, int] | None
        if isinstance(size, (int, np.integer)):
            self._target = (int(size), max(1, round(native[1] * int(size) / native[0])))
        else:
            self._target = None if size is None else (int(size[0]), int(size[1]))
        self.size: tuple[int, int] = self._target or (int(native[0]), int(native[1]))

    @staticmethod
    def _first_readable(files: list[Path]) -> tuple[Path, tuple[int, ...]]:
        """The first image that can be read, and its size; InputError where none can."""
        problem: InputError | None = None
        for path in files:
            try:
                return path, read_image(path).shape[:2]
            except InputError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _look_at_orientation(self, path: Path) -> None:
        self.orientation = pictures.orientation(_read(path))
        if self.orientation != 1:
            log.warning(
                "%s: the images carry the orientation tag %d (to be shown %s); they are read as "
                "they are stored, and a mask must be of the image as it is stored, too",
                path,
                self.orientation,
                pictures.TURNS[self.orientation],
            )

    def _probe(self) -> tuple[tuple[int, ...], int]:
        """Size of the frames as shown, and about how many there are.

        Decodes one frame: only that shows that the file is a video, and how it is rotated.
        """
        with self._opened() as capture:
            ok, frame = capture.read()
            if not ok or frame is None:
                raise InputError(
                    f"{self.path}: opens as a video, but frame 0 cannot be decoded{self._why()}"
                )
            header = capture.get(cv2.CAP_PROP_FPS)
            stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # A stream without an index states zero or a negative number
        self._stated = int(stated) if math.isfinite(stated) and stated > 0 else 0
        packets, mean = _packets(self.path)
        known = math.isfinite(header) and 0.1 <= header <= 1000.0
        if known:
            self.fps = float(header)
        if 0.001 <= mean <= 1000.0 and not (known and abs(mean - header) <= _RATES_DIFFER * header):
            self.fps = mean
        if packets and self._start >= packets:
            raise InputError(
                f"{self.path}: has {packets} frames, none {_range_text(self._start, self._end)}"
            )
        return frame.shape[:2], packets or self._stated

    @contextlib.contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        with _capture_of(self.path, []) as capture:
            if not capture.isOpened():
                raise InputError(
                    f"{self.path}: cannot be opened as a video{self._why()} (damaged, not a video, "
                    "or of a codec that this OpenCV lacks); a folder of images works too"
                )
            yield capture

    def _why(self) -> str:
        """Of a failure: what is known to be wrong with the file."""
        reason = cut_short(self.path)
        return f": the file is cut short, {reason}" if reason else ""

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
                yield self._at_target_size(read_image(path))

    def _at_target_size(self, frame: np.ndarray) -> np.ndarray:
        return frame if self._target is None else resize(frame, self._target)

    def _iterate_video(self) -> Iterator[np.ndarray]:
        index = 0
        with self._opened() as capture:
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
                    yield self._at_target_size(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                index += 1
        ended = self._end is None or index < self._end
        if ended and (reason := cut_short(self.path, 0 < self._stated <= index)):
            self.count = max(0, index - self._start)
            of_all = f" of {self._stated}" if self._stated else ""
            raise VideoCutShortError(
                f"{self.path}: frame {index}{of_all} cannot be decoded: the file is damaged or cut "
                f"short, {reason}"
            )
        if index <= self._start:
            raise InputError(f"{self.path}: has {index} frames, none {_range_text(self._start)}")
        stated = self._stated if self._end is None else min(self._stated, self._end)
        if index < stated - max(2, stated // 100):
            log.warning(
                "%s: ended after %d frames; its header says %d, which is an estimate, and nothing "
                "shows that it is damaged",
                self.path,
                index,
                self._stated,
            )
        self.count = index - self._start


def _range_text(start: int, end: int | None = None) -> str:
    return f"of them from {start} on" if end is None else f"of them in {start} to {end}"


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class WhatComes:
    """Frames up to the first that cannot be read, for work whose results until there are kept.

    Afterwards ``error`` says why there are no more; None where the source simply ended. Nothing is
    kept of a source whose first frame cannot be read: that error is raised.
    """

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self._frames = frames
        self.error: InputError | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        some = False
        try:
            for frame in self._frames:
                some = True
                yield frame
        except InputError as error:
            if not some:
                raise
            self.error = error


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
    if not os.fspath(path):  # a shell's variable that is not set; Path takes it for "."
        raise InputError("no video or folder was named: its path is empty")
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    numbers = (start,) if end is None else (start, end)
    if not all(map(_is_whole, numbers)) or start < 0 or (end is not None and end <= start):
        raise InputError(
            f"start {start} and end {end}: whole numbers with 0 <= start < end are needed"
        )
    if size is not None:
        sides = tuple(size) if np.iterable(size) else (size,)
        single = not np.iterable(size)
        if len(sides) != (1 if single else 2) or not all(_is_whole(s) and s > 0 for s in sides):
            raise InputError(f"size {size!r}: rows, or (height, width), each at least 1, is needed")
    if not 0.0 < folder_fps < math.inf:
        raise InputError(f"folder_fps {folder_fps}: a positive number is needed")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    if not path.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{path}: is a single image; a video or a folder of images is needed")
    return Frames(path, int(start), None if end is None else int(end), size, folder_fps)


def fitting_rate(fps: float) -> float:
    """The frame rate nearest to this one that mpeg4 can state.

    It states a fraction of two numbers up to 65535, which OpenCV makes of the rate's first three
    decimals; so a rate such as 211.222 is stated as 211.22.
    """
    fps = min(max(fps, LOWEST_RATE), HIGHEST_RATE)
    for decimals in (3, 2, 1):
        scale = 10**decimals
        rounded = Fraction(round(fps * scale), scale)
        if 0 < rounded.numerator <= HIGHEST_RATE:
            return float(rounded)
    return float(round(fps))


def fitting_size(size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) at which frames of a size are written: even, and within mpeg4's limit."""
    share = min(1.0, LARGEST_SIDE / max(size))
    rows, columns = (max(2, side if share == 1.0 else int(side * share)) for side in size)
    return rows + rows % 2, columns + columns % 2


class VideoWriter:
    """Writes RGB uint8 [H, W, 3] frames of one size as mp4; a context manager.

    The file appears under its name only when the block ends without an error; until then it has
    a temporary name beside it. What mpeg4 cannot hold is made to fit: a rate by less than half a
    percent, odd sizes by one more row or column, sides over 8190 by shrinking (the log says so).

    Args:
        path: ending in .mp4. fps: frames per second.

    Raises:
        InputError: a wrong frame, rate or name, or no frame at all.
        StremnError: the file could not be opened or written; the message says why, as far as that
            can be found out.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = DEFAULT_FPS) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{self.path}: the name of a video to write must end in .mp4")
        if not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps {fps}: a positive number is needed")
        self.fps = fitting_rate(float(fps))
        self.count = 0
        self._file = NewFile(self.path, suffix=".mp4")
        self._writer: cv2.VideoWriter | None = None
        self._shape: tuple[int, ...] | None = None
        self._size = (0, 0)  # as written

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def open(self, size: tuple[int, int]) -> None:
        """Opens the file for frames of (rows, columns) now, so that a failure shows before work.

        Raises:
            StremnError: it cannot be opened.
        """
        self._size = rows, columns = fitting_size(size)
        if max(size) > LARGEST_SIDE:
            log.warning(
                "%s: frames of %dx%d are written at %dx%d, as mpeg4 has no larger ones",
                self.path,
                *size,
                rows,
                columns,
            )
        with _name_of(self.path.parent, os.O_DIRECTORY) as folder:
            self._writer = cv2.VideoWriter(
                os.path.join(folder, self._file.temporary.name),
                cv2.VideoWriter.fourcc(*"mp4v"),
                self.fps,
                (columns, rows),
            )
        if not self._writer.isOpened():
            self._writer = None
            raise StremnError(f"{self.path}: cannot be opened for writing: {self._reason()}")
        self._shape = (*size, 3)

    def _reason(self) -> str:
        folder = self.path.parent
        if not folder.is_dir():
            return f"there is no folder {folder}"
        if not os.access(folder, os.W_OK):
            return f"no permission to write in {folder}"
        if not shutil.disk_usage(folder).free:
            return "the disk is full"
        if not re.search(r"FFMPEG: *YES", cv2.getBuildInformation()):
            return "this OpenCV was built without FFmpeg, so it writes no videos"
        rows, columns = self._size
        return f"this OpenCV has no mpeg4 encoder for {rows}x{columns} at {self.fps:g} Hz"

    def write(self, frame: np.ndarray) -> None:
        check_frame(frame)
        if self._writer is None:
            self.open((frame.shape[0], frame.shape[1]))
        assert self._writer is not None
        if frame.shape != self._shape:
            raise InputError(
                f"frame {self.count} is {list(frame.shape)}, "
                f"the first was {list(self._shape or ())}"
            )
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        height, width = frame.shape[:2]
        more_rows, more_columns = self._size[0] - height, self._size[1] - width
        if more_rows < 0 or more_columns < 0:
            image = cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA)
        elif more_rows or more_columns:
            image = cv2.copyMakeBorder(image, 0, more_rows, 0, more_columns, cv2.BORDER_REPLICATE)
        self._writer.write(image)
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is not None:
                return
            if not self.count:
                raise InputError(f"{self.path}: no frame was written to the video")
            self._check()
            self._file.commit()
        finally:
            self._file.discard()

    def _check(self) -> None:
        """OpenCV reports no failed write (a full disk), so the result is opened once."""
        with _capture_of(self._file.temporary, []) as capture:
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        if written != self.count:
            raise StremnError(
                f"{self.path}: {written} of {self.count} frames reached the file "
                "(is the disk full?)"
            )
