"""Seeds on their way through the core: what overtakes them, what they meet, what they may cost."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from core_helpers import (
    SECOND,
    TIMEOUT,
    Rig,
    mask_message,
    masks,
    message,
    picture,
    shade,
    shades,
    wait_until,
)

from stremn_ros.errors import InputError
from stremn_ros.stream.seed_inbox import SeedInbox
from stremn_ros.stream.seed_requests import FreeIds, OnOverlap, Tickets
from stremn_ros.stream.settings import Settings

SOON = 5.0  # seconds; what does not wait is answered in a fraction of this on any machine


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.segmenter.may_go.set()
    made.core.close()


class Later:
    """A call in a thread of its own."""

    def __init__(self, call):
        self.answer = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call):
        self.answer = call()

    def wait(self, timeout=TIMEOUT):
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "no answer"
        return self.answer


class Held:
    """Holds up the segmenter where it is put in; `inside` is set once it does."""

    def __init__(self):
        self.inside, self.go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.inside.set()
        assert self.go_on.wait(TIMEOUT)


def seed_in_hand(rig, ids=(1,), frames=4):
    """A seed of the past whose first step is held up: its call, and what holds it."""
    for step in range(frames):
        rig.send(shade(step), (10 + step) * SECOND)
    held = rig.segmenter.slow = Held()
    call = Later(lambda: rig.core.seed_mask(mask_message(masks(0, ids), 10 * SECOND)))
    assert held.inside.wait(TIMEOUT)
    return call, held


# ---------------------------------------------------------------- what takes away goes first


@pytest.mark.parametrize("what", ["reset", "remove"])
def test_what_takes_away_overtakes_a_seed_and_counts_for_it(rig, what):
    call, held = seed_in_hand(rig, (1, 2))
    taking = Later(rig.core.reset if what == "reset" else lambda: rig.core.remove(1))
    wait_until(lambda: rig.core._commands.urgent, "the call to wait for the step")
    held.go_on.set()
    answer, taken = call.wait(), taking.wait()
    assert taken.success, taken.message
    assert len(shades(rig.segmenter.stepped)) < 4 or what == "remove"
    if what == "reset":
        assert not answer.success
        assert "all objects were reset while this one was being seeded" in answer.message
        assert rig.segmenter.ids == []
    else:  # the other object of the seed is not concerned
        assert taken.message == "object 1, which was being seeded, is given up"
        assert (answer.success, answer.ids, rig.segmenter.ids) == (True, [2], [2])


def test_a_seed_of_which_all_was_removed_meanwhile_says_so(rig):
    call, held = seed_in_hand(rig)
    taking = Later(lambda: rig.core.remove(1))
    wait_until(lambda: rig.core._commands.urgent, "the call to wait for the step")
    held.go_on.set()
    assert taking.wait().success
    answer = call.wait()
    assert not answer.success
    assert "object 1 was removed while it was being seeded" in answer.message
    assert "no object 1" in rig.core.remove(1).message, "the seed is not on its way any more"
    assert not rig.core._tickets._pending


def test_pausing_and_saving_do_not_wait_for_a_seed(rig):
    def no_snapshot(names):
        raise InputError("no snapshot here")

    rig.segmenter.snapshot = no_snapshot
    call, held = seed_in_hand(rig)
    begin = time.monotonic()
    assert rig.core.enable(False).success
    assert time.monotonic() - begin < SOON
    saving = Later(lambda: rig.core.answered(rig.core.copy))
    wait_until(lambda: rig.core._commands.urgent, "the copy to go before the rest of the seed")
    held.go_on.set()
    assert saving.wait().message == "no snapshot here"
    assert call.wait().success


def test_a_seed_that_waits_for_its_frame_ends_with_a_reset():
    rig = Rig(settings=Settings(seed_wait=60.0))
    try:
        rig.send(picture(), 10 * SECOND)
        call = Later(lambda: rig.core.seed_mask(mask_message(masks(), 11 * SECOND)))
        wait_until(lambda: len(rig.core._condition._waiters) == 2, "the caller to wait")
        assert rig.core.reset().success
        assert "reset while" in call.wait(SOON).message
    finally:
        rig.core.close()


def test_a_seed_after_a_reset_is_done(rig):
    rig.send(picture(), 10 * SECOND)
    for _ in range(3):
        assert rig.core.reset().success
        assert rig.core.seed_mask(mask_message(masks())).success
        assert rig.core.remove(1).success
        assert rig.core.seed_mask(mask_message(masks(0, (1,)))).ids == [1]
    assert rig.segmenter.ids == [1, 2]


def test_a_flood_of_masks_by_topic_keeps_nothing_waiting(rig):
    """A detector that publishes far faster than seeds are done, for the past and for now."""
    stop, waits = threading.Event(), []
    rig.segmenter.slow = lambda: time.sleep(0.02)
    stamp = [10]

    def camera():
        while not stop.wait(0.01):
            stamp[0] += 1
            rig.core.on_frame(message(shade(stamp[0] % 200), stamp[0] * SECOND))

    def detector():
        while not stop.wait(0.005):
            rig.core.seed_later(mask_message(masks(0, (1,)), max(10, stamp[0] - 5) * SECOND))

    threads = [threading.Thread(target=target) for target in (camera, detector)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: rig.core._by_topic[True] >= 3, "seeds")
        for number in range(30):
            begin = time.monotonic()
            assert rig.core.enable(True).success
            assert rig.core.reset().success
            if number % 3 == 0:
                rig.core.remove(7)
            waits.append(time.monotonic() - begin)
        segmented = rig.core.counters().segmented
        wait_until(lambda: rig.core.counters().segmented > segmented + 10, "frames")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(waits) < SOON
    assert rig.core._inbox.replaced > 10
    assert "replaced by newer ones" in rig.core.report().values["seeds by topic"]


# ---------------------------------------------------------------- masks by topic


def test_of_masks_that_wait_the_newest_of_each_object_is_seeded():
    told = []
    rig = Rig(seeded=told.append)
    try:
        rig.send(picture(), 10 * SECOND)
        held = rig.segmenter.slow_seed = Held()
        rig.core.seed_later(mask_message(masks(0, (1,)), 10 * SECOND))
        assert held.inside.wait(TIMEOUT)
        for number in range(10):  # of object 1 alone, of both, of the other alone
            rig.core.seed_later(mask_message(masks(0, [(1,), (1, 2), (0, 2)][number % 3])))
        rig.segmenter.slow_seed = None
        held.go_on.set()
        wait_until(lambda: sum(rig.core._by_topic.values()) == 3, "the seeds")
        assert [answer.ids for answer in told] == [[1], [2], [1]], [a.message for a in told]
        assert rig.core._inbox.replaced == 8
        assert rig.segmenter.ids == [1, 2]
        assert not rig.core._tickets._pending
    finally:
        rig.core.close()


def test_masks_of_many_objects_one_by_one_are_all_seeded():
    told = []
    rig = Rig(seeded=told.append)
    try:
        rig.segmenter.max_objects = 4
        frame, labels = picture(), np.zeros((24, 32), np.uint8)
        held = rig.segmenter.slow_seed = Held()
        for number in range(4):
            frame[6 * number : 6 * number + 4] = 60 * number + 40
        rig.send(frame, 10 * SECOND)
        for number in range(4):
            one = labels.copy()
            one[6 * number : 6 * number + 4] = number + 1
            rig.core.seed_later(mask_message(one))
        held.go_on.set()
        wait_until(lambda: len(told) == 4, "the seeds")
        assert rig.segmenter.ids == [1, 2, 3, 4], [answer.message for answer in told]
    finally:
        rig.core.close()


def test_a_mask_by_topic_that_cannot_be_read_is_told_and_the_next_is_seeded():
    told = []
    rig = Rig(seeded=told.append)
    try:
        rig.send(picture(), 10 * SECOND)
        bad = mask_message(masks())
        bad.data = bad.data[:-1]
        wrong = (bad, mask_message(masks() * 0), mask_message(masks(height=48, width=64)))
        for number, mask in enumerate((*wrong, mask_message(masks())), 1):
            rig.core.seed_later(mask)
            wait_until(lambda number=number: len(told) == number, "the answer")
        texts = [answer.message for answer in told]
        assert [answer.success for answer in told] == [False, False, False, True], texts
        for text, expected in zip(texts, ("cut short", "all zero", "64 x 48", "seeded objects 1")):
            assert expected in text
        assert rig.core.report().values["seeds by topic"].startswith("1 seeded, 3 refused")
    finally:
        rig.core.close()


def test_the_inbox_has_room_for_a_number_of_masks():
    dropped, seeded = [], []
    held = Held()

    def seed(waiting):
        held()
        seeded.append(waiting.ticket)

    inbox = SeedInbox(2, seed, lambda ticket, reason: None, dropped.append)
    try:
        inbox.put(mask_message(masks(0, (1,))), 0)
        assert held.inside.wait(TIMEOUT)
        for number in range(1, 41):
            inbox.put(mask_message(masks(0, (number + 10,))), number)
        assert dropped == list(range(1, 25))
        held.go_on.set()
        wait_until(lambda: len(seeded) == 17, "the seeds")
        assert seeded == [0, *range(25, 41)]
    finally:
        inbox.close()


# ---------------------------------------------------------------- stamps


def test_a_strict_seed_of_an_unknown_stamp_is_refused_at_once(rig):
    rig.core.settings.seed_wait = 30.0
    for step in range(3):
        rig.send(picture(step), (10 + step) * SECOND)
    for stamp in (9 * SECOND, 11 * SECOND + 1, 43 * SECOND, 10**6 * SECOND, 1):
        begin = time.monotonic()
        answer = rig.core.seed_mask(mask_message(masks(), stamp), strict=True)
        assert time.monotonic() - begin < SOON
        assert not answer.success
        assert "the seed is strict, so nothing was seeded" in answer.message
        answer = rig.core.seed_object(0, box=(1, 3, 12, 12), stamp=stamp, strict=True)
        assert "the seed is strict" in answer.message
    assert rig.segmenter.ids == []
    for stamp, exact in ((0, True), (11 * SECOND, True), (12 * SECOND, True)):
        answer = rig.core.seed_mask(mask_message(masks(1), stamp), strict=True)
        assert (answer.success, answer.exact) == (exact, True), answer.message


def test_a_strict_seed_waits_for_its_frame_where_that_may_be_on_its_way(rig):
    rig.core.settings.seed_wait = 30.0
    rig.send(picture(0), 10 * SECOND)
    call = Later(lambda: rig.core.seed_mask(mask_message(masks(2), 12 * SECOND), strict=True))
    wait_until(lambda: len(rig.core._condition._waiters) == 2, "the caller to wait")
    rig.send(picture(1), 11 * SECOND)
    assert call.answer is None
    rig.core.on_frame(message(picture(2), 12 * SECOND))
    answer = call.wait()
    assert (answer.success, answer.exact, answer.frame.stamp) == (True, True, 12 * SECOND)
    rig.core.settings.seed_wait = 0.05
    answer = rig.core.seed_mask(mask_message(masks(2), 12 * SECOND + 10**7), strict=True)
    assert not answer.success
    assert "it did not come within 0.05 s" in answer.message


def test_masks_by_topic_are_strict_unless_told_otherwise():
    told = []
    rig = Rig(seeded=told.append)
    try:
        rig.send(picture(0), 10 * SECOND)
        rig.core.seed_later(mask_message(masks(), 50 * SECOND))
        wait_until(lambda: told, "the answer")
        assert not told[0].success
        assert "the seed is strict" in told[0].message
        rig.core.settings.strict_seeds = False
        rig.core.seed_later(mask_message(masks(), 50 * SECOND))
        wait_until(lambda: len(rig.core._condition._waiters) == 2, "the seed to wait")
        rig.send(picture(0), 11 * SECOND)
        wait_until(lambda: len(told) == 2, "the answer")
        assert (told[1].success, told[1].exact) == (True, False)
    finally:
        rig.core.close()


def test_without_strict_the_next_frame_is_taken_and_the_answer_says_so(rig):
    rig.send(picture(0), 10 * SECOND)
    call = Later(lambda: rig.core.seed_mask(mask_message(masks(1), 50 * SECOND)))
    wait_until(lambda: len(rig.core._condition._waiters) == 2, "the caller to wait")
    rig.send(picture(1), 11 * SECOND)
    answer = call.wait()
    assert (answer.success, answer.exact) == (True, False)
    assert answer.message.endswith("so the next frame was taken")


# ---------------------------------------------------------------- what is followed already


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize(
    ("choice", "ids", "tracked", "says"),
    [
        (None, [1], [1, 2], "covers object 1 (IoU 1.00), so that one was seeded again"),
        (OnOverlap.REPLACE, [3], [2, 3], "object 1, which object 3 covers (IoU 1.00), was repl"),
        (OnOverlap.KEEP_BOTH, [3], [1, 2, 3], "object 3 covers object 1 (IoU 1.00), which keeps"),
        (OnOverlap.REFUSE, [], [1, 2], "covers object 1 (IoU 1.00), which is followed, so nothing"),
    ],
)
def test_a_seed_on_an_object_that_is_followed(rig, past, choice, ids, tracked, says):
    for step in range(3):
        rig.send(shade(step), (10 + step) * SECOND)
        if not step:
            assert rig.core.seed_mask(mask_message(masks()), ["cup", "box"]).success
    stamp = 10 * SECOND if past else 0
    options = {} if choice is None else {"on_overlap": choice}
    mask = mask_message(masks(0, (3,)), stamp)
    answer = rig.core.seed_mask(mask, ["again"], **options)
    assert answer.success == (choice is not OnOverlap.REFUSE), answer.message
    assert says in answer.message
    assert ("carried forward" in answer.message) == (past and answer.success)
    assert (answer.ids, answer.tracked_ids) == (ids, tracked)
    assert answer.overlapped_ids == ([1] if answer.success else [])
    names = {1: "cup", 2: "box", 3: "again"}
    rig.send(shade(3), 20 * SECOND)
    assert rig.published[-1].names == {number: names[number] for number in tracked}
    gave_way = past and choice is OnOverlap.KEEP_BOTH
    assert rig.segmenter.gave_way == ([[1]] if gave_way else [])


def test_an_object_without_a_name_takes_that_of_the_seed_that_found_it(rig):
    rig.send(picture(0), 10 * SECOND)
    rig.core.seed_mask(mask_message(masks()))
    answer = rig.core.seed_object(0, "cup", box=(1, 3, 12, 12))
    assert answer.ids == [1]
    assert set(np.unique(answer.mask)) == {0, 1}, "the mask shows the id that was seeded"
    rig.send(picture(0), 11 * SECOND)
    assert rig.published[-1].names == {1: "cup"}


def test_ids_that_were_exchanged_are_set_right(rig):
    """Both objects are in the mask, so it is no overlap."""
    rig.send(picture(0), 10 * SECOND)
    rig.core.seed_mask(mask_message(masks()))
    answer = rig.core.seed_mask(mask_message(masks(0, (2, 1))))
    assert (answer.ids, answer.overlapped_ids) == ([1, 2], [])
    np.testing.assert_allclose(rig.segmenter.bank[2], [220, 30, 30])
    # one alone, on the other, would leave that one without a pixel: it is seeded again
    answer = rig.core.seed_mask(mask_message(masks(0, (1,))))
    assert (answer.ids, answer.overlapped_ids, answer.tracked_ids) == ([2], [2], [1, 2])


def test_a_seed_of_the_past_may_exchange_ids_where_one_is_hidden_by_now(rig):
    rig.send(shade(0), 10 * SECOND)
    rig.core.seed_mask(mask_message(masks(0, (2, 0))))  # the red one as 2
    hidden = shade(1)
    hidden[14:22] = 100  # the blue one is gone
    rig.send(hidden, 11 * SECOND)
    answer = rig.core.seed_mask(mask_message(masks(0, (1, 2)), 10 * SECOND))
    assert answer.success, answer.message
    assert (answer.ids, answer.tracked_ids) == ([1, 2], [1, 2])
    assert rig.segmenter.bank[1][0] > 150
    assert rig.segmenter.bank[2][2] > 150


def test_an_object_that_nobody_has_cancels_no_seed_without_an_id():
    class Slow:
        def __init__(self):
            self.begun, self.go_on = threading.Event(), threading.Event()

        def make(self, rgb, **hints):
            self.begun.set()
            assert self.go_on.wait(TIMEOUT)
            return SimpleNamespace(
                mask=np.uint8(masks(0, (1, 0)) > 0), quality=lambda a: 1.0, doubt=lambda a: ""
            )

        def agreement(self, *given, **hints):
            return 1.0

    slow = Slow()
    rig = Rig(masks=slow)
    try:
        rig.send(picture(0), SECOND)
        call = Later(lambda: rig.core.seed_object(0, "cup", inside=[(5, 5)]))
        assert slow.begun.wait(TIMEOUT)
        assert not rig.core.remove(1).success
        slow.go_on.set()
        answer = call.wait()
        assert answer.success, answer.message
        assert answer.ids == [1]
    finally:
        slow.go_on.set()
        rig.core.close()


def test_a_seed_after_a_deactivation_goes_to_no_image_of_before(rig):
    rig.send(picture(0), SECOND)
    rig.core.deactivate()
    rig.core.activate()
    answer = rig.core.seed_mask(mask_message(masks(0)))
    assert not answer.success
    assert rig.core.report().values["seed buffer [bytes]"] == "0"
    rig.send(picture(0), 2 * SECOND)
    assert rig.core.seed_mask(mask_message(masks(0))).success


@pytest.mark.parametrize("past", [False, True])
def test_an_object_within_a_larger_seed_keeps_its_pixels(rig, past):
    for step in range(3):
        rig.send(shade(step), (10 + step) * SECOND)
        if not step:
            rig.core.seed_mask(mask_message(masks()))
    rig.segmenter.find = lambda frame: masks()
    large = np.zeros((24, 32), np.uint8)
    large[2:13, :28] = 3
    rig.segmenter.segment_labels = large
    if past:
        fork = rig.segmenter.fork
        spared = []

        def forked(*given, **options):
            made = fork(*given, **options)
            made.find = lambda frame: large
            made.give_way = lambda frame, mask, ids: spared.append((np.unique(mask).tolist(), ids))
            return made

        rig.segmenter.fork = forked
    answer = rig.core.seed_mask(mask_message(large, 10 * SECOND if past else 0))
    assert answer.success, answer.message
    assert "object 1 lies within object 3 and keeps its pixels" in answer.message
    assert (answer.overlapped_ids, answer.tracked_ids) == ([1], [1, 2, 3])
    if past:
        assert spared == [([0, 1], [3])]
    assert rig.segmenter.gave_way == []


def test_a_value_of_on_overlap_that_there_is_not_is_refused(rig):
    rig.send(picture(0), 10 * SECOND)
    answer = rig.core.seed_mask(mask_message(masks()), on_overlap=9)
    assert not answer.success
    assert "on_overlap is 9; it is one of SEED_AGAIN (0), REPLACE (1)" in answer.message


def test_a_seed_that_is_the_same_object_fits_into_a_full_memory(rig):
    rig.send(picture(0), 10 * SECOND)
    rig.segmenter.max_objects = 2
    rig.core.seed_mask(mask_message(masks()))
    assert rig.core.seed_mask(mask_message(masks(0, (3, 4)))).ids == [1, 2]
    answer = rig.core.seed_mask(mask_message(masks(0, (7, 8))), on_overlap=OnOverlap.REPLACE)
    assert (answer.ids, answer.tracked_ids) == ([7, 8], [7, 8])
    answer = rig.core.seed_mask(mask_message(masks(0, (3,))), on_overlap=OnOverlap.KEEP_BOTH)
    assert "at most 2 objects" in answer.message
    assert rig.segmenter.ids == [7, 8]


# ---------------------------------------------------------------- ids


def test_an_id_that_was_freed_is_not_given_out_again_at_once(rig):
    rig.send(picture(0), 10 * SECOND)

    def add():
        answer = rig.core.seed_object(0, box=(1, 3, 12, 12), on_overlap=OnOverlap.KEEP_BOTH)
        assert answer.success, answer.message
        return answer.ids[0]

    assert [add(), add()] == [1, 2]
    rig.core.remove(1)
    assert add() == 3
    rig.core.remove(3)
    assert add() == 4
    rig.core.reset()
    assert add() == 1


def test_when_all_ids_were_used_the_one_free_longest_comes_again():
    ids = FreeIds()
    ids.note(range(1, 256))
    ids.note(number for number in range(1, 256) if number not in (9, 200))
    ids.note(number for number in range(1, 256) if number != 9)
    tracked = [number for number in range(1, 256) if number not in (9, 200)]
    assert ids.take(tracked) == 9
    ids.note([9])
    assert ids.take([*tracked, 9]) == 200
    with pytest.raises(ValueError, match="all 255 ids are in use"):
        ids.take(range(1, 256))


def test_tickets_do_not_grow():
    tickets = Tickets()
    for number in range(-5, 1000):
        tickets.remove(number, followed=True)
        tickets.done(tickets.take())
    assert len(tickets._removed) == 255
    assert not tickets._pending


# ---------------------------------------------------------------- what seeds may cost


def bars(count):
    """A picture of `count` bars, each of its own brightness, and their labels."""
    frame, labels = np.full((24, 4 * count, 3), 10, np.uint8), np.zeros((24, 4 * count), np.uint8)
    for number in range(count):
        columns = slice(4 * number, 4 * number + 3)
        frame[4:20, columns] = (40 + 80 * (number % 3), 40 + 80 * (number // 3 % 3), number * 9)
        labels[4:20, columns] = number + 1
    return frame, labels


def test_seeding_many_holds_up_no_frame_and_the_answer_tells_what_they_cost():
    rig = Rig()
    try:
        rig.segmenter.max_objects = 20
        rig.segmenter.update_every = 2
        frame, labels = bars(9)
        rig.send(frame, 10 * SECOND)
        spans, sent = [], [10]

        def slow():
            time.sleep(0.15)

        rig.segmenter.slow_seed = slow
        rig.on_publish = lambda item: spans.append(rig.core.age(item.frame))
        stop = threading.Event()

        def camera():
            while not stop.wait(0.05):
                sent[0] += 1
                rig.core.on_frame(message(frame, sent[0] * SECOND))

        thread = threading.Thread(target=camera)
        thread.start()
        try:
            rig.core.settings.catch_up_time = 30.0
            begin = time.monotonic()
            answer = rig.core.seed_mask(mask_message(labels, 10 * SECOND))
            took = time.monotonic() - begin
            during = len(spans)
        finally:
            stop.set()
            thread.join()
        assert answer.success, answer.message
        assert answer.ids == list(range(1, 10))
        assert took > 9 * 0.15
        assert during >= 6, "frames waited for the whole seed"
        assert "with 9 objects an image takes about" in answer.message
        assert 9 * 0.15 / 2 < answer.frame_time < 5.0
        assert "so most will be dropped" in answer.message
        assert any("seeding 9 objects takes about" in line for _, line in rig.logs) == (
            9 * 0.15 > 2.0
        )
    finally:
        rig.core.close()


def test_few_objects_are_seeded_in_one_step_as_ever(rig):
    rig.send(picture(0), 10 * SECOND)
    answer = rig.core.seed_mask(mask_message(masks()))
    assert answer.message == "seeded objects 1, 2"
    assert answer.frame_time == 0.0


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 0.3, 0.65), (0.2, 0.05, 0.4)])
def test_seeds_have_no_more_than_their_share_while_frames_wait(rig, share, least, most):
    """Time is counted in the segmenter's calls, of which each takes as long as the others."""
    now, spent = [0.0], {"seeds": 0.0, "frames": 0.0}
    core = rig.core
    core._clock = lambda: now[0]
    core.settings.seed_share = share
    rig.segmenter.slow_seed = lambda: work("seeds", 0.3)
    rig.on_publish = lambda item: work("frames", 0.1)
    stop, stamp = threading.Event(), [10]

    def work(kind, seconds):
        now[0] += seconds
        if kind == "seeds" or core._commands.adding:  # frames between two seeds are nobody's share
            spent[kind] += seconds
        camera()  # the next frame is there at once, so one always waits

    def camera():
        stamp[0] += 1
        core.on_frame(message(shade(0), stamp[0] * SECOND))

    def detector():
        while not stop.is_set():
            core.seed_mask(mask_message(masks(0, (1,))))

    threads = [threading.Thread(target=detector) for _ in range(2)]
    camera()
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: spent["seeds"] > 6.0, "seeds")
    finally:
        stop.set()
        rig.on_publish = None
        for thread in threads:
            thread.join()
    part = spent["seeds"] / sum(spent.values())
    assert least < part < most, spent
