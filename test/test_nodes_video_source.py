"""The video source as a process: every frame of a file comes out as a camera's images, over DDS."""

from __future__ import annotations

import signal
import struct
import time

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import (
    SECOND,
    TIMEOUT,
    NodeProcess,
    Peer,
    own_node,
    to_stamp,
    to_time,
    wait_for,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from stremn_ros.imaging.video import VideoWriter, open_frames
from stremn_ros.messages import image_read
from stremn_ros.nodes.video_source_node import VideoSource

COUNT, HEIGHT, WIDTH = 12, 46, 62
NODE = "/video_source"


def frame(index):
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    out = np.stack([rows * 3, columns * 2, (rows + columns + 9 * index) % 200], axis=2)
    out = out.astype(np.uint8)
    out[5:15, 5 + 3 * index : 12 + 3 * index] = 255
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of PNG files: what goes in is known to the pixel."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        cv2.imwrite(str(folder / f"{index}.png"), frame(index)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, fps=20.0) as writer:
        for index in range(COUNT):
            writer.write(frame(index))
    return path


class Viewer(Peer):
    def __init__(self):
        super().__init__("viewer")
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        quality = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(Image, "/image", self.images.append, quality)
        self.node.create_subscription(CameraInfo, "/camera_info", self.infos.append, quality)


@pytest.fixture
def viewer():
    peer = Viewer()
    yield peer
    peer.close()


@pytest.fixture
def play(tmp_path, viewer):
    """Starts the node; ends it after the test."""
    started = []

    def start(path, **parameters):
        parameters = {"path": str(path), "wait_for_subscribers": 1, "rate": 100.0, **parameters}
        started.append(NodeProcess("video_source_node", tmp_path, parameters))
        return started[-1]

    yield start
    for node in started:
        node.stop()
        assert "Traceback" not in node.log


def whole(viewer, node, count=COUNT):
    """All images of a run that ended by itself."""
    assert node.wait() == 0, node.log
    wait_for(lambda: len(viewer.images) >= count and len(viewer.infos) >= count, "the last images")
    assert len(viewer.images) == count
    return [image_read.decode_rgb(message) for message in viewer.images]


def test_every_frame_arrives_to_the_pixel_and_the_node_ends(viewer, play, images):
    node = play(images, rate=10.0, frame_id="left_camera")
    for index, picture in enumerate(whole(viewer, node)):
        np.testing.assert_array_equal(picture, frame(index))
    stamps = [to_stamp(message.header.stamp) for message in viewer.images]
    assert stamps == sorted(set(stamps))
    assert abs(stamps[-1] / 1e9 - time.time()) < 600
    # the whole takes what it should: single gaps vary on a busy machine
    assert (COUNT - 1) / 10 * 0.9 < (stamps[-1] - stamps[0]) / 1e9 < (COUNT - 1) / 10 * 2 + 1
    for message, info in zip(viewer.images, viewer.infos):
        assert message.encoding == "rgb8"
        assert message.header.frame_id == "left_camera"
        assert info.header == message.header
        assert (info.height, info.width) == (HEIGHT, WIDTH)
        assert not any(info.k)  # not calibrated
    assert f"{COUNT} frames of {WIDTH} x {HEIGHT} at 10 Hz on /image" in node.log
    assert f"published all: {COUNT} frames" in node.log


def test_a_video_in_part_and_at_another_size(viewer, play, video):
    node = play(video, start_frame=3, end_frame=9, width=124, camera_info=False)
    assert node.wait() == 0, node.log
    wait_for(lambda: len(viewer.images) == 6, "six images")
    expected = list(open_frames(video, start=3, end=9, size=(92, 124)))
    for message, wanted in zip(viewer.images, expected):
        np.testing.assert_array_equal(image_read.decode_rgb(message), wanted)
    assert not viewer.infos


@pytest.mark.parametrize("encoding", ["bgr8", "nv12"])
def test_other_encodings_and_scales(viewer, play, images, encoding):
    pictures = whole(viewer, play(images, encoding=encoding, scale=0.5, reliability="reliable"))
    assert {message.encoding for message in viewer.images} == {encoding}
    # half of 46 x 62 is 23 x 31, odd, which cells of two pixels do not allow
    rows, columns = (23, 31) if encoding == "bgr8" else (22, 30)
    expected = list(open_frames(images, size=(rows, columns)))
    for picture, wanted in zip(pictures, expected):
        assert picture.shape == (rows, columns, 3)
        difference = np.abs(picture.astype(int) - wanted.astype(int)).mean()
        assert difference == 0 if encoding == "bgr8" else difference < 15


def test_a_simulated_clock_that_stands_still_is_told(viewer, play, images):
    node = play(images, use_sim_time=True, wait_for_subscribers=0)
    wait_for(lambda: "nothing has published a time on /clock" in node.log, "the reason")
    assert not viewer.images
    clock = viewer.node.create_publisher(Clock, "/clock", 10)
    now = 50.0

    def tick():
        nonlocal now
        now += 0.01
        clock.publish(Clock(clock=to_time(round(now * SECOND))))
        return len(viewer.images) >= COUNT

    wait_for(tick, "all images", every=0.01)
    assert all(
        50 * SECOND < to_stamp(each.header.stamp) < now * SECOND + 1 for each in viewer.images
    )


def test_progress_counts_to_the_last_image(images, capfd):
    with own_node(f"path:={images}", kind=VideoSource) as node:
        for published, says in ((1, "1/12 frames (8 %)"), (12, "12/12 frames (100 %)")):
            node.published, node._last_progress = published, -1e9
            node._progress()
            assert f"published {says}" in capfd.readouterr().err
        node._values["loop"] = True
        node.published, node._last_progress = 13, -1e9
        node._progress()
        assert "published 1/12 frames of round 2" in capfd.readouterr().err


def test_a_loop_goes_on_until_it_is_told_to_stop(viewer, play, images):
    node = play(images, loop=True, rate=5.0)
    assert viewer.set_parameter("rate", 200.0, NODE) == (True, "")
    wait_for(lambda: len(viewer.images) > 2 * COUNT + 3, "the third round")
    for name, value, text in (
        ("rate", -1.0, "range"),
        ("rate", "fast", "type"),
        ("path", "/other.mp4", "read-only"),
        ("encoding", "bgr8", "read-only"),
    ):
        successful, reason = viewer.set_parameter(name, value, NODE)
        assert not successful
        assert text in reason.lower(), reason
    assert node.alive
    np.testing.assert_array_equal(image_read.decode_rgb(viewer.images[COUNT + 2]), frame(2))
    stamps = [to_stamp(message.header.stamp) for message in viewer.images]
    assert stamps == sorted(set(stamps))
    wait_for(lambda: "of round " in node.log, "a line of progress")
    assert viewer.set_parameter("loop", False, NODE) == (True, "")
    assert node.wait() == 0
    assert node.log.count("published all") == 1


def test_best_effort_ends_well_and_so_does_ctrl_c(viewer, play, images):
    node = play(images, reliability="best_effort", wait_for_subscribers=0)
    assert node.wait() == 0, node.log
    waiting = play(images, wait_for_subscribers=5)
    waiting.wait_for_log("waiting for subscribers of /image: 1 of 5")
    assert waiting.stop(signal.SIGINT) == 0, waiting.log


def test_what_cannot_be_played_is_told_and_ends_with_1(tmp_path, play, images, video):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    broken = tmp_path / "broken"
    broken.mkdir()
    for index in range(3):
        (broken / f"{index}.png").write_bytes((images / f"{index}.png").read_bytes())
    (broken / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    cases = [
        ({"path": str(tmp_path / "none.mp4")}, "no such file"),
        ({"path": ""}, "parameter path is empty: give a video file or a folder of images"),
        ({"path": str(tmp_path / "empty")}, "no images in this folder"),
        ({"path": str(tmp_path / "text.mp4")}, "cannot be opened as a video"),
        ({"path": str(images), "start_frame": 50}, "12 frames, none of them from 50 on"),
        ({"path": str(images), "start_frame": 5, "end_frame": 4}, "0 <= start < end"),
        ({"path": str(images), "rate": -5.0}, "rate is -5.0, the range is 0 to 1000"),
        ({"path": str(images), "encoding": "gif"}, "encoding is 'gif', it is one of: rgb8"),
        ({"path": str(images), "width": "wide"}, "width is of type int, got 'wide'"),
        ({"path": str(broken), "wait_for_subscribers": 0}, "2.png: cannot be decoded"),
    ]
    for begin in range(0, len(cases), 3):  # a few at a time: they all import OpenCV
        some = cases[begin : begin + 3]
        nodes = [play(**fields) for fields, _ in some]
        for node, (_, text) in zip(nodes, some):
            assert node.wait(2 * TIMEOUT) == 1, node.log
            assert text in node.log


def motion_jpeg(path, count=COUNT):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (WIDTH, HEIGHT))
    for index in range(count):
        writer.write(frame(index)[..., ::-1])
    writer.release()
    return path


def test_a_header_that_promises_more_frames_ends_no_loop(viewer, play, tmp_path):
    path = motion_jpeg(tmp_path / "12:30 %d.avi")
    data = bytearray(path.read_bytes())
    for at in (data.find(b"avih") + 8 + 16, data.find(b"strh") + 8 + 32):
        struct.pack_into("<I", data, at, 500)
    path.write_bytes(data)
    node = play(path, loop=True)
    wait_for(lambda: len(viewer.images) > 2 * COUNT + 3, "the third round")
    assert node.alive, node.log
    assert node.stop(signal.SIGINT) == 0
    viewer.images.clear()
    viewer.infos.clear()
    whole(viewer, play(path))


def test_a_file_that_is_cut_short_is_played_as_far_as_it_goes(viewer, play, tmp_path):
    path = motion_jpeg(tmp_path / "a.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    node = play(path)
    assert node.wait() == 1
    assert "cut short" in node.log
    wait_for(lambda: len(viewer.images) > 10, "what there is")
    looping = play(path, loop=True)
    looping.wait_for_log("each round ends there")
    count = len(viewer.images)
    wait_for(lambda: len(viewer.images) > count + 60, "the next rounds")
    assert looping.alive
    assert looping.stop(signal.SIGINT) == 0
    assert looping.log.count("each round ends there") == 1
