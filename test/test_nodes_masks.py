"""Masks by service, as programs and people send them: read as files are, and answered in words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from ros_helpers import image_message, own_node, wait_for
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

SIZE = (240, 320)


@pytest.fixture(scope="module")
def core():
    """The core of a node that has seen a frame."""
    with own_node(f"model:={TINY_MODEL}", "max_objects:=4", "device:=cpu") as node:
        node.trigger_configure()
        node.trigger_activate()
        (camera,) = node._cameras
        camera._core.on_frame(image_message(scene(0, SIZE)[0], 10**9))
        wait_for(camera._core.idle, "the frame")
        yield camera._core


def test_masks_at_the_rate_of_a_camera_do_not_fill_the_log() -> None:
    """A detector that publishes each of its masks; it was a line for each."""
    with own_node(f"model:={TINY_MODEL}", "device:=cpu", "log_period:=3600.0") as node:
        node.trigger_configure()
        node.trigger_activate()
        (camera,) = node._cameras
        core, lines = camera._core, []
        camera._write = lambda severity, text: lines.append((severity, text))
        core.on_frame(image_message(scene(0, SIZE)[0], 10**9))
        wait_for(core.idle, "the frame")
        both = scene(0, SIZE)[1]
        for count, labels in enumerate([both] * 5 + [both * np.uint8(both == DISC)] * 5, 1):
            core.seed_later(image_message(labels, 10**9, "mono8"))
            wait_for(lambda count=count: core._by_topic[True] == count, "the seed")
        assert [text.split(",")[0] for severity, text in lines if severity == "info"] == [
            "seeded objects 1",
            "seeded object 1",
        ]
        assert core.report().values["seeds by topic"].startswith("10 ")


def seed(core, mask: np.ndarray):
    core.reset()
    return core.seed_mask(image_message(mask, 0, "mono8"))


def shown(core, step: int) -> np.ndarray:
    """Labels of a later frame."""
    return core._followed.segmenter.step(scene(step, SIZE)[0]).labels


def test_soft_edges_are_no_objects(core) -> None:
    hard = (scene(0, SIZE)[1] == DISC).astype(np.uint8) * 255
    soft = cv2.GaussianBlur(hard, (0, 0), 2)
    assert np.unique(soft).size > 50
    answer = seed(core, soft)
    assert answer.success, answer.message
    assert (answer.ids, answer.tracked_ids) == ([255], [255])
    assert "has soft edges" in answer.message
    wanted = (scene(1, SIZE)[1] == DISC) * np.uint8(255)
    assert iou(shown(core, 1), wanted, 255) > 0.5


def test_255_beside_ids_is_no_object(core) -> None:
    labels = scene(0, SIZE)[1].copy()
    edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    labels[edge] = 255
    answer = seed(core, labels)
    assert answer.success, answer.message
    assert answer.ids == [DISC, SQUARE]
    assert "of 255 beside the ids [1, 2] are of no object" in answer.message
    # names are for the objects alone
    core.reset()
    answer = core.seed_mask(image_message(labels, 0, "mono8"), ["disc", "square"])
    assert answer.success, answer.message


def test_a_mask_of_0_and_255_keeps_its_number(core) -> None:
    """Of a message the number is the caller's: 1 may be another object, that is followed."""
    answer = seed(core, (scene(0, SIZE)[1] == DISC).astype(np.uint8) * 255)
    assert answer.ids == [255]
    assert answer.message == "seeded object 255"


def test_a_picture_is_no_mask(core) -> None:
    noise = np.random.default_rng(0).integers(0, 255, SIZE).astype(np.uint8)
    answer = seed(core, noise)
    assert not answer.success
    assert "is a picture and no mask" in answer.message
    assert answer.tracked_ids == []


def test_more_objects_than_fit_is_answered_with_what_helps(core) -> None:
    labels = np.zeros(SIZE, np.uint8)
    for n in range(6):
        labels[20:60, 40 * n + 10 : 40 * n + 40] = n + 1
    answer = seed(core, labels)
    assert not answer.success
    assert "6 objects would be tracked, but max_objects is 4; seed 4 at most" in answer.message
    assert "replace" not in answer.message


def test_what_is_too_small_is_in_the_answer(core) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[100:112, 100:112] = 3
    answer = seed(core, labels)
    assert answer.success
    assert "too small to be followed at 96x128: object 3 (144 pixels" in answer.message
    assert "a processing size of 208 would do" in answer.message
    labels[60:160, 60:160] = 3
    assert "too small" not in seed(core, labels).message
