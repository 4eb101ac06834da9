"""KTH and Human3.6M for evaluation, in the folder layouts of the public loaders."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.data.prediction_clips import VIDEO_SUFFIXES, JudgedClip
from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import list_images
from stremn_ros.imaging.video import WhatComes, open_frames, read_image
from stremn_ros.text_files import read_lines

log = logging.getLogger(__name__)

SIZE = 128
KTH_ACTIONS = ("boxing", "handclapping", "handwaving", "walking", "jogging", "running")
KTH_FAST = ("jogging", "running")
KTH_TEST_PERSONS = tuple(f"{number:02d}" for number in range(17, 26))
HUMAN_STEP = 5  # of the frames' numbers, between neighbors of a clip


def kth_clips(root: Path, observe: int = 10, horizon: int = 20) -> Iterator[JudgedClip]:
    """The test clips of KTH: persons 17 to 25, gray, 128 x 128.

    Layout of the loaders of PredRNN and OpenSTL: ROOT/[kth/]ACTION/person17_ACTION_d1_uncomp/
    image_0001.jpg (or .png); ACTION/person17_ACTION_d1_uncomp.avi, as the set is published, does
    as well. Clips run through a video without overlap, and every third frame starts one in jogging
    and running, whose people are soon out of sight; gaps in the numbers of the frames are not
    bridged.

    Raises:
        InputError: none of the actions' folders is there, or they hold no clip.
    """
    base = root / "kth" if (root / "kth").is_dir() else root
    actions = [action for action in KTH_ACTIONS if (base / action).is_dir()]
    if not actions:
        raise InputError(f"{base} holds none of KTH's folders: {', '.join(KTH_ACTIONS)}")
    length, found = observe + horizon, 0
    for action in actions:
        stride = 3 if action in KTH_FAST else length
        for video in sorted((base / action).iterdir()):
            if video.name[:6] != "person" or video.name[6:8] not in KTH_TEST_PERSONS:
                continue
            if video.is_dir():
                named = [(_number(path), path) for path in list_images(video)]
                frames = [(number, _gray(read_image(path))) for number, path in named]
            elif video.suffix.lower() in VIDEO_SUFFIXES:
                frames = [(n, _gray(frame)) for n, frame in enumerate(_whole(video))]
            else:
                continue
            first = 0
            while first + length <= len(frames):
                piece = frames[first : first + length]
                if piece[-1][0] - piece[0][0] != length - 1:
                    first += 1
                    continue
                found += 1
                yield JudgedClip(
                    f"{action}/{video.stem}:{piece[0][0]}", np.stack([image for _, image in piece])
                )
                first += stride
    if not found:
        raise InputError(f"{base} holds no clip of {length} frames of the persons 17 to 25")


def _whole(video: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video, as far as it can be read."""
    readable = WhatComes(open_frames(video))
    yield from readable
    if readable.error is not None:
        log.warning("what came before is used: %s", readable.error)


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    if not digits:
        raise InputError(f"{path}: the name of a frame must end in its number")
    return int(digits[-1])


def _gray(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if gray.shape != (SIZE, SIZE):
        gray = cv2.resize(gray, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(gray, np.uint8)[:, :, None]


def human36m_clips(
    root: Path, observe: int = 4, horizon: int = 4, size: int = SIZE
) -> Iterator[JudgedClip]:
    """The test clips of Human3.6M, in color.

    Layout of OpenSTL's loader: ROOT/[human/]test.txt with lines ``PREFIX,NUMBER``; the frames of a
    clip are ROOT/PREFIX + six digits + .jpg, from that number on, every fifth.

    Raises:
        InputError: no such list, a line that cannot be understood, or a frame that is not there.
    """
    base = root / "human" if (root / "human").is_dir() else root
    listing = base / "test.txt"
    if not listing.is_file():
        raise InputError(f"{listing}: no such file; it lists the test clips as PREFIX,NUMBER")
    lines = read_lines(listing)
    if not lines:
        raise InputError(f"{listing} is empty")
    clips = []
    for line in lines:
        parts = line.split(",")
        if len(parts) < 2 or not parts[1].strip().isdecimal():
            raise InputError(f"{listing}: {line!r} is not PREFIX,NUMBER")
        begin = int(parts[1])
        numbers = range(begin, begin + (observe + horizon) * HUMAN_STEP, HUMAN_STEP)
        paths = [base / f"{parts[0]}{number:06d}.jpg" for number in numbers]
        clips.append((f"{Path(parts[0]).name}{begin:06d}", paths))
    # before the first clip is judged, not after hours
    lacking = [path for _, paths in clips for path in paths if not path.is_file()]
    if lacking:
        raise InputError(f"{lacking[0]}: no such file ({len(lacking)} frames of the list lack)")
    for name, paths in clips:
        frames = []
        for path in paths:
            image = read_image(path)
            if image.shape[:2] != (size, size):
                image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
            frames.append(image)
        yield JudgedClip(name, np.stack(frames))
