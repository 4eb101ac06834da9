"""Several cameras on one network, over real DDS: apart from each other, and none held up."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import SegmentPeer, own_node, segment_node, wait_for
from shapes import DISC, SQUARE, TINY_MODEL, scene
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory
from stremn_ros.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cameras")
    with segment_node(
        folder,
        {"cameras": ["left", "right"], "snapshot_dir": str(folder / "snapshots")},
        remaps=["left/image:=/robot/left_camera/image_raw"],
    ) as process:
        process.snapshots = folder / "snapshots"
        yield process


@pytest.fixture(scope="module")
def peers(node):
    with (
        SegmentPeer("/robot/left_camera/image_raw", camera="left") as left,
        SegmentPeer("/right/image", camera="right") as right,
    ):
        left.bring_up(node)
        node.wait_for_log("waiting for images on /robot/left_camera/image_raw, /right/image")
        left.connect(scene(0)[0])
        right.connect(scene(0)[0])
        yield left, right


def test_each_has_a_memory_of_its_own_and_the_masks_of_a_node_of_its_own(node, peers):
    left, right = peers
    references = [Segmenter.load(str(TINY_MODEL), runtime="torch") for _ in peers]
    left.segment(scene(0)[0])
    right.segment(scene(7)[0])
    left.seed(scene(0)[1], names=["cup", "box"])
    truth = scene(7)[1]
    answer = right.seed(truth * (truth == DISC), names=["ball"])
    assert list(answer.tracked_ids) == [DISC]
    references[0].seed(*scene(0))
    references[1].seed(scene(7)[0], truth * (truth == DISC))
    for step in range(1, 9):
        for peer, reference, start in zip(peers, references, (0, 7)):
            frame = scene(start + step)[0]
            found, objects = peer.segment(frame)
            np.testing.assert_array_equal(found, reference.step(frame).labels)
            assert found.any()
    assert [item.name for item in left.objects[max(left.objects)].objects] == ["cup", "box"]
    assert [item.name for item in objects.objects] == ["ball"]
    # what is done to one is not done to the other
    assert right.call(Trigger, "/stremn/right/reset").success
    frame = scene(9)[0]
    assert not right.segment(frame)[1].objects
    found, _ = left.segment(frame)
    np.testing.assert_array_equal(found, references[0].step(frame).labels)
    assert right.call(SetBool, "/stremn/right/enable", data=False).success
    left.segment(scene(10)[0])
    assert right.fresh_diagnostics()["enabled"] == "false"
    assert left.fresh_diagnostics()["enabled"] == "true"
    assert right.call(SetBool, "/stremn/right/enable", data=True).success


def test_snapshots_are_apart(node, peers):
    left, right = peers
    for peer in peers:
        assert peer.call(Trigger, f"{peer.private}/reset").success
        peer.segment(scene(0)[0])
    left.seed(scene(0)[1])
    assert left.call(SaveMemory, "/stremn/left/save_memory").success
    assert not right.call(SaveMemory, "/stremn/right/save_memory").success
    assert [path.name for path in node.snapshots.iterdir()] == ["stremn.left.safetensors"]
    # by name one camera's memory goes on in another: the same model, the same scene
    answer = right.call(LoadMemory, "/stremn/right/load_memory", path="stremn.left")
    assert answer.success, answer.message
    assert list(answer.tracked_ids) == [DISC, SQUARE]
    assert right.call(RemoveObject, "/stremn/right/remove_object", id=DISC).success
    assert [item.id for item in left.segment(scene(1)[0])[1].objects] == [DISC, SQUARE]


def test_a_camera_that_floods_or_is_slow_does_not_hold_up_another(node, peers):
    """One sends large images as fast as it can; each frame of the other is segmented all the same,
    as it is sent after the mask of the one before."""
    left, right = peers
    for peer in peers:
        assert peer.call(Trigger, f"{peer.private}/reset").success
        peer.segment(scene(0)[0])
        peer.seed(scene(0)[1])
    before = right.settled_counters()
    large = scene(0, (480, 640))[0]
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            left.publish(large)
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        begin = int(left.fresh_diagnostics()["received"])
        wait_for(lambda: int(left.diagnostics["received"]) > begin + 20, "the flood")
        done = int(left.diagnostics["segmented"])
        for step in range(1, 21):
            assert len(right.segment(scene(step)[0])[1].objects) == 2
        wait_for(lambda: int(left.diagnostics["segmented"]) > done, "the flooding camera's share")
    finally:
        stop.set()
        thread.join()
    change = [new - old for new, old in zip(right.settled_counters(), before)]
    assert change == [20, 20, 0, 0]
    received, segmented, dropped, failed = left.settled_counters()
    assert received == segmented + dropped + failed
    assert failed == 0


def test_all_cameras_share_one_network(monkeypatch):
    """In this process, where the network can be looked at; it is loaded once."""
    loads = []
    load = Segmenter.load
    monkeypatch.setattr(Segmenter, "load", lambda *a, **o: loads.append(load(*a, **o)) or loads[-1])
    with own_node("cameras:=[a, b, c]", f"model:={TINY_MODEL}", "max_objects:=3") as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        segmenters = [item._core._followed.segmenter for item in node._cameras]
        assert len(loads) == 1
        assert {id(item._reader.stages) for item in segmenters} == {id(loads[0]._reader.stages)}
        assert len({id(item) for item in segmenters}) == 3
        assert [item.max_objects for item in segmenters] == [3, 3, 3]
        assert node.threads == 3 + 6 * 3  # of the node, and of each camera


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["left", "left"], "each name once"),
        (["a b"], "cannot be part of a topic's name"),
        (["/left"], "cannot be part of a topic's name"),
        ([f"c{n}" for n in range(17)], "at most 16 cameras"),
    ],
)
def test_names_that_cannot_be(given, text):
    from stremn_ros.errors import InputError
    from stremn_ros.nodes.parameters import SEGMENT, parameters_of

    with pytest.raises(InputError, match=text):
        parameters_of(SEGMENT)["cameras"].validate(given)
