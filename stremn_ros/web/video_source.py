"""A video, a folder of images, a recording or a webcam on the page, without ROS.

One thread does all the work on frames: it reads them, segments them, and carries out what the page
asks for, one after the other. What the masks of a frame were is kept with the frame's number, so
that going back shows them again, and an export writes what was seen.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, StremnError
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.masks import decode_mask, encode_mask, ids_in
from stremn_ros.segmenter import Segmenter
from stremn_ros.web.export import GivenMask, write_results
from stremn_ros.web.frames import Frames
from stremn_ros.web.requests import Request
from stremn_ros.web.source import MaskMaker, Picture, Recent, free_id

WAITING = 64  # requests that may wait for the thread
SEED_PATIENCE = 600.0  # seconds; an export before it may take long
RATE_WINDOW = 30  # frames
HELD = 8  # pictures, of different browsers
STOPPED_AFTER = 2.0  # seconds without a frame of a webcam


@dataclass(frozen=True)
class Record:
    """The masks of one frame: a PNG of the labels, and of each object what Picture says."""

    png: bytes
    objects: tuple[Mapping[str, Any], ...]

    @property
    def labels(self) -> NDArray[np.uint8]:
        return decode_mask(self.png, "a mask that was kept")

    @classmethod
    def of(cls, labels: NDArray[np.uint8], objects: tuple[Mapping[str, Any], ...]) -> Record:
        return cls(encode_mask(labels), objects)


class VideoSource:
    """See ``source.Source``. It owns the segmenter from now on.

    Args:
        frames: what is shown. title: for the page. segmenter: that follows the objects.
        path: of the video, for an export; None for a webcam. out: folder that exports are put into.
        masks: makes the masks of hints; None: GrabCut does. topic: of a recording.
    """

    def __init__(
        self,
        frames: Frames,
        title: str,
        segmenter: Segmenter,
        path: Path | None = None,
        out: Path | None = None,
        masks: HintMasks | None = None,
        topic: str = "",
    ) -> None:
        self.title = title
        able = {"preview", "hold", "follow", "remove", "reset", "pause", "play"}
        if not frames.live:
            able |= {"step", "seek"}
        if path is not None and out is not None:
            able.add("export")
        self.abilities = frozenset(able)
        self._frames, self._segmenter, self._path, self._out = frames, segmenter, path, out
        self._topic = topic
        self._recent = Recent()
        self._held = Recent(HELD)  # that people draw on
        self._masks = MaskMaker(self._kept_frame, masks or HintMasks())
        self._changed: Callable[[], None] = lambda: None
        self._newest: Picture | None = None
        self._number = 0
        # of the thread alone
        self._at = -1  # the frame shown
        self._memory_at = -1  # the last frame that the segmenter saw
        self._records: dict[int, Record] = {}
        self._names: dict[int, str] = {}
        self._given: dict[tuple[int, int], NDArray[np.uint8]] = {}  # masks, by frame and object
        self._frame: NDArray[np.uint8] | None = None
        self._playing = frames.live
        self._due = 0.0
        # also read by others
        self._times: deque[float] = deque(maxlen=RATE_WINDOW)
        self._took: deque[float] = deque(maxlen=RATE_WINDOW)
        self._doing = ""
        self._problem = ""
        self._closing = False
        self._jobs: queue.Queue[tuple[Callable[[], dict[str, Any]], Future[Any]] | None] = (
            queue.Queue(WAITING)
        )
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    @property
    def newest(self) -> Picture | None:
        return self._newest

    @property
    def _playing(self) -> bool:
        return not self._frames.paused

    @_playing.setter
    def _playing(self, on: bool) -> None:
        self._frames.paused = not on

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def status(self) -> dict[str, Any]:
        times, took = list(self._times), list(self._took)
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        mean = sum(took) / len(took) if took else 0.0
        # a large model on a slow machine may take seconds
        fresh = bool(times) and time.monotonic() - times[-1] < max(STOPPED_AFTER, 3.0 * mean)
        picture = self._newest
        return {
            "playing": self._playing,
            "position": picture.position if picture else 0,
            "count": self._frames.count,
            "fps": self._frames.fps,
            "live": self._frames.live,
            "rate": (len(times) - 1) / span if span and fresh else 0.0,
            "latency": mean,
            "dropped": self._frames.dropped,
            "doing": self._doing,
            "problem": self._problem,
            "stopped": self._stopped(fresh),
        }

    def _stopped(self, fresh: bool) -> bool:
        """Frames should come, and none does."""
        return self._frames.live and self._playing and not fresh and self._newest is not None

    def do(self, request: Request) -> dict[str, Any]:
        if request.do == "preview":  # beside the thread: it goes on meanwhile
            return self._masks.preview(request.stamp, request.hints)
        if request.do == "hold":
            self._held.add(request.stamp, self._kept_frame(request.stamp))
            return {"message": "the picture is held"}
        if request.do == "follow":
            frame, mask = self._masks.make(request.stamp, request.hints)
            return self._ask(lambda: self._follow(request, frame, mask))
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "remove": lambda: self._remove(request.object_id),
            "reset": self._reset,
            "pause": lambda: self._play(False),
            "play": lambda: self._play(True),
            "step": self._step,
            "seek": lambda: self._seek(request.number),
            "export": self._export,
        }
        return self._ask(work[request.do])

    def _ask(self, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Has the thread do it."""
        done: Future[dict[str, Any]] = Future()
        try:
            self._jobs.put_nowait((job, done))
        except queue.Full:
            raise StremnError("busy: wait for the last answers") from None
        if self._closing:
            raise StremnError("it is ending")
        try:
            return done.result(SEED_PATIENCE)
        except FutureTimeout:  # the builtin one from Python 3.11 on
            raise StremnError(f"no answer within {SEED_PATIENCE:.0f} s") from None

    def close(self) -> None:
        self._closing = True
        self._frames.interrupt()  # a seek may be reading through hours of video
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join()
        while True:
            try:
                waiting = self._jobs.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting[1].set_exception(StremnError("it is ending"))
        self._frames.close()

    def _kept_frame(self, stamp: int) -> NDArray[np.uint8]:
        frame = self._held.find(stamp)
        if frame is None:
            frame = self._recent.find(stamp)
        if frame is None:
            raise InputError("that picture is no longer kept: click again on one that is shown now")
        return frame

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        with self._told():
            self._show_at(0)
        while not self._closing:
            wait = max(0.0, self._due - time.monotonic()) if self._playing else None
            try:
                waiting = self._jobs.get(timeout=wait) if wait != 0 else self._jobs.get_nowait()
            except queue.Empty:
                with self._told():
                    self._advance()
                continue
            if waiting is None:
                continue
            job, done = waiting
            try:
                done.set_result(job())
            except Exception as error:  # whoever asked is told
                done.set_exception(error)
            self._changed()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A failure of a frame stops the playing and is told; it ends nothing."""
        try:
            yield
        except Exception as error:
            self._playing, self._problem = False, f"{error}" or type(error).__name__
            self._changed()

    def _advance(self) -> None:
        """The next frame: as it was segmented before, or segmented now."""
        now = time.monotonic()
        # from when this one was due, so that the rate is kept; but no hurry after a long one
        self._due = max(self._due, now - 1.0) + 1.0 / self._frames.fps
        if not self._show_at(self._at + 1):
            self._playing = False
            self._problem = getattr(self._frames, "problem", "")
            self._changed()

    def _show_at(self, number: int, segment: bool = True) -> bool:
        """Goes to a frame; False where there is none."""
        frame = self._frames.get(number)
        if frame is None:
            return False
        self._at, self._frame = number, frame
        # of earlier frames the memory knows what came later; they have the masks that they have
        new = number > self._memory_at and number not in self._records
        if segment and new and self._segmenter.ids:
            begun = time.monotonic()
            result = self._segmenter.step(frame)
            self._took.append(time.monotonic() - begun)
            self._memory_at = number
            self._keep(
                number,
                result.labels,
                tuple(
                    _told_of(item, self._names.get(item.id, ""), item.score, item.state.name)
                    for item in result.objects
                ),
            )
        self._times.append(time.monotonic())
        self._show()
        return True

    def _keep(
        self, number: int, labels: NDArray[np.uint8], objects: tuple[Mapping[str, Any], ...]
    ) -> None:
        if self._frames.live:  # it has no end; only the newest is needed
            self._records.clear()
        self._records[number] = Record.of(labels, objects)

    def _show(self) -> None:
        """Makes the picture of the frame that it is at."""
        frame = self._frame
        assert frame is not None
        labels, objects = self._masks_at(self._at)
        self._recent.add(self._at, frame)
        self._number += 1
        here = {item["id"] for item in objects}
        absent = tuple(
            {"id": number, "name": self._names.get(number, ""), "state": "NOT SEGMENTED"}
            for number in self._segmenter.ids
            if number not in here
        )
        at = max(0, self._at)
        self._newest = Picture(
            self._number,
            self._at,
            frame,
            labels,
            (*objects, *absent),
            at,
            self._frames.time(at),
        )
        self._changed()

    def _masks_at(self, number: int) -> tuple[NDArray[np.uint8], tuple[Mapping[str, Any], ...]]:
        record = self._records.get(number)
        if record is not None:
            return record.labels, record.objects
        assert self._frame is not None
        return np.zeros(self._frame.shape[:2], np.uint8), ()

    # ------------------------------------------------------------------ what the page asks for

    def _play(self, on: bool) -> dict[str, Any]:
        if on and not self._playing:
            if not self._frames.live and self._frames.get(self._at + 1) is None:
                raise InputError("this is the last frame: go back to play from there")
            self._problem = ""
            self._due = time.monotonic()
            self._times.clear()
        self._playing = on
        return {"message": "playing" if on else "paused"}

    def _step(self) -> dict[str, Any]:
        self._playing = False
        if not self._show_at(self._at + 1):
            raise InputError("this is the last frame")
        return {"message": f"frame {self._at}"}

    def _seek(self, number: int) -> dict[str, Any]:
        self._playing = False
        self._doing = f"reading up to frame {number}"
        self._changed()
        try:
            if not self._show_at(number, segment=False):
                last = max(0, self._frames.count - 1)
                self._show_at(last, segment=False)
        finally:
            self._doing = ""
        return {"message": f"frame {self._at}"}

    def _follow(
        self, request: Request, frame: NDArray[np.uint8], mask: NDArray[np.uint8]
    ) -> dict[str, Any]:
        ids = self._segmenter.ids
        object_id = request.object_id or self._free_id(ids)
        if request.object_id and request.object_id not in ids:
            raise InputError(f"object {object_id} is not followed: seed a new one")
        self._check_room(ids, object_id)
        number = request.stamp
        if self._frames.live:
            self._segmenter.seed(frame, mask * np.uint8(object_id))
            self._name(object_id, request)
            return {"message": f"object {object_id} is followed", "object": object_id}
        if number < self._memory_at:
            self._go_back(number, frame)
        elif number not in self._records and self._at != number:
            self._at, self._frame = number, frame
        self._segmenter.seed(frame, mask * np.uint8(object_id))
        self._name(object_id, request)
        self._memory_at = self._at = number
        self._frame = frame
        labels, objects = self._masks_at(number)
        labels = np.where(mask > 0, np.uint8(object_id), np.where(labels == object_id, 0, labels))
        labels = labels.astype(np.uint8)
        known = {item["id"]: item for item in objects}
        known[object_id] = {"id": object_id, "state": "GIVEN", "score": None}
        self._keep(number, labels, self._again(labels, known))
        self._given[number, object_id] = mask
        self._playing = False
        self._show()
        text = f"object {object_id} is followed from frame {number}"
        return {"message": text, "object": object_id}

    def _free_id(self, ids: list[int]) -> int:
        """One that no mask has, either: of an object that was removed later on."""
        recorded = {item["id"] for record in self._records.values() for item in record.objects}
        taken = {*ids, *self._names}
        with contextlib.suppress(InputError):  # all were used some time
            return free_id(taken | recorded)
        return free_id(taken)

    def _check_room(self, ids: list[int], object_id: int) -> None:
        """Before anything is changed."""
        most = self._segmenter.max_objects
        if object_id not in ids and len(ids) >= most:
            raise InputError(
                f"{most} objects are followed, which is the most: remove one first, or start with "
                f"--max-objects {most + 1}"
            )

    def _name(self, object_id: int, request: Request) -> None:
        if request.name or not request.object_id:
            self._names[object_id] = request.name

    def _again(
        self, labels: NDArray[np.uint8], known: Mapping[int, Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], ...]:
        """Objects after a change of their masks."""
        made = []
        for number, item in sorted(known.items()):
            mask = np.asarray(labels == number, np.uint8)
            x, y, width, height = cv2.boundingRect(mask)
            made.append(
                {
                    **item,
                    "name": self._names.get(number, ""),
                    "area": int(np.count_nonzero(mask)),
                    "box": [x, y, width, height],
                }
            )
        return tuple(made)

    def _go_back(self, number: int, frame: NDArray[np.uint8]) -> None:
        """The memory goes on from the masks of an earlier frame; what came after it is dropped.

        An object that has no mask there keeps its memory, and is found again when it comes.
        """
        for later in [key for key in self._records if key > number]:
            del self._records[later]
        self._at, self._frame, self._memory_at = number, frame, number
        labels, _ = self._masks_at(number)
        present = sorted(set(ids_in(labels)) & set(self._segmenter.ids))
        if present:
            self._segmenter.seed(frame, labels, ids=present)

    def _remove(self, object_id: int) -> dict[str, Any]:
        self._segmenter.remove(object_id)
        self._names.pop(object_id, None)
        self._given = {key: mask for key, mask in self._given.items() if key[1] != object_id}
        record = self._records.get(self._at)
        if self._at < self._memory_at and self._frame is not None and not self._frames.live:
            self._go_back(self._at, self._frame)
        if record is not None:
            labels = record.labels
            labels[labels == object_id] = 0
            left = tuple(item for item in record.objects if item["id"] != object_id)
            self._keep(self._at, labels, left)
        if self._frame is not None:
            self._show()
        return {"message": f"object {object_id} is forgotten"}

    def _reset(self) -> dict[str, Any]:
        self._segmenter.reset()
        self._records.clear()
        self._names.clear()
        self._given.clear()
        self._memory_at = -1
        if self._frame is not None:
            self._show()
        return {"message": "all objects are forgotten"}

    def _export(self) -> dict[str, Any]:
        assert self._path is not None
        assert self._out is not None
        if not self._records:
            raise InputError("there are no masks yet: follow an object first")

        def tell(done: int) -> bool:
            self._doing = f"export: frame {done} of {max(self._records) + 1}"
            self._changed()
            return not self._closing

        try:
            footage = self._frames.footage(max(self._records))
            given = [
                GivenMask(number, object_id, self._names.get(object_id, ""), mask)
                for (number, object_id), mask in sorted(self._given.items())
            ]
            folder = write_results(
                footage, self._path, self._topic, self._records, given, self._out, tell
            )
        finally:
            self._doing = ""
        return {"message": f"frames 0 to {max(self._records)} written to {folder}"}


def _told_of(item: Any, name: str, score: float | None, state: str) -> Mapping[str, Any]:
    return {
        "id": item.id,
        "name": name,
        "state": state,
        "score": None if score is None else round(float(score), 3),
        "area": int(item.area),
        "box": [int(side) for side in item.box],
    }
