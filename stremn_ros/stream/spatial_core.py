"""Objects in space beside a stream of masks: depth in, positions out, in a thread of its own.

The mask of an image goes out at once, and nothing here holds it up: the worker leaves the image and
its mask in a place of fixed size and goes on. This thread pairs them with depth by their stamps
(`DepthPairing`) and measures the objects (`SpatialTracker`). Where it cannot keep up, the newest
pair counts and the others are passed over. While nobody wants what comes out of it, it does not
even listen to the depth camera.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.messages.reading import decode_depth, stamp_of
from stremn_ros.results import ObjectState
from stremn_ros.spatial import (
    DepthPairing,
    Pair,
    SpatialObject,
    SpatialSettings,
    SpatialTracker,
)
from stremn_ros.stream.answers import Known, Seeding, Segmented
from stremn_ros.stream.frame_core import describe_error
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.settings import Settings

IMAGES = 4  # masks that wait for this thread, at most
WAITING = 10  # and for their depth: a third of a second at 30 Hz
_LOOK = 1.0  # seconds between two looks at who wants something, while no image comes
_RECENT = 5.0  # seconds for which an error is told
_MOST_REASONS = 3  # objects whose reason is told
_TIMES = 100  # of the last pairs


@dataclass(frozen=True, eq=False)
class Placed:
    """A segmented image whose depth has come, for publishing.

    Attributes:
        known: of its objects. tracker: its `cloud` is that of this image, for as long as this is
            being published.
    """

    segmented: Segmented
    pair: Pair
    known: Known
    tracker: SpatialTracker

    @property
    def objects(self) -> list[SpatialObject]:
        """In the order of their ids."""
        return list(self.known.objects.values())


@dataclass(frozen=True)
class Demand:
    """What is wanted of the objects in space: anything at all, and oriented boxes."""

    any: bool = False
    oriented: bool = False


class SpatialCore:
    """The objects of one camera in space.

    Args:
        publish: called in this thread for each image whose depth has come.
        demand: what is wanted now; asked for each image. listen: begins or ends to listen to the
            depth camera; called in this thread, or while it rests.
        log: see `Log`. settings: of the node. topic: of the depth images, for messages to people.
        slop: seconds that the stamps of image and depth may be apart. buffer: depth images that
            are kept for masks that come later. rectified: see `Intrinsics.from_camera_info`.
        clock: monotonic seconds.

    Attributes:
        known: the newest results; replaced as a whole.
    """

    def __init__(
        self,
        *,
        publish: Callable[[Placed], None],
        demand: Callable[[], Demand],
        listen: Callable[[bool], None],
        log: Log,
        settings: Settings,
        topic: str = "depth",
        slop: float = 0.05,
        buffer: int = 30,
        rectified: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish, self._demand, self._listen = publish, demand, listen
        self._log, self._settings, self._topic, self._clock = log, settings, topic, clock
        self._rectified = rectified
        self._measuring = SpatialSettings()
        self._pairing = DepthPairing(slop, depths=buffer, images=WAITING)
        self._tracker = SpatialTracker(self._measuring)
        self.known = Known()
        self._seedings: Mapping[int, Seeding] = {}  # of the last image that was placed
        # everything below is guarded by the condition
        self._condition = threading.Condition()
        self._images: deque[Segmented] = deque(maxlen=IMAGES)
        self._depths: deque[Any] = deque(maxlen=buffer)
        self._info: Any = None
        self._image_came = False  # so it is time to look at what is wanted
        self._active = False
        self._busy = False
        self._closing = False
        self._listening = False
        self._deaf = ""  # why it could not begin to listen
        self._began = 0.0  # to listen
        self._depth_came = 0.0  # the last time, or it began to listen
        self._passed_over = 0
        self._took: deque[float] = deque(maxlen=_TIMES)
        self._reasons: list[str] = []  # of objects in the last image that was placed
        self._placed = 0.0  # when that was
        self._error, self._error_time = "", -1e9
        self._thread = threading.Thread(target=self._run, name="spatial", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ life

    def activate(self) -> None:
        """Takes images from now on."""
        with self._condition:
            self._active = True
            self._condition.notify_all()

    def deactivate(self) -> None:
        """Takes nothing any more; returns when nothing is in work, so nothing gets published."""
        with self._condition:
            self._active = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._busy and not self._listening)

    def close(self) -> None:
        """Ends the thread."""
        self.deactivate()
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    # ------------------------------------------------------------------ what comes in

    def put(self, segmented: Segmented) -> None:
        """An image with its mask, which was published; costs no more than a place in a queue."""
        with self._condition:
            if self._active:
                self._image_came = True
                if self._listening:
                    self._images.append(segmented)
                self._condition.notify_all()

    def on_depth(self, message: Any) -> None:
        """A depth image, raw or compressed; it is decoded when an image needs it."""
        with self._condition:
            if self._listening:
                self._depth_came = self._clock()
                self._depths.append(message)
                self._condition.notify_all()

    def on_info(self, message: Any) -> None:
        """A camera_info of the depth camera."""
        with self._condition:
            if self._listening:
                self._info = message
                self._condition.notify_all()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._has_work, _LOOK)
                if self._closing:
                    return
                self._busy = True
                work = list(self._depths), list(self._images), self._info
                self._depths.clear()
                self._images.clear()
                self._info, self._image_came = None, False
            try:
                self._work(*work)
            except Exception as error:  # whatever happens, the next image is tried
                self._note_error(describe_error(error))
            finally:
                with self._condition:
                    self._busy = False
                    self._condition.notify_all()

    def _has_work(self) -> bool:
        """The condition is held."""
        stopped = self._listening and not self._active
        new = self._depths or self._images or self._info is not None or self._image_came
        return bool(self._closing or stopped or (self._active and new))

    def _work(self, depths: list[Any], images: list[Segmented], info: Any) -> None:
        demand = self._demand() if self._active else Demand()
        if demand.any != self._listening:
            self._start_or_stop(demand.any)
        if not demand.any:
            return
        if info is not None:
            self._take_info(info)
        pairs: list[Pair] = []
        for message in depths:
            decode = partial(decode_depth, message)
            pairs += self._pairing.add_depth(stamp_of(message), decode, message.header.frame_id)
        for segmented in images:
            size = segmented.result.labels.shape
            frame = segmented.frame.message.header.frame_id
            pairs += self._pairing.add_image(segmented.frame.stamp, segmented, size, frame)
        if not pairs:
            return
        begin = self._clock()
        newest = max(pairs, key=lambda pair: pair.image.frame.number)
        self._place(newest, demand.oriented)
        with self._condition:
            self._passed_over += len(pairs) - 1
            self._took.append(self._clock() - begin)

    def _start_or_stop(self, on: bool) -> None:
        self._pairing.reset()
        self._tracker.reset()
        self.known = Known()
        if on:
            with self._condition:
                self._began = self._depth_came = self._clock()
                self._listening = True
            try:
                self._listen(True)
            except Exception as error:
                with self._condition:
                    self._deaf = describe_error(error)
                raise
            return
        try:
            self._listen(False)
        finally:
            with self._condition:
                self._listening = False
                self._depths.clear()
                self._images.clear()
                self._info = None
                self._reasons, self._error, self._deaf = [], "", ""
                self._condition.notify_all()

    def _take_info(self, info: Any) -> None:
        try:
            self._pairing.add_camera_info(info, self._rectified)
        except InputError as error:  # `explain` tells it until a right one comes
            self._log("error", "camera_info", str(error))

    def _place(self, pair: Pair, oriented: bool) -> None:
        segmented: Segmented = pair.image
        result = segmented.result
        frame = segmented.frame.message.header.frame_id
        if frame != self.known.frame:  # another camera: the motion so far is in its coordinates
            self._tracker.reset()
        for number, seeding in segmented.seedings.items():
            if self._seedings.get(number, seeding) != seeding:
                self._tracker.seeded(number)
        self._seedings = segmented.seedings
        objects = self._tracker.update(
            result.labels,
            result.objects,
            pair.depth,
            pair.intrinsics,
            segmented.frame.stamp,
            oriented=oriented,
        )
        self.known = Known(frame, {item.id: item for item in objects}, segmented.seedings)
        tracked = ObjectState.TRACKED.name
        reasons = [
            f"object {item.id} has no position: {item.reason}"
            for item in objects
            if item.reason and item.state == tracked and item.measured is None
        ]
        with self._condition:
            self._reasons, self._placed = reasons, self._clock()
        self._publish(Placed(segmented, pair, self.known, self._tracker))

    def _note_error(self, text: str) -> None:
        with self._condition:
            self._error, self._error_time = text, self._clock()
        self._log("error", "space", f"depth: {text}")

    # ------------------------------------------------------------------ diagnostics

    def problems(self, hint: str = "") -> list[str]:
        """What keeps objects from having positions, each with its remedy.

        hint: why no depth may come, if the caller knows (a QoS that does not fit).
        """
        with self._condition:
            if not self._listening:
                return []
            if self._deaf:
                return [f"depth on {self._topic}: {self._deaf}"]
            now, patience = self._clock(), self._settings.frame_timeout
            begun = now - self._began > patience
            silent = now - self._depth_came
            error = self._error if now - self._error_time < max(_RECENT, patience) else ""
            reasons = self._reasons[:_MOST_REASONS] if now - self._placed < patience else []
        said = [hint] if hint else []
        if begun:  # before that, depth may be on its way
            limits = self._measuring.limits
            said += self._pairing.explain(limits, silent if silent > patience else 0.0)
        if error and not any(error in text for text in said):
            said.append(error)
        return [f"depth on {self._topic}: {text}" for text in said + reasons]

    def text(self) -> str:
        """For the value `depth` of the diagnostics."""
        with self._condition:
            if not self._listening:
                return "asleep: nobody wants objects in space"
            took = list(self._took)
            passed = self._passed_over
        pairing = self._pairing
        text = f"{pairing.paired} paired, {pairing.unpaired} without depth, {passed} passed over"
        if took:
            text += f", {1000 * float(np.median(took)):.1f} ms each"
        return text
