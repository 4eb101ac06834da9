"""What the page shows: pictures with masks, from a video or a running node alike."""

from __future__ import annotations

import json
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.hint_masks import HintMask, HintMasks
from stremn_ros.web.requests import Hints, Request

SHOWN_SIDE = 960  # longer side of the pictures sent; a mask is made on the frame itself
JPEG_QUALITY = 80
KEPT_FRAMES = 30
KEPT_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Picture:
    """One frame with its masks. Nobody changes the arrays.

    Attributes:
        number: counts the pictures, from 1. stamp: of the frame, in the source's own terms.
        frame: RGB uint8 [H, W, 3]. labels: uint8 [H, W], 0 background, n = object n.
        objects: of each: id, name, state, score (None where a person gave the mask), area, box
            (x, y, width, height). position: of the frame in a video, from 0.
        time: of the frame in nanoseconds: its stamp, or since a video's start.
    """

    number: int
    stamp: int
    frame: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: tuple[Mapping[str, Any], ...] = ()
    position: int = 0
    time: int = 0


class Source(Protocol):
    """Where pictures come from and requests go to. All may be called from any thread.

    Attributes:
        title: for the page. abilities: which of ``requests.ACTIONS`` it has beside "ack".
        newest: the newest picture; None before the first.
    """

    title: str
    abilities: frozenset[str]

    @property
    def newest(self) -> Picture | None: ...

    def listen(self, changed: Callable[[], None]) -> None:
        """``changed`` is called, from any thread, when there is a new picture or status."""

    def status(self) -> dict[str, Any]:
        """What the page tells of the source, as JSON has it."""

    def do(self, request: Request) -> dict[str, Any]:
        """Does what the page asked for; the answer has a `message`.

        Raises:
            StremnError: it could not be done; the text is for the person at the page.
        """

    def close(self) -> None:
        """Ends its threads."""


class Recent:
    """The last frames shown, by stamp, for hints that come after newer frames. A fixed budget."""

    def __init__(self, most: int = KEPT_FRAMES, most_bytes: int = KEPT_BYTES) -> None:
        self._frames: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()

    def add(self, stamp: int, frame: NDArray[np.uint8]) -> None:
        with self._lock:
            self._frames.pop(stamp, None)
            self._frames[stamp] = frame
            while len(self._frames) > 1 and (
                len(self._frames) > self._most
                or sum(kept.nbytes for kept in self._frames.values()) > self._most_bytes
            ):
                self._frames.popitem(last=False)

    def find(self, stamp: int) -> NDArray[np.uint8] | None:
        with self._lock:
            return self._frames.get(stamp)

    def clear(self) -> None:
        with self._lock:
            self._frames.clear()


class MaskMaker:
    """Masks from hints; the last ones are kept, so that what was shown is what is followed."""

    def __init__(
        self, frame_of: Callable[[int], NDArray[np.uint8]], masks: HintMasks, kept: int = 8
    ) -> None:
        """frame_of: the frame of a stamp; it raises InputError where that is gone. masks: makes
        the masks."""
        self._frame_of, self._masks, self._kept = frame_of, masks, kept
        self._made: OrderedDict[tuple[int, Hints], tuple[NDArray[np.uint8], HintMask]] = (
            OrderedDict()
        )
        # one at a time: a mask takes what it gets, and many clicks must not starve the frames
        self._lock = threading.Lock()

    def preview(self, stamp: int, hints: Hints) -> dict[str, Any]:
        """The answer that shows the mask."""
        _, made = self._make(stamp, hints)
        text = f"{int(made.mask.sum())} pixels"
        if made.predicted is not None:
            text += f", predicted IoU {made.predicted:.2f}"
        return {"message": text, "mask": mask_png(made.mask)}

    def make(self, stamp: int, hints: Hints) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The frame, and uint8 [H, W] with 1 on the object.

        Raises:
            InputError: the frame is gone, or the hints make no mask.
        """
        frame, made = self._make(stamp, hints)
        return frame, made.mask

    def _make(self, stamp: int, hints: Hints) -> tuple[NDArray[np.uint8], HintMask]:
        """As ``make``, with what is known of the mask.

        Raises:
            InputError: the frame is gone, or the hints make no mask.
        """
        key = (stamp, hints)
        with self._lock:
            if key not in self._made:
                frame = self._frame_of(stamp)
                made = self._masks.make(
                    frame,
                    box=hints.box,
                    polygon=hints.polygon or None,
                    inside=hints.inside or None,
                    outside=hints.outside or None,
                )
                self._made[key] = frame, made
                while len(self._made) > self._kept:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]

    def clear(self) -> None:
        with self._lock:
            self._made.clear()


def free_id(taken: Collection[int], after: int = 0) -> int:
    """The next id after `after` that no object has; after 255 comes 1.

    Raises:
        InputError: all 255 are taken.
    """
    for step in range(255):
        number = (after + step) % 255 + 1
        if number not in taken:
            return number
    raise InputError("all 255 ids are in use: remove an object first")


def shown_size(shape: Sequence[int]) -> tuple[int, int]:
    """(columns, rows) of the picture that is sent of a frame [H, W, ...]."""
    scale = min(1.0, SHOWN_SIDE / max(shape[:2]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def mask_png(labels: NDArray[np.uint8]) -> bytes:
    """A mask or label map at the size that is sent, as a grey PNG whose values are the labels."""
    small = cv2.resize(labels, shown_size(labels.shape), interpolation=cv2.INTER_NEAREST)
    return _encoded(".png", small, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode(picture: Picture) -> bytes:
    """The message of a picture: 4 bytes with the length of a JSON head, the head, JPEG, PNG."""
    columns, rows = shown_size(picture.frame.shape)
    shown = cv2.resize(picture.frame, (columns, rows), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    jpeg = _encoded(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), quality)
    png = mask_png(picture.labels)
    head = json.dumps(
        {
            "number": picture.number,
            "stamp": str(picture.stamp),
            "position": picture.position,
            "width": picture.frame.shape[1],
            "height": picture.frame.shape[0],
            "jpeg": len(jpeg),
            "objects": picture.objects,
        }
    ).encode()
    return struct.pack(">I", len(head)) + head + jpeg + png


def _encoded(suffix: str, image: NDArray[Any], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:  # of sides over 65500, which SHOWN_SIDE rules out
        raise InputError(f"a picture of {list(image.shape)} cannot be encoded as {suffix}")
    return bytes(data)
