"""A seed's way in a stream: mask or hints -> frame -> carried forward -> seeded.

The first two steps are done in the caller's thread, so that frames go on meanwhile, the others in
the worker. A seed that is on its way when its object is removed, or when all is reset, is given up
(`seed_requests.Tickets`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, StremnError
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.checks import check_name
from stremn_ros.imaging.masks import ids_in
from stremn_ros.imaging.overlap import Overlap, overlaps
from stremn_ros.imaging.resize import too_small
from stremn_ros.messages.reading import decode, frame_size
from stremn_ros.results import MAX_ID, ObjectState
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.answers import Answer
from stremn_ros.stream.commands import Commands, Steps
from stremn_ros.stream.diagnosis import listed_ids
from stremn_ros.stream.followed import Followed
from stremn_ros.stream.frame_core import FrameCore
from stremn_ros.stream.intake import FoundFrame
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.seed_requests import SeedOptions, SeedWork, Tickets
from stremn_ros.stream.settings import Settings

# Seconds that a step of a seed may take before a frame that waits goes first, where frames take
# less than that.
LEAST_STEP = 0.1
# From so many objects on, a seed's answer tells what a frame costs with all of them.
MANY = 5
# A seed of many objects that takes longer than this is announced in the log.
LONG_SEED = 2.0
# Objects side by side share a line of pixels; what is less than this share is not looked at.
EDGE_SHARE = 0.01


class Seeds:
    """Seeds the objects of one stream.

    Args:
        core: whose frames they are of. followed: the objects of the stream.
        commands: the way into the worker. tickets: of seeds on their way.
        masks: makes the masks of hints.
    """

    def __init__(
        self,
        core: FrameCore,
        followed: Followed,
        commands: Commands,
        tickets: Tickets,
        masks: HintMasks,
        settings: Settings,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self._core, self._followed, self._commands = core, followed, commands
        self._tickets, self._masks, self._settings = tickets, masks, settings
        self._log, self._clock = log, clock

    # ------------------------------------------------------------------ in the caller's thread

    def mask(
        self,
        labels: NDArray[np.uint8],
        names: Sequence[str],
        options: SeedOptions,
        ticket: int,
        notes: Sequence[str] = (),
    ) -> Answer:
        """Seeds the objects of a label mask [H, W]. notes: on how it was read, for the answer."""
        wanted = ids_in(labels)
        if not wanted:
            raise InputError(
                "the mask is all zero: mark each object with its id, 1 to 255, in the pixels "
                "it covers"
            )
        if names and len(names) != len(wanted):
            raise InputError(
                f"{len(names)} names for the {len(wanted)} objects {wanted} of the mask: give "
                "one for each, in rising order of the ids, or none"
            )
        for name in names:
            check_name(name)
        self._tickets.expect(ticket, wanted)
        found = self._find(options, ticket)
        height, width = frame_size(found.frame.message)
        if labels.shape != (height, width):
            raise InputError(
                f"the mask is {labels.shape[1]} x {labels.shape[0]} pixels, the frame is "
                f"{width} x {height}: send the mask at the frame's size"
            )
        rgb = decode(found.frame.message)
        seed = SeedWork(options, found, rgb, labels, ticket, names=dict(zip(wanted, names)))
        answer = self._seed(seed)
        answer.message = "; ".join([answer.message, *notes])
        return answer

    def hints(
        self,
        object_id: int,
        name: str,
        hints: Mapping[str, Any],
        options: SeedOptions,
        ticket: int,
    ) -> Answer:
        """Seeds an object, 0: one with a free id, by hints for `HintMasks.make`."""
        if not 0 <= object_id <= MAX_ID:
            raise InputError(
                f"the id {object_id} cannot be used: give 1 to {MAX_ID}, or 0 for a free one"
            )
        check_name(name)
        if object_id:
            self._tickets.expect(ticket, [object_id])
        found = self._find(options, ticket)
        rgb = decode(found.frame.message)
        made = self._masks.make(rgb, **hints)
        answer = self._seed(SeedWork(options, found, rgb, made.mask, ticket, of=(object_id, name)))
        assert answer.mask is not None
        # the object is followed meanwhile
        answer.agreement = self._masks.agreement(rgb, answer.mask, **hints)
        answer.quality = made.quality(answer.agreement)
        if doubt := made.doubt(answer.agreement):
            answer.message += (
                f"; the mask is doubtful, as {doubt}: look at ~/overlay, and give more points, "
                "a box or a polygon, or send a mask to seed_mask"
            )
        return answer

    def _find(self, options: SeedOptions, ticket: int) -> FoundFrame:
        options.check()
        wait = self._settings.seed_wait
        return self._core.frame_for(
            options.stamp, options.strict, wait, lambda: self._check_reset(ticket)
        )

    def _seed(self, seed: SeedWork) -> Answer:
        carried = self._commands.call(self._steps(seed), self._commands.adding)
        listed = ", ".join(str(number) for number in seed.ids)
        many = "s" if len(seed.ids) != 1 else ""
        message = f"seeded object{many} {listed}{seed.found.note}{carried}"
        mask = seed.mask
        for given, used in seed.renamed.items():
            mask = np.where(mask == given, np.uint8(used), mask)
        return Answer(
            True,
            "; ".join((message, *seed.overlapped.values())),
            seed.ids,
            frame=seed.frame,
            exact=seed.found.exact,
            mask=mask,
            overlapped_ids=sorted(seed.overlapped),
            frame_time=seed.frame_time,
        )

    # ------------------------------------------------------------------ in the worker

    def _steps(self, seed: SeedWork) -> Steps[str]:
        """Compares a seed with what is followed, encodes it object by object, and writes it to the
        memory. Until that nothing is changed. Returns what to say of it.

        Where frames came since the seed's, those of the past or such as came meanwhile, the
        objects are carried forward in a separate memory.
        """
        begin = self._clock()
        self._check_overtaken(seed)
        followed, segmenter = self._followed, self._followed.segmenter
        followed.apply_settings()
        if seed.of is not None:
            chosen = seed.of[0] or followed.free_ids.take(segmenter.ids)
            seed.mask *= np.uint8(chosen)  # in place: the answer shows the mask with the id
            seed.names = {chosen: seed.of[1]} if seed.of[1] else {}
        fork = None
        if seed.options.replace or self._core.frames_since(seed.frame.number):
            fork = segmenter.fork(ids_in(seed.mask), replace=seed.options.replace)
        job = (fork or segmenter).begin_seed(seed.rgb, seed.mask)
        if fork is None:
            again, spared = seed.settle(job.overlaps)
            for given, used in again.items():
                job.rename(given, used)
            job.spare([overlap.tracked for overlap in spared])
            job.forget |= seed.replaced
        yield from self._in_portions((fork or segmenter).seed_steps(job), seed, len(job.ids))
        self._check_overtaken(seed)
        if fork is None and self._core.frames_since(seed.frame.number):
            fork = segmenter.fork(job.ids, forget=job.forget)
        if fork is None:
            self._drop_removed(seed, job.ids, job.drop)
            _note_cuts(seed, job.overlaps, job.cut_ids)
            seed.ids = segmenter.finish_seed(job)
            text = ""
        else:
            fork.finish_seed(job)
            text = yield from self._carry(seed, fork, begin)
        self._note_seeded(seed)
        size = getattr(segmenter, "processing_size", None)
        if size is not None and (small := too_small(seed.mask, size)):
            text += f"; {small}"
        return text + (yield from self._measure_frame(seed))

    def _in_portions(self, steps: Iterator[None], seed: SeedWork, count: int) -> Steps[None]:
        """Goes through the steps of a seed of so many objects, and yields about once in the time of
        a frame."""
        budget = max(LEAST_STEP, self._followed.frame_time[0])
        portion = self._clock()
        for done, _ in enumerate(steps, 1):
            spent = self._clock() - portion
            if done == 1:
                seed.encoding = spent
                if spent * count > LONG_SEED:
                    text = f"seeding {count} objects takes about {spent * count:.0f} s or more"
                    self._log("info", "", text)
            if spent >= budget:
                yield
                portion = self._clock()
        seed.encoding = seed.encoding or self._clock() - portion

    def _carry(self, seed: SeedWork, fork: Segmenter, begin: float) -> Steps[str]:
        """Follows the objects of a fork from the seed's frame to now, and takes them over; what to
        say of it.

        The frames since are those of the buffer. Each step costs about as much as a frame, and
        between two steps the stream continues, so new frames come meanwhile; to be done in
        `catch_up_time`, steps get longer as that runs out, and the last is the newest frame.

        Args:
            begin: when the work on the seed began.
        """
        first = at = seed.frame.number
        stepped, result, picture = 0, None, seed.rgb
        while self._core.frames_since(at):
            yield
            self._check_overtaken(seed)
            ahead = self._core.frames_since(at)  # again, as a newer frame may have been through
            spent = self._clock() - begin
            left = self._settings.catch_up_time - spent
            affordable = max(1, int(left * (1 + stepped) / spent)) if spent > 0 else len(ahead)
            chosen = ahead[min(len(ahead), math.ceil(len(ahead) / affordable)) - 1]
            at = chosen.number
            try:
                picture = decode(chosen.message)
            except InputError:
                continue  # it was counted and logged when its turn came
            result = fork.step(picture)
            stepped += 1
        self._check_overtaken(seed)
        self._drop_removed(seed, fork.ids, fork.remove)
        labels = seed.mask if result is None else result.labels
        if not seed.options.replace:
            self._meet(seed, fork, at, picture, labels)
        segmenter = self._followed.segmenter
        seed.ids = segmenter.adopt(fork, replace=seed.options.replace, forget=seed.replaced)
        if result is None:
            return ""
        text = (
            f"; carried forward through {stepped} of the {at - first} frames since then in "
            f"{self._clock() - begin:.2f} s"
        )
        unseen = [item.id for item in result.objects if item.state is not ObjectState.TRACKED]
        if unseen:
            text += f"; not seen in the newest: object {listed_ids(unseen)}"
        return text

    def _meet(
        self,
        seed: SeedWork,
        fork: Segmenter,
        at: int,
        picture: NDArray[np.uint8],
        labels: NDArray[np.uint8],
    ) -> None:
        """Compares the objects of a fork with those followed, where they meet: in the newest frame.

        Args:
            at: number of that frame; picture, labels: of it, and of the fork's objects in it.
        """
        segmenter, latest = self._followed.segmenter, self._followed.latest
        followed = set(segmenter.ids) - seed.replaced - set(fork.ids)
        if not (labels.any() and followed):
            return
        if latest is not None and latest[0] == at:
            tracked = latest[1]
        else:  # paused, or that frame could not be segmented, or others came since
            tracked = segmenter.find(picture)
        # some may have been removed since that frame
        found = [each for each in overlaps(labels, tracked) if each.tracked in followed]
        again, spared = seed.settle(found)
        for given, used in again.items():
            fork.rename(given, used)
            labels = np.where(labels == given, np.uint8(used), labels)
        settled = {*again.values(), *seed.replaced}
        if spared:
            kept = [overlap.tracked for overlap in spared]
            settled.update(kept)
            labels = labels * ~np.isin(tracked, kept)
            fork.give_way(picture, np.where(np.isin(tracked, kept), tracked, np.uint8(0)), fork.ids)
        rest = [
            overlap.by(again)
            for overlap in found
            if overlap.tracked not in settled and overlap.covered >= EDGE_SHARE
        ]
        if rest:
            cut = segmenter.give_way(picture, labels, [overlap.tracked for overlap in rest])
            _note_cuts(seed, rest, cut)

    def _note_seeded(self, seed: SeedWork) -> None:
        followed = self._followed
        followed.note_seed(
            seed.ids, list(followed.seedings) if seed.options.replace else seed.replaced
        )
        for given, name in seed.names.items():
            used = seed.renamed.get(given, given)
            if used in seed.ids and (used == given or used not in followed.names):
                followed.names[used] = name

    def _drop_removed(
        self, seed: SeedWork, ids: Sequence[int], drop: Callable[[int], None]
    ) -> None:
        """Gives up those objects of a seed that were removed while it was on its way."""
        removed = self._tickets.removed(seed.ticket, ids)
        if removed and len(removed) == len(ids):
            raise StremnError(
                f"object {listed_ids(removed)} was removed while it was being seeded, so nothing "
                "was seeded"
            )
        for number in removed:
            drop(number)

    def _measure_frame(self, seed: SeedWork) -> Steps[str]:
        """With many objects: what a frame costs from now on; what to say of it."""
        segmenter = self._followed.segmenter
        count = len(segmenter.ids)
        if count < MANY:
            return ""
        yield
        if count != len(segmenter.ids):
            return ""
        network, objects = self._followed.frame_time
        if objects != count:  # no frame has been through since
            begin = self._clock()
            segmenter.find(seed.rgb)
            network = self._clock() - begin
        seed.frame_time = network + count * seed.encoding / segmenter.update_every
        period = self._core.frame_period()
        text = f"; with {count} objects an image takes about {seed.frame_time:.2f} s"
        if period and seed.frame_time > 2 * period:
            text += f", and one comes every {period:.2f} s, so most will be dropped"
        return text

    def _check_overtaken(self, seed: SeedWork) -> None:
        """StremnError where a seed has been overtaken by a reset, or by a jump of time."""
        if self._core.is_before_jump(seed.frame):
            raise StremnError(
                "time jumped back after the frame of this seed, so nothing was seeded: seed a "
                "frame of the new time"
            )
        self._check_reset(seed.ticket)

    def _check_reset(self, ticket: int) -> None:
        if self._tickets.forgotten(ticket):
            raise StremnError(
                "all objects were reset while this one was being seeded, so nothing was seeded: "
                "seed it again if it is wanted"
            )


def _note_cuts(seed: SeedWork, found: Iterable[Overlap], cut: Sequence[int]) -> None:
    for overlap in found:
        if overlap.tracked in cut:
            text = (
                f"object {overlap.tracked} loses {overlap.covered:.0%} of its pixels to object "
                f"{overlap.seeded} and keeps what is left"
            )
            seed.overlapped.setdefault(overlap.tracked, text)
