"""The gate: which parts of a mask can be the object, by where it just was and how it moved."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stremn_ros import gating
from stremn_ros.gating import SIZE, Motion

HEIGHT, WIDTH = 60, 120
NEAR = 0.2


def disc(x: float, y: float = 30.0, radius: int = 8) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (round(x), round(y)), radius, 1, -1)
    return mask


def moving(frames: int = 30, step: float = 2.0) -> Motion:
    """Of a disc that was followed to x = 20 + step * frames."""
    motion = Motion.of(disc(20.0))
    for n in range(1, frames + 1):
        motion = motion.after(disc(20.0 + step * n))
    return motion


def test_it_expects_an_object_where_its_movement_takes_it() -> None:
    motion = moving()
    assert motion.center == pytest.approx([80.0, 30.0])
    assert motion.velocity == pytest.approx([2.0, 0.0], abs=0.01)
    np.testing.assert_array_equal(motion.expected(), disc(82.0))
    assert motion.area == np.count_nonzero(disc(82.0))
    still = Motion.of(disc(20.0))
    np.testing.assert_array_equal(still.expected(), disc(20.0))
    gone = Motion(disc(20.0), np.array([20.0, 30.0]), np.array([-100.0, 0.0]), 200.0)
    np.testing.assert_array_equal(gone.expected(), disc(20.0))  # rather there than nowhere


def test_a_twin_far_away_is_dropped_and_what_is_near_stays() -> None:
    motion = moving()
    near = disc(82.0, 17.0, 3)  # apart from it, but not by far
    found = disc(82.0) | disc(20.0) | near
    np.testing.assert_array_equal(motion.gate(found, NEAR), disc(82.0) | near)
    np.testing.assert_array_equal(found, disc(82.0) | disc(20.0) | near)  # a copy
    alone = disc(85.0)
    assert motion.gate(alone, NEAR) is alone


def test_what_a_post_divides_is_one_object() -> None:
    """Half of it is on one side, and the other half is farther away than a twin may be."""
    motion = Motion.of(disc(60.0, radius=10))
    halves = disc(60.0, radius=10)
    halves[:, 58:68] = 0
    halves |= np.roll(disc(60.0, radius=10) * (np.arange(WIDTH) > 60).astype(np.uint8), 8, axis=1)
    assert cv2.connectedComponents(halves)[0] == 3
    assert motion.gate(halves, NEAR) is halves
    # but with all of the object there, the same part is another's
    found = disc(60.0, radius=10) | np.roll(disc(60.0, radius=10), 26, axis=1)
    np.testing.assert_array_equal(motion.gate(found, NEAR), disc(60.0, radius=10))


def test_what_jumped_is_not_dropped() -> None:
    """A cut of the film, or a shaken camera: nothing is where it is expected."""
    motion = Motion.of(disc(20.0))
    found = disc(80.0) | disc(100.0, 20.0, 4)
    assert motion.gate(found, NEAR) is found


def test_after_it_met_its_twin_the_object_is_the_one_that_it_moves_like() -> None:
    """They cross, and are one part for a while; its own movement is kept meanwhile."""
    motion = Motion.of(disc(20.0))
    joined = 0
    for n in range(1, 41):
        own, twin = disc(20.0 + 2 * n, 26.0 + 0.1 * n), disc(100.0 - 2 * n, 34.0 - 0.1 * n)
        kept = motion.gate(own | twin, NEAR)
        motion = motion.after(kept)
        joined = max(joined, motion.joined)
        if n <= 14 or n >= 26:
            np.testing.assert_array_equal(kept, own, f"frame {n}")
        elif 18 <= n <= 22:
            np.testing.assert_array_equal(kept, own | twin, f"frame {n}")
    assert 5 < joined < 15
    assert motion.joined == 0
    assert motion.area == pytest.approx(np.count_nonzero(disc(60.0)), rel=0.1)


def test_what_stays_large_is_what_the_object_is() -> None:
    """It came near, or more of it was seen: after some time that is its size."""
    motion = Motion.of(disc(60.0))
    for _ in range(gating.LONGEST):
        motion = motion.after(disc(60.0, radius=20))
    assert motion.joined == gating.LONGEST
    assert motion.area < 0.5 * np.count_nonzero(disc(60.0, radius=20))
    motion = motion.after(disc(60.0, radius=20))
    assert (motion.joined, motion.area) == (0, np.count_nonzero(disc(60.0, radius=20)))


def test_it_is_the_same_after_it_was_packed() -> None:
    motion = moving()
    again = Motion.unpacked(motion.mask, motion.packed())
    assert again is not None
    assert motion.packed().dtype == np.float32
    np.testing.assert_array_equal(again.packed(), motion.packed())
    assert Motion.unpacked(motion.mask, np.zeros(SIZE, np.float32)) is None
    assert Motion.unpacked(np.zeros_like(motion.mask), motion.packed()) is None


masks = arrays.arrays(np.uint8, (12, 16), elements=st.integers(0, 1))
numbers = st.floats(-(2.0**99), 2.0**99, width=32)


@settings(max_examples=150, deadline=None)
@given(masks, masks, arrays.arrays(np.float32, SIZE, elements=numbers), st.floats(0.01, 10.0))
def test_whatever_was_there_whole_parts_stay_or_go(last, found, packed, distance) -> None:
    """Also of a motion that a file made up."""
    motion = Motion.unpacked(last, packed)
    if motion is None or not found.any():
        return
    kept = motion.gate(found, distance)
    assert kept.dtype == np.uint8
    assert kept.any()
    assert not (kept & ~found & 1).any()
    count, parts = cv2.connectedComponents(found, connectivity=8)
    for n in range(1, count):
        assert len(np.unique(kept[parts == n])) == 1
    after = motion.after(kept)
    assert np.isfinite(after.area)
    assert after.area > 0.0
