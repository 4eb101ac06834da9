"""Masks for a later time than their image's: the motion against its equation, and through DDS."""

from __future__ import annotations

import dataclasses
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from shapes import DISC, SQUARE, iou, scene

from stremn_ros.imaging import mask_motion
from stremn_ros.imaging.mask_motion import MaskMotion
from stremn_ros.imaging.masks import measured
from stremn_ros.results import ObjectState, SegmentResult, TrackedObject
from stremn_ros.stream.ahead import MasksAhead
from stremn_ros.stream.answers import Seeding, Segmented

SIZE = (240, 320)
SECOND = 1_000_000_000


def disc(x: float, y: float, radius: float = 20.0, number: int = 1) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    labels[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = number
    return labels


def found(labels: np.ndarray, *ids: int) -> list[TrackedObject]:
    states = []
    for number in ids:
        area, box, centroid = measured(labels, number)
        state = ObjectState.TRACKED if area else ObjectState.LOST
        states.append(TrackedObject(number, state, 0.9, area, box, centroid))
    return states


def center(labels: np.ndarray, number: int = 1) -> tuple[float, float]:
    return measured(labels, number)[2]


def test_a_mask_moves_by_its_velocity_which_fades() -> None:
    """Against the integral of v exp(-t / T), summed up numerically."""
    motion = MaskMotion()
    for step in range(6):
        labels = disc(100.0 + 6.0 * step, 120.0 - 3.0 * step)
        objects = found(labels, 1)
        motion.update(objects, 7.0 + 0.1 * step)
    vx, vy, growth = motion.velocity(1)
    assert vx == pytest.approx(60.0, abs=1e-6)
    assert vy == pytest.approx(-30.0, abs=1e-6)
    assert growth == pytest.approx(0.0, abs=1e-9)
    for seconds in (0.0, 0.2, 1.0, 2.0):
        middles = (np.arange(10_000) + 0.5) * seconds / 10_000
        way = float(np.exp(-middles / mask_motion.FADES).sum()) * seconds / 10_000
        x, y = center(motion.ahead(labels, objects, seconds))
        assert x - center(labels)[0] == pytest.approx(60.0 * way, abs=0.6)
        assert y - center(labels)[1] == pytest.approx(-30.0 * way, abs=0.6)
    assert np.array_equal(motion.ahead(labels, objects, 0.0), labels)


def test_a_mask_grows_as_it_grew_and_never_runs_away() -> None:
    motion = MaskMotion()
    for step in range(4):
        labels = disc(160.0, 120.0, 20.0 * math.exp(0.2 * step * 0.1))
        motion.update(found(labels, 1), 0.1 * step)
    assert motion.velocity(1)[2] == pytest.approx(0.2, abs=0.05)
    ahead = motion.ahead(labels, found(labels, 1), 2.0)
    grown = (np.count_nonzero(ahead) / np.count_nonzero(labels)) ** 0.5
    assert grown == pytest.approx(math.exp(0.2 * mask_motion.GROWTH_FADES), abs=0.02)

    labels = disc(160.0, 120.0, 5.0)
    motion.update(found(labels, 1), 0.35)
    labels = disc(160.0, 120.0, 60.0)
    motion.update(found(labels, 1), 0.36)
    ahead = motion.ahead(labels, found(labels, 1), 2.0)
    grown = (np.count_nonzero(ahead) / np.count_nonzero(labels)) ** 0.5
    assert grown <= mask_motion.LARGEST_GROWTH + 0.05


def test_irregular_stamps_and_one_bad_mask_give_the_least_squares_slope() -> None:
    motion = MaskMotion()
    times, xs = (3.0, 3.05, 3.3), (100.0, 110.0, 118.0)
    for at, x in zip(times, xs, strict=True):
        motion.update(found(disc(x, 100.0), 1), at)
    slope = np.polyfit(times, [center(disc(x, 100.0))[0] for x in xs], 1)[0]
    assert motion.velocity(1)[0] == pytest.approx(slope, rel=1e-6)


def test_what_is_not_seen_has_no_mask_and_what_is_unknown_stays() -> None:
    motion = MaskMotion()
    assert motion.velocity(9) == (0.0, 0.0, 0.0)
    labels = disc(100.0, 100.0)
    motion.update(found(labels, 1, 2), 1.0)
    ahead = motion.ahead(labels, found(labels, 1, 2), 1.0)
    assert np.array_equal(ahead, labels), "one mask tells no velocity"
    for number in range(3, 200):  # ids that come and go leave nothing behind
        motion.update(found(disc(100.0, 100.0, number=number), number), 1.0 + number / 100)
    assert len(motion._seen) == 1


def test_an_old_mask_and_a_time_that_goes_back_count_for_nothing() -> None:
    motion = MaskMotion()
    motion.update(found(disc(50.0, 100.0), 1), 1.0)
    motion.update(found(disc(200.0, 100.0), 1), 1.0 + mask_motion.OLDEST + 0.1)
    assert motion.velocity(1) == (0.0, 0.0, 0.0)
    motion.update(found(disc(210.0, 100.0), 1), 2.2)
    assert motion.velocity(1)[0] > 0.0
    motion.update(found(disc(10.0, 100.0), 1), 0.5)  # a recording starts again
    assert motion.velocity(1) == (0.0, 0.0, 0.0)
    motion.update(found(disc(15.0, 100.0), 1), 0.5)  # the same time twice divides nothing by zero
    assert motion.velocity(1) == (0.0, 0.0, 0.0)


def test_the_smaller_of_two_objects_is_in_front_and_the_picture_ends() -> None:
    motion = MaskMotion()
    for step in range(3):
        labels = disc(100.0, 120.0, 40.0)
        labels[disc(20.0 + 10.0 * step, 120.0, 10.0) > 0] = 2
        objects = found(labels, 1, 2)
        motion.update(objects, 0.1 * step)
    ahead = motion.ahead(labels, objects, 0.5)
    rows, columns = np.nonzero(ahead == 2)
    assert len(rows) == pytest.approx(np.count_nonzero(labels == 2), rel=0.1)
    assert columns.mean() > 60.0

    for step in range(3):  # one that leaves
        labels = disc(280.0 + 15.0 * step, 120.0)
        motion.update(found(labels, 1), 1.0 + 0.05 * step)
    ahead = motion.ahead(labels, found(labels, 1), 2.0)
    assert np.count_nonzero(ahead) < np.count_nonzero(labels)


def segmented(
    labels: np.ndarray, stamp: int, arrival: float = 0.0, seed: int = 1, camera: str = "camera"
) -> Segmented:
    message = SimpleNamespace(header=SimpleNamespace(frame_id=camera))
    frame = SimpleNamespace(stamp=stamp, arrival=arrival, message=message)
    result = SegmentResult(labels, found(labels, 1))
    seedings = {1: Seeding(1, seed)}
    rgb = np.zeros((*labels.shape, 3), np.uint8)
    return Segmented(frame, rgb, result, {}, seedings=seedings)  # type: ignore[arg-type]


def test_an_object_that_was_seeded_elsewhere_has_no_motion_of_before() -> None:
    masks = MasksAhead()

    def ahead(step: int, x: float, seed: int) -> float:
        it = segmented(disc(x, 120.0), SECOND + step * SECOND // 30, seed=seed)
        return masks.of(it, 0.3, 0).objects[0].centroid[0]

    for step in range(3):
        moved = ahead(step, 60.0 + 2 * step, 1)
    assert moved > 66.0  # it moves to the right
    assert ahead(3, 200.0, 2) == pytest.approx(200.0, abs=0.6)
    assert ahead(4, 200.0, 2) == pytest.approx(200.0, abs=0.6)
    for step in range(5, 8):
        ahead(step, 200.0 + 2 * (step - 4), 2)
    assert ahead(8, 208.0, 3) > 212.0  # seeded again where it is: it moves on


@pytest.mark.parametrize("change", ["camera", "size"])
def test_images_of_another_camera_or_size_have_no_motion_of_before(change: str) -> None:
    masks = MasksAhead()
    for step in range(3):
        masks.of(segmented(disc(60.0, 60.0), SECOND + step * SECOND // 30), 0.3, 0)
    labels, camera = (disc(180.0, 60.0), "other")
    if change == "size":
        labels = np.repeat(np.repeat(disc(60.0, 60.0), 2, axis=0), 2, axis=1)
        camera = "camera"
    it = segmented(labels, SECOND + 3 * SECOND // 30, camera=camera)
    now = it.result.objects[0].centroid
    assert masks.of(it, 0.3, 0).objects[0].centroid == pytest.approx(now, abs=0.6)


def test_the_time_ahead_is_the_age_that_masks_have() -> None:
    masks = MasksAhead()
    for step in range(5):
        stamp = SECOND + step * SECOND // 10
        it = segmented(disc(100.0 + 5.0 * step, 120.0), stamp)
        ahead = masks.of(it, 0.0, stamp + 150_000_000)
        assert masks.of(it, 0.0, stamp + SECOND) is ahead, "one prediction for all who ask"
    assert ahead.seconds == pytest.approx(0.15)
    assert ahead.stamp == stamp + 150_000_000
    way = 50.0 * mask_motion.FADES * (1.0 - math.exp(-0.15 / mask_motion.FADES))
    assert ahead.objects[0].centroid[0] - 120.0 == pytest.approx(way, abs=0.6)
    assert ahead.objects[0].area == np.count_nonzero(ahead.labels)

    fixed = MasksAhead().of(it, 0.4, stamp + 150_000_000)
    assert (fixed.seconds, fixed.stamp) == (0.4, stamp + 400_000_000)


@pytest.mark.parametrize("stamp", [0, SECOND], ids=["no stamp", "another clock"])
def test_without_a_clock_in_common_the_age_is_since_the_arrival(stamp: int) -> None:
    it = segmented(disc(100.0, 120.0), stamp, time.monotonic() - 0.3)
    ahead = MasksAhead().of(it, 0.0, 5000 * SECOND)
    assert ahead.seconds == pytest.approx(0.3, abs=0.1)
    assert ahead.stamp == (stamp and stamp + round(ahead.seconds * SECOND))


def test_a_node_publishes_masks_for_a_later_time(tmp_path) -> None:
    """Where the disc is 0.5 s later, the predicted mask overlaps it more than the mask of now."""
    pytest.importorskip("rclpy")
    from ros_helpers import SegmentPeer, segment_node, to_stamp, wait_for
    from sensor_msgs.msg import Image

    from stremn_interfaces.msg import ObjectArray
    from stremn_ros.messages import image_read

    with segment_node(tmp_path, {"mask_horizon": 0.4}) as node, SegmentPeer() as peer:
        masks: dict[int, Image] = {}
        objects: dict[int, ObjectArray] = {}
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        peer.segment(scene(0)[0])
        peer.seed(scene(0)[1], names=["disc", "square"])
        for kind, name, into in (
            (Image, "predicted_mask", masks),
            (ObjectArray, "predicted_objects", objects),
        ):

            def take(message, into=into):
                into[to_stamp(message.header.stamp)] = message

            peer.node.create_subscription(kind, f"{peer.private}/{name}", take, peer.queue)
        ahead = 400_000_000

        def both(stamp: int) -> bool:
            return stamp + ahead in masks and stamp + ahead in objects

        wait_for(lambda: peer.segment(scene(0)[0]) and masks, "a predicted mask")
        better = []
        for step in range(1, 8):  # the disc moves by 2 pixels with each image of 0.1 s
            labels, _ = peer.segment(scene(step)[0])
            stamp = max(peer.masks)
            wait_for(lambda at=stamp: both(at), "the masks ahead")
            predicted = image_read.decode_labels(masks[stamp + ahead])
            truth = scene(step + 4)[1]
            if step >= 3:
                better.append(iou(predicted, truth, DISC) - iou(labels, truth, DISC))
        assert np.mean(better) > 0.02, better
        told = {item.id: item for item in objects[stamp + ahead].objects}
        assert set(told) == {DISC, SQUARE}
        assert told[DISC].name == "disc"
        assert told[DISC].area == np.count_nonzero(predicted == DISC)
        assert told[DISC].centroid.x == pytest.approx(center(predicted, DISC)[0], abs=0.01)
        assert math.isnan(told[DISC].position.x)

        peer.set_parameter("mask_horizon", 0.0)  # the age: stamps here are not of this clock
        peer.segment(scene(8)[0])
        stamp = max(peer.masks)
        wait_for(lambda: any(stamp <= at < stamp + ahead for at in masks), "an age of its own")


def test_results_are_not_changed_by_a_prediction() -> None:
    labels = disc(100.0, 120.0)
    it = segmented(labels, SECOND)
    before, objects = labels.copy(), [dataclasses.replace(item) for item in it.result.objects]
    MasksAhead().of(it, 1.0, SECOND)
    assert np.array_equal(it.result.labels, before)
    assert it.result.objects == objects
