"""The images of one camera as they come: their order in time, the newest, the last few, counters.

Messages are any objects with the attributes of sensor_msgs/Image or CompressedImage.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.messages.reading import NANOSECONDS, frame_size, stamp_of
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.settings import IntakeSettings

# Rates and percentiles are over this much of the past.
WINDOW_SECONDS = 10.0
WINDOW_FRAMES = 600
# What helps where images are lost on the way.
LOSS_REMEDY = (
    "give DDS enough shared memory (config/fastdds_shm.xml, for the camera's process as well), or "
    "let the camera publish reliably (image_reliability auto or reliable); if that is done, the "
    "machine is too busy to take them in time"
)
# Past stamps, by which an outlier is recognized.
TRAIL = 64
# A stamp is of the time of another one where it follows within so many times the usual time between
# two frames, or within a second.
FOLLOWS = 10


@dataclass(frozen=True, eq=False)
class Frame:
    """A message as it came."""

    message: Any
    number: int  # of the readable frames since the start, from 1
    stamp: int  # nanoseconds; 0 when the sender gives none
    arrival: float  # of the monotonic clock, seconds


@dataclass(frozen=True)
class FoundFrame:
    """The frame that a seed goes to; note: what to say of it; exact: it is the one asked for."""

    frame: Frame
    note: str = ""
    exact: bool = True


@dataclass
class Counters:
    """received = segmented + dropped + failed + waiting + in_work, at every moment."""

    received: int = 0
    segmented: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    in_work: int = 0
    stale: int = 0  # late, repeated or out of order; these are among the others as well
    lost: int = 0  # sent but never received, where the middleware numbers its messages


class Intake:
    """Frames in; one waits for the worker, the newest. Its owner's lock guards all of it.

    Args:
        size: how many of the last frames are kept for seeds.
        settings: read at each use. log: see `Log`. topic: of the images, for messages to people.
        largest_gap: seconds; a stamp that leaps farther ahead is dropped until a second one shows
            that it was right.
        now: the node's clock in nanoseconds (which may be simulated), for the age of frames.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        size: int,
        settings: IntakeSettings,
        log: Log,
        topic: str,
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        largest_gap: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._settings = settings
        self._largest_gap = largest_gap
        self._log = log
        self._topic = topic
        self._now = now
        self._clock = clock
        self.counters = Counters()
        self.recent: deque[Frame] = deque(maxlen=size)
        self.waiting: Frame | None = None
        self.taken: Frame | None = None  # the last one that the worker began with
        self.last_number = 0
        self.first_number = 1  # of the frames since the last jump of time
        self.reset_wanted = False  # time jumped back, so the objects are to be forgotten
        self._trail: deque[int] = deque(maxlen=TRAIL)  # rising stamps, the newest last
        self._suspect = 0  # stamp of the last frame, where it did not fit these
        self._sequences: dict[Any, int] = {}  # last number by publisher
        self._loss_told = False  # since the start
        # of the last seconds, by the monotonic clock
        self.started = clock()
        self.arrivals: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self.drops: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self.late: deque[tuple[float, float]] = deque(maxlen=WINDOW_FRAMES)  # and seconds late
        self.losses: deque[tuple[float, int]] = deque(maxlen=WINDOW_FRAMES)  # and how many
        self.outdated: deque[float] = deque(maxlen=WINDOW_FRAMES)  # dropped by max_age

    def start(self) -> None:
        """Rates start again, and so do the senders."""
        self.started = self._clock()
        for record in (self.arrivals, self.drops, self.late, self.losses, self.outdated):
            record.clear()
        self._sequences.clear()
        self._loss_told = False

    def put(
        self, message: Any, publisher: Any, sequence: int | None, enabled: bool, arrival: float
    ) -> str:
        """Takes a message: counts it and keeps it, to wait for the worker if `enabled`.

        Returns:
            Why it cannot be read; '' when it can, or came out of order and was dropped.
        """
        try:
            frame_size(message)
            stamp = stamp_of(message)
        except InputError as error:
            problem = str(error)
        else:
            problem = ""
        self.counters.received += 1
        self.arrivals.append(arrival)
        if sequence is not None:
            self._note_sequence(publisher, sequence, arrival)
        if problem:
            self.counters.failed += 1
            return problem
        if not self._in_time(stamp, arrival):
            return ""
        self.last_number += 1
        frame = Frame(message, self.last_number, stamp, arrival)
        self.recent.append(frame)
        if not enabled:
            self._drop(arrival)
        else:
            self.drop_waiting()
            self.waiting = frame
            self.counters.waiting = 1
        return ""

    def take(self) -> Frame:
        """The frame that waits, for the worker."""
        assert self.waiting is not None
        frame, self.waiting = self.waiting, None
        self.taken = frame
        self.counters.waiting = 0
        self.counters.in_work = 1
        return frame

    def done(self) -> None:
        """The frame taken is through."""
        self.counters.in_work = 0
        self.counters.segmented += 1

    def failed(self) -> None:
        """The frame taken could not be worked on."""
        self.counters.in_work = 0
        self.counters.failed += 1

    def over_age(self, stamp: int) -> float:
        """Seconds by which a stamp lags behind the node's clock, where max_age is less; else 0."""
        age = (self._now() - stamp) / NANOSECONDS
        return age if stamp and 0 < self._settings.max_age < age else 0.0

    def drop_taken(self) -> None:
        """The frame taken is too old to be worked on."""
        self.counters.in_work = 0
        self.outdated.append(self._clock())
        self._drop(self._clock())

    def take_reset(self) -> bool:
        """Whether time jumped back since the last call, so that the objects are to be forgotten."""
        wanted, self.reset_wanted = self.reset_wanted, False
        return wanted

    def drop_waiting(self) -> None:
        if self.waiting is not None:
            self.waiting = None
            self.counters.waiting = 0
            self._drop(self._clock())

    def since(self, number: int, paused: bool) -> list[Frame]:
        """Frames after this one up to the last that was segmented (received, while paused)."""
        newest = self.taken
        if paused and self.recent:
            newest = self.recent[-1]
        if newest is None or newest.number <= number:
            return []
        return [*(item for item in self.recent if number < item.number < newest.number), newest]

    def period(self) -> float:
        """Seconds from one frame to the next, of the last ones; 0 where that is not known."""
        recent = self.arrivals[-1] - WINDOW_SECONDS if self.arrivals else 0.0
        lately = [when for when in self.arrivals if when > recent]
        return float(np.median(np.diff(lately))) if len(lately) > 1 else 0.0

    def of_stamp(self, stamp: int) -> Frame | None:
        """The newest kept frame of this stamp, if there is one."""
        return next((frame for frame in reversed(self.recent) if frame.stamp == stamp), None)

    def forget(self) -> None:
        """Lets go of all frames."""
        self.drop_waiting()
        self.recent.clear()
        self.taken = None

    def _drop(self, when: float) -> None:
        self.counters.dropped += 1
        self.drops.append(when)

    def _note_sequence(self, publisher: Any, sequence: int, arrival: float) -> None:
        before = self._sequences.get(publisher)
        if before is None and len(self._sequences) >= 64:  # publishers come and go for days
            self._sequences.clear()
        self._sequences[publisher] = sequence
        if before is not None and sequence > before + 1:
            gap = sequence - before - 1
            self.counters.lost += gap
            if not self._loss_told:
                self._loss_told = True
                self._log(
                    "warning",
                    "",
                    f"{gap} image{'s' if gap != 1 else ''} on {self._topic} lost on the way "
                    f"(the diagnostics count them from now on): {LOSS_REMEDY}",
                )
            self.losses.append((arrival, gap))

    def _in_time(self, stamp: int, arrival: float) -> bool:
        """Looks at the order of stamps; False when the frame was dropped as out of order.

        One stamp proves nothing. Where a frame fits the stamps before a leap ahead, the leap was
        the outlier. One that fits none is dropped, and only the next one of its time shows that
        time has jumped.
        """
        if not stamp:  # a sender without stamps: nothing can be said
            return True
        trail, tolerance = self._trail, self._settings.time_jump_tolerance * NANOSECONDS
        suspect, self._suspect = self._suspect, 0
        newest = trail[-1] if trail else stamp
        back = newest - stamp
        if 0 < back <= tolerance:
            self._drop_stale(arrival)
            self._log(
                "warning",
                "order",
                f"dropped an image on {self._topic} that is {back / NANOSECONDS:.3f} s older than "
                "the one before it: images come out of order, or two publishers share the topic",
            )
            return False
        if back > tolerance and self._fits_before_a_leap(stamp, tolerance):
            ahead = 0
            while trail[-1] > stamp:
                trail.pop()
                ahead += 1
            self._log(
                "warning",
                "leap",
                f"the stamp{'s' if ahead != 1 else ''} of {ahead} image{'s' if ahead != 1 else ''} "
                f"on {self._topic} ran up to {back / NANOSECONDS:.3f} s ahead of the others; "
                "nothing is forgotten",
            )
        elif back > tolerance or -back > self._largest_gap() * NANOSECONDS:
            if not self._follows(suspect, stamp):
                self._suspect = stamp
                self._drop_stale(arrival)
                self._log(
                    "warning",
                    "suspect",
                    f"dropped an image on {self._topic} that is {abs(back) / NANOSECONDS:.3f} s "
                    f"{'older' if back > 0 else 'newer'} than the one before it: a single wrong "
                    "stamp, or another time, which the next image will show",
                )
                return False
            if back > 0:
                self._jump(back / NANOSECONDS)
        if trail and stamp == trail[-1]:
            self.counters.stale += 1
            return True
        trail.append(stamp)
        age = (self._now() - stamp) / NANOSECONDS
        if back <= tolerance and 0 < self._settings.stale_after < age:
            self.counters.stale += 1
            self.late.append((arrival, age))
        return True

    def _fits_before_a_leap(self, stamp: int, tolerance: float) -> bool:
        """Whether a stamp lies in a gap of those before it: after one, and well before the next."""
        return any(
            before < stamp < after - tolerance for before, after in itertools.pairwise(self._trail)
        )

    def _follows(self, suspect: int, stamp: int) -> bool:
        """Whether a stamp is of the same time as a suspect one (0: there is none)."""
        usual = np.median(np.diff(self._trail)) if len(self._trail) > 1 else math.inf
        return bool(suspect and 0 < stamp - suspect <= max(NANOSECONDS, FOLLOWS * usual))

    def _drop_stale(self, arrival: float) -> None:
        self.counters.stale += 1
        self._drop(arrival)

    def _jump(self, back: float) -> None:
        """Time has jumped back by so many seconds."""
        # Frames from before the jump are of another time: no seed may find them any more.
        self.forget()
        self._trail.clear()
        self.first_number = self.last_number + 1
        if self._settings.reset_on_time_jump:
            self.reset_wanted = True
            self._log(
                "warning",
                "",
                f"time jumped back by {back:.3f} s on {self._topic} (a bag that loops?): all "
                "objects are forgotten; set reset_on_time_jump to false to keep them",
            )
        else:
            self._log(
                "warning",
                "jump",
                f"time jumped back by {back:.3f} s on {self._topic}; objects are kept "
                "(reset_on_time_jump is false)",
            )
