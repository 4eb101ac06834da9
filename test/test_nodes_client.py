"""A user by hand: the client of a running node, and `stremn seed`, through real DDS."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import Background, SegmentPeer, image_message, segment_node, wait_for
from sensor_msgs.msg import CompressedImage, Image
from shapes import DISC, SQUARE, iou, scene

from stremn_ros.cli import main
from stremn_ros.client.segment_client import SegmentClient, fit_mask
from stremn_ros.errors import InputError, StremnError
from stremn_ros.messages.image_read import decode_labels


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with segment_node(tmp_path_factory.mktemp("client")) as process:
        yield process


@pytest.fixture(scope="module")
def connected(node):
    with SegmentPeer() as peer:
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        yield peer


@pytest.fixture(scope="module")
def client(connected):
    made = SegmentClient("stremn", timeout=60.0)
    yield made
    made.close()


@pytest.fixture
def peer(connected, client):
    assert client.reset().success
    connected.segment(scene(0)[0])
    return connected


class Flow(Background):
    """Frames of the scene, in a thread."""

    def __init__(self, peer):
        self._peer = peer

    def run(self):
        while not self.ended.wait(0.2):
            self._peer.publish(scene(0)[0])


def seed(*words):
    """`stremn seed` in this process, which spares the start of another one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["seed", *words])
        except SystemExit as end:  # of the parser
            code = end.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def write_mask(path, labels):
    assert cv2.imwrite(str(path), labels)
    return str(path)


def followed(peer):
    labels, objects = peer.segment(scene(1)[0])
    return labels, {item.id: item.name for item in objects.objects}


def test_a_mask_from_a_file(peer, tmp_path):
    done = seed("--mask", write_mask(tmp_path / "m.png", scene(0)[1]), "--name", "cup,box")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stremn seed: seeded objects 1, 2; followed now: [1, 2]\n"
    labels, names = followed(peer)
    assert names == {DISC: "cup", SQUARE: "box"}
    assert iou(labels, scene(1)[1], DISC) > 0.5


def test_a_mask_of_another_size_is_fitted_and_one_of_another_shape_refused(peer, tmp_path):
    large = cv2.resize(scene(0)[1], (320, 240), interpolation=cv2.INTER_NEAREST)
    with Flow(peer):
        done = seed("--mask", write_mask(tmp_path / "large.png", large))
        assert done.returncode == 0, done.stderr
        assert "the mask is 320 x 240 pixels, resized to the images" in done.stdout
        square = np.full((100, 100), 1, np.uint8)
        done = seed("--mask", write_mask(tmp_path / "square.png", square))
        assert done.returncode == 2
        assert "the mask is 100 x 100 pixels and the images are 160 x 120" in done.stderr
    assert set(followed(peer)[1]) == {DISC, SQUARE}


def test_a_box_and_points_and_a_polygon(peer):
    ys, xs = np.nonzero(scene(0)[1] == DISC)
    x, y, w, h = xs.min() - 8, ys.min() - 8, np.ptp(xs) + 16, np.ptp(ys) + 16
    done = seed("--box", f"{x},{y},{w},{h}", "--name", "cup")
    assert done.returncode == 0, done.stderr
    assert "seeded object 1; followed now: [1]" in done.stdout
    ys, xs = np.nonzero(scene(0)[1] == SQUARE)
    middle, corner = f"{xs.mean():.0f},{ys.mean():.0f}", "5,5"
    done = seed("--points", f"{middle};{middle}", "--not", corner, "--id", "9", "--replace")
    assert done.returncode == 0, done.stderr
    assert "followed now: [9]" in done.stdout, "the other was replaced"
    labels, names = followed(peer)
    assert names == {9: ""}
    assert iou((labels == 9) * SQUARE, scene(1)[1], SQUARE) > 0.4
    # the same again, under no id: it is the object that is followed
    polygon = f"{xs.min() - 4},{ys.min() - 4};{xs.max() + 4},{ys.min() - 4};" + (
        f"{xs.max() + 4},{ys.max() + 4};{xs.min() - 4},{ys.max() + 4}"
    )
    done = seed("--polygon", polygon)
    assert done.returncode == 0, done.stderr
    assert "so that one was seeded again; followed now: [9]" in done.stdout
    done = seed("--polygon", polygon, "--on-overlap", "refuse")
    assert done.returncode == 2
    assert "/stremn refused: the mask of object" in done.stderr


def test_a_box_replaces_the_objects_of_a_node_that_takes_no_more(peer, client):
    """It said `max_objects`, though all of them were to be forgotten."""
    crowd = np.zeros((120, 160), np.uint8)
    for number in range(8):
        y, x = divmod(number, 4)
        crowd[5 + 90 * y : 20 + 90 * y, 5 + 40 * x : 30 + 40 * x] = number + 1
    assert client.seed_mask(crowd, list("abcdefgh")).success
    done = seed("--box", "24,36,52,52")
    assert done.returncode == 2
    assert "max_objects" in done.stderr
    done = seed("--box", "900,36,52,52", "--replace")
    assert done.returncode == 2
    assert len(followed(peer)[1]) == 8, "a seed that is refused forgets nothing"
    done = seed("--box", "24,36,52,52", "--replace", "--name", "cup")
    assert done.returncode == 0, done.stderr
    assert list(followed(peer)[1].values()) == ["cup"]
    assert client.seed_mask(crowd, list("abcdefgh"), replace=True).success
    done = seed("--box", "24,36,52,52", "--replace", "--id", "77")
    assert done.returncode == 0, done.stderr
    assert followed(peer)[1] == {77: ""}


def test_a_wait_for_ever(peer):
    """No clock of the operating system counts that far."""
    for timeout in ("inf", "1e300"):
        done = seed("--box", "24,36,52,52", "--timeout", timeout)
        assert done.returncode == 0, done.stderr
    endless = SegmentClient(timeout=float("inf"))
    try:
        assert endless.connect() == "active"
        assert endless.reset().success
    finally:
        endless.close()


@pytest.mark.parametrize("reliability", list(ReliabilityPolicy)[1:3])
@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_the_first_image_of_a_camera_of_any_kind(peer, client, reliability, kind):
    topic = f"/begins_{reliability.name.lower()}_{kind.__name__.lower()}"
    quality = QoSProfile(depth=5, reliability=reliability)
    camera = peer.node.create_publisher(kind, topic, quality)
    stop = threading.Event()

    def run():
        message = image_message(scene(0)[0], 77)
        if kind is CompressedImage:
            png = cv2.imencode(".png", scene(0)[0])[1].tobytes()
            message = CompressedImage(header=message.header, format="png", data=png)
        while not stop.wait(0.1):
            camera.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        image = client.first_image(topic, 60.0)
        assert image.header.stamp.nanosec == 77
        assert type(image).__name__ == kind.__name__
    finally:
        stop.set()
        thread.join()
        peer.node.destroy_publisher(camera)


def test_the_seed_goes_to_the_first_image_that_comes(peer, tmp_path):
    """A process that waits, then a stream that begins: the seed is of its first image."""
    path = write_mask(tmp_path / "m.png", scene(0)[1])
    command = [sys.executable, "-m", "stremn_ros.cli", "seed", "--mask", path]
    command += ["--image-topic", "/image", "--timeout", "120"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    count = peer.images.get_subscription_count()
    wait_for(lambda: peer.images.get_subscription_count() > count, "stremn seed to listen")
    time.sleep(0.5)
    for step in range(4):
        peer.segment(scene(step)[0])
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "s before the newest; carried forward through" in said or "objects 1, 2;" in said
    assert iou(followed(peer)[0], scene(1)[1], DISC) > 0.4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say where the object is: --mask, --box, --polygon or --points"),
        (("--not", "3,3"), "say where the object is"),
        (("--mask", "x.png", "--box", "1,2,3,4"), "leave out --box"),
        (("--mask", "/no/such.png"), "/no/such.png"),
        (("--box", "1,2,3"), "is not X,Y,WIDTH,HEIGHT in whole pixels"),
        (("--box", "1,2,3,x"), "is not numbers with commas"),
        (("--box", "1,2,-3,4"), "is not X,Y,WIDTH,HEIGHT"),
        (("--points", "1;2"), "is not X,Y;X,Y in pixels"),
        (("--points", "1,2", "--id", "300"), "--id is 300: 1 to 255"),
        (("--points", "1,2", "--timeout", "0"), "--timeout is 0"),
        (("--points", "1,2", "--on-overlap", "x"), "invalid choice"),
        (("--points", "1,2", "--node", "/nobody", "--timeout", "2"), "no node /nobody answers"),
        (
            ("--points", "1,2", "--camera", "left", "--timeout", "5"),
            "there is no service /stremn/left/seed_object; there is /stremn/seed_object",
        ),
        (("--points", "1,2", "--node", "/1bad"), "'/1bad' cannot be the name of a node: each part"),
        (("--points", "1,2", "--node", "a//b"), "'/a//b' cannot be the name of a node"),
        (("--points", "1,2", "--camera", "l f"), "'l f' cannot be the name of a camera"),
        (("--points", "1,2", "--image-topic", "/a b"), "'/a b' cannot be the name of a topic"),
        (
            ("--points", "900,2"),
            "/stremn refused: points on the object: (900, 2) lies outside the image",
        ),
    ],
)
def test_what_is_wrong_is_said(peer, words, says):
    done = seed(*words)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_waits_while_a_node_loads_its_model(client, monkeypatch):
    states = ["configuring", "configuring", "inactive", "activating", "active", "active"]
    monkeypatch.setattr(client, "state", lambda *_: states.pop(0))
    assert client.wait_while_starting() == "active"
    assert not states
    monkeypatch.setattr(client, "state", lambda *_: "configuring")
    monkeypatch.setattr(client, "_timeout", 0.3)
    with pytest.raises(StremnError, match=r"waited 0\.3 s for /stremn to load its model"):
        client.wait_while_starting()


def test_a_seed_right_after_the_start_waits_for_the_model(peer, tmp_path):
    """As a user does who starts the node in one terminal and seeds in another."""
    with (
        segment_node(
            tmp_path, {"autostart": True, "seed_wait": 30.0}, remaps=["__node:=early"]
        ) as node,
        Flow(peer),
    ):
        done = seed("--box", "20,20,60,70", "--node", "/early")
        assert done.returncode == 0, done.stderr + node.log


def test_the_client_in_a_program(peer, client):
    assert client.connect() == "active"
    answer = client.seed_mask(scene(0)[1], ["cup", "box"])
    assert (answer.success, list(answer.ids)) == (True, [DISC, SQUARE])
    answer = client.seed_object(object_id=5, box=(20, 20, 60, 70), return_mask=True, on_overlap=2)
    assert answer.success, answer.message
    assert set(np.unique(decode_labels(answer.mask))) == {0, 5}
    assert list(client.remove(5).tracked_ids) == [DISC, SQUARE]
    assert client.enable(False).success
    assert client.enable(True).success
    with Flow(peer):
        assert client.image_size(60.0) == (120, 160)
    assert client.reset().success
    with pytest.raises(StremnError, match="a publisher of /nobody"):
        client.first_image("nobody", 0.2)


def test_masks_are_fitted_by_the_nearest_label():
    labels = np.zeros((90, 160), np.uint8)
    labels[30:60, 40:80] = 200
    fitted = fit_mask(labels, (45, 80))
    assert fitted.shape == (45, 80)
    assert np.unique(fitted).tolist() == [0, 200]
    assert fit_mask(labels, (90, 160)) is labels
    assert fit_mask(labels, (361, 640)).shape == (361, 640), "sides that were rounded"
    for size in ((160, 90), (90, 120)):
        with pytest.raises(InputError, match="they are of another shape"):
            fit_mask(labels, size)
