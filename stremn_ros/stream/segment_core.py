"""What the segmentation node does for one camera, without ROS: frames in, masks out, objects seeded
meanwhile.

Threads: the worker (`worker.Worker`, one for all cameras) owns the segmenters, so no two calls of
the network ever run at the same time. A core keeps a small mailbox for it: two queues of commands
(`commands`) and one place for a frame, which always holds the newest (`intake`). Callers (the
node's service and image callbacks) only put something into the mailbox and, for commands, wait for
the answer. A slow network makes frames drop (and be counted) instead of pile up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stremn_ros.errors import StremnError
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.mask_reading import VOID, clean
from stremn_ros.messages import image_read
from stremn_ros.messages.detections import Detection
from stremn_ros.messages.reading import decode, frame_size, stamp_of
from stremn_ros.results import SegmentResult
from stremn_ros.segmenter import Segmenter
from stremn_ros.snapshot import Snapshot
from stremn_ros.stream.answers import Answer, Segmented
from stremn_ros.stream.commands import Commands
from stremn_ros.stream.detector import Detector
from stremn_ros.stream.diagnosis import CoreStatus, Report, diagnose
from stremn_ros.stream.followed import Followed
from stremn_ros.stream.frame_core import FrameCore, describe_error
from stremn_ros.stream.intake import Frame
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.newest_jobs import NewestJobs
from stremn_ros.stream.seed_inbox import SeedInbox, WaitingSeed
from stremn_ros.stream.seed_requests import OnOverlap, SeedOptions, Tickets
from stremn_ros.stream.seeds import Seeds
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.worker import Job, Worker

# id (0: a free one), name, hints for `HintMasks.make`, and what is asked for beside them
_LOOK = 1.0  # seconds between two images that are decoded while it sleeps
HintSeed = tuple[int, str, dict[str, Any], SeedOptions]


class SegmentCore(FrameCore):
    """Frames, commands and counters around one segmenter; see the module's text for the threads.

    Args:
        segmenter: the loaded `Segmenter`; from now on only the worker touches it.
        publish: called in the worker for each segmented frame, before the memory is updated.
        seeded: called with the result of each mask of `seed_later`, in a separate thread.
        masks: makes the masks of hints; None: GrabCut does.
        seed_buffer: how many of the last frames are kept for seeds.
        log, settings, topic, node, now, clock, worker: as in FrameCore.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        publish: Callable[[Segmented], None],
        log: Log,
        seeded: Callable[[Answer], None] = lambda answer: None,
        settings: Settings | None = None,
        masks: HintMasks | None = None,
        seed_buffer: int = 30,
        topic: str = "image",
        node: str = "/stremn",
        now: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        worker: Worker | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        super().__init__(seed_buffer, log, self.settings, topic, node, now, clock, worker)
        self._publish, self._seeded, self._wanted = publish, seeded, wanted
        self._looked = -1e9  # when an image was last decoded

        def running() -> float:
            return self._clock()

        self._followed = Followed(segmenter, self.settings, running, self._refuse_setting)
        self._commands = Commands(
            self._condition, running, lambda: self.settings.seed_share, self._note_state
        )
        self._tickets = Tickets()
        self._seeds = Seeds(
            self,
            self._followed,
            self._commands,
            self._tickets,
            masks or HintMasks(),
            self.settings,
            log,
            running,
        )
        self._last_seed: tuple[float, str] | None = None
        self._by_topic = {True: 0, False: 0}  # masks seeded, and refused
        # of the segmenter, for the diagnostics; made by the worker after each job
        self._state = self._followed.state(())
        self._inbox = SeedInbox(
            segmenter.max_objects, self._seed_waiting, self._refuse_mask, self._tickets.done
        )
        self._jobs = NewestJobs("hints")
        self._resets = 0
        self._detector = Detector(self.settings)
        self._worker.add(self)

    def deactivate(self) -> None:
        """No frame is taken any more, and masks of the topic that wait are forgotten; returns when
        no frame is in work, so nothing gets published."""
        self._inbox.clear()
        self._jobs.clear()
        super().deactivate()

    def close(self) -> None:
        """Ends the work of this core after its current job; commands that wait are answered with a
        failure."""
        with self._condition:
            self._active = False  # nobody waits for a frame any more
            self._commands.close()
        self._inbox.close()
        self._jobs.close()
        super().close()
        del self._followed.segmenter
        self._followed.latest = None

    # ------------------------------------------------------------------ commands

    def seed_mask(
        self,
        mask: Any,
        names: Sequence[str] = (),
        replace: bool = False,
        *,
        strict: bool = False,
        on_overlap: int = OnOverlap.SEED_AGAIN,
    ) -> Answer:
        """~/seed_mask. mask: an image message whose stamp chooses the frame (0: the newest).

        replace, strict, on_overlap: see `SeedOptions`.
        """

        def seed(ticket: int) -> Answer:
            labels, notes = clean(image_read.decode_labels(mask)).labels(alone=VOID)
            options = SeedOptions(stamp_of(mask), replace, strict, on_overlap)
            return self._seeds.mask(labels, names, options, ticket, notes)

        return self._seed(self._tickets.take(), seed)

    def seed_later(self, mask: Any) -> None:
        """~/seed: as `seed_mask`, in another thread; of masks that wait the newest of each object
        is seeded. `seeded` gets the result."""
        self._inbox.put(mask, self._tickets.take())

    def _seed_waiting(self, waiting: WaitingSeed) -> None:
        def seed(ticket: int) -> Answer:
            options = SeedOptions(waiting.stamp, strict=self.settings.strict_seeds)
            return self._seeds.mask(waiting.labels, (), options, ticket, waiting.notes)

        self._tell_seeded(self._seed(waiting.ticket, seed))

    def _refuse_mask(self, ticket: int, reason: str) -> None:
        self._tell_seeded(self._noted(self.failure(reason), ticket))

    def _tell_seeded(self, answer: Answer) -> None:
        self._by_topic[answer.success] += 1
        self._seeded(answer)

    def seed_object(
        self,
        object_id: int = 0,
        name: str = "",
        *,
        box: tuple[int, int, int, int] | None = None,
        polygon: Sequence[tuple[float, float]] = (),
        inside: Sequence[tuple[float, float]] = (),
        outside: Sequence[tuple[float, float]] = (),
        stamp: int = 0,
        strict: bool = False,
        on_overlap: int = OnOverlap.SEED_AGAIN,
    ) -> Answer:
        """~/seed_object. The mask is made in the caller's thread, so frames go on meanwhile."""
        hints = {"box": box, "polygon": polygon, "inside": inside, "outside": outside}
        options = SeedOptions(stamp, strict=strict, on_overlap=on_overlap)
        return self._seed(
            self._tickets.take(),
            lambda ticket: self._seeds.hints(object_id, name, hints, options, ticket),
        )

    def click_later(self, x: float, y: float, stamp: int = 0) -> None:
        """A click on an object, as `seed_object` with a point on it, in another thread; what comes
        of it is told to `seeded`. A stamp of 0 means the newest frame."""
        hints = {"inside": [(x, y)]}
        options = SeedOptions(stamp, strict=bool(stamp))
        self._jobs.put("click", partial(self._seed_later, [(0, "", hints, options)], self._resets))

    def seed_detections_later(self, detections: Sequence[Detection], stamp: int) -> None:
        """~/seed_detections: seeds what nobody follows yet, and lost objects that are seen again,
        in another thread; of messages that wait the newest counts. See `detector.Detector`."""
        self._jobs.put(
            "detections", partial(self._seed_detections, detections, stamp, self._resets)
        )

    def _seed_detections(self, detections: Sequence[Detection], stamp: int, resets: int) -> None:
        with self._condition:
            state, recent = self._state, self._frames.recent
            newest = recent[-1].message if recent else None
        try:
            size = None if newest is None else frame_size(newest)
        except StremnError:  # the frame is counted as failed, and logged, in its turn
            size = None
        if size is None:
            return  # the detector will see the object again
        seeds = []
        for box in self._detector.choose(detections, size, state, self._clock()):
            choice = OnOverlap.SEED_AGAIN if box.object_id else OnOverlap.REFUSE
            strict = self.settings.strict_seeds and bool(stamp)
            options = SeedOptions(stamp, strict=strict, on_overlap=choice)
            seeds.append((box.object_id, box.name, {"box": box.box}, options))
        self._seed_later(seeds, resets)

    def _seed_later(self, seeds: Sequence[HintSeed], resets: int) -> None:
        """Seeds objects by hints, unless all was reset since they came."""
        for object_id, name, hints, options in seeds:
            ticket = self._tickets.take()
            if self._resets != resets:
                self._tickets.done(ticket)
                return
            seed = partial(self._seeds.hints, object_id, name, hints, options)
            self._tell_seeded(self._seed(ticket, seed))

    def _seed(self, ticket: int, seed: Callable[[int], Answer]) -> Answer:
        try:
            answer = seed(ticket)
            answer.tracked_ids = self.tracked()
        except Exception as error:  # whatever a runtime may raise must not end the service
            answer = self._refused(error)
        return self._noted(answer, ticket)

    def _noted(self, answer: Answer, ticket: int) -> Answer:
        self._tickets.done(ticket)
        with self._condition:
            self._last_seed = self._clock(), answer.message
        return answer

    def remove(self, object_id: int) -> Answer:
        """~/remove_object."""
        on_its_way = False

        def overtake() -> None:
            nonlocal on_its_way
            on_its_way = self._tickets.remove(object_id, object_id in self.tracked())

        def work() -> str:
            if on_its_way and object_id not in self._followed.segmenter.ids:
                return f"object {object_id}, which was being seeded, is given up"
            self._followed.remove(object_id)
            return f"object {object_id} is removed"

        return self._answered(work, overtake)

    def reset(self) -> Answer:
        """~/reset: forgets all objects and goes on."""

        def work() -> str:
            count = self._followed.forget()
            return f"{count} objects forgotten" if count != 1 else "1 object forgotten"

        def overtake() -> None:
            self._resets += 1  # first: a seed that takes its ticket from now on sees it
            self._jobs.clear()
            self._tickets.reset()

        return self._answered(work, overtake)

    def copy(self) -> tuple[Snapshot, int]:
        """The memory, to be written while frames go on, and the number of changes that it has."""
        return self._commands.at_once(lambda: self._followed.copy(), lambda: None)

    def restore(self, snapshot: Snapshot) -> int:
        """All objects give way to those of a snapshot, or nothing is changed; the changes then."""
        return self._commands.at_once(lambda: self._followed.restore(snapshot))

    @property
    def changes(self) -> int:
        """Of the memory, counted."""
        return self._followed.changes

    def enable(self, on: bool) -> Answer:
        """~/enable: pauses (frames count as dropped, objects are kept) and goes on."""
        with self._condition:
            before, self._enabled = self._enabled, bool(on)
            if not on:
                self._frames.drop_waiting()
        state = "enabled" if on else "paused: images are dropped until it is enabled again"
        return Answer(True, ("already " if before == bool(on) else "") + state)

    def _answered(self, work: Callable[[], str], overtake: Callable[[], None]) -> Answer:
        """Of an urgent command; overtake: see `Commands.at_once`."""
        return self.answered(lambda: self._commands.at_once(work, overtake))

    def answered(self, work: Callable[[], str]) -> Answer:
        """What a piece of work says of itself, or why it failed."""
        try:
            return Answer(True, work(), tracked_ids=self.tracked())
        except Exception as error:  # whatever a runtime may raise must not end the service
            return self._refused(error)

    def _refused(self, error: Exception) -> Answer:
        if isinstance(error, StremnError):
            return self.failure(str(error))
        text = describe_error(error)
        self._complain(f"a service call failed inside: {text}")
        return self.failure(f"failed inside, nothing is known to be wrong with the call: {text}")

    def failure(self, message: str) -> Answer:
        """An answer that says why nothing was done."""
        return Answer(False, message, tracked_ids=self.tracked())

    def tracked(self) -> list[int]:
        """Ids of the objects that are followed."""
        with self._condition:
            return list(self._state.ids)

    # ------------------------------------------------------------------ the worker

    def has_work(self) -> bool:
        """For the worker, which holds the condition."""
        return bool(self._commands.urgent or self._commands.adding) or super().has_work()

    def has_urgent(self) -> bool:
        """For the worker, which holds the condition."""
        return bool(self._commands.urgent)

    def take_work(self) -> Job:
        """For the worker, which holds the condition: a command's next step, or the frame."""
        job = self._commands.take(self._frames.waiting is not None)
        if job is None:
            self._busy = True
            job = partial(self._process, self._frames.take())
        return partial(self._forget_and, job) if self._frames.take_reset() else job

    def _forget_and(self, job: Job) -> None:
        try:
            self._followed.forget()
        except Exception as error:  # the frame is segmented all the same
            self._complain(f"reset failed: {describe_error(error)}")
        self._note_state()
        job()

    def _process(self, frame: Frame) -> None:
        begin = self._clock()
        try:
            with self._condition:
                if outdated := bool(self._frames.over_age(frame.stamp)):
                    self._frames.drop_taken()
            if outdated:
                return
            result = self._segment(frame)
            if result is not None:
                self._followed.latest = frame.number, result.labels
                self._remember()
            self._note_state(result)
            self._commands.frame_took(self._clock() - begin)
        finally:  # whatever happens, nobody waits for this frame any more
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def _segment(self, frame: Frame) -> SegmentResult | None:
        """Masks of a frame, published and counted; None when that failed, or nobody wants them."""
        free_since = self._worker.free_since
        problem, result, done = "", None, None
        if self._asleep():
            self._count(self._timing_of(frame, free_since, 0.0), "")
            return None
        try:
            rgb = decode(frame.message)
            self._looked = self._clock()
            self._followed.apply_settings()
            result = self._followed.segment(rgb)
            # Publish first, remember after: the mask need not wait for the memory.
            followed = self._followed
            names, needed = dict(followed.names), followed.segmenter.min_score
            seedings = dict(followed.seedings)
            self._publish(Segmented(frame, rgb, result, names, needed, seedings=seedings))
            done = self._timing_of(frame, free_since, self._followed.frame_time[0])
        except Exception as error:
            problem = f"image not segmented: {describe_error(error)}"
        self._count(done, problem)
        return None if done is None else result

    def _asleep(self) -> bool:
        """Nothing is followed and nobody wants the empty masks, so images are not even decoded.

        One a second is: an image that cannot be read is reported before anything is followed.
        """
        idle = not self._followed.segmenter.ids and not self._wanted()
        return idle and self._clock() - self._looked < _LOOK

    def _remember(self) -> None:
        try:
            self._followed.remember()
        except Exception as error:
            with self._condition:
                self._note_error(
                    f"the memory was not updated: {describe_error(error)}", key="memory"
                )

    def _refuse_setting(self, text: str, name: str) -> None:
        with self._condition:
            self._note_error(text, key=name)

    def _note_state(self, result: SegmentResult | None = None) -> None:
        """Called where the segmenter may be asked: in the worker."""
        state = self._followed.state(self._state.objects if result is None else result.objects)
        with self._condition:
            self._state = state

    # ------------------------------------------------------------------ diagnostics

    def report(
        self,
        hint: str = "",
        snapshot: str = "",
        problems: Sequence[str] = (),
        no_clock: bool = False,
        depth: str = "",
    ) -> Report:
        """The diagnostics.

        hint: why no frames may come, if the caller knows (a QoS mismatch); snapshot: the last one;
        problems: what else is wrong; no_clock: a simulated clock has not received the time;
        depth: what came of the depth images.
        """
        with self._condition:
            recent = self._frames.recent
            facts = CoreStatus(
                images=self._input_status(hint, no_clock),
                state=self._state,
                settings=self.settings,
                enabled=self._enabled,
                kept_frames=len(recent),
                kept_most=recent.maxlen or 0,
                kept_bytes=sum(len(frame.message.data) for frame in recent),
                snapshot=snapshot,
                last_seed=self._seed_text(),
                seeds_by_topic=self._topic_text(),
                problems=tuple(text for text in problems if text),
                depth=depth,
            )
        return diagnose(facts)

    def _topic_text(self) -> str:
        seeded, refused = self._by_topic[True], self._by_topic[False]
        return f"{seeded} seeded, {refused} refused, {self._inbox.replaced} replaced by newer ones"

    def _seed_text(self) -> str:
        if self._last_seed is None:
            return "never"
        return f"{self._last_seed[1]}, {self._clock() - self._last_seed[0]:.1f} s ago"
