"""Seeds that lie on objects which are followed: told apart, and neither fights for pixels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

from stremn_ros.errors import CapacityError, InputError, UnknownObjectError
from stremn_ros.imaging.overlap import Overlap, depth, is_cut, overlaps
from stremn_ros.segmenter import Segmenter

PART = 7


def load(**options: object) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", **options)


def block(y: int, x: int, height: int, width: int, value: int = 1) -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    labels[y : y + height, x : x + width] = value
    return labels


# ---------------------------------------------------------------- masks


def test_pairs_that_share_pixels_the_largest_iou_first() -> None:
    tracked = block(0, 0, 20, 20, 1) + block(0, 40, 20, 20, 2)
    seed = block(0, 0, 20, 24, 5) + block(0, 50, 20, 30, 6)
    found = overlaps(seed, tracked)
    assert found == [Overlap(5, 1, 400 / 480, 1.0), Overlap(6, 2, 200 / 800, 0.5)]
    assert [(pair.same, pair.inside) for pair in found] == [(True, False), (False, False)]
    assert overlaps(block(0, 0, 40, 40, 5), tracked)[0].inside
    assert overlaps(block(30, 0, 9, 9, 5), tracked) == []
    # to seed an object again, or two that were exchanged, is none
    assert overlaps(block(0, 0, 20, 20, 1), tracked) == []
    assert overlaps(block(0, 0, 20, 20, 2) + block(0, 40, 20, 20, 1), tracked) == []


@given(st.integers(0, 2**32 - 1))
def test_a_seed_is_the_same_as_one_object_at_most(number: int) -> None:
    rng = np.random.default_rng(number)
    seed, tracked = (rng.integers(0, 4, (6, 7)).astype(np.uint8) * k for k in (1, 11))
    found = [pair for pair in overlaps(seed, tracked) if pair.same]
    assert len({pair.seeded for pair in found}) == len({pair.tracked for pair in found})
    for pair in overlaps(seed, tracked):
        a, b = seed == pair.seeded, tracked == pair.tracked
        assert pair.iou == pytest.approx((a & b).sum() / (a | b).sum())
        assert pair.covered == pytest.approx((a & b).sum() / b.sum())


def test_an_id_of_the_seed_that_its_mask_does_not_show_is_no_overlap() -> None:
    tracked = block(0, 0, 20, 20, 2)
    seed = block(0, 0, 20, 20, 1)
    assert overlaps(seed, tracked) == [Overlap(1, 2, 1.0, 1.0)]
    assert overlaps(seed, tracked, wanted=[1, 2]) == []


def test_exact_halves_are_not_both_the_whole() -> None:
    halves = block(0, 0, 20, 10, 1) + block(0, 10, 20, 10, 2)
    assert [pair.same for pair in overlaps(halves, block(0, 0, 20, 20, 9))] == [False, False]
    whole = block(0, 0, 20, 20, 1)
    both = overlaps(whole, block(0, 0, 20, 10, 8) + block(0, 10, 20, 10, 9))
    assert [pair.same for pair in both] == [False, False]


def test_a_stray_pixel_of_an_id_that_is_followed_takes_no_other_seed_away() -> None:
    segmenter = load()
    frame, labels = scene(0, (480, 640))
    segmenter.seed(frame, np.where(labels == DISC, np.uint8(2), np.uint8(0)))
    segmenter.step(frame)
    mask = np.where(labels == DISC, np.uint8(1), np.uint8(0))
    mask[1, 1] = 2  # too small to be seen at the processing size
    job = segmenter.begin_seed(frame, mask)
    assert job.ids == [1, 2]
    assert [overlap.tracked for overlap in job.overlaps] == []


@pytest.mark.parametrize("rename_first", [False, True])
def test_who_took_the_pixels_of_another_is_known_by_its_new_id(rename_first: bool) -> None:
    """What a seed left of another is taken back when that one is removed, and only then."""
    segmenter = load(max_objects=4)
    frame, labels = scene(0)
    disc, square = (np.uint8(labels == number) for number in (DISC, SQUARE))
    segmenter.seed(frame, disc)
    segmenter.step(frame)
    before = segmenter.slots_used[1]
    if rename_first:  # while it is on its way
        job = segmenter.begin_seed(frame, disc * np.uint8(2))
        job.rename(2, 5)
        for _ in segmenter.seed_steps(job):
            pass
        segmenter.finish_seed(job)
    else:
        segmenter.seed(frame, disc * np.uint8(2))
        segmenter.rename(2, 5)
    assert segmenter.slots_used[1] == before + 1, "that nothing is there"
    segmenter.rename(1, 6)
    segmenter.seed(frame, square * np.uint8(2))
    segmenter.remove(2)
    assert segmenter.slots_used[6] == before + 1, "the square never had its pixels"
    segmenter.remove(5)
    assert segmenter.slots_used[6] == before


def test_a_shared_edge_is_no_cut_and_a_part_is_one() -> None:
    mask = block(10, 10, 40, 40) > 0
    assert not is_cut(mask, block(10, 0, 40, 13) > 0), "three columns along the edge"
    assert is_cut(mask, block(10, 0, 40, 22) > 0)
    assert is_cut(mask, block(25, 25, 12, 12) > 0), "nine percent of it, but a block"
    assert is_cut(block(10, 10, 4, 40) > 0, block(0, 0, 12, 80) > 0), "half of a thin object"
    assert not is_cut(mask, block(0, 0, 9, 9) > 0)
    assert not is_cut(mask & False, mask)
    assert depth(mask & False) == 0.0
    assert depth(block(5, 5, 9, 30)) == pytest.approx(5, abs=0.5)


# ---------------------------------------------------------------- in the segmenter


def part_scene(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A chequered disc on a texture that moves to the right, with a blue square on it; labels DISC
    and PART."""
    rng = np.random.default_rng(3)
    ys, xs = np.mgrid[0:240, 0:320]
    waves = [90 + 50 * np.sin(xs / 35 + c) + 30 * np.cos(ys / 34 - c) for c in range(3)]
    frame = np.stack(waves, axis=-1) + rng.normal(0, 6, (240, 320, 1))
    x, y = 90 + 2 * step, 120
    truth = (((xs - x) ** 2 + (ys - y) ** 2) <= 60**2) * np.uint8(DISC)
    chequers = ((xs - x) // 20 + (ys - y) // 20) % 2 > 0
    frame[(truth > 0) & chequers], frame[(truth > 0) & ~chequers] = (220, 40, 30), (250, 220, 40)
    truth[y - 22 : y + 22, x - 22 : x + 22] = PART
    frame[truth == PART] = (30, 60, 230)
    return np.clip(frame, 0, 255).astype(np.uint8), truth


def one(truth: np.ndarray, object_id: int) -> np.ndarray:
    return (truth == object_id) * np.uint8(object_id)


def followed(segmenter: Segmenter, steps: range, *ids: int) -> None:
    """Each of these objects has its mask in each of these frames of ``part_scene``."""
    for step in steps:
        frame, truth = part_scene(step)
        labels = segmenter.step(frame).labels
        found = {object_id: round(iou(labels, truth, object_id), 2) for object_id in ids}
        assert min(found.values()) > 0.5, (step, found)


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    # at its default size: at 192 rows an object within another is lost at the first update
    return Segmenter.load("segment_lite0", device="cpu", runtime="torch")


@pytest.fixture
def segmenter(shipped: Segmenter) -> Segmenter:
    """With the shipped weights, and nothing seeded."""
    return shipped.fork(range(1, 5))


def test_a_part_that_is_seeded_later_and_what_is_left_are_both_followed(segmenter) -> None:
    frame, truth = part_scene(0)
    segmenter.seed(frame, (truth > 0) * np.uint8(DISC))
    for step in range(1, 4):
        segmenter.step(part_scene(step)[0])
    frame, truth = part_scene(4)
    assert segmenter.seed(frame, one(truth, PART)) == [PART]
    followed(segmenter, range(5, 9), DISC, PART)


def test_a_neighbour_whose_edge_is_touched_is_left_alone_bit_for_bit() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    segmenter.step(scene(1)[0])
    frame, truth = scene(2)
    other = np.zeros_like(truth)
    xs = np.nonzero(segmenter.find(frame) == SQUARE)[1]
    other[40:60, xs.min() - 14 : xs.min() + 2] = PART
    row = segmenter.memory.rows[SQUARE]
    before = segmenter.memory.templates[row].clone()
    job = segmenter.begin_seed(frame, other)
    assert [(pair.seeded, pair.tracked) for pair in job.overlaps] == [(PART, SQUARE)]
    segmenter.seed(frame, other)
    assert torch.equal(segmenter.memory.templates[row], before)


def test_a_duplicate_takes_all_pixels_is_told_of_and_gives_them_back(segmenter, caplog) -> None:
    segmenter.seed(part_scene(0)[0], (part_scene(0)[1] > 0) * np.uint8(DISC))
    for step in range(1, 4):
        frame, truth = part_scene(step)
        labels = segmenter.step(frame).labels
    with caplog.at_level(logging.WARNING):
        segmenter.seed(frame, (labels == DISC) * np.uint8(2))
    assert "the seed of object 2 takes" in caplog.text
    assert "is it the same object?" in caplog.text
    for step in range(4, 6):
        frame, truth = part_scene(step)
        labels = segmenter.step(frame).labels
        assert iou((labels == 2) * np.uint8(1), (truth > 0) * np.uint8(1), 1) > 0.75
        assert not (labels == DISC).any(), "the two fight for the pixels"
    segmenter.remove(2)
    frame, truth = part_scene(6)
    labels = segmenter.step(frame).labels
    assert iou((labels == DISC) * np.uint8(1), (truth > 0) * np.uint8(1), 1) > 0.75


def test_a_seed_may_become_that_of_the_object_it_covers() -> None:
    segmenter = load(max_objects=2)
    segmenter.seed(*scene(0))
    frame, truth = scene(1)
    mask = (truth == DISC) * np.uint8(PART)
    job = segmenter.begin_seed(frame, mask)
    (pair,) = job.overlaps
    assert (pair.seeded, pair.tracked, pair.same) == (PART, DISC, True)
    with pytest.raises(CapacityError, match="3 objects would be tracked"):
        list(segmenter.seed_steps(job))
    job.rename(PART, DISC)
    assert (job.ids, job.overlaps) == ([DISC], [])
    list(segmenter.seed_steps(job))
    assert segmenter.finish_seed(job) == [DISC]
    assert segmenter.ids == [DISC, SQUARE]
    plain = load(max_objects=2)
    plain.seed(*scene(0))
    plain.seed(frame, (truth == DISC) * np.uint8(DISC))
    for step in range(2, 5):
        one, two = (each.step(scene(step)[0]) for each in (segmenter, plain))
        np.testing.assert_array_equal(one.labels, two.labels)
    # or take its place
    job = segmenter.begin_seed(scene(4)[0], (scene(4)[1] == DISC) * np.uint8(PART))
    job.forget.add(DISC)
    list(segmenter.seed_steps(job))
    assert segmenter.finish_seed(job) == [PART]
    assert segmenter.ids == [SQUARE, PART]


def test_an_object_within_a_seed_may_keep_its_pixels(segmenter) -> None:
    frame, truth = part_scene(0)
    segmenter.seed(frame, one(truth, PART))
    segmenter.step(part_scene(1)[0])
    frame, truth = part_scene(2)
    job = segmenter.begin_seed(frame, (truth > 0) * np.uint8(DISC))
    assert job.overlaps[0].inside
    job.spare([PART])
    list(segmenter.seed_steps(job))
    assert job.cut_ids == []
    segmenter.finish_seed(job)
    followed(segmenter, range(3, 6), DISC, PART)


def test_frames_between_the_steps_of_a_seed_do_not_change_it() -> None:
    """Also where a runtime overwrites in each call what the last one returned."""

    class Overwriting:
        def __init__(self, stages):
            self._stages, self._kept = stages, {}

        def __getattr__(self, name):
            return getattr(self._stages, name)

        def _own(self, name, values):
            buffers = self._kept.setdefault((name, *(value.shape for value in values)), values)
            for buffer, value in zip(buffers, values):
                buffer.copy_(value)
            return buffers

        @torch.inference_mode()
        def encode_query(self, image):
            made = self._stages.encode_query(image)
            return type(made)(*self._own("query", [value.clone() for value in made]))

        @torch.inference_mode()
        def encode_memory(self, *given):
            return self._own("memory", [self._stages.encode_memory(*given).clone()])[0]

    memories = []
    for between in (False, True):
        segmenter = load()
        segmenter.wrap_stages(Overwriting)
        segmenter.seed(scene(0)[0], one(scene(0)[1], DISC))
        frame, truth = scene(3)
        mask = one(truth, SQUARE)
        mask[90:110, 20:40] = PART
        job = segmenter.begin_seed(frame, mask)
        for _ in segmenter.seed_steps(job):
            if between:
                segmenter.segment(scene(9)[0])  # not remembered: the memory is the same
        fork = segmenter.fork(job.ids)
        fork.finish_seed(job)
        assert fork.ids == [SQUARE, PART]
        segmenter._reader.frame = None
        segmenter.finish_seed(job)
        assert segmenter.ids == [DISC, SQUARE, PART]
        memories.append(segmenter.memory.state() | {"fork": fork.memory.state()["templates"]})
    for name, part in memories[0].items():
        assert torch.equal(part, memories[1][name]), name


def test_a_seed_in_the_frame_just_segmented_counts_for_what_is_remembered(segmenter) -> None:
    frame, truth = part_scene(0)
    segmenter.seed(frame, (truth > 0) * np.uint8(DISC))
    segmenter.step(part_scene(1)[0])
    frame, truth = part_scene(2)
    segmenter.segment(frame)
    segmenter.seed(frame, one(truth, PART))
    segmenter.remember()
    # the part has its seed and the mirror image of that
    assert segmenter.slots_used == {DISC: 1, PART: 2}, "the disc was cut into: it starts again"
    followed(segmenter, range(3, 6), DISC, PART)


def test_objects_taken_over_from_a_fork_get_their_pixels(segmenter) -> None:
    frame, truth = part_scene(0)
    segmenter.seed(frame, (truth > 0) * np.uint8(DISC))
    fork = segmenter.fork([PART])
    fork.seed(frame, one(truth, PART))
    for step in range(1, 3):
        frame, truth = part_scene(step)
        segmenter.step(frame)
        result = fork.step(frame)
    assert segmenter.give_way(frame, result.labels, []) == []
    assert segmenter.give_way(frame, result.labels, [DISC]) == [DISC]
    fork.rename(PART, 9)
    assert fork.ids == [9]
    assert segmenter.adopt(fork) == [9]
    segmenter.rename(9, PART)
    followed(segmenter, range(3, 6), DISC, PART)
    segmenter.adopt(fork, forget=[DISC, 200])
    assert segmenter.ids == [PART, 9]


def test_the_newest_template_can_be_dropped_and_the_seed_cannot() -> None:
    segmenter = load(slots=4, update_rule="oldest")
    segmenter.seed(*scene(0))
    memory = segmenter.memory
    for step in range(1, 8):
        before = memory.state()
        used, order = memory.used(DISC), memory.order(DISC)
        segmenter.step(scene(step)[0])
        newest = memory.templates[memory.rows[DISC], memory.order(DISC)[-1]].clone()
        memory.drop_newest(DISC)
        assert memory.used(DISC) == min(used, 3)
        kept = memory.templates[memory.rows[DISC], memory.order(DISC)]
        assert not any(torch.equal(template, newest) for template in kept)
        if used < 4:
            assert memory.order(DISC) == order
            for name in ("templates", "keys", "values"):
                row = memory.ids.index(DISC)
                assert torch.equal(memory.state()[name][row, :used], before[name][row, :used])
        state, ids = memory.state(), memory.ids
        memory.restore(ids, state)  # its checks hold
        segmenter.step(scene(step)[0])
    while memory.used(DISC) > 1:
        memory.drop_newest(DISC)
    memory.drop_newest(DISC)
    assert memory.used(DISC) == 1
    assert segmenter.step(scene(8)[0]).objects[0].area > 0


def test_finding_objects_changes_nothing() -> None:
    one, two = load(), load()
    assert not one.find(scene(0)[0]).any()
    for each in (one, two):
        each.seed(*scene(0))
        each.step(scene(1)[0])
    frame, truth = scene(2, (240, 320))
    found = one.find(frame)
    assert found.shape == (240, 320)
    assert iou(found, truth, DISC) > 0.5
    for step in range(2, 5):
        np.testing.assert_array_equal(*(each.step(scene(step)[0]).labels for each in (one, two)))


def test_names_that_cannot_be_given_are_refused() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    for new in (0, 256, -1, 5.5, 5.0, True, "5"):
        with pytest.raises(InputError, match=r"the new id is .*whole number, 1\.\.255"):
            segmenter.rename(DISC, new)
    assert segmenter.ids == [DISC, SQUARE]
    with pytest.raises(InputError, match="there is an object 2 already"):
        segmenter.rename(DISC, SQUARE)
    with pytest.raises(UnknownObjectError):
        segmenter.rename(77, 5)
    segmenter.rename(DISC, 5)
    assert segmenter.ids == [SQUARE, 5]
    assert segmenter.step(scene(1)[0]).objects[1].area > 0
