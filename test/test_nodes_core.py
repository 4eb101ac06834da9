"""The core of the segmentation node without ROS: threads, counters, seeds, stamps, faults."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace

import cv2
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stremn_ros.errors import InputError, ModelError
from stremn_ros.messages.image_read import decode_rgb
from stremn_ros.stream import commands, segment_core
from stremn_ros.stream import diagnosis as reports
from stremn_ros.stream.limited_log import MOST_KEYS, LimitedLog, alike
from stremn_ros.stream.seed_requests import OnOverlap
from stremn_ros.stream.settings import Settings


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.segmenter.may_go.set()
    made.core.close()


def balanced(counters):
    return counters.received == (
        counters.segmented
        + counters.dropped
        + counters.failed
        + counters.waiting
        + counters.in_work
    )


def test_a_seeded_object_is_followed_and_the_answer_tells_all(rig):
    rig.send(picture(), 5 * SECOND)
    answer = rig.core.seed_mask(mask_message(masks()), ["cup", "box"])
    assert (answer.success, answer.ids, answer.tracked_ids) == (True, [1, 2], [1, 2])
    assert answer.frame.stamp == 5 * SECOND
    assert answer.message == "seeded objects 1, 2"
    for step in range(1, 5):
        rig.send(picture(step), (5 + step) * SECOND)
        item = rig.published[-1]
        np.testing.assert_array_equal(item.result.labels, masks(step))
        assert item.names == {1: "cup", 2: "box"}
        assert item.frame.stamp == (5 + step) * SECOND
    assert len(rig.segmenter.threads) == 1
    assert threading.get_ident() not in rig.segmenter.threads


def test_the_newest_frame_wins_and_every_other_is_counted(rig):
    rig.segmenter.may_go.clear()
    rig.core.on_frame(message(picture(0), 1))
    assert rig.segmenter.entered.wait(TIMEOUT)
    for number in range(1, 8):
        rig.core.on_frame(message(picture(number), 1 + number))
        assert balanced(rig.core.counters())
    counters = rig.core.counters()
    assert (counters.received, counters.dropped) == (8, 6)
    assert (counters.waiting, counters.in_work) == (1, 1)
    rig.segmenter.may_go.set()
    rig.settle()
    assert [item.frame.stamp for item in rig.published] == [1, 8]
    counters = rig.core.counters()
    assert (counters.segmented, counters.dropped, counters.failed) == (2, 6, 0)


def test_the_mask_is_published_before_the_memory_changes(rig):
    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()))
    banks = []
    rig.on_publish = lambda _: banks.append(
        {key: value.copy() for key, value in rig.segmenter.bank.items()}
    )
    before = {key: value.copy() for key, value in rig.segmenter.bank.items()}
    darker = (picture().astype(float) * 0.95).astype(np.uint8)
    rig.send(darker)
    np.testing.assert_array_equal(banks[0][1], before[1])
    assert not np.array_equal(rig.segmenter.bank[1], before[1])


def test_commands_are_answered_while_frames_keep_coming(rig):
    rig.send(picture())
    stop = threading.Event()

    def flood():
        stamp = 0
        while not stop.is_set():
            stamp += 1
            rig.core.on_frame(message(picture(stamp % 8), stamp))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        number = 0
        deadline = time.monotonic() + TIMEOUT
        while number < 40 or rig.core.counters().segmented < 20:
            assert time.monotonic() < deadline, "frames starved behind commands"
            if number % 4 == 0:
                assert rig.core.reset().success
            assert rig.core.seed_mask(mask_message(masks(0, (1,)))).success
            assert balanced(rig.core.counters())
            number += 1
    finally:
        stop.set()
        thread.join()
    rig.settle()
    assert rig.core.counters().failed == 0


def bad_calls(rig):
    """Every call that must fail, with what its message must say."""
    core = rig.core
    nan = masks().astype(np.float32)
    nan[3, 4] = np.nan
    half = masks().astype(np.float32) / 2
    truncated = mask_message(masks())
    truncated.data = truncated.data[:-1]
    narrow = mask_message(masks())
    narrow.step = 31
    empty = mask_message(masks())
    empty.data = empty.data[:0]
    many = np.zeros((24, 32), np.uint8)
    many[0, :9] = range(1, 10)
    return {
        "another size": (
            lambda: core.seed_mask(mask_message(masks(height=48, width=64))),
            "the mask is 64 x 48 pixels, the frame is 32 x 24: send the mask at the frame's size",
        ),
        "all zero": (
            lambda: core.seed_mask(mask_message(masks() * 0)),
            "the mask is all zero: mark each object with its id",
        ),
        "nan": (
            lambda: core.seed_mask(mask_message(nan, encoding="32FC1")),
            "1 values that are NaN",
        ),
        "fractional": (
            lambda: core.seed_mask(mask_message(half, encoding="32FC1")),
            "fractional values",
        ),
        "encoding": (
            lambda: core.seed_mask(message(picture())),
            "a mask cannot be of encoding 'rgb8'",
        ),
        "truncated": (lambda: core.seed_mask(truncated), "cut short: 767 bytes came"),
        "step": (lambda: core.seed_mask(narrow), "step is 31 bytes, smaller than one row"),
        "empty": (lambda: core.seed_mask(empty), "the image has no data"),
        "too many": (lambda: core.seed_mask(mask_message(many)), "at most 4 objects"),
        "names": (
            lambda: core.seed_mask(mask_message(masks()), ["one"]),
            "1 names for the 2 objects [1, 2] of the mask",
        ),
        "long name": (
            lambda: core.seed_mask(mask_message(masks()), ["cup", "x" * 129]),
            "the name 'xxxxxxxxxxxxxxxx'... has 129 characters; 128 are the most",
        ),
        "name of hints": (
            lambda: core.seed_object(3, "a\x1b[2J", box=(1, 1, 9, 9)),
            "has '\\x1b' in it, which cannot be printed",
        ),
        "unknown id": (lambda: core.remove(7), "no object 7"),
        "negative id": (lambda: core.remove(-1), "no object -1"),
        "no hint": (lambda: core.seed_object(3), "nothing says where the object is"),
        "bad id": (
            lambda: core.seed_object(300, box=(1, 1, 9, 9)),
            "the id 300 cannot be used: give 1 to 255, or 0 for a free one",
        ),
        "box outside": (
            lambda: core.seed_object(3, box=(30, 1, 9, 9)),
            "reaches outside the image, which is 32 x 24 pixels",
        ),
        "empty box": (lambda: core.seed_object(3, box=(3, 3, 0, 0)), "0 x 0 pixels"),
        "point outside": (
            lambda: core.seed_object(3, inside=[(99, 1)]),
            "(99, 1) lies outside the image",
        ),
    }


BAD_NAMES = sorted(bad_calls(SimpleNamespace(core=None)))


def run(with_bad=None):
    """Masks of ten frames, and the memory after each, with or without a bad call between them."""
    rig = Rig()
    try:
        rig.send(picture(0), SECOND)
        assert rig.core.seed_mask(mask_message(masks()), ["cup", "box"]).success
        banks = []
        for step in range(1, 8):
            if with_bad and step % 2:
                call, text = bad_calls(rig)[with_bad]
                answer = call()
                assert not answer.success
                assert text in answer.message
                assert answer.tracked_ids == [1, 2]
                assert answer.ids == []
            rig.send(picture(step, seed=step), (1 + step) * SECOND)
            banks.append({key: value.tobytes() for key, value in rig.segmenter.bank.items()})
        return rig.labels(), banks, [item.names for item in rig.published]
    finally:
        rig.core.close()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_call_says_what_is_wrong_and_changes_nothing_at_all(name):
    labels, banks, names = run()
    other_labels, other_banks, other_names = run(with_bad=name)
    assert banks == other_banks
    assert names == other_names
    for one, other in zip(labels, other_labels):
        np.testing.assert_array_equal(one, other)


def test_seeding_before_any_frame_says_what_to_check(rig):
    rig.core.settings.seed_wait = 0.05
    for answer in (
        rig.core.seed_mask(mask_message(masks())),
        rig.core.seed_mask(mask_message(masks(), 5 * SECOND)),
        rig.core.seed_object(box=(2, 4, 8, 8)),
    ):
        assert not answer.success
        assert answer.message.startswith("no frame received yet on /camera/image")
        assert "ros2 topic info" in answer.message


def test_a_seed_waits_for_the_first_frame(rig):
    rig.core.settings.seed_wait = TIMEOUT
    camera = threading.Timer(0.2, lambda: rig.send(picture()))
    camera.start()
    answer = rig.core.seed_mask(mask_message(masks()))
    camera.join()
    assert answer.success, answer.message


@pytest.mark.parametrize("ends", ["deactivate", "reset"])
def test_a_seed_that_waits_for_the_first_frame_ends_with_what_ends_it(rig, ends):
    rig.core.settings.seed_wait = TIMEOUT
    begin = time.monotonic()
    end = threading.Timer(0.2, getattr(rig.core, ends))
    end.start()
    answer = rig.core.seed_mask(mask_message(masks()))
    end.join()
    assert not answer.success
    assert time.monotonic() - begin < TIMEOUT / 2
    expected = "deactivated before the first frame" if ends == "deactivate" else "reset"
    assert expected in answer.message


def test_names_are_kept_per_id(rig):
    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()), ["cup", "box"])
    rig.core.seed_mask(mask_message(masks(0, (1,))))  # again, without a name
    rig.core.remove(2)
    rig.core.seed_object(5, "ball", inside=[(5, 17)])
    rig.send(picture())
    assert rig.published[-1].names == {1: "cup", 5: "ball"}
    rig.core.seed_mask(mask_message(masks(0, (2,))), ["jar"], replace=True)
    rig.send(picture())
    assert rig.published[-1].names == {2: "jar"}
    assert rig.core.reset().message == "1 object forgotten"
    rig.send(picture())
    assert rig.published[-1].names == {}
    assert not rig.published[-1].result.labels.any()


def test_a_frame_tells_which_object_has_an_id(rig):
    def seedings():
        rig.send(picture())
        return rig.published[-1].seedings

    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()))
    before = seedings()
    assert before == seedings()
    assert before.keys() == {1, 2}
    rig.core.seed_mask(mask_message(masks(0, (1,))))
    again = seedings()
    assert (again[1].first, again[2]) == (before[1].first, before[2])
    assert again[1].newest > before[1].newest
    rig.core.remove(1)  # the next one with that id is another object
    rig.core.seed_mask(mask_message(masks(0, (1,))))
    other = seedings()
    assert other[1].first > again[1].newest
    assert other[2] == before[2]
    rig.core.seed_mask(mask_message(masks(0, (1,))), replace=True)
    replaced = seedings()
    assert replaced.keys() == {1}
    assert replaced[1].first > other[1].newest
    rig.core.reset()
    assert seedings() == {}
    rig.core.seed_mask(mask_message(masks(0, (1,))))
    assert seedings()[1].first > replaced[1].newest


def test_an_object_from_a_box_takes_a_free_id_and_shows_its_mask(rig):
    rng = np.random.default_rng(3)
    frame = rng.integers(80, 120, (96, 128, 3), np.uint8)
    frame[30:60, 40:80] = rng.integers(0, 30, (30, 40, 3)) + np.array([200, 20, 20])
    rig.send(frame)
    first = rig.core.seed_object(0, "cup", box=(32, 22, 56, 46))
    assert first.success, first.message
    assert (first.ids, first.tracked_ids) == ([1], [1])
    truth = np.zeros((96, 128), bool)
    truth[30:60, 40:80] = True
    assert set(np.unique(first.mask)) == {0, 1}
    assert ((first.mask == 1) & truth).sum() / ((first.mask == 1) | truth).sum() > 0.95
    assert first.agreement > 0.9
    assert "doubtful" not in first.message
    second = rig.core.seed_object(0, box=(32, 22, 56, 46), on_overlap=OnOverlap.KEEP_BOTH)
    assert second.ids == [2]
    assert set(np.unique(second.mask)) == {0, 2}
    assert second.tracked_ids == [1, 2]


def test_the_answer_tells_that_the_mask_of_a_click_is_doubtful(rig):
    """Nothing but noise: each click finds something else."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(0, 90, (96, 128, 3)).astype(np.float32), (0, 0), 4)
    rig.send((128 + 4 * noise).clip(0, 255).astype(np.uint8))
    answer = rig.core.seed_object(0, inside=[(64, 48)])
    assert answer.success, answer.message
    assert 0.0 <= answer.agreement < 0.75
    assert "the mask is doubtful" in answer.message
    assert answer.message in rig.core.report().values["last seed"]


def test_a_seed_finds_its_frame_of_the_past(rig):
    for step in range(6):
        rig.send(picture(step), (10 + step) * SECOND)
    answer = rig.core.seed_mask(mask_message(masks(2), 12 * SECOND))
    assert answer.success
    assert answer.frame.stamp == 12 * SECOND
    assert "in the frame of 3.000 s before the newest" in answer.message
    np.testing.assert_allclose(rig.segmenter.bank[1], [220, 30, 30])
    newest = rig.core.seed_mask(mask_message(masks(5), 15 * SECOND))
    assert newest.message == "seeded objects 1, 2"


def test_a_seed_of_the_past_is_carried_through_every_frame_since(rig):
    rig.send(shade(0), 10 * SECOND)
    assert rig.core.seed_mask(mask_message(masks(0, (0, 2)))).success
    for step in range(1, 7):
        rig.send(shade(step), (10 + step) * SECOND)
    before = rig.segmenter.bank[2].tobytes()
    answer = rig.core.seed_mask(mask_message(masks(0, (1,)), 12 * SECOND), ["cup"])
    assert (answer.ids, answer.tracked_ids) == ([1], [1, 2])
    assert "carried forward through 4 of the 4 frames since then in 0." in answer.message
    assert shades(rig.segmenter.stepped) == [3, 4, 5, 6]
    assert rig.segmenter.bank[2].tobytes() == before
    rig.send(shade(7), 17 * SECOND)
    assert rig.published[-1].names == {1: "cup"}
    # an object that left meanwhile is seeded, and the answer tells
    rig.send(np.full_like(picture(), 100), 18 * SECOND)
    answer = rig.core.seed_mask(mask_message(masks(0, (3,)), 17 * SECOND))
    assert answer.success
    assert answer.message.endswith("not seen in the newest: object 3")


def test_without_time_for_all_frames_some_are_left_out_but_never_the_newest(rig):
    now = [0.0]
    rig.core._clock = lambda: now[0]

    def tick():
        now[0] += 0.1

    for step in range(21):
        rig.send(shade(step), (10 + step) * SECOND)
    rig.segmenter.slow = tick
    rig.core.settings.catch_up_time = 0.65
    seed = rig.segmenter.fork
    rig.segmenter.fork = lambda *given, **options: (tick(), seed(*given, **options))[1]
    answer = rig.core.seed_mask(mask_message(masks(), 10 * SECOND))
    assert answer.success, answer.message
    assert now[0] <= 0.65 + 0.1, "the time that was given, and one frame"
    assert shades(rig.segmenter.stepped) == [4, 8, 12, 16, 20]
    assert "through 5 of the 20 frames since then" in answer.message
    rig.core.settings.catch_up_time = 0.0
    assert rig.core.seed_mask(mask_message(masks(), 10 * SECOND)).success
    assert shades(rig.segmenter.stepped) == [20]


def test_the_stream_goes_on_while_a_seed_catches_up(rig):
    """One frame between two steps; the last step is the frame that was segmented last."""
    for step in range(5):
        rig.send(shade(step), (10 + step) * SECOND)
    segmented = len(rig.published)
    sent = [5]

    def another():
        if sent[0] < 8:
            rig.core.on_frame(message(shade(sent[0]), (10 + sent[0]) * SECOND))
            sent[0] += 1

    rig.segmenter.slow = another
    rig.core.settings.catch_up_time = 30.0
    answer = rig.core.seed_mask(mask_message(masks(), 11 * SECOND))
    assert answer.success, answer.message
    rig.settle()
    assert shades(rig.segmenter.stepped) == [2, 3, 4, 5, 6, 7]
    assert shades(item.rgb for item in rig.published[segmented:]) == [5, 6, 7]
    # the three of them were segmented before the objects came
    assert not any(item.result.labels.any() for item in rig.published[segmented:])
    rig.send(shade(8), 18 * SECOND)
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks())


def test_a_seed_that_fails_on_the_way_changes_nothing(rig):
    rig.send(shade(0), 10 * SECOND)
    rig.core.seed_mask(mask_message(masks()), ["cup", "box"])
    for step in range(1, 4):
        rig.send(shade(step), (10 + step) * SECOND)
    bank = {key: value.tobytes() for key, value in rig.segmenter.bank.items()}

    def fail():
        raise RuntimeError("out of memory")

    def jump():
        for step in range(2):
            rig.core.on_frame(message(shade(9), SECOND + step * SECOND // 10))

    rig.core.settings.reset_on_time_jump = False
    for what, text in ((fail, "out of memory"), (jump, "time jumped back")):
        rig.segmenter.slow = what
        answer = rig.core.seed_mask(mask_message(masks(0, (3,)), 11 * SECOND), ["jar"], True)
        assert not answer.success
        assert text in answer.message
        assert answer.tracked_ids == [1, 2]
        if what is fail:
            assert {k: v.tobytes() for k, v in rig.segmenter.bank.items()} == bank
    rig.segmenter.slow = None
    rig.settle()
    assert rig.published[-1].names == {1: "cup", 2: "box"}
    many = np.zeros((24, 32), np.uint8)
    many[0, :3] = (3, 4, 5)
    rig.send(shade(10), 2 * SECOND)
    rig.segmenter.stepped.clear()
    answer = rig.core.seed_mask(mask_message(many, SECOND + SECOND // 10))
    assert "at most 4 objects" in answer.message
    assert not rig.segmenter.stepped, "refused only after all the work"


def test_closing_while_a_seed_catches_up_answers_it():
    rig = Rig()
    for step in range(4):
        rig.send(shade(step), (10 + step) * SECOND)
    stepping, go_on = threading.Event(), threading.Event()

    def hold():
        stepping.set()
        assert go_on.wait(TIMEOUT)

    rig.segmenter.slow = hold
    answers = []
    caller = threading.Thread(
        target=lambda: answers.append(rig.core.seed_mask(mask_message(masks(), 10 * SECOND)))
    )
    caller.start()
    assert stepping.wait(TIMEOUT)
    closer = threading.Thread(target=rig.core.close)
    closer.start()
    wait_until(lambda: rig.core._commands.stopping, "closing to begin")
    go_on.set()
    caller.join(TIMEOUT)
    closer.join(TIMEOUT)
    assert not closer.is_alive()
    assert "being cleaned up" in answers[0].message


def test_a_paused_node_carries_to_the_newest_frame_received(rig):
    rig.send(shade(0), 10 * SECOND)
    rig.core.enable(False)
    for step in range(1, 4):
        rig.send(shade(step), (10 + step) * SECOND)
    assert rig.core.seed_mask(mask_message(masks(), 11 * SECOND)).success
    assert shades(rig.segmenter.stepped) == [2, 3]


def test_a_seed_whose_frame_is_gone_goes_to_the_next_frame_and_says_so():
    rig = Rig(seed_buffer=3)
    try:
        for step in range(6):
            rig.send(picture(step), (10 + step) * SECOND)
        answers = []
        caller = threading.Thread(
            target=lambda: answers.append(rig.core.seed_mask(mask_message(masks(7), 11 * SECOND)))
        )
        caller.start()
        # the worker is one of those that wait, the caller the other
        wait_until(lambda: len(rig.core._condition._waiters) == 2, "the caller to wait")
        deadline = time.monotonic() + TIMEOUT
        stamp = 20
        while caller.is_alive() and time.monotonic() < deadline:
            rig.core.on_frame(message(picture(7), stamp * SECOND))
            stamp += 1
            caller.join(0.05)
        (answer,) = answers
        assert answer.success, answer.message
        assert answer.frame.stamp >= 20 * SECOND
        assert "no kept frame has the stamp 11.000000000" in answer.message
        assert "the 3 kept: 13.000000000 to 15.000000000" in answer.message
        assert answer.message.endswith("so the next frame was taken")
        np.testing.assert_allclose(rig.segmenter.bank[1], [220, 30, 30])
    finally:
        rig.core.close()


def test_a_seed_that_waits_in_vain_says_so():
    rig = Rig(settings=Settings(seed_wait=0.05))
    try:
        rig.send(picture(), 10 * SECOND)
        answer = rig.core.seed_mask(mask_message(masks(), 11 * SECOND))
        assert not answer.success
        assert "no other frame came within 0.05 s" in answer.message
        assert rig.segmenter.ids == []
    finally:
        rig.core.close()


BAD_FRAMES = {
    "encoding": ({"encoding": "jpeg2000"}, "unknown encoding 'jpeg2000'"),
    "empty": ({"data": b""}, "the image has no data"),
    "truncated": ({"data": b"123"}, "cut short: 3 bytes came"),
    "step": ({"step": 95}, "step is 95 bytes, smaller than one row"),
    "zero size": ({"width": 0}, "0 x 24 pixels"),
    "absurd": ({"width": 2**32 - 1, "height": 2**32 - 1}, "4294967295 x 4294967295"),
}


@pytest.mark.parametrize("name", sorted(BAD_FRAMES))
def test_a_bad_image_is_counted_and_told_and_the_tracks_go_on(rig, name):
    changes, text = BAD_FRAMES[name]
    rig.send(picture(0), SECOND)
    rig.core.seed_mask(mask_message(masks()))
    rig.send(picture(1), 2 * SECOND)
    bank = {key: value.tobytes() for key, value in rig.segmenter.bank.items()}
    bad = message(picture(2), 3 * SECOND)
    for key, value in changes.items():
        setattr(bad, key, value)
    rig.core.on_frame(bad)
    rig.settle()
    counters = rig.core.counters()
    assert (counters.segmented, counters.failed) == (2, 1)
    assert {key: value.tobytes() for key, value in rig.segmenter.bank.items()} == bank
    report = rig.core.report()
    assert text in report.values["last error"]
    assert report.level == reports.WARN
    assert text in report.message
    assert any(severity == "error" and text in line for severity, line in rig.logs)
    # a seed for "the newest frame" means the newest that could be read
    assert rig.core.seed_mask(mask_message(masks(1))).frame.stamp == 2 * SECOND
    rig.send(picture(3), 4 * SECOND)
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks(3))


def test_pixels_that_cannot_be_read_fail_in_the_worker(rig):
    rig.send(picture())
    depth = np.full((24, 32), np.nan, np.float32)
    rig.send(depth, encoding="32FC1")
    assert rig.core.counters().failed == 1
    assert "depth image" in rig.core.report().values["last error"]
    rig.send(picture())
    assert rig.core.counters().segmented == 2


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError(), KeyError(3)])
def test_a_runtime_that_fails_costs_one_frame(rig, error):
    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()))
    rig.segmenter.fail = error
    rig.send(picture(1))
    rig.segmenter.fail = None
    rig.send(picture(2))
    assert [len(rig.published), rig.core.counters().failed] == [2, 1]
    assert type(error).__name__ in rig.core.report().values["last error"]
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks(2))


def test_a_service_that_fails_inside_answers(rig, monkeypatch):
    rig.send(picture())
    monkeypatch.setattr(rig.segmenter, "reset", lambda: 1 / 0)
    answer = rig.core.reset()
    assert not answer.success
    assert "ZeroDivisionError" in answer.message
    rig.send(picture())
    assert rig.core.counters().segmented == 2


def test_a_publisher_that_fails_costs_one_frame(rig):
    def broken(_):
        raise OSError("no")

    rig.on_publish = broken
    rig.send(picture())
    rig.on_publish = None
    rig.send(picture())
    counters = rig.core.counters()
    assert (counters.segmented, counters.failed) == (1, 1)


def test_the_size_may_change_in_mid_stream(rig):
    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()))
    for height, width in ((48, 64), (24, 32), (30, 41)):
        rig.send(picture(height=height, width=width))
        assert rig.published[-1].result.labels.shape == (height, width)
    assert rig.core.counters().failed == 0
    answer = rig.core.seed_mask(mask_message(masks(height=30, width=41)))
    assert answer.success


def test_pausing_drops_and_counts_and_keeps_the_objects(rig):
    rig.send(picture())
    rig.core.seed_mask(mask_message(masks()))
    assert "paused" in rig.core.enable(False).message
    for step in range(5):
        rig.send(picture(step))
    assert len(rig.published) == 1
    assert rig.core.counters().dropped == 5
    assert rig.core.report().message == "paused (~/enable)"
    assert rig.core.enable(False).message.startswith("already")
    assert rig.core.enable(True).message == "enabled"
    rig.send(picture(3))
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks(3))


def test_time_that_jumps_back_resets_unless_told_otherwise(rig):
    rig.send(picture(), 100 * SECOND)
    rig.core.seed_mask(mask_message(masks()))
    rig.send(picture(1), 101 * SECOND)
    assert rig.published[-1].result.labels.any()
    segmented = len(rig.published)
    rig.send(picture(2), 50 * SECOND - SECOND // 10)  # one stamp proves nothing
    assert (len(rig.published), rig.segmenter.ids) == (segmented, [1, 2])
    rig.send(picture(2), 50 * SECOND)
    assert not rig.published[-1].result.labels.any()
    assert rig.segmenter.ids == []
    assert any(
        severity == "warning" and "time jumped back by 51.000 s" in line
        for severity, line in rig.logs
    )
    # frames from before the jump are no longer found
    rig.core.settings.seed_wait = 0.01
    assert not rig.core.seed_mask(mask_message(masks(), 101 * SECOND)).success
    assert rig.core.seed_mask(mask_message(masks(2), 50 * SECOND)).success

    rig.core.settings.reset_on_time_jump = False
    rig.send(picture(3), 10 * SECOND - SECOND // 10)
    rig.send(picture(3), 10 * SECOND)
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks(3))


def test_frames_out_of_order_are_dropped_as_stale(rig):
    rig.send(picture(), 10 * SECOND)
    rig.core.seed_mask(mask_message(masks()))
    rig.send(picture(1), 10 * SECOND - 50_000_000)
    counters = rig.core.counters()
    assert (counters.segmented, counters.dropped, counters.stale) == (1, 1, 1)
    assert rig.segmenter.ids == [1, 2]
    rig.send(picture(1), 10 * SECOND)  # repeated: segmented, and counted as stale
    assert (rig.core.counters().segmented, rig.core.counters().stale) == (2, 2)


def test_late_and_unstamped_frames(rig):
    rig.now = 100 * SECOND
    rig.send(picture(), 97 * SECOND)
    assert rig.core.counters().stale == 1
    rig.send(picture(), 99_500_000_000)
    assert rig.core.counters().stale == 1
    for _ in range(3):
        rig.send(picture(), 0)
    counters = rig.core.counters()
    assert (counters.segmented, counters.stale, counters.dropped) == (5, 1, 0)


def test_nothing_is_published_after_deactivation(rig):
    rig.segmenter.may_go.clear()
    rig.core.on_frame(message(picture(), 1))
    assert rig.segmenter.entered.wait(TIMEOUT)
    rig.core.on_frame(message(picture(), 2))
    thread = threading.Thread(target=rig.core.deactivate)
    thread.start()
    wait_until(lambda: rig.core.counters().waiting == 0, "the waiting frame to be dropped")
    assert thread.is_alive()
    rig.segmenter.may_go.set()
    thread.join(TIMEOUT)
    count = len(rig.published)
    rig.core.on_frame(message(picture(), 3))
    assert rig.core.idle()
    assert len(rig.published) == count == 1
    assert rig.core.counters().received == 2
    answer = rig.core.seed_mask(mask_message(masks()))
    assert "not active" in answer.message
    rig.core.activate()
    rig.send(picture(), 4)
    assert len(rig.published) == 2


def test_closing_answers_the_commands_that_wait():
    rig = Rig()
    rig.send(picture())
    rig.segmenter.entered.clear()
    rig.segmenter.may_go.clear()
    rig.core.on_frame(message(picture(), 1))
    assert rig.segmenter.entered.wait(TIMEOUT)
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(rig.core.reset())) for _ in range(3)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(rig.core._commands.urgent) == 3, "the commands to queue")
    closer = threading.Thread(target=rig.core.close)
    closer.start()
    for caller in callers:
        caller.join(TIMEOUT)
    assert [answer.message for answer in answers] == ["the node is being cleaned up"] * 3
    rig.segmenter.may_go.set()
    closer.join(TIMEOUT)
    assert not closer.is_alive()
    assert not rig.core.reset().success


def test_a_stuck_network_does_not_hold_callers_for_ever(rig, monkeypatch):
    monkeypatch.setattr(commands, "COMMAND_TIMEOUT", 0.1)
    rig.send(picture())
    rig.segmenter.entered.clear()
    rig.segmenter.may_go.clear()
    rig.core.on_frame(message(picture(), 1))
    assert rig.segmenter.entered.wait(TIMEOUT)
    answer = rig.core.seed_mask(mask_message(masks()))
    assert not answer.success
    assert "busy" in answer.message
    rig.segmenter.may_go.set()
    rig.settle()
    assert rig.segmenter.ids == []  # nothing was done, as the answer said


def test_the_report_gives_figures_and_reasons(rig):
    assert rig.core.report().message == "no objects: seed one with ~/seed_mask or ~/seed_object"
    for step in range(4):
        rig.send(picture(step), (1 + step) * SECOND)
    rig.core.seed_mask(mask_message(masks(3)), ["cup", "box"])
    rig.send(picture(3), 9 * SECOND)
    report = rig.core.report()
    assert (report.level, report.message) == (reports.OK, "segmenting")
    values = report.values
    assert values["received"] == values["segmented"] == "5"
    assert values["runtime"] == "colors"
    assert values["memory [bytes]"] == "1234"
    assert values["slots used"] == "1: 1, 2: 1"
    assert (values["memory of object 1"], values["memory of object 2"]) == (
        "color of 1",
        "color of 2",
    )
    assert values["objects"] == "2 of 4"
    assert values["object 1"].startswith("cup: TRACKED")
    assert 0 < float(values["latency p50 [ms]"]) <= float(values["latency p99 [ms]"])
    assert 0 <= float(values["node p50 [ms]"]) <= float(values["latency p50 [ms]"])
    assert float(values["output rate [Hz]"]) > 0
    gone = np.full((24, 32, 3), 100, np.uint8)
    rig.send(gone, 10 * SECOND)
    report = rig.core.report()
    assert (report.level, report.message) == (
        reports.WARN,
        "lost object 1, 2: seed it again, or remove it",
    )
    rig.core.settings.frame_timeout = 0.0
    report = rig.core.report()
    assert report.level == reports.WARN
    assert "no image on /camera/image for" in report.message
    assert rig.core.report("reliability differs").message == "reliability differs"
    rig.core.settings.frame_timeout = 1e6
    assert rig.core.report("reliability differs").message.startswith("lost object")


@pytest.mark.parametrize("rate", [5, 90, 300])
def test_the_rate_of_a_fast_camera_is_its_own(rate):
    now = 100.0
    fast = Rig(clock=lambda: now)
    fast.core.enable(False)
    try:
        image = message(picture())
        for step in range(12 * rate):
            now = 100.0 + step / rate
            fast.core.on_frame(image, "camera", 2 * step)  # half of them is lost
        report = fast.core.report()
    finally:
        fast.core.close()
    assert float(report.values["input rate [Hz]"]) == pytest.approx(rate, rel=0.03)
    lost, all_of_them = re.search(r"(\d+) of the last (\d+) images", report.message).groups()
    assert int(lost) / int(all_of_them) == pytest.approx(0.5, abs=0.02)


def test_frames_lost_on_the_way_are_counted_for_each_publisher(rig):
    core = rig.core
    for publisher, sequence in (("a", 5), ("b", 70), ("a", 6), ("a", 9), ("b", 71), ("a", 1)):
        core.on_frame(message(picture()), publisher, sequence)
        rig.settle()
    assert core.counters().lost == 2
    assert core.report().values["lost in transport"] == "2"
    assert "2 of the last 8 images on /camera/image were lost" in core.report().message
    told = [line for severity, line in rig.logs if "lost on the way" in line]
    assert len(told) == 1, "the first loss, and only the first"
    assert told[0].startswith("2 images on /camera/image lost on the way")
    assert "config/fastdds_shm.xml" in told[0]
    core.on_frame(message(picture()))  # a middleware that numbers nothing
    assert core.counters().lost == 2
    for sequence in range(200):
        core.on_frame(message(picture()), f"publisher {sequence}", sequence)
    assert len(core._frames._sequences) <= 64


def test_settings_reach_the_segmenter_between_frames(rig):
    rig.send(picture())
    rig.core.settings.min_score = 0.7
    rig.core.settings.update_rule = "oldest"
    rig.core.settings.update_every = 3
    rig.core.settings.lost_after = 7
    rig.core.settings.return_score = 0.0
    rig.core.settings.smallest_part = 0.25
    segmenter = rig.segmenter
    segmenter.return_score = 0.9
    rig.send(picture())
    assert (segmenter.lost_after, segmenter.return_score, segmenter.smallest_part) == (7, 0.0, 0.25)
    segmenter = rig.segmenter
    assert (segmenter.min_score, segmenter.update_rule, segmenter.update_every) == (
        0.7,
        "oldest",
        3,
    )
    rig.core.settings.update_rule = ""
    rig.send(picture())
    assert segmenter.update_rule == "least_similar"


def test_a_rule_that_the_model_cannot_follow_is_told_and_changes_nothing(rig, monkeypatch):
    def refuse(segmenter, name):
        raise ModelError(f"update rule {name!r} needs a scorer")

    rule = property(lambda segmenter: "least_similar", refuse)
    monkeypatch.setattr(type(rig.segmenter), "update_rule", rule)
    rig.core.settings.update_rule = "learned"
    rig.send(picture())
    report = rig.core.report()
    assert report.values["segmented"] == "1"
    assert "update_rule stays as it was: update rule 'learned' needs" in report.values["last error"]


def test_the_log_is_limited_per_key():
    now = [0.0]
    lines = []
    log = LimitedLog(lambda severity, text: lines.append(text), 5.0, clock=lambda: now[0])
    for _ in range(10):
        log("error", "image", "bad")
        log("error", "other", "worse")
        log("info", "", "always")
    assert lines.count("bad") == lines.count("worse") == 1
    assert lines.count("always") == 10
    now[0] = 6.0
    log("error", "image", "bad")
    assert lines[-1] == "bad (and 9 more like it in the last 6 s)"
    for number in range(3 * MOST_KEYS):
        log("error", f"key {number}", "another")
    assert len(log._last) == MOST_KEYS


def test_refusals_that_differ_in_values_alone_are_one_kind(rig):
    """A detector with another clock, at 100 Hz for an hour."""
    rig.send(picture(), 5 * SECOND)
    rng = np.random.default_rng(0)
    calls = {
        "stamp": lambda n: rig.core.seed_mask(mask_message(masks(), 7 * n + 1), strict=True),
        "id": lambda n: rig.core.remove(n * 7919),
        "point": lambda n: rig.core.seed_object(0, inside=[tuple(rng.uniform(-99, -1, 2))]),
        "far": lambda n: rig.core.seed_object(0, inside=[((np.nan, 1e30, -5.0)[n % 3], n)]),
    }
    for name, call in calls.items():
        messages = [call(number).message for number in range(20)]
        assert len(set(messages)) > 2
        assert len({alike(text) for text in messages}) == 1, name
    assert len({alike(call(1).message) for call in calls.values()}) == 3


def test_an_apostrophe_makes_no_two_texts_alike() -> None:
    assert alike("the mask's size is 3 x 4") != alike("the mask's values are no ids")
    assert alike("no object is called 'it' now") == alike("no object is called 'that' now")


odd_images = st.fixed_dictionaries(
    {
        "height": st.integers(0, 40) | st.integers(0, 2**32 - 1),
        "width": st.integers(0, 40) | st.integers(0, 2**32 - 1),
        "step": st.integers(0, 99) | st.integers(0, 2**32 - 1),
        "encoding": st.sampled_from(["rgb8", "mono8", "32FC1", "16UC1", "nv12", "yuv422", "x", ""]),
        "is_bigendian": st.integers(0, 255),
        "data": st.binary(max_size=3000),
    }
)


def test_no_image_whatever_ends_the_core_or_moves_a_track():
    rig = Rig()
    rig.send(picture(), SECOND)
    rig.core.seed_mask(mask_message(masks()))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(fields=odd_images, as_seed=st.booleans())
    def attack(fields, as_seed):
        bad = message(picture(), 2 * SECOND)
        for key, value in fields.items():
            setattr(bad, key, value)
        try:
            decode_rgb(bad)
            readable = True
        except InputError:
            readable = False
        if as_seed:
            answer = rig.core.seed_mask(bad)
            assert answer.message
            assert not answer.success or not readable or bad.encoding in ("mono8", "16UC1", "32FC1")
        elif not readable:
            rig.core.on_frame(bad)

    attack()
    rig.settle()
    rig.core.reset()
    rig.core.seed_mask(mask_message(masks()))
    rig.send(picture(4), 3 * SECOND)
    np.testing.assert_array_equal(rig.published[-1].result.labels, masks(4))
    rig.core.close()


wild = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 40)
wild_float = st.floats(width=32) | st.integers(-2, 40).map(float)
wild_points = st.lists(st.tuples(wild_float, wild_float), max_size=4)


def test_no_service_call_whatever_ends_the_core_or_moves_another_object():
    rig = Rig(settings=Settings(seed_wait=0.0))
    rig.send(picture(), SECOND)
    rig.core.seed_mask(mask_message(masks(0, (1,))))
    bank = rig.segmenter.bank[1].tobytes()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        number=wild,
        box=st.none() | st.tuples(wild, wild, wild, wild),
        polygon=wild_points,
        inside=wild_points,
        outside=wild_points,
        stamp=st.sampled_from([0, SECOND, 5]),
        action=st.sampled_from(["seed", "remove"]),
    )
    def attack(number, box, polygon, inside, outside, stamp, action):
        if number == 1:  # object 1 itself may be seeded again and removed
            number = 2
        if action == "seed":
            answer = rig.core.seed_object(
                number,
                "x",
                box=box,
                polygon=polygon,
                inside=inside,
                outside=outside,
                stamp=stamp,
            )
        else:
            answer = rig.core.remove(number)
        assert answer.message
        assert "failed inside" not in answer.message
        assert 1 in answer.tracked_ids
        assert rig.segmenter.bank[1].tobytes() == bank

    attack()
    rig.core.close()


def test_the_first_loss_is_told_again_after_an_activation(rig):
    for _ in range(2):
        for sequence in (1, 3, 5):
            rig.core.on_frame(message(picture()), "a", sequence)
            rig.settle()
        rig.core.deactivate()
        rig.core.activate()
    told = [line for _, line in rig.logs if "1 image on /camera/image lost on the way" in line]
    assert len(told) == 2


def test_it_sleeps_while_nothing_is_followed_and_nobody_subscribes(monkeypatch):
    """Images are counted and not decoded, but one a second, so that a bad one is reported."""
    now, wanted, decoded = [100.0], [False], []
    real = segment_core.decode

    def noted(message):
        decoded.append(message)
        return real(message)

    monkeypatch.setattr(segment_core, "decode", noted)
    rig = Rig(clock=lambda: now[0], wanted=lambda: wanted[0])
    try:
        for _ in range(10):
            rig.send(picture())
        assert (len(decoded), len(rig.published)) == (1, 1)
        assert rig.core.counters().segmented == 10
        now[0] += 1.5
        bad = message(picture())
        bad.encoding = "no_such"
        rig.core.on_frame(bad)
        rig.settle()
        assert "no_such" in rig.logs[-1][1], "what cannot be read is reported asleep, too"
        wanted[0] = True  # somebody subscribes
        rig.send(picture())
        rig.send(picture())
        assert len(rig.published) == 3
        wanted[0] = False
        rig.core.seed_mask(mask_message(masks()), ["cup", "box"])
        before = len(decoded)
        rig.send(picture(1))
        rig.send(picture(2))
        assert len(decoded) == before + 2, "followed objects are followed, whoever listens"
        np.testing.assert_array_equal(rig.published[-1].result.labels, masks(2))
        rig.core.reset()
        before = len(decoded)
        rig.send(picture(3))
        assert len(decoded) == before
    finally:
        rig.core.close()
