"""The segmentation node as a process, through real DDS: everything a robot's user does to it."""

from __future__ import annotations

import copy
import shutil
import signal
import threading
import time

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point32, Polygon
from rclpy.executors import MultiThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import (
    SECOND,
    Background,
    NodeProcess,
    SegmentPeer,
    image_message,
    segment_node,
    tiny_model,
    to_stamp,
    to_time,
    wait_for,
)
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.srv import RemoveObject, SeedMask, SeedObject
from stremn_ros.client.bring_up import BringUpError, bring_up
from stremn_ros.imaging import visualization
from stremn_ros.messages import compressed_read, image_read, image_write
from stremn_ros.nodes.segment_node import SegmentNode
from stremn_ros.nodes.spinning import Spinning
from stremn_ros.segmenter import Segmenter

HEIGHT, WIDTH = 96, 128
MAX_OBJECTS = 3


def background(height=HEIGHT, width=WIDTH, seed=7):
    noise = np.random.default_rng(seed).normal(0, 50, (height, width, 3)).astype(np.float32)
    return np.array([90, 120, 90], np.float32) + cv2.GaussianBlur(noise, (0, 0), 2)


def picture(step=0, height=HEIGHT, width=WIDTH):
    """A red and a blue disc that move over a texture."""
    frame = background(height, width)
    truth = labels(step, height, width)
    frame[truth == 1] = (200, 40, 50)
    frame[truth == 2] = (40, 60, 210)
    return np.clip(frame, 0, 255).astype(np.uint8)


def labels(step=0, height=HEIGHT, width=WIDTH, ids=(1, 2)):
    out = np.zeros((height, width), np.uint8)
    scale = height / HEIGHT
    for number, (x, y) in zip(ids, ((30 + step, 30), (90 - step, 62))):
        centre = round(x * width / WIDTH), round(y * scale)
        cv2.circle(out, centre, round(16 * scale), number, -1)
    return out


class Reference:
    """The same model in this process, told the same things."""

    def __init__(self, model):
        self.segmenter = Segmenter.load(model, max_objects=MAX_OBJECTS)
        self.segmenter.min_score = 0.0

    def seed(self, frame, mask, **options):
        return self.segmenter.seed(frame, mask, **options)

    def step(self, frame):
        return self.segmenter.step(frame)


def same(found, message, expected, names=None):
    """A mask and the objects that came over DDS against a SegmentResult."""
    np.testing.assert_array_equal(found, expected.labels)
    assert [item.id for item in message.objects] == [item.id for item in expected.objects]
    for item, wanted in zip(message.objects, expected.objects):
        assert item.state == int(wanted.state)
        assert item.score == pytest.approx(wanted.score, abs=1e-6)
        assert item.area == wanted.area
        box = item.box
        assert (box.x_offset, box.y_offset, box.width, box.height) == tuple(wanted.box)
        assert (item.centroid.x, item.centroid.y) == pytest.approx(wanted.centroid, abs=1e-3)
        assert item.name == (names or {}).get(item.id, "")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def node(model, folder):
    parameters = {
        "model": model,
        "runtime": "auto",
        "max_objects": MAX_OBJECTS,
        "min_score": 0.0,  # random weights are unsure of all they see
        "seed_wait": 0.3,
    }
    with segment_node(folder, parameters) as process:
        yield process


@pytest.fixture(scope="module")
def connected(node):
    with SegmentPeer() as peer:
        assert peer.state() == "unconfigured"
        assert peer.transition("configure"), node.log
        assert peer.transition("activate"), node.log
        # before any frame: a clear failure that names the topic
        for kind, name, fields in (
            (SeedMask, "seed_mask", {"mask": image_message(labels(), encoding="mono8")}),
            (SeedObject, "seed_object", {"box": box(20, 20, 30, 30)}),
        ):
            answer = peer.call(kind, f"/stremn/{name}", **fields)
            assert not answer.success
            assert answer.message.startswith("no frame received yet on /image:")
        peer.connect(picture())
        yield peer


@pytest.fixture
def peer(connected, node):
    """The peer of a node that is active and follows nothing."""
    assert node.alive, node.log[-4000:]
    assert connected.call(SetBool, "/stremn/enable", data=True).success
    assert connected.call(Trigger, "/stremn/reset").success
    return connected


def box(x, y, width, height):
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


def seed(peer, mask, stamp=0, encoding="mono8", **fields):
    message = image_message(mask, stamp, encoding)
    return peer.call(SeedMask, "/stremn/seed_mask", mask=message, **fields)


def start(peer, model, names=("cup", "ball")):
    """Two objects seeded in the node and in a reference."""
    reference = Reference(model)
    peer.segment(picture(0))
    answer = seed(peer, labels(0), names=list(names))
    assert answer.success, answer.message
    assert (list(answer.ids), list(answer.tracked_ids)) == ([1, 2], [1, 2])
    reference.seed(picture(0), labels(0))
    return reference


class Camera(Background):
    """Frames at a rate, in a thread, until the block ends."""

    def __init__(self, peer, period=0.02):
        self.peer, self.period = peer, period
        self.stamps = []

    def run(self):
        while not self.ended.wait(self.period):
            self.stamps.append(self.peer.publish(picture(len(self.stamps) % 30)))

    def latest_objects(self):
        """The objects of a frame that was sent after this call."""
        after = len(self.stamps)

        def found():
            for stamp in self.stamps[after:]:
                if stamp in self.peer.objects and stamp in self.peer.masks:
                    return self.peer.objects[stamp]
            return None

        return wait_for(found, "objects of a newer frame")


# ---------------------------------------------------------------------------------- tracking


def test_masks_over_dds_equal_those_of_a_segmenter_in_this_process(peer, model):
    reference = start(peer, model)
    seen = set()
    for step in range(1, 13):
        stamp = peer.next_stamp()
        found, objects = peer.segment(picture(step), stamp, frame_id=f"camera_{step}")
        same(found, objects, reference.step(picture(step)), {1: "cup", 2: "ball"})
        seen |= set(np.unique(found))
        mask = peer.masks[stamp]
        for message in (mask, objects):  # the header is the frame's, to the nanosecond
            assert to_stamp(message.header.stamp) == stamp
            assert message.header.frame_id == f"camera_{step}"
        assert (mask.encoding, mask.height, mask.width) == ("mono8", HEIGHT, WIDTH)
        assert 0 < objects.latency < 30
    assert seen >= {1, 2}, "all masks empty: nothing was compared"


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("bgr8", {}),
        ("rgb8", {"step": 3 * WIDTH + 13}),
        ("rgba8", {"step": 4 * WIDTH + 64}),
        ("bgra8", {}),
        ("8UC3", {}),
        ("yuv422", {}),
        ("yuv422_yuy2", {"step": 2 * WIDTH + 6}),
        ("nv12", {"step": WIDTH + 32}),
        ("bayer_rggb8", {}),
        ("bayer_grbg8", {"step": WIDTH + 2}),
        ("mono8", {}),
        ("mono16", {"big_endian": True}),
        ("16UC1", {}),
        ("32FC1", {"big_endian": True}),
    ],
)
def test_every_encoding_gives_the_masks_of_its_picture(peer, model, encoding, options):
    frames = []
    for step in range(3):
        frame = picture(step)
        grey = frame[..., 1]
        frames.append(
            {"mono8": grey, "mono16": grey.astype(np.uint16) * 257}.get(encoding, frame)
            if encoding not in ("16UC1", "32FC1")
            else (
                grey.astype(np.uint16) * 257
                if encoding == "16UC1"
                else grey.astype(np.float32) / 255
            )
        )
    reference = Reference(model)
    for step, frame in enumerate(frames):
        rgb = image_read.decode_rgb(image_message(frame, 0, encoding, **options))
        found, objects = peer.segment(frame, encoding=encoding, **options)
        if step == 0:
            assert not found.any()
            assert seed(peer, labels(0)).success
            reference.seed(rgb, labels(0))
        else:
            same(found, objects, reference.step(rgb))


def test_mask_encodings_of_seeds(peer, model):
    for encoding, dtype in (
        ("8UC1", np.uint8),
        ("16UC1", np.uint16),
        ("32FC1", np.float32),
        ("mono8", np.uint8),
    ):
        peer.segment(picture(0))
        answer = seed(peer, labels(0).astype(dtype), encoding=encoding, replace=True)
        assert answer.success, answer.message
        assert list(answer.tracked_ids) == [1, 2]


def test_a_seed_may_carry_the_stamp_of_a_frame_of_the_past(peer, model):
    reference = Reference(model)
    stamps = [peer.next_stamp() for _ in range(5)]
    for step, stamp in enumerate(stamps):
        peer.segment(picture(step), stamp)
    answer = seed(peer, labels(2), stamps[2])
    assert answer.success, answer.message
    assert to_stamp(answer.stamp) == stamps[2]
    assert "0.200 s before the newest" in answer.message
    assert "carried forward through 2 of the 2 frames since then" in answer.message
    reference.seed(picture(2), labels(2))
    for step in (3, 4):
        reference.step(picture(step))
    found, objects = peer.segment(picture(5))
    same(found, objects, reference.step(picture(5)))


def test_a_stamp_that_is_not_kept_takes_the_next_frame_and_says_so(peer):
    peer.segment(picture(0))
    answer = seed(peer, labels(0), stamp=12345)
    assert not answer.success
    assert "no other frame came within 0.3 s" in answer.message
    with Camera(peer) as camera:
        camera.latest_objects()
        answer = seed(peer, labels(0), stamp=12345)
    assert answer.success, answer.message
    assert answer.message.endswith("so the next frame was taken")
    assert to_stamp(answer.stamp) in camera.stamps


def test_a_changed_size_in_mid_stream(peer, model):
    reference = start(peer, model)
    for height, width in ((96, 128), (120, 160), (50, 71), (96, 128)):
        found, objects = peer.segment(picture(1, height, width))
        assert found.shape == (height, width)
        same(found, objects, reference.step(picture(1, height, width)), {1: "cup", 2: "ball"})
    assert peer.settled_counters()[3] == 0


# ---------------------------------------------------------------------------------- services


def test_everything_is_answered_while_frames_flow(peer):
    with Camera(peer) as camera:
        camera.latest_objects()
        answer = seed(peer, labels(0), names=["cup", "ball"])
        assert answer.success, answer.message
        assert [item.name for item in camera.latest_objects().objects] == ["cup", "ball"]

        answer = peer.call(SeedObject, "/stremn/seed_object", name="box", box=box(10, 10, 44, 44))
        assert answer.success, answer.message
        assert list(answer.ids) == [3]
        assert list(answer.tracked_ids) == [1, 2, 3]
        assert to_stamp(answer.stamp) in camera.stamps
        assert [item.id for item in camera.latest_objects().objects] == [1, 2, 3]

        answer = peer.call(RemoveObject, "/stremn/remove_object", id=2)
        assert answer.success, answer.message
        assert list(answer.tracked_ids) == [1, 3]
        assert [item.id for item in camera.latest_objects().objects] == [1, 3]

        assert peer.call(SetBool, "/stremn/enable", data=False).success
        paused_from = len(camera.stamps)
        wait_for(lambda: len(camera.stamps) > paused_from + 10, "frames while paused")
        assert not any(stamp in peer.masks for stamp in camera.stamps[paused_from + 1 :])
        assert peer.call(SetBool, "/stremn/enable", data=True).success
        assert [item.name for item in camera.latest_objects().objects] == ["cup", "box"]

        answer = peer.call(Trigger, "/stremn/reset")
        assert (answer.success, answer.message) == (True, "2 objects forgotten")
        assert not camera.latest_objects().objects
    received, segmented, dropped, failed = peer.settled_counters()
    assert received == segmented + dropped + failed


def test_an_object_from_a_box_typed_by_hand(peer):
    peer.segment(picture(0))
    truth = labels(0) == 1
    answer = peer.call(SeedObject, "/stremn/seed_object", name="cup", box=box(10, 10, 42, 42))
    assert answer.success, answer.message
    assert list(answer.ids) == [1]
    assert len(answer.mask.data) == 0, "a terminal would show every pixel of it"
    assert answer.exact
    assert 0.8 < answer.agreement <= 1.0
    answer = peer.call(
        SeedObject, "/stremn/seed_object", id=1, box=box(10, 10, 42, 42), return_mask=True
    )
    made = image_read.decode_labels(answer.mask)
    assert (made == 1)[truth].mean() > 0.95
    assert np.count_nonzero((made == 1) & truth) / np.count_nonzero((made == 1) | truth) > 0.9
    assert answer.mask.header.frame_id == "camera"
    polygon = Polygon(
        points=[
            Point32(x=float(x), y=float(y)) for x, y in ((70, 62), (90, 40), (112, 62), (90, 84))
        ]
    )
    answer = peer.call(SeedObject, "/stremn/seed_object", id=9, polygon=polygon)
    assert answer.success, answer.message
    assert list(answer.tracked_ids) == [1, 9]
    answer = peer.call(
        SeedObject,
        "/stremn/seed_object",
        points_inside=[Point32(x=30.0, y=30.0)],
        points_outside=[Point32(x=120.0, y=5.0), Point32(x=90.0, y=62.0)],
        return_mask=True,
        on_overlap=SeedObject.Request.KEEP_BOTH,
    )
    assert answer.success, answer.message
    assert list(answer.ids) == [2]
    made = image_read.decode_labels(answer.mask)
    assert set(np.unique(made)) == {0, 2}
    assert np.count_nonzero((made == 2) & truth) / np.count_nonzero((made == 2) | truth) > 0.9


def bad_requests():
    nan = labels(0).astype(np.float32)
    nan[5, 6] = np.nan
    many = np.zeros((HEIGHT, WIDTH), np.uint8)
    many[10:20, 10:18] = np.arange(1, 9)
    truncated = image_message(labels(0), encoding="mono8")
    truncated.data = truncated.data[:-7]
    narrow = image_message(labels(0), encoding="mono8")
    narrow.step = WIDTH - 1
    absurd = image_message(labels(0), encoding="mono8")
    absurd.width = absurd.height = 2**32 - 1
    zero = image_message(labels(0), encoding="mono8")
    zero.height = 0
    mask = "seed_mask"
    thing = "seed_object"
    return {
        "another size": (
            SeedMask,
            mask,
            {"mask": image_message(labels(0, 48, 64), encoding="mono8")},
            "the mask is 64 x 48 pixels, the frame is 128 x 96: send the mask at the frame's size",
        ),
        "all zero": (
            SeedMask,
            mask,
            {"mask": image_message(labels(0) * 0, encoding="mono8")},
            "the mask is all zero",
        ),
        "nan": (
            SeedMask,
            mask,
            {"mask": image_message(nan, encoding="32FC1")},
            "values that are NaN or infinite (the first at row 5, column 6)",
        ),
        "fraction": (
            SeedMask,
            mask,
            {"mask": image_message(nan * 0 + 0.25, encoding="32FC1")},
            "NaN",
        ),
        "too many objects": (
            SeedMask,
            mask,
            {"mask": image_message(many, encoding="mono8")},
            f"max_objects is {MAX_OBJECTS}",
        ),
        "wrong encoding": (
            SeedMask,
            mask,
            {"mask": image_message(picture(0))},
            "a mask cannot be of encoding 'rgb8'",
        ),
        "unknown encoding": (
            SeedMask,
            mask,
            {"mask": Image(encoding="x")},
            "a mask cannot be of encoding 'x': send one label per pixel as mono8, 8UC1, 16UC1, 32F",
        ),
        "empty message": (
            SeedMask,
            mask,
            {},
            "the mask has no encoding: send one label per pixel as mono8, 8UC1, 16UC1, 32FC1",
        ),
        "truncated": (SeedMask, mask, {"mask": truncated}, "cut short"),
        "step": (SeedMask, mask, {"mask": narrow}, "step is 127 bytes, smaller than one row"),
        "absurd": (SeedMask, mask, {"mask": absurd}, "4294967295 x 4294967295"),
        "zero size": (SeedMask, mask, {"mask": zero}, "128 x 0 pixels"),
        "value 300": (
            SeedMask,
            mask,
            {"mask": image_message(labels(0).astype(np.uint16) * 300, encoding="16UC1")},
            "labels are object ids",
        ),
        "names": (
            SeedMask,
            mask,
            {"mask": image_message(labels(0), encoding="mono8"), "names": ["a", "b", "c"]},
            "3 names for the 2 objects [1, 2]",
        ),
        "unknown id": (RemoveObject, "remove_object", {"id": 77}, "object 77 is not tracked"),
        "negative id": (RemoveObject, "remove_object", {"id": -5}, "object -5 is not tracked"),
        "nothing given": (SeedObject, thing, {}, "nothing says where the object is"),
        "box outside": (
            SeedObject,
            thing,
            {"box": box(100, 80, 40, 40)},
            "reaches outside the image, which is 128 x 96 pixels",
        ),
        "huge box": (SeedObject, thing, {"box": box(*[2**32 - 1] * 4)}, "reaches outside"),
        "bad id": (
            SeedObject,
            thing,
            {"id": 256, "box": box(10, 10, 42, 42)},
            "the id 256 cannot be used: give 1 to 255, or 0",
        ),
        "nan point": (
            SeedObject,
            thing,
            {"points_inside": [Point32(x=float("nan"), y=1.0)]},
            "(nan, 1) lies outside the image",
        ),
        "one more": (
            SeedObject,
            thing,
            {"box": box(10, 10, 42, 42), "id": 200},
            f"max_objects is {MAX_OBJECTS}",
        ),
    }


def test_a_bad_request_says_what_is_wrong_and_no_object_notices(peer, model):
    """Bit for bit the masks, scores and states of a run in which no bad call was made."""
    reference = start(peer, model)
    assert seed(peer, labels(0, ids=(9,)) * (labels(0) == 1), names=["third"]).success
    reference.seed(picture(0), labels(0, ids=(9,)) * (labels(0) == 1))
    names = {1: "cup", 2: "ball", 9: "third"}
    cases = bad_requests()
    for step, (name, (kind, service, fields, text)) in enumerate(cases.items(), 1):
        answer = peer.call(kind, f"/stremn/{service}", **fields)
        assert not answer.success, name
        assert text in answer.message, name
        assert list(answer.tracked_ids) == [1, 2, 9], name
        found, objects = peer.segment(picture(step % 3))  # so that the boxes fit all the time
        same(found, objects, reference.step(picture(step % 3)), names)
    assert len(cases) == 22


def bad_images():
    def changed(**fields):
        message = image_message(picture(0))
        for key, value in fields.items():
            setattr(message, key, value)
        return message

    good = image_message(picture(0)).data
    return {
        "wrong encoding": (changed(encoding="jpeg"), "unknown encoding 'jpeg'"),
        "empty data": (changed(data=[]), "the image has no data"),
        "truncated data": (changed(data=good[:1000]), "cut short: 1000 bytes came"),
        "small step": (changed(step=3 * WIDTH - 1), "step is 383 bytes, smaller than one row"),
        "zero size": (changed(width=0, height=0), "0 x 0 pixels"),
        "zero height": (changed(height=0), "128 x 0 pixels"),
        "absurd size": (changed(width=2**31, height=2**31, step=2**32 - 1), "2147483648"),
        "odd yuv": (changed(encoding="yuv422", width=127), "even width"),
        "depth": (
            image_message(np.full((HEIGHT, WIDTH), np.nan, np.float32), encoding="32FC1"),
            "depth image",
        ),
        "no fields": (Image(), "unknown encoding ''"),
    }


def test_a_bad_image_is_counted_and_told_and_no_object_notices(peer, node, model):
    reference = start(peer, model)
    before = peer.settled_counters()
    cases = bad_images()
    for step, (name, (message, text)) in enumerate(cases.items(), 1):
        bad = copy.copy(message)
        bad.header.stamp = to_time(peer.next_stamp())
        peer.images.publish(bad)
        wait_for(lambda text=text: text in peer.diagnostics.get("last error", ""), name)
        node.wait_for_log(text)
        assert peer.status.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
        found, objects = peer.segment(picture(step))
        same(found, objects, reference.step(picture(step)), {1: "cup", 2: "ball"})
    after = peer.settled_counters()
    change = [new - old for new, old in zip(after, before)]
    assert change == [2 * len(cases), len(cases), 0, len(cases)]


def test_frames_that_come_too_fast_are_dropped_and_counted(peer):
    peer.segment(picture(0))
    assert seed(peer, labels(0)).success
    before = peer.settled_counters()
    stamps = []
    # Whether a frame of one burst is dropped by the node or overwritten in the reader's queue of
    # one (and then never received) is the scheduler's affair: bursts go on until the node dropped.
    for _ in range(30):
        for step in range(100):
            message = image_message(picture(step % 30))
            message.header.stamp = to_time(peer.next_stamp())
            stamps.append(to_stamp(message.header.stamp))
            peer.images.publish(message)
            time.sleep(0.001)
        wait_for(lambda: stamps[-1] in peer.masks, "the newest frame, which always wins")
        received, segmented, dropped, failed = (
            new - old for new, old in zip(peer.settled_counters(), before)
        )
        assert received == segmented + dropped + failed
        assert failed == 0
        assert 0 < segmented <= received <= len(stamps)
        if dropped:
            break
    assert dropped > 0
    masks = [stamp for stamp in peer.masks if stamp >= stamps[0]]
    assert len(masks) == segmented
    assert masks == sorted(masks)


def test_time_that_jumps_back_forgets_unless_told_otherwise(peer, node):
    now = peer.next_stamp()
    peer.segment(picture(0), now)
    assert seed(peer, labels(0)).success
    peer.publish(picture(1), now - 100 * SECOND - 100_000_000)  # alone it proves nothing
    node.wait_for_log("a single wrong stamp, or another time")
    _, objects = peer.segment(picture(1), now - 100 * SECOND)
    assert not objects.objects
    node.wait_for_log("time jumped back by 100.000 s on /image")
    assert seed(peer, labels(1)).success
    assert peer.set_parameter("reset_on_time_jump", False) == (True, "")
    try:
        before = peer.settled_counters()
        peer.publish(picture(2), now - 200 * SECOND - 100_000_000)
        wait_for(lambda: peer.settled_counters()[2] == before[2] + 1, "a dropped frame")
        _, objects = peer.segment(picture(2), now - 200 * SECOND)
        assert [item.id for item in objects.objects] == [1, 2]
        # slightly older than the newest: out of order, dropped
        before = peer.settled_counters()
        peer.publish(picture(3), now - 200 * SECOND - 50_000_000)
        wait_for(lambda: peer.settled_counters()[2] == before[2] + 1, "a dropped frame")
    finally:
        assert peer.set_parameter("reset_on_time_jump", True) == (True, "")


def test_the_overlay_is_made_only_for_subscribers(peer):
    peer.segment(picture(0))
    assert seed(peer, labels(0)).success
    peer.segment(picture(1))
    assert not peer.overlays
    peer.subscribe_overlay()
    try:

        def overlaid():
            found, _ = peer.segment(picture(2))
            return peer.overlays and found is not None

        wait_for(overlaid, "an overlay")
        shown = peer.overlays[-1]
        stamp = to_stamp(shown.header.stamp)
        mask = image_read.decode_labels(peer.masks[stamp])
        expected = visualization.overlay(picture(2), mask, 0.5)
        np.testing.assert_array_equal(image_read.decode_rgb(shown), expected)
        assert mask.any()
    finally:
        peer.unsubscribe_overlay()


def test_the_compressed_overlay_is_the_same_picture_as_jpeg(peer):
    peer.segment(picture(0))
    assert seed(peer, labels(0)).success
    taken = []
    subscription = peer.node.create_subscription(
        CompressedImage, "/stremn/overlay/compressed", taken.append, peer.queue
    )
    try:

        def overlaid():
            peer.segment(picture(2))
            return bool(taken)

        wait_for(overlaid, "a compressed overlay")
        shown = taken[-1]
        assert shown.format == "rgb8; jpeg compressed bgr8"
        assert bytes(shown.data[:3]) == b"\xff\xd8\xff"
        mask = image_read.decode_labels(peer.masks[to_stamp(shown.header.stamp)])
        expected = visualization.overlay(picture(2), mask, 0.5)
        jpeg = image_write.encode_jpeg(CompressedImage(), expected)
        np.testing.assert_array_equal(
            compressed_read.decode_rgb(shown), compressed_read.decode_rgb(jpeg)
        )
    finally:
        peer.node.destroy_subscription(subscription)


def test_diagnostics_tell_rates_latency_and_the_memory(peer, model):
    reference = start(peer, model)
    for step in range(1, 6):
        peer.segment(picture(step))
        reference.step(picture(step))
    peer.settled_counters()
    values = peer.fresh_diagnostics()
    assert values["runtime"] == reference.segmenter.runtime_name
    assert values["memory [bytes]"] == str(reference.segmenter.memory_bytes)
    slots = ", ".join(f"{k}: {v}" for k, v in sorted(reference.segmenter.slots_used.items()))
    assert values["slots used"] == slots
    assert values["objects"] == f"2 of {MAX_OBJECTS}"
    assert values["object 1"].startswith("cup: ")
    assert 0 < float(values["latency p50 [ms]"]) <= float(values["latency p95 [ms]"])
    assert float(values["latency p95 [ms]"]) <= float(values["latency p99 [ms]"]) < 30_000
    assert float(values["output rate [Hz]"]) > 0
    # stamps of this test are of 1970: the node counts them as stale and goes on
    assert int(values["stale"]) > 0


def test_parameters_change_at_run_time_or_are_refused_with_the_reason(peer, node):
    assert peer.set_parameter("overlay_alpha", 1) == (True, "")  # as `ros2 param set` sends it
    assert peer.get_parameter("overlay_alpha") == 1.0
    assert type(peer.get_parameter("overlay_alpha")) is float
    assert peer.set_parameter("overlay_alpha", 0.25) == (True, "")
    assert peer.get_parameter("overlay_alpha") == 0.25
    assert peer.set_parameter("update_rule", "oldest") == (True, "")
    assert peer.set_parameter("update_rule", "") == (True, "")
    for name, value, text in (
        ("overlay_alpha", 1.5, "range"),
        ("overlay_alpha", "much", "overlay_alpha is of type double, got 'much' (str)"),
        ("overlay", 1, "overlay is of type bool, got 1 (int)"),
        ("max_objects", 5.0, "max_objects is of type int, got 5.0 (float)"),
        ("autosave_period", 1e-9, "0.1 seconds or more, or 0 for never"),
        ("min_score", -1.1, "range"),
        ("update_rule", "random", "it is one of"),
        ("diagnostics_period", 0.0, "range"),
        ("diagnostics_period", float("nan"), ""),
        ("model", "another", "used while configuring: deactivate and clean up"),
        ("max_objects", 5, "used while configuring"),
        ("image_reliability", "best_effort", "used while configuring"),
    ):
        successful, reason = peer.set_parameter(name, value)
        assert not successful, (name, value)
        assert reason
        assert text in reason.lower(), reason
    assert peer.get_parameter("overlay_alpha") == 0.25
    assert peer.set_parameter("overlay_alpha", 0.5) == (True, "")
    peer.segment(picture(0))
    assert node.alive


def test_a_qos_that_cannot_match_is_told(peer, node):
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    other = peer.node.create_publisher(Image, "/image", quality)
    try:
        node.wait_for_log("QoS mismatch with a publisher of /image: its reliability")
    finally:
        peer.node.destroy_publisher(other)
    assert peer.set_parameter("frame_timeout", 0.2) == (True, "")
    try:
        peer.segment(picture(0))
        wait_for(
            lambda: (
                peer.status.level == DiagnosticStatus.WARN
                and "set image_reliability to auto or best_effort" in peer.told
            ),
            "diagnostics that name the remedy",
        )
    finally:
        assert peer.set_parameter("frame_timeout", 2.0) == (True, "")


# ---------------------------------------------------------------------------------- lifecycle


def test_a_walk_over_every_transition(model, folder, tmp_path, connected):
    """A second node, under another name; faults in configure leave it unconfigured."""
    node = NodeProcess(
        "segment_node",
        folder,
        {"model": "no_such_model", "max_objects": 4000, "seed_wait": 60.0, "min_score": 0},
        remaps=["__node:=walker", "image:=/walk/image"],
    )
    peer, name = connected, "/walker"

    def answer():
        return peer.call(Trigger, f"{name}/reset")

    try:
        assert peer.state(name) == "unconfigured"
        assert "not configured" in answer().message
        assert not peer.transition("activate", name)
        # a value out of range at the start: told, and the way out works
        assert not peer.transition("configure", name)
        assert peer.state(name) == "unconfigured"
        node.wait_for_log("configure failed: parameter max_objects is 4000, the range is 1 to 255")
        assert peer.set_parameter("max_objects", 2, name) == (True, "")
        assert not peer.transition("configure", name)
        node.wait_for_log("no model 'no_such_model'")
        assert "no model 'no_such_model'" in answer().message
        # a damaged weights file
        damaged = tmp_path / "damaged"
        shutil.copytree(model, damaged)
        weights = damaged / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        assert peer.set_parameter("model", str(damaged), name) == (True, "")
        assert not peer.transition("configure", name)
        node.wait_for_log("is damaged or not a safetensors file")
        assert peer.set_parameter("device", "cuda:77", name) == (True, "")
        assert peer.set_parameter("model", model, name) == (True, "")
        assert not peer.transition("configure", name)
        node.wait_for_log("device 'cuda:77'")
        assert peer.set_parameter("device", "cpu", name) == (True, "")
        assert peer.state(name) == "unconfigured"

        assert peer.transition("configure", name), node.log
        assert peer.state(name) == "inactive"
        assert answer().success
        mask = image_message(labels(0), encoding="mono8")
        inactive = peer.call(SeedMask, f"{name}/seed_mask", mask=mask)
        assert "the node is not active" in inactive.message
        images = peer.node.create_publisher(Image, "/walk/image", 10)
        masks = []
        watch = peer.node.create_subscription(
            Image, f"{name}/mask", lambda message: masks.append(message), 10
        )
        for _ in range(2):
            assert peer.transition("activate", name), node.log
            assert peer.state(name) == "active"
            count = len(masks)

            def one_more(count=count):
                images.publish(image_message(picture(0), peer.next_stamp()))
                return len(masks) > count

            wait_for(one_more, "a mask", every=0.05)
            assert peer.transition("deactivate", name), node.log
            assert peer.state(name) == "inactive"
        assert peer.transition("cleanup", name)
        assert peer.state(name) == "unconfigured"
        assert "not configured" in answer().message
        assert peer.transition("configure", name)
        assert peer.transition("activate", name)
        assert not peer.transition("configure", name)
        assert peer.state(name) == "active"
        # the end by a signal, with a call in hand that waits for a frame that never comes
        right = image_message(labels(0), encoding="mono8")

        def seeded():
            images.publish(image_message(picture(0), 5 * SECOND))
            return peer.call(SeedMask, f"{name}/seed_mask", mask=right).success

        wait_for(seeded, "a first seed", every=0.05)
        wrong = image_message(labels(0), 3 * SECOND, encoding="mono8")
        peer.call_later(SeedMask, f"{name}/seed_mask", mask=wrong)
        # sent later and answered: by now the node has the other call in hand
        assert peer.get_parameter("seed_wait", name) == 60.0
        peer.node.destroy_publisher(images)
        peer.node.destroy_subscription(watch)
        begin = time.monotonic()
        assert node.stop(signal.SIGTERM) == 0, node.log
        assert time.monotonic() - begin < 30
        assert "Traceback" not in node.log
    finally:
        node.stop()


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "active"])
def test_shutdown_from_every_state(model, connected, state):
    """In this process, to spare three starts; the transitions come over DDS all the same."""
    peer, name = connected, f"from_{state}"
    context = rclpy.Context()
    rclpy.init(context=context)
    node = SegmentNode(
        context=context,
        cli_args=["--ros-args", "-r", f"__node:={name}", "-p", f"model:={model}"],
    )
    executor = MultiThreadedExecutor(node.threads, context=context)
    executor.add_node(node)
    spinning = Spinning(executor, node.get_logger().error)
    try:
        for step in ("configure", "activate")[
            : ["unconfigured", "inactive", "active"].index(state)
        ]:
            assert peer.transition(step, f"/{name}")
        assert peer.state(f"/{name}") == state
        assert peer.transition(f"{state}_shutdown", f"/{name}")
        assert peer.state(f"/{name}") == "finalized"
        assert "segmenter" not in [thread.name for thread in threading.enumerate()]
        answer = peer.call(Trigger, f"/{name}/reset")
        assert not answer.success
        # no remedy that cannot work: nothing configures it any more
        told = [answer.message, node._state_report().message]
        with pytest.raises(BringUpError) as refused:
            bring_up(peer, f"/{name}", 60.0)
        for text in (*told, str(refused.value)):
            assert "was shut down (finalized)" in text
            assert "start it again" in text
            assert "lifecycle set" not in text
    finally:
        spinning.stop()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
