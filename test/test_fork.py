"""Seeds for the past: a fork follows new objects on its own, then the segmenter adopts them."""

from __future__ import annotations

import numpy as np
import pytest
from shapes import DISC, SQUARE, TINY_MODEL, scene

from stremn_ros.errors import CapacityError, InputError
from stremn_ros.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


def load(**options: object) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", **options)


def row(segmenter: Segmenter, object_id: int) -> dict[str, bytes]:
    """Everything that the memory holds of an object."""
    state = segmenter.memory.state()
    index = segmenter.memory.ids.index(object_id)
    return {name: part[index].numpy().tobytes() for name, part in state.items()}


def only(step: int, object_id: int, size: tuple[int, int] = (120, 160)) -> tuple:
    frame, truth = scene(step, size)
    return frame, truth * (truth == object_id)


@pytest.mark.parametrize("update_every", [1, 3])
def test_an_adopted_object_goes_on_as_if_it_had_always_been_here(update_every: int) -> None:
    here, fork_of = load(update_every=update_every), load(update_every=update_every)
    here.seed(*scene(0))
    fork = fork_of.fork([DISC, SQUARE])
    assert fork.seed(*scene(0)) == [DISC, SQUARE]
    for step in range(1, 7):
        here.step(scene(step)[0])
        fork.step(scene(step)[0])
    assert fork_of.adopt(fork) == [DISC, SQUARE]
    assert fork_of.processing_size == here.processing_size
    for step in range(7, 10):
        one, two = here.segment(scene(step)[0]), fork_of.segment(scene(step)[0])
        np.testing.assert_array_equal(one.labels, two.labels)
        assert one.objects == two.objects


def test_the_others_are_unharmed_bit_for_bit() -> None:
    segmenter, alone = load(), load()
    for each in (segmenter, alone):
        each.seed(*only(0, SQUARE))
        for step in range(1, 4):
            each.step(scene(step)[0])
    fork = segmenter.fork([DISC])
    fork.seed(*only(1, DISC))
    for step in range(2, 9):  # in turns, as the node does it
        fork.step(scene(step)[0])
        if step >= 4:
            one, two = segmenter.step(scene(step)[0]), alone.step(scene(step)[0])
            np.testing.assert_array_equal(one.labels, two.labels)
    assert segmenter.ids == [SQUARE]
    before = row(segmenter, SQUARE)
    segmenter.adopt(fork)
    assert segmenter.ids == [DISC, SQUARE]
    assert row(segmenter, SQUARE) == before == row(alone, SQUARE)
    assert row(segmenter, DISC) == row(fork, DISC)
    taken = row(segmenter, DISC)
    for step in range(9, 12):
        fork.step(scene(step)[0])
    assert row(segmenter, DISC) == taken, "the fork still writes into the memory of its parent"


def test_an_object_that_is_here_is_replaced_and_so_are_all_if_asked() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    for step in range(1, 4):
        segmenter.step(scene(step)[0])
    before = row(segmenter, SQUARE)
    fork = segmenter.fork([DISC])
    fork.seed(*only(2, DISC))
    segmenter.segment(scene(4)[0])  # read, but not remembered yet
    assert segmenter.adopt(fork) == [DISC]
    assert segmenter.slots_used[DISC] == 1
    assert row(segmenter, SQUARE) == before
    segmenter.remember()  # what was read of the replaced object is not written to the new one
    assert segmenter.slots_used[DISC] == 1
    fork = segmenter.fork([9], replace=True)
    fork.seed(scene(2, (80, 160))[0], (scene(2, (80, 160))[1] == DISC) * 9)
    assert segmenter.adopt(fork, replace=True) == [9]
    assert segmenter.ids == [9]
    assert segmenter.processing_size == (96, 192)
    assert segmenter.step(scene(3, (80, 160))[0]).objects[0].area > 0


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    segmenter = load(max_objects=2)
    segmenter.seed(*scene(0))
    before = {object_id: row(segmenter, object_id) for object_id in segmenter.ids}
    with pytest.raises(CapacityError, match="3 objects would be tracked, but max_objects is 2"):
        segmenter.fork([7])
    fork = segmenter.fork([7, 8], replace=True)
    fork.seed(scene(0)[0], scene(0)[1] + np.uint8(6) * (scene(0)[1] > 0))
    with pytest.raises(CapacityError, match="4 objects would be tracked"):
        segmenter.adopt(fork)
    other = load()
    other.seed(*scene(0))
    with pytest.raises(InputError, match="the networks differ"):
        segmenter.adopt(other)
    wide = segmenter.fork([DISC], replace=True)
    wide.seed(*only(0, DISC, (80, 160)))
    with pytest.raises(InputError, match="fork again"):
        segmenter.adopt(wide)
    assert {object_id: row(segmenter, object_id) for object_id in segmenter.ids} == before
    linear = load(update_rule="linear")
    linear.seed(*scene(0))
    fork = linear.fork([DISC])
    fork.seed(*only(0, DISC))
    for way in ({}, {"replace": True}, {"forget": [SQUARE]}):
        with pytest.raises(InputError, match="adopts no objects"):
            linear.adopt(fork, **way)
        assert linear.ids == [DISC, SQUARE]
