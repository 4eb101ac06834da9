"""Stamps of images: out of order, outliers of every kind, and time that really jumps."""

from __future__ import annotations

import numpy as np
import pytest
from core_helpers import SECOND, Rig, mask_message, masks, message, picture
from hypothesis import given
from hypothesis import strategies as st

from stremn_ros.stream.intake import Intake
from stremn_ros.stream.settings import IntakeSettings


class Stamps:
    """An intake that is given stamps in seconds."""

    def __init__(self, **settings):
        self.lines = []
        self.intake = Intake(
            30,
            IntakeSettings(stale_after=0.0, **settings),
            lambda severity, key, text: self.lines.append(text),
            "/camera",
        )
        self._message = message(picture())

    def send(self, *seconds):
        """Whether each was taken."""
        taken = []
        for second in seconds:
            stamp = round(second * SECOND)
            self._message.header.stamp.sec = stamp // SECOND
            self._message.header.stamp.nanosec = stamp % SECOND
            before = self.intake.last_number
            assert self.intake.put(self._message, None, None, True, 0.0) == ""
            taken.append(self.intake.last_number > before)
        return taken

    @property
    def forgotten(self):
        return self.intake.reset_wanted


STREAM = [1000 + 0.1 * step for step in range(12)]
# what comes in the place of the frames 5, 6 and so on
OUTLIERS = {
    "one ahead by less than a second": [1000.5 + 0.9],
    "one far ahead": [1060.5],
    "one behind": [995.0],
    "one at the beginning of time": [0.25],
    "two ahead": [1001.4, 1001.5],
    "ten ahead": [1100 + 0.1 * step for step in range(10)],
    "two behind of different times": [995.0, 3.0],
    "to and fro, ahead": [1005.5, 1000.6, 1005.7, 1000.8, 1005.9],
    "to and fro, behind": [995.5, 1000.6, 995.7, 1000.8, 995.9],
    "ahead and behind": [1005.5, 995.6],
    "none": [0.0, 0.0],
}


@pytest.mark.parametrize("name", OUTLIERS)
def test_outlying_stamps_forget_nothing_and_the_stream_goes_on(name):
    stamps = Stamps()
    wrong = OUTLIERS[name]
    assert all(stamps.send(*STREAM[:5]))
    stamps.send(*wrong)
    after = STREAM[5] + 0.1 * len(wrong)
    assert all(stamps.send(*(after + 0.1 * step for step in range(8))))
    assert not stamps.forgotten, stamps.lines
    assert stamps.intake.first_number == 1, "frames from before are still found"
    assert stamps.intake.of_stamp(round(1000.1 * SECOND)) is not None


@pytest.mark.parametrize("period", [0.01, 0.1, 2.0, 30.0])
@pytest.mark.parametrize("length", [3, 5, 100])
def test_a_bag_that_loops_is_known_by_its_second_frame(period, length):
    stamps = Stamps(time_jump_tolerance=0.005)
    bag = [1000 + period * step for step in range(length)]
    for round_ in range(3):
        expected = [bool(step) or not round_ for step in range(length)]
        assert stamps.send(*bag) == expected
        assert stamps.forgotten == (round_ > 0), stamps.lines
        stamps.intake.reset_wanted = False


def test_seeking_back_in_a_bag_is_a_jump():
    """To a place that was played before, not into a gap of the stamps."""
    stamps = Stamps()
    stamps.send(*(1000 + 0.1 * step for step in range(50)))
    assert stamps.send(1002.0, 1002.1, 1002.2) == [False, True, True]
    assert stamps.forgotten
    assert any("time jumped back by 2.800 s" in line for line in stamps.lines)


def test_a_jump_is_told_and_objects_are_kept_where_that_is_wished():
    stamps = Stamps(reset_on_time_jump=False)
    assert stamps.send(1000, 1000.1, 10, 10.1, 10.2) == [True, True, False, True, True]
    assert not stamps.forgotten
    assert stamps.intake.first_number == 3
    assert any("objects are kept (reset_on_time_jump is false)" in line for line in stamps.lines)


def test_with_a_largest_gap_a_leap_ahead_is_proven_by_a_second_frame_too():
    stamps = Stamps()
    stamps.intake._largest_gap = lambda: 1.0
    assert stamps.send(1000, 1000.1, 1060, 1000.2, 1000.3) == [True, True, False, True, True]
    assert stamps.send(1060, 1060.1, 1060.2) == [False, True, True]
    assert not stamps.forgotten


@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=60),
    st.lists(st.floats(0.0, 4e9), min_size=60, max_size=60),
)
def test_lone_outliers_of_any_size_forget_nothing(pattern, values):
    """Each outlier stands alone between two frames of the stream or more."""
    stamps = Stamps()
    now = 1000.0
    stamps.send(now, now + 0.1)
    now += 0.1
    for kind, value in zip(pattern, values):
        now += 0.1
        if kind == 0:
            stamps.send(value)
            now += 0.1
            stamps.send(now)
            now += 0.1
        taken = stamps.send(now)
        assert taken == [True] or any(abs(value - now) < 5 for value in values)
    assert not stamps.forgotten, stamps.lines


@pytest.mark.parametrize("wrong", [101.3, 160.2, 95.0])
def test_the_objects_are_followed_past_a_wrong_stamp(wrong):
    rig = Rig()
    try:
        rig.send(picture(0), 100 * SECOND)
        assert rig.core.seed_mask(mask_message(masks()), ["cup", "box"]).success
        for step, stamp in enumerate((100.1, 100.2, wrong, 100.4, 100.5), 1):
            rig.send(picture(step), round(stamp * SECOND))
        np.testing.assert_array_equal(rig.published[-1].result.labels, masks(5))
        assert rig.published[-1].names == {1: "cup", 2: "box"}
        answer = rig.core.seed_mask(mask_message(masks(2), round(100.2 * SECOND)))
        assert (answer.success, answer.exact) == (True, True)
    finally:
        rig.core.close()


def test_the_time_between_images_is_that_of_the_last_ones():
    """A burst of a minute ago says nothing of the rate now."""
    stamps = Stamps()

    def arrive(*times):
        for when in times:
            stamps._message.header.stamp.sec = 1000 + int(when)
            stamps._message.header.stamp.nanosec = round(when % 1 * SECOND)
            assert stamps.intake.put(stamps._message, None, None, True, when) == ""

    assert stamps.intake.period() == 0.0
    arrive(0.0)
    assert stamps.intake.period() == 0.0
    arrive(*(0.01 * n for n in range(1, 400)))
    assert stamps.intake.period() == pytest.approx(0.01)
    arrive(*(60 + 0.5 * n for n in range(20)))
    assert stamps.intake.period() == pytest.approx(0.5)
