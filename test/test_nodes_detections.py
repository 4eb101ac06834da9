"""vision_msgs, which has no wheels: the conversion with plain stand-ins of its message classes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import NodeProcess, SegmentPeer, image_message, wait_for
from shapes import DISC, SQUARE, TINY_MODEL, scene

from stremn_interfaces.srv import RemoveObject, SeedMask
from stremn_ros.messages.detections import VisionTypes, to_detections, to_label_info, vision_types
from stremn_ros.segmenter import ObjectState, TrackedObject


def message(**fields):
    """A stand-in of a message class: its fields with their defaults, and no others."""

    class Message:
        __slots__ = tuple(fields)

        def __init__(self, **given):
            for name, make in fields.items():
                setattr(self, name, given.pop(name) if name in given else make())
            assert not given, f"no such field: {given}"

    return Message


# The fields are those of vision_msgs 4.1.
Pose2D = message(position=message(x=float, y=float), theta=float)
Hypothesis = message(hypothesis=message(class_id=str, score=float), pose=object)
Box = message(center=Pose2D, size_x=float, size_y=float)
Detection = message(header=object, results=list, bbox=Box, id=str)
DetectionArray = message(header=object, detections=list)
VisionClass = message(class_id=int, class_name=str)
LabelInfo = message(header=object, class_map=list, threshold=float)
TYPES = VisionTypes(DetectionArray, Detection, Hypothesis, LabelInfo, VisionClass)

HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=7), frame_id="camera")


def found(object_id, state=ObjectState.TRACKED, score=0.75, box=(10, 20, 31, 41)):
    return TrackedObject(object_id, state, score, box[2] * box[3], box, (0.0, 0.0))


def test_every_object_that_is_seen_is_a_detection():
    objects = [
        found(3),
        found(4, ObjectState.OCCLUDED),
        found(200, score=1.0, box=(0, 0, 1, 1)),
        found(5, ObjectState.LOST),
    ]
    array = to_detections(TYPES, HEADER, objects)
    assert array.header is HEADER
    assert [item.id for item in array.detections] == ["3", "200"]
    first, second = array.detections
    assert first.header is HEADER
    box = first.bbox
    assert (box.center.position.x, box.center.position.y) == (25.5, 40.5)
    assert (box.size_x, box.size_y, box.center.theta) == (31.0, 41.0, 0.0)
    (only,) = first.results
    assert (only.hypothesis.class_id, only.hypothesis.score) == ("3", 0.75)
    assert (second.bbox.center.position.x, second.bbox.size_x) == (0.5, 1.0)
    for value in (box.center.position.x, box.size_x, only.hypothesis.score):
        assert type(value) is float, "rclpy takes nothing else for a float64"
    assert not to_detections(TYPES, HEADER, []).detections


def test_label_info_names_the_values_of_the_mask():
    info = to_label_info(TYPES, HEADER, [7, 2], {2: "cup", 9: "gone"}, 0.5)
    assert [(item.class_id, item.class_name) for item in info.class_map] == [
        (0, "background"),
        (2, "cup"),
        (7, "object 7"),
    ]
    assert (info.header, info.threshold) == (HEADER, 0.5)
    info = to_label_info(TYPES, HEADER, [3, 5], {5: "object 3"}, 0.5)
    names = [item.class_name for item in info.class_map]
    assert names == ["background", "object 3 (without a name)", "object 3"]


@pytest.fixture
def installed(monkeypatch):
    """A function that installs a vision_msgs with the classes it is given."""

    def install(**classes):
        package, module = ModuleType("vision_msgs"), ModuleType("vision_msgs.msg")
        vars(module).update(classes)
        package.msg = module
        monkeypatch.setitem(sys.modules, "vision_msgs", package)
        monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)

    return install


def test_what_is_not_installed_or_too_old_is_not_used(monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "vision_msgs", None)  # as if it were not there
    assert vision_types() is None
    classes = {
        "Detection2DArray": DetectionArray,
        "Detection2D": Detection,
        "ObjectHypothesisWithPose": Hypothesis,
    }
    installed(**classes)
    assert vision_types() is None, "without Point2D a box has another centre"
    installed(**classes, Point2D=object)
    types = vision_types()
    assert types == VisionTypes(DetectionArray, Detection, Hypothesis)
    installed(**classes, Point2D=object, LabelInfo=LabelInfo, VisionClass=VisionClass)
    assert vision_types() == TYPES


def test_detections_over_dds(tmp_path):
    """Published where vision_msgs is installed, and where it is not the node works without."""
    types = vision_types()
    node = NodeProcess(
        "segment_node",
        tmp_path,
        {"model": str(TINY_MODEL), "runtime": "torch", "image_reliability": "reliable"},
    )
    peer = SegmentPeer()
    try:
        arrays = []
        if types is not None:
            peer.node.create_subscription(
                types.detection_array, "/stremn/detections", arrays.append, peer.queue
            )
        assert peer.transition("configure"), node.log
        assert peer.transition("activate"), node.log
        peer.connect(scene(0)[0])
        mask = image_message(scene(0)[1], 0, "mono8")
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask, names=["cup", "box"])
        assert answer.success, answer.message
        _, objects = peer.segment(scene(1)[0])
        if types is None:
            assert [item.id for item in objects.objects] == [DISC, SQUARE]
            topics = {name for name, _ in peer.node.get_topic_names_and_types()}
            assert "/stremn/objects" in topics
            assert not topics & {"/stremn/detections", "/stremn/label_info"}
            return
        wait_for(lambda: [a for a in arrays if a.header == objects.header], "detections")
        (array,) = [a for a in arrays if a.header == objects.header]
        assert [item.id for item in array.detections] == [str(DISC), str(SQUARE)]
        for item, wanted in zip(array.detections, objects.objects):
            assert item.bbox.size_x == wanted.box.width
            assert item.bbox.center.position.y == wanted.box.y_offset + wanted.box.height / 2
            assert item.results[0].hypothesis.class_id == str(wanted.id)
            assert item.results[0].hypothesis.score == pytest.approx(wanted.score)
        # one that comes late is told the names as well
        infos = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        peer.node.create_subscription(types.label_info, "/stremn/label_info", infos.append, latched)

        def told(names):
            wait_for(lambda: infos and list(map(read, infos[-1].class_map)) == names, str(names))

        def read(item):
            return item.class_id, item.class_name

        told([(0, "background"), (DISC, "cup"), (SQUARE, "box")])
        assert peer.call(RemoveObject, "/stremn/remove_object", id=DISC).success
        peer.segment(scene(2)[0])
        told([(0, "background"), (SQUARE, "box")])
        assert len(infos) == 2, "told again although nothing has changed"
        # both are there again after a second configuration
        for step in ("deactivate", "cleanup", "configure", "activate"):
            assert peer.transition(step), node.log
        peer.connect(scene(2)[0])
        told([(0, "background")])
    finally:
        peer.close()
        code = node.stop()
    assert code == 0, node.log
    assert "Traceback" not in node.log
