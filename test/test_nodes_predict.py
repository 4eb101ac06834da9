"""The prediction node: its core's reasons, and the node as a process over real DDS."""

from __future__ import annotations

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from prediction_helpers import moving_frames, tiny_prediction_model
from rclpy.qos import QoSProfile
from ros_helpers import (
    SECOND,
    NodeProcess,
    Peer,
    image_message,
    to_stamp,
    wait_for,
)
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from stremn_interfaces.msg import PredictionError
from stremn_ros.messages import image_read
from stremn_ros.predictor import Predictor, confidence
from stremn_ros.stream.diagnosis import OK, WARN
from stremn_ros.stream.limited_log import LimitedLog
from stremn_ros.stream.predict_core import PredictCore, PredictSettings

NODE = "/stremn_predict"
STEP = SECOND // 10


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_prediction_model(tmp_path_factory.mktemp("model") / "tiny")


class Stream:
    """A core without ROS, fed frame by frame."""

    def __init__(self, model: str, **settings) -> None:
        self.results = []
        self.log = []
        self.core = PredictCore(
            Predictor.load(model),
            publish=self.results.append,
            log=lambda severity, key, text: self.log.append(text),
            settings=PredictSettings(**{"frame_timeout": 60.0, **settings}),
            now=lambda: self.stamp,
        )
        self.stamp = 100 * SECOND
        self.core.activate()

    def send(self, frame, step=STEP, frame_id="camera"):
        self.stamp += step
        count = len(self.results)
        self.core.on_frame(image_message(frame, self.stamp, frame_id=frame_id))
        wait_for(self.core.idle, "the frame to be used")
        return self.results[-1] if len(self.results) > count else None


@pytest.fixture
def stream(model):
    made = Stream(model)
    yield made
    made.core.close()


def test_stamps_are_of_the_time_predicted_for(stream):
    for frame in moving_frames(6):
        result = stream.send(frame)
    assert result.image.shape == (64, 64, 3)
    assert result.stamp == stream.stamp + 3 * STEP
    assert result.source == stream.stamp - STEP
    assert 0.0 < result.error < 1.0
    assert result.change > 0.0
    stream.core.settings.horizon = 5
    assert stream.send(moving_frames(7)[-1]).stamp == stream.stamp + 5 * STEP
    assert stream.core.report().level == OK
    assert stream.core.report().message == "predicting"


def test_images_of_another_camera_are_no_movement(stream):
    """Of the same size and on the same topic: what is seen is predicted from what it sees."""
    frames = moving_frames(12)
    for frame in frames[:5]:
        result = stream.send(frame)
    assert result.image is not None
    result = stream.send(frames[5], frame_id="rear")
    assert (result.image, result.error) == (None, None)
    assert "of the frame 'camera' and are now of 'rear'" in stream.core.report().message
    for frame in frames[6:9]:
        result = stream.send(frame, frame_id="rear")
    assert result.image is not None
    stream.core.reset()
    assert stream.send(frames[9]).image is None
    assert "it was reset" in stream.core.report().message


@pytest.mark.parametrize(
    ("step", "rows", "reason"),
    [
        (STEP, 48, "were 64x64 and are now 64x48"),
        (-5 * SECOND, 64, "time jumped back"),
        (2 * SECOND, 64, "2.10 s between two images, more than max_gap"),
    ],
)
def test_what_breaks_the_movement_is_told_and_forgotten(stream, step, rows, reason):
    frames = moving_frames(12)
    for frame in frames[:5]:
        result = stream.send(frame)
    assert result.image is not None
    if step != STEP:  # one stamp proves nothing: the image is dropped, and the next one is of it
        assert stream.send(frames[5], step) is None
        assert stream.core.report().message == "predicting"
    result = stream.send(frames[5][:rows])
    assert result.image is None
    report = stream.core.report()
    assert report.level == WARN
    assert "1 of the 4 images seen" in report.message
    assert reason in report.message
    for frame in frames[6:9]:
        result = stream.send(frame[:rows])
    assert result.image.shape == (rows, 64, 3)
    assert stream.core.report().level == OK


def test_two_cameras_on_one_topic_do_not_fill_the_log(stream):
    lines = []
    stream.core._log = LimitedLog(lambda severity, text: lines.append(text))
    for frame in moving_frames(9):
        stream.send(frame)
        stream.send(frame[:48])
    assert sum("starts again: the images were" in line for line in lines) == 1


@pytest.mark.parametrize("outlier", [-60, -5, 5, 60])
def test_one_outlying_stamp_breaks_nothing(stream, outlier):
    frames = moving_frames(9)
    for frame in frames[:5]:
        stream.send(frame)
    right = stream.stamp
    assert stream.send(frames[5], outlier * SECOND) is None
    stream.stamp = right + STEP
    for frame in frames[6:]:
        assert stream.send(frame).image is not None
    assert not any("starts again" in text for text in stream.log)


def test_too_few_images_and_none_at_all_are_told(stream):
    report = stream.core.report()
    assert "0 of the 4 images" in report.message
    stream.core.settings.frame_timeout = 0.0
    time.sleep(0.01)
    assert "no image on image" in stream.core.report().message
    stream.core.settings.frame_timeout = 60.0
    stream.send(moving_frames(1)[0])
    assert "1 of the 4 images" in stream.core.report().message
    assert "goes on" in stream.core.reset() or "go on" in stream.core.reset()


def test_bad_images_are_refused_and_the_stream_goes_on(stream):
    frames = moving_frames(6)
    for frame in frames[:4]:
        stream.send(frame)
    broken = image_message(frames[4], stream.stamp + 1)
    broken.data = broken.data[:100]
    stream.core.on_frame(broken)
    wait_for(stream.core.idle, "the core")
    assert any("image refused" in text for text in stream.log)
    assert stream.send(frames[5]).image is not None


class PredictPeer(Peer):
    def __init__(self):
        super().__init__("predict_peer")
        self.predicted, self.errors, self.sure, self.status = {}, {}, {}, None
        self.images = self.node.create_publisher(Image, "/camera", 10)
        queue = QoSProfile(depth=50)
        self.node.create_subscription(Image, f"{NODE}/predicted_image", self._on_image, queue)
        self.node.create_subscription(
            PredictionError, f"{NODE}/prediction_error", self._on_error, queue
        )
        self.node.create_subscription(
            Image, f"{NODE}/prediction_confidence", self._on_confidence, queue
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_status, 50)
        self.stamp = 1000 * SECOND

    def _on_image(self, message):
        self.predicted[to_stamp(message.header.stamp)] = message

    def _on_confidence(self, message):
        self.sure[to_stamp(message.header.stamp)] = message

    def _on_error(self, message):
        self.errors[to_stamp(message.header.stamp)] = message

    def _on_status(self, message):
        for status in message.status:
            if status.name == "stremn_predict: prediction":
                self.status = status

    def send(self, frame):
        self.stamp += STEP
        self.images.publish(image_message(frame, self.stamp))
        return self.stamp

    def wait_for_message(self, text):
        wait_for(
            lambda: self.status is not None and text in self.status.message,
            f"the diagnostics to say {text!r}; they say {self.status}",
        )


def test_the_node_predicts_over_dds(model, tmp_path):
    node = NodeProcess(
        "predict_node",
        tmp_path,
        {"model": model, "image_reliability": "reliable", "diagnostics_period": 0.1},
        remaps=["image:=/camera"],
    )
    peer = PredictPeer()
    try:
        answer = peer.call(Trigger, f"{NODE}/reset")
        assert not answer.success
        assert "configure" in answer.message
        assert peer.transition("configure", NODE), node.log
        assert peer.transition("activate", NODE), node.log
        wait_for(lambda: peer.images.get_subscription_count(), "the node's subscription")
        peer.wait_for_message("no prediction yet")
        frames = moving_frames(40)
        sent = iter(range(40))

        def stepped():
            """One frame at a time, as the newest wins; until a prediction and an error came."""
            stamp = peer.send(frames[next(sent)])
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                ahead = stamp + 3 * STEP
                if stamp in peer.errors and ahead in peer.predicted and ahead in peer.sure:
                    return stamp
                time.sleep(0.01)
            return 0

        stamp = wait_for(stepped, f"a prediction and an error; {node.tail}")
        peer.wait_for_message("predicting")
        message = peer.predicted[stamp + 3 * STEP]
        assert message.header.frame_id == "camera"
        assert image_read.decode_rgb(message).shape == (64, 64, 3)
        sure = peer.sure[stamp + 3 * STEP]
        assert (sure.encoding, sure.height, sure.width) == ("mono8", 64, 64)
        assert sure.header == message.header
        # the same frames through a predictor of our own
        own = Predictor.load(model, runtime="torch")
        seen = round((stamp - 1000 * SECOND) / STEP)
        for frame in frames[:seen]:
            own.step(frame)
        expected = confidence(own.spread[2], (64, 64))
        found = np.frombuffer(sure.data, np.uint8).reshape(64, 64)
        assert np.abs(found.astype(int) - expected).max() <= 1
        error = peer.errors[stamp]
        assert to_stamp(error.predicted_from) == stamp - STEP
        assert 0.0 < error.error < 1.0
        assert np.isfinite(error.change)

        answer = peer.call(Trigger, f"{NODE}/reset")
        assert answer.success
        peer.send(frames[0])
        peer.wait_for_message("it was reset")
        assert peer.set_parameter("horizon", 500, NODE)[0] is False
        assert peer.set_parameter("horizon", 2, NODE)[0] is True
        assert peer.set_parameter("model", "other", NODE)[0] is False
        assert peer.transition("deactivate", NODE), node.log
        peer.wait_for_message("inactive")
        assert peer.transition("cleanup", NODE), node.log
        peer.wait_for_message("not configured")
    finally:
        peer.close()
        code = node.stop()
    assert code == 0, node.log
    assert "Traceback" not in node.log


def test_a_model_that_is_not_there_is_told(tmp_path):
    node = NodeProcess("predict_node", tmp_path, {"model": "nothing", "diagnostics_period": 0.1})
    peer = PredictPeer()
    try:
        assert not peer.transition("configure", NODE)
        peer.wait_for_message("no model 'nothing'")
    finally:
        peer.close()
        node.stop()


def test_both_nodes_run_in_one_process(model, tmp_path):
    """As segment.launch.py predict:=true starts them, each with parameters of its own."""
    import json
    import os
    import subprocess
    import sys

    from shapes import TINY_MODEL

    words = ["--predict=-p", f"--predict=model:={json.dumps(model)}", "--ros-args"]
    words += ["-p", f"model:={json.dumps(str(TINY_MODEL))}", "-p", "runtime:=torch"]
    # of the camera and the clock: they hold for both, but what the second is given wins
    words += ["-p", "image_transport:=compressed", "-p", "use_sim_time:=true", "-p", "device:=cpu"]
    words += ["-p", "image_reliability:=reliable"]
    words[:0] = ["--predict=-p", "--predict=image_reliability:=best_effort"]
    command = [sys.executable, "-m", "stremn_ros.nodes.segment_predict_node", *words]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    peer = Peer()
    try:
        for name in ("/stremn", NODE):
            assert peer.transition("configure", name), log.read_text()
            assert peer.transition("activate", name), log.read_text()
        assert peer.get_parameter("model", NODE) == model
        assert peer.get_parameter("model", "/stremn") == str(TINY_MODEL)
        assert peer.get_parameter("image_transport", NODE) == "compressed"
        assert peer.get_parameter("use_sim_time", NODE) is True
        assert peer.get_parameter("device", NODE) == "cpu"
        assert peer.get_parameter("image_reliability", NODE) == "best_effort"
        assert log.read_text().count("waiting for images on /image/compressed") == 2
    finally:
        peer.close()
        process.terminate()
        code = process.wait(60)
    assert code in (0, -15), log.read_text()
