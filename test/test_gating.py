"""The gate: which parts of a mask can be the object, by where it just was and how it moved."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stremn_ros.gating import Familiarity, Likeness
from stremn_ros.gating import motion as gating
from stremn_ros.gating.motion import SIZE, Motion
from stremn_ros.results import ObjectState
from stremn_ros.segmenter import Segmenter
from stremn_ros.snapshot import Snapshot

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
    np.testing.assert_array_equal(motion.gate(found, NEAR)[0], disc(82.0) | near)
    np.testing.assert_array_equal(found, disc(82.0) | disc(20.0) | near)  # a copy
    alone = disc(85.0)
    kept, jumped = motion.gate(alone, NEAR)
    assert kept is alone
    assert not jumped


def test_what_a_post_divides_is_one_object() -> None:
    """Half of it is on one side, and the other half is farther away than a twin may be."""
    motion = Motion.of(disc(60.0, radius=10))
    halves = disc(60.0, radius=10)
    halves[:, 58:68] = 0
    halves |= np.roll(disc(60.0, radius=10) * (np.arange(WIDTH) > 60).astype(np.uint8), 8, axis=1)
    assert cv2.connectedComponents(halves)[0] == 3
    assert motion.gate(halves, NEAR)[0] is halves
    # but with all of the object there, the same part is another's
    found = disc(60.0, radius=10) | np.roll(disc(60.0, radius=10), 26, axis=1)
    np.testing.assert_array_equal(motion.gate(found, NEAR)[0], disc(60.0, radius=10))


def test_what_jumped_is_not_dropped() -> None:
    """A cut of the film, or a shaken camera: nothing is where it is expected."""
    motion = Motion.of(disc(20.0))
    found = disc(80.0) | disc(100.0, 20.0, 4)
    kept, jumped = motion.gate(found, NEAR)
    assert kept is found
    assert jumped


def test_it_is_expected_for_a_while_where_it_was() -> None:
    """A twin that is found instead of it is let go again; a cut of the film is believed in."""
    motion = moving()
    for n in range(1, gating.PATIENCE + 1):
        motion = motion.missed()
        assert motion.away == n
        assert motion.center == pytest.approx([80.0 + 2.0 * n, 30.0], abs=0.1)
        own = disc(82.0 + 2.0 * n)
        kept, jumped = motion.gate(disc(20.0) | own, NEAR)
        np.testing.assert_array_equal(kept, own)
        assert not jumped
        assert motion.after(own).away == 0
    assert motion.missed() is None
    assert moving().unseen().away == 1
    assert Motion.of(disc(3.0)).unseen() is None  # it leaves the picture, and comes back elsewhere


def test_what_comes_into_view_is_not_cut() -> None:
    """It was seen in part, and grows fast: nothing is dropped until it has settled."""
    motion = Motion.of(disc(110.0, radius=4), whole=False)
    for n in range(1, gating.SETTLING + 1):
        found = disc(110.0 - 2 * n, radius=4 + n) | disc(20.0)
        kept, jumped = motion.gate(found, NEAR)
        assert kept is found
        assert not jumped
        motion = motion.after(disc(110.0 - 2 * n, radius=4 + n))
    assert motion.area == np.count_nonzero(disc(94.0, radius=12))
    np.testing.assert_array_equal(motion.gate(found, NEAR)[0], disc(94.0, radius=12))


def test_after_it_met_its_twin_the_object_is_the_one_that_it_moves_like() -> None:
    """They cross, and are one part for a while; its own movement is kept meanwhile."""
    motion = Motion.of(disc(20.0))
    joined = 0
    for n in range(1, 41):
        own, twin = disc(20.0 + 2 * n, 26.0 + 0.1 * n), disc(100.0 - 2 * n, 34.0 - 0.1 * n)
        kept, _ = motion.gate(own | twin, NEAR)
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
    """More of it was seen: after some time that is its size."""
    large = np.count_nonzero(disc(60.0, radius=11))
    motion = Motion.of(disc(60.0))
    for _ in range(gating.LONGEST):
        motion = motion.after(disc(60.0, radius=11))
    assert motion.joined == gating.LONGEST
    assert motion.area < 0.7 * large
    motion = motion.after(disc(60.0, radius=11))
    assert (motion.joined, motion.area) == (0, large)


def test_what_comes_near_fast_is_not_joined() -> None:
    """More than twice as large, it did not meet its twin: half of it is not the whole of it."""
    motion, sizes = Motion.of(disc(40.0, radius=4)), []
    for radius in range(5, 20):
        motion = motion.after(disc(40.0, radius=radius))
        area = np.count_nonzero(motion.mask)
        assert area <= gating.NEARER * motion.area
        if motion.area == area:
            sizes.append(radius)
            left, right = disc(40.0, radius=radius), disc(40.0, radius=radius)
            left[:, 40:], right[:, :40] = 0, 0
            halves = left | np.roll(right, int(0.6 * np.sqrt(area)), axis=1)
            assert motion.gate(halves, NEAR)[0] is halves
    assert len(sizes) >= 3


def test_a_part_that_stands_apart_and_looks_like_the_own_is_a_twin() -> None:
    """Too small for a copy, and too near to be out of reach; only a look at it can tell."""
    motion = moving()
    own, twin = disc(82.0), disc(82.0, 50.0, 4)  # expected, and what came out from behind it
    motion = replace(motion, mask=own | twin)
    asked, answer = [], [0.0]

    def shared(part: np.ndarray, other: np.ndarray) -> float:
        asked.append((part, other))
        return answer[0]

    for alike, expected in ((gating.ALIKE, own), (gating.ALIKE - 0.01, own | twin)):
        answer[0] = alike
        found = own | twin
        np.testing.assert_array_equal(motion.gate(found, NEAR, shared)[0], expected)
        part, other = asked.pop()
        np.testing.assert_array_equal(part, twin > 0)
        np.testing.assert_array_equal(other, own > 0)
    np.testing.assert_array_equal(motion.gate(own | twin, NEAR)[0], own | twin)

    answer[0] = 1.0
    near = disc(82.0, 43.0, 3)  # hardly apart: it may be a part of the object all the same
    assert motion.gate(own | near, NEAR, shared)[0].sum() == (own | near).sum()
    crumb = disc(82.0, 50.0, 1)
    assert motion.gate(own | crumb, NEAR, shared)[0].sum() == (own | crumb).sum()
    hidden = disc(82.0, radius=5)  # most of the object: who knows which of the two it is
    assert motion.gate(hidden | twin, NEAR, shared)[0].sum() == (hidden | twin).sum()
    assert not asked


def test_of_two_parts_of_a_size_the_own_one_is_where_it_is_expected() -> None:
    motion = moving()
    motion = replace(motion, area=motion.area * 1.4)
    first, second = disc(82.0), disc(82.0, 52.0, 7)
    motion = replace(motion, mask=first | second)
    kept, _ = motion.gate(first | second, NEAR, lambda part, other: 1.0)
    np.testing.assert_array_equal(kept, first)
    center = np.array([82.0, 52.0])
    kept, _ = replace(motion, center=center).gate(first | second, NEAR, lambda part, other: 1.0)
    np.testing.assert_array_equal(kept, second)


def seed_of(rows: int = 6, columns: int = 8, channels: int = 16) -> torch.Tensor:
    """Keys [1, C, h, w] of which each cell is like itself alone."""
    keys = torch.randn(1, channels, rows, columns, generator=torch.Generator().manual_seed(4))
    return 6.0 * keys / keys.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("affinity", ["l2", "dot"])
def test_what_two_parts_read_of_the_seed(affinity) -> None:
    """Cells of the frame are cells of the seed that moved: a twin has them twice."""
    seed = seed_of()
    key = torch.zeros_like(seed)
    key[..., 0:2, :4] = seed[..., 0:2, :4]  # the object's upper part,
    key[..., 2:4, :4] = seed[..., 2:4, :4]  # its lower part,
    key[..., 4:6, 4:] = seed[..., 0:2, :4]  # and the upper one of a twin
    likeness = Likeness(key, [torch.zeros(48, 16), seed[0].flatten(1).T], affinity)
    large = np.zeros((24, 32), bool)
    upper, lower, twin = (large.copy() for _ in range(3))
    upper[0:8, :16] = lower[8:16, :16] = twin[16:24, 16:] = True
    assert likeness.shared(1, twin, upper) > 0.95
    assert likeness.shared(1, lower, upper) < 0.1
    assert likeness.shared(1, twin, lower) < 0.1
    assert likeness.shared(1, twin, upper | lower) > 0.95
    half = upper.copy()
    half[:, 8:] = False
    assert likeness.shared(1, twin, half) == pytest.approx(0.5, abs=0.1)
    assert likeness.shared(1, half, twin) > 0.95
    two_cells = large.copy()
    two_cells[0:4, 0:8] = True
    assert likeness.shared(1, two_cells, upper) == likeness.shared(1, upper, two_cells) == 0.0


def test_what_an_object_reads_of_its_place_in_the_seed() -> None:
    seed, place, covered = seed_of(), torch.zeros(6, 8), torch.zeros(6, 8)
    place[0:2, :4] = covered[0:2, :4] = 1.0
    likeness = Likeness(seed, [seed[0].flatten(1).T], "l2")
    assert likeness.inside(0, covered, place) > 0.95
    assert likeness.inside(0, 0.49 + torch.zeros(6, 8), place) is None
    assert likeness.inside(0, covered, torch.zeros(6, 8)) is None  # a file of an older version
    assert likeness.inside(0, covered.roll(2, dims=0), place) < 0.1
    place[0:2, :2] = 0.0
    assert likeness.inside(0, covered, place) == pytest.approx(0.5, abs=0.1)
    large = seed_of(24, 32)  # of many cells some are asked
    likeness = Likeness(large, [large[0].flatten(1).T], "dot")
    left = torch.zeros(24, 32)
    left[:, :16] = 1.0
    assert likeness.inside(0, torch.ones(24, 32), left) == pytest.approx(0.5, abs=0.1)


def test_a_doubtful_mask_that_reads_little_of_its_seed_is_of_something_else() -> None:
    seed, place = seed_of(), torch.zeros(3, 1, 6, 8)
    place[:, 0, 0:2, :4] = 1.0
    covered = torch.zeros(3, 6, 8)
    covered[0, 0:2, :4] = covered[1, 2:4, :4] = 1.0  # the first in its place, the second not
    logits = torch.cat([torch.full((1, 6, 8), 0.5), covered])
    likeness = Likeness(seed, 3 * [seed[0].flatten(1).T], "l2")

    def judge(usual: list[float]) -> Familiarity:
        return Familiarity(
            likeness, {"seeded": place, "usual": torch.tensor(usual)[:, None]}, logits
        )

    first = judge([0.0, 0.0, 0.0])
    assert first.judged([0.5, 0.5, 0.5], 0.6) == [0.5, 0.5, 0.5]  # nothing is usual yet
    usual = first.carried()["usual"][:, 0].tolist()
    assert usual[0] > 0.95
    assert usual[1] < 0.1
    assert usual[2] == 0.0  # it has no mask
    later = judge([0.9, 0.8, 0.8])
    kept, lowered, without = later.judged([0.5, 0.5, 0.5], 0.6)
    assert kept == without == 0.5
    assert lowered < 0.1
    assert later.judged([0.7, 0.7, 0.7], 0.6) == [0.7, 0.7, 0.7]  # the network is sure of them
    again = later.carried()["usual"][:, 0].tolist()
    assert again[0] > 0.9
    assert again[1:] == pytest.approx([0.95 * 0.8, 0.8], abs=0.01)
    assert judge([1e30, -5.0, 0.8]).carried()["usual"].amax() <= 1.0


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
    kept, _ = motion.gate(found, distance)
    assert kept.dtype == np.uint8
    assert kept.any()
    assert not (kept & ~found & 1).any()
    count, parts = cv2.connectedComponents(found, connectivity=8)
    for n in range(1, count):
        assert len(np.unique(kept[parts == n])) == 1
    after = motion.after(kept)
    assert np.isfinite(after.area)
    assert after.area > 0.0


# -- in the segmenter

MOST = 0.75  # of a drawn disc that the shipped network follows; how well is not the gate's affair


@pytest.fixture
def load(one_thread):
    """The shipped model, which takes one of two discs for the other wherever it is."""
    return lambda gate, rows=256: Segmenter.load(
        "segment_lite0", device="cpu", runtime="torch", gate=gate, processing_size=rows
    )


def crossing(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Two discs that are just the same; 1 comes from the left, and they touch around step 24."""
    truth = np.zeros((120, 160), np.uint8)
    cv2.circle(truth, (30 + 2 * step, 45 + step // 4), 15, 1, -1)
    cv2.circle(truth, (125 - 2 * step, 75 - step // 4), 15, 2, -1)
    frame = np.full((*truth.shape, 3), 90, np.uint8)
    frame[truth > 0] = (200, 90, 60)
    return frame, truth


def shares(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Of the object and of its twin, the share that object 1 has."""
    own, twin = (float((labels == 1)[truth == n].mean()) for n in (1, 2))
    return own, twin


def followed(segmenter: Segmenter, steps: range) -> dict[int, np.ndarray]:
    return {step: segmenter.step(crossing(step)[0]).labels for step in steps}


def test_the_object_is_not_its_twin_before_and_after_they_cross(load) -> None:
    for gate, expected in ((0.0, 1.0), (0.2, 0.0)):
        segmenter = load(gate)
        segmenter.seed(*crossing(0), ids=[1])
        found = followed(segmenter, range(1, 41))
        for step in (8, 12, 16, 32, 36, 40):
            own, twin = shares(found[step], crossing(step)[1])
            assert own > MOST, f"gate {gate}, step {step}"
            assert twin == pytest.approx(expected, abs=0.1), f"gate {gate}, step {step}"


def test_it_goes_on_from_a_file_bit_for_bit_and_in_a_fork(load, tmp_path) -> None:
    whole = load(0.2)
    whole.seed(*crossing(0), ids=[1])
    followed(whole, range(1, 26))  # the two are one part now
    file = tmp_path / "memory"
    whole.save(file)
    again, adopting = load(0.2), load(0.2)
    again.load_memory(file)
    fork = adopting.fork([1])
    fork.load_memory(file)
    adopting.adopt(fork)
    expected = followed(whole, range(26, 41))
    assert shares(expected[40], crossing(40)[1]) == pytest.approx((1.0, 0.0), abs=0.1)
    for step, labels in followed(again, range(26, 41)).items():
        np.testing.assert_array_equal(labels, expected[step])
    last = followed(adopting, range(26, 41))[40]  # not to the last bit: its memory has more rows
    assert shares(last, crossing(40)[1]) == pytest.approx((1.0, 0.0), abs=0.1)


def test_a_file_of_a_version_without_the_gate(load, tmp_path) -> None:
    segmenter = load(0.2)
    segmenter.seed(*crossing(0), ids=[1])
    followed(segmenter, range(1, 5))
    snapshot = segmenter.snapshot()
    new = ("place", "motion", "seeded", "usual")
    tensors = {name: part for name, part in snapshot.tensors.items() if name not in new}
    assert len(tensors) == len(snapshot.tensors) - len(new)
    Snapshot(**{**vars(snapshot), "tensors": tensors}).write(tmp_path / "old")
    other = load(0.2)
    other.load_memory(tmp_path / "old")
    assert not other.memory.carried["motion"].any()
    own, _ = shares(other.step(crossing(5)[0]).labels, crossing(5)[1])
    assert own > 0.9
    assert other.memory.carried["motion"].any()


def test_it_is_turned_on_and_off_between_two_frames(load) -> None:
    segmenter = load(0.0)
    segmenter.seed(*crossing(0), ids=[1])
    followed(segmenter, range(1, 8))
    assert shares(segmenter.step(crossing(8)[0]).labels, crossing(8)[1])[1] > 0.9
    assert not segmenter.memory.carried["motion"].any()
    segmenter.gate = 0.2
    # both are what it follows by now: a new seed tells which it is
    segmenter.seed(*crossing(9), ids=[1])
    followed(segmenter, range(10, 14))
    assert shares(segmenter.step(crossing(14)[0]).labels, crossing(14)[1])[1] < 0.1
    segmenter.segment(crossing(15)[0])
    segmenter.gate = 0.0
    segmenter.remember()
    assert not segmenter.memory.carried["motion"].any()
    assert shares(segmenter.step(crossing(16)[0]).labels, crossing(16)[1])[1] > 0.4


@pytest.mark.parametrize("rows", [256, 384])
def test_what_it_drops_is_not_taken_from_another_object(load, rows) -> None:
    """Each of the two is followed, and neither takes the other's place or fades beside it."""
    segmenter = load(0.2, rows)
    segmenter.seed(*crossing(0))
    for step in range(1, 17):
        found = segmenter.step(crossing(step)[0])
    truth = crossing(16)[1]
    for n in (1, 2):
        assert (found.labels == n)[truth == n].mean() > 0.9
        assert (found.labels == n)[truth == 3 - n].mean() < 0.1


def test_an_object_does_not_fade_beside_copies(load) -> None:
    """The memory is not told the contrary of two that are the same for ever."""
    segmenter = load(0.2)
    segmenter.seed(*crossing(0), ids=[1])
    frame, truth = crossing(3)
    followed(segmenter, range(1, 4))
    for _ in range(40):
        result = segmenter.step(frame)
    assert shares(result.labels, truth) == pytest.approx((1.0, 0.0), abs=0.1)
    assert result.objects[0].score > 0.8


def coming_out(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc in a ring, and a smaller one like it that comes out from behind it from step 4 on."""
    truth = np.zeros((120, 160), np.uint8)
    frame = np.full((*truth.shape, 3), 90, np.uint8)
    things = ((2, 60 + 3 * max(0, step - 3), 60, 11), (1, 60, 60, 18))  # the near one covers it
    for n, x, y, radius in things:
        cv2.circle(truth, (x, y), radius, n, -1)
        cv2.circle(frame, (x, y), radius, (200, 90, 60), -1)
        cv2.circle(frame, (x, y), radius // 2, (60, 60, 200), -1)
    return frame, truth


def test_an_object_that_reads_nothing_of_its_seed_is_not_seen(load) -> None:
    segmenter = load(0.2)
    frame, mask = coming_out(0)
    segmenter.seed(frame, mask)
    carried = segmenter.memory.carried
    h, w = carried["seeded"].shape[-2:]
    place = cv2.resize((mask == 1).astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    assert np.abs(carried["seeded"][0, 0].numpy() - place).mean() < 0.02
    segmenter.step(frame)
    usual = carried["usual"][0].item()
    assert usual > 0.5
    assert not carried["usual"][1:].any()
    carried["seeded"][0] = carried["seeded"][0].roll(w // 2, dims=-1)  # as if it were elsewhere
    assert segmenter.step(frame).objects[0].state is ObjectState.TRACKED  # the network is sure
    segmenter.return_score = 1.0
    usual = carried["usual"][0].item()
    assert segmenter.step(frame).objects[0].state is ObjectState.OCCLUDED
    assert carried["usual"][0].item() == usual  # not of what it is not
    segmenter.return_score = 0.0
    assert segmenter.step(frame).objects[0].state is ObjectState.TRACKED


def test_a_twin_that_comes_out_from_behind_the_object_is_let_go(load, monkeypatch) -> None:
    """It is taken along while they touch; when it stands apart it is dropped."""
    for alike, expected in ((2.0, 1.0), (gating.ALIKE, 0.0)):
        monkeypatch.setattr(gating, "ALIKE", alike)
        segmenter = load(0.2)
        segmenter.seed(*coming_out(0), ids=[1])
        for step in range(1, 18):
            found = segmenter.step(coming_out(step)[0]).labels
        own, twin = shares(found, coming_out(17)[1])
        assert own > MOST
        assert twin == pytest.approx(expected, abs=0.15), f"alike {alike}"


@pytest.mark.parametrize("segmented", [True, False])
def test_a_seed_on_the_twin_takes_nothing_from_the_object(load, segmented) -> None:
    segmenter = load(0.2)
    segmenter.seed(*crossing(0), ids=[1])
    followed(segmenter, range(1, 8))
    frame, truth = crossing(8)
    if segmented:
        segmenter.segment(frame)
    job = segmenter.begin_seed(frame, truth, ids=[2])
    assert job.overlaps == []
    for _ in segmenter.seed_steps(job):
        pass
    assert job.cut_ids == []
