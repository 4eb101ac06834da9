"""What others on a robot do: vanish, return, stop, die in the middle, jump in time, fill disks."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ros_helpers import (
    NodeProcess,
    SegmentPeer,
    image_message,
    segment_node,
    to_time,
    wait_for,
)
from rosgraph_msgs.msg import Clock
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene
from std_srvs.srv import Trigger

from stremn_interfaces.srv import SaveMemory, SeedMask
from stremn_ros.nodes.dds_profile import profile_environment

SECOND = 1_000_000_000
PROFILE = Path(__file__).resolve().parents[2] / "config" / "fastdds_shm.xml"

# Another process: a camera, a subscriber of masks, or a caller that waits for an answer. It says
# "ready" once it is at it.
OTHER = """
import sys, time
sys.path.insert(0, sys.argv[2])
import ros_helpers as helpers
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from shapes import scene
from stremn_interfaces.srv import SeedMask

peer = helpers.Peer("other")
if sys.argv[1] == "camera":
    images = peer.node.create_publisher(Image, "/image", 10)
    helpers.wait_for(images.get_subscription_count, "the node")
    stamp = time.time_ns()
    for step in range(10**6):
        images.publish(helpers.image_message(scene(step)[0], time.time_ns()))
        if step == 5:
            print("ready", flush=True)
        time.sleep(0.1)
elif sys.argv[1] == "subscriber":
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    peer.node.create_subscription(Image, "/stremn/mask", lambda mask: None, quality)
    helpers.wait_for(lambda: peer.node.count_publishers("/stremn/mask"), "the node")
    print("ready", flush=True)
    time.sleep(600)
else:
    mask = helpers.image_message(scene(0)[1], 12345, "mono8")  # waits for a frame that is not there
    answer = peer.call_later(SeedMask, "/stremn/seed_mask", mask=mask)
    print("ready", flush=True)
    answer(600)
"""


@contextlib.contextmanager
def other(what):
    """A process of its own that is at it; the block may kill it."""
    helpers = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, what, helpers],
        stdout=subprocess.PIPE,
        # helpers.py takes a domain of its own when it is imported: this one is told it
        env={**os.environ, "STREMN_TEST_DOMAIN": os.environ["ROS_DOMAIN_ID"]},
        text=True,
    )
    try:
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with segment_node(
        folder,
        {
            "seed_wait": 60.0,
            "frame_timeout": 1.0,
            "stale_after": 0.0,
            "snapshot_dir": str(folder / "snapshots"),
            "reset_on_time_jump": False,
        },
        # As the launch files start it. With Fast DDS's own 512 KB, what a subscriber that was
        # killed had not read yet stays in the node's shared memory, and a larger mask no longer
        # finds room there.
        environment=profile_environment(PROFILE),
    ) as process:
        process.snapshots = folder / "snapshots"
        yield process


@pytest.fixture(scope="module")
def peer(node):
    with SegmentPeer() as made:
        made.clock = made.node.create_publisher(Clock, "/clock", 10)
        made.bring_up(node)
        made.connect(scene(0)[0])
        yield made


@pytest.fixture
def tracked(peer):
    """Both objects are followed, and after the test they still are."""
    peer.segment(scene(0)[0])
    peer.seed(scene(0)[1], replace=True)
    yield peer
    labels, objects = follow(peer, range(20, 24))
    assert [item.id for item in objects.objects] == [DISC, SQUARE]
    assert min(iou(labels, scene(23)[1], number) for number in (DISC, SQUARE)) > 0.45


def follow(peer, steps):
    for step in steps:
        found = peer.segment(scene(step)[0])
    return found


def segmented(peer):
    return int(peer.fresh_diagnostics()["segmented"])


def test_a_camera_that_vanishes_and_returns(tracked, node):
    """Killed, so that it never says goodbye; the objects are followed by the next one's images."""
    for _ in range(2):
        with other("camera") as camera:
            enough = segmented(tracked) + 3
            wait_for(lambda enough=enough: segmented(tracked) > enough, "images of the new camera")
            camera.kill()
            camera.wait()
        wait_for(
            lambda: tracked.told.startswith("no image on /image for"),
            "the diagnostics to miss the camera",
        )
        assert tracked.fresh_diagnostics()["objects"] == "2 of 8"


def test_a_subscriber_that_is_stopped_or_killed_holds_up_nobody(tracked, node):
    with other("subscriber") as subscriber:
        follow(tracked, range(1, 4))
        subscriber.send_signal(signal.SIGSTOP)
        follow(tracked, range(4, 16))  # each waits for its mask here
        subscriber.send_signal(signal.SIGCONT)
        follow(tracked, range(16, 18))
        subscriber.send_signal(signal.SIGSTOP)
        subscriber.kill()
        subscriber.wait()
        follow(tracked, range(18, 20))
    received, done, dropped, failed = tracked.settled_counters()
    assert received == done + dropped + failed
    assert failed == 0


def test_a_caller_that_dies_before_its_answer(tracked, node):
    """Its call holds the services until a frame comes, and then nobody takes the answer."""
    with other("caller") as caller:
        caller.kill()
        caller.wait()
    follow(tracked, range(1, 4))
    assert tracked.call(SaveMemory, "/stremn/save_memory").success
    mask = image_message(scene(3)[1], 0, "mono8")
    assert tracked.call(SeedMask, "/stremn/seed_mask", mask=mask).success


def test_the_clock_jumps(tracked, node):
    assert tracked.set_parameter("use_sim_time", True) == (True, "")
    try:
        for seconds in (1_000_000_000, 5, 2_000_000_000, 0, 1_700_000_000):
            tracked.clock.publish(Clock(clock=to_time(seconds * SECOND)))
            follow(tracked, range(1, 3))
            assert tracked.fresh_diagnostics()["objects"] == "2 of 8"
    finally:
        assert tracked.set_parameter("use_sim_time", False) == (True, "")
    # stamps of the images as well: to the end of time, and to its beginning
    for stamp in (2**31 * SECOND - 1, 2, 5 * SECOND):
        before = tracked.settled_counters()[0]
        tracked.publish(scene(1)[0], stamp - 1)  # back in time one stamp alone proves nothing
        wait_for(lambda b=before: tracked.settled_counters()[0] > b, "the image to be received")
        tracked.masks.pop(stamp, None)
        tracked.segment(scene(1)[0], stamp)
    assert tracked.fresh_diagnostics()["objects"] == "2 of 8"
    tracked.next_stamp(3 * SECOND)


def test_the_size_of_the_images_changes_all_the_time(tracked, node):
    rng = np.random.default_rng(5)
    for _ in range(8):
        size = int(rng.integers(20, 300)), int(rng.integers(20, 300))
        labels, _ = tracked.segment(np.full((*size, 3), 90, np.uint8))
        assert labels.shape == size
    follow(tracked, range(1, 3))


def test_a_disk_that_is_full_or_read_only(tracked, node):
    assert tracked.call(SaveMemory, "/stremn/save_memory").success
    file = node.snapshots / "stremn.safetensors"
    content = file.read_bytes()
    pid = node.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        answer = tracked.call(SaveMemory, "/stremn/save_memory")
        assert not answer.success
        assert "cannot be written" in answer.message
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == content
    follow(tracked, range(1, 3))
    assert tracked.call(SaveMemory, "/stremn/save_memory").success
    assert [path.name for path in node.snapshots.iterdir()] == ["stremn.safetensors"]


def test_a_folder_for_snapshots_that_nothing_can_be_written_to(tmp_path):
    """/proc takes no folders, even of root; the node works all the same, and says why."""
    node = NodeProcess(
        "segment_node",
        tmp_path,
        {
            "model": str(TINY_MODEL),
            "runtime": "torch",
            "image_reliability": "reliable",
            "diagnostics_period": 0.1,
            "snapshot_dir": "/proc/stremn",
            "autosave_period": 0.1,
            "autosave_at_stop": True,
            "autoload": True,
        },
        remaps=["__node:=sealed", "image:=/sealed/image"],
    )
    peer = SegmentPeer("/sealed/image", "/sealed")
    try:
        assert peer.transition("configure", "/sealed"), node.log
        assert peer.transition("activate", "/sealed"), node.log
        peer.connect(scene(0)[0])
        mask = image_message(scene(0)[1], 0, "mono8")
        assert peer.call(SeedMask, "/sealed/seed_mask", mask=mask).success
        for step in range(1, 4):
            _, objects = peer.segment(scene(step)[0])
        assert [item.id for item in objects.objects] == [DISC, SQUARE]
        answer = peer.call(SaveMemory, "/sealed/save_memory")
        assert not answer.success
        assert "the folder /proc/stremn cannot be made" in answer.message
        wait_for(
            lambda: "autosave failed" in peer.told,
            "the diagnostics to tell",
        )
        assert peer.call(Trigger, "/sealed/reset").success
    finally:
        peer.close()
        code = node.stop()
    assert code == 0, node.log
    assert "Traceback" not in node.log
