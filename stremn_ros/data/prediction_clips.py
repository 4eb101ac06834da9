"""Videos for prediction: ordinary ones, KTH and Human3.6M in the layouts of the public loaders."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import in_order, is_tools, list_images
from stremn_ros.imaging.video import Frames, WhatComes, open_frames
from stremn_ros.text_files import read_lines

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg")


def find_videos(root: Path, exclude: Iterable[str] = (), only: Iterable[str] = ()) -> list[Path]:
    """Videos and folders of images below a folder; or the root itself where it is one of these.

    Args:
        root: folder, video, or a text file with one path a line (relative to it).
        exclude, only: names (``is_called``) to leave out, or to keep.

    Raises:
        InputError: nothing is found, or a name that is asked for is not there.
    """
    only = list(only)
    if root.suffix == ".txt" and root.is_file():
        found = [root.parent / line for line in read_lines(root)]
    elif root.is_file():
        found = [root]
    elif root.is_dir():
        entries = in_order(path for path in root.iterdir() if not is_tools(path.name))
        found = [path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES]
        found += [path for path in entries if path.is_dir() and _has_images(path)]
        if not found and _has_images(root):
            found = [root]
    else:
        raise InputError(f"{root}: no such file or folder")
    found = sorted({Path(os.path.abspath(path)): path for path in found}.values())
    if unknown := [name for name in only if not any(is_called(path, [name]) for path in found)]:
        raise InputError(
            f"{root} holds no video named {unknown[0]!r}; it holds {video_names(found)}"
        )
    if only:
        named = [path for name in only for path in found if is_called(path, [name])]
        found = list(dict.fromkeys(named))
    left_out = list(exclude)
    videos = [path for path in found if not is_called(path, left_out)]
    if not videos:
        raise InputError(
            f"{root} holds no videos ({', '.join(VIDEO_SUFFIXES)}) and no folders of images"
        )
    return videos


def is_called(video: Path, names: Iterable[str]) -> bool:
    """Whether one of the names is a video's: without its suffix, with it, or with folders before.

    A folder's name has no suffix: 2024.05.01 is all of it.
    """
    return not set(names).isdisjoint(_names_of(video))


def _names_of(video: Path) -> list[str]:
    """The names of a video, the shortest first; the last is its path, which no other has."""
    path = Path(os.path.abspath(video))
    short = path.name if video.is_dir() else path.stem
    return [short, *("/".join(path.parts[-n:]) for n in range(1, len(path.parts))), str(path)]


def video_names(videos: Iterable[Path]) -> list[str]:
    """A name for each of these videos: its shortest that no other of them has."""
    names = [_names_of(video) for video in videos]
    counts = Counter(name for each in names for name in set(each))
    return [next((name for name in each if counts[name] == 1), each[-1]) for each in names]


def _has_images(folder: Path) -> bool:
    return bool(list_images(folder))


def square(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of a frame, scaled to ``size`` pixels."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    cut = frame[top : top + side, left : left + side]
    scaled = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.uint8).reshape(size, size, *frame.shape[2:])


class FrameStore:
    """Frames of videos in memory, scaled so that the shorter side has ``size`` pixels.

    Args:
        videos: as ``find_videos`` gives them.
        size: of the shorter side.
        limit: frames of one video at most; a longer one gives pieces spread over its length.

    Raises:
        InputError: a video that cannot be read.
    """

    PIECE = 60

    def __init__(self, videos: Iterable[Path], size: int, limit: int = 600) -> None:
        self.videos: list[NDArray[np.uint8]] = []
        for video in tqdm(list(videos), desc="reading videos", unit="video"):
            source = open_frames(video)
            total = source.count or 0
            keep = _pieces(total, limit, self.PIECE)
            piece: list[NDArray[np.uint8]] = []
            readable = WhatComes(source)
            for n, frame in enumerate(readable):
                height, width = frame.shape[:2]
                scale = size / min(height, width)
                to = max(size, round(width * scale)), max(size, round(height * scale))
                kept = keep is None or keep(n)
                # a folder may mix sizes, a clip cannot
                if piece and not (kept and piece[0].shape[:2] == to[::-1]):
                    self.videos.append(np.stack(piece))
                    piece = []
                if kept:
                    small = cv2.resize(frame, to, interpolation=cv2.INTER_AREA)
                    piece.append(small.astype(np.uint8))
            if piece:
                self.videos.append(np.stack(piece))
            if readable.error is not None:
                log.warning("what came before is used: %s", readable.error)

    def sample(
        self,
        rng: np.random.Generator,
        length: int,
        size: int,
        max_gap: int,
        shrink: float = 1.0,
    ) -> NDArray[np.uint8]:
        """A clip [length, size, size, 3]: any video, place, pace up to ``max_gap``, shrunk by 1 to
        ``shrink``, mirrored or reversed by chance."""
        weights = np.array([max(0, len(video) - length + 1) for video in self.videos], np.float64)
        if not weights.any():
            raise InputError(f"no video has {length} frames; shorten the clips")
        video = self.videos[rng.choice(len(self.videos), p=weights / weights.sum())]
        widest = min(max_gap, (len(video) - 1) // max(1, length - 1))
        gap = int(rng.integers(1, widest + 1))
        first = int(rng.integers(0, len(video) - gap * (length - 1)))
        height, width = video.shape[1:3]
        side = size
        if shrink > 1.0:
            side = min(height, width, round(size * np.exp(rng.uniform(0.0, np.log(shrink)))))
        top = int(rng.integers(0, height - side + 1))
        left = int(rng.integers(0, width - side + 1))
        chosen = slice(first, first + gap * (length - 1) + 1, gap)
        clip = video[chosen, top : top + side, left : left + side]
        if side != size:
            clip = np.stack([square(frame, size) for frame in clip])
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        if rng.random() < 0.5:
            clip = clip[::-1]
        return np.ascontiguousarray(clip)


def _pieces(total: int, limit: int, piece: int) -> Callable[[int], bool] | None:
    if total <= limit:
        return None
    period = piece * total / limit
    return lambda n: n % period < piece


@dataclass(frozen=True)
class JudgedClip:
    """A clip to be judged on: name, and frames uint8 [T, H, W, C]."""

    name: str
    frames: NDArray[np.uint8]


def video_clips(
    videos: Iterable[Path], size: int, length: int, stride: int
) -> Iterator[JudgedClip]:
    """Every clip of ``length`` frames of the videos, ``stride`` frames apart, squares of ``size``.

    A clip is named ``V:frame``, V as ``video_names`` has it. Videos that are shorter are left out
    with a warning; so is what comes after a frame that cannot be read. All videos are opened before
    the first clip is given.

    Raises:
        InputError: a video whose first frame cannot be read.
    """
    videos = list(videos)
    sources = [open_frames(video) for video in videos]
    for source in sources:
        next(iter(source))
    return _video_clips(zip(video_names(videos), sources), size, length, stride)


def _video_clips(
    sources: Iterable[tuple[str, Frames]], size: int, length: int, stride: int
) -> Iterator[JudgedClip]:
    for name, source in sources:
        window: list[NDArray[np.uint8]] = []
        given = 0
        readable = WhatComes(source)
        for n, frame in enumerate(readable):
            window.append(square(frame, size))
            if len(window) == length:
                yield JudgedClip(f"{name}:{n - length + 1}", np.stack(window))
                given += 1
                window = window[stride:] if stride < length else []
        if readable.error is not None:
            log.warning("what came before is used: %s", readable.error)
        if not given:
            log.warning("%s has fewer than %d frames and is left out", source.path, length)
