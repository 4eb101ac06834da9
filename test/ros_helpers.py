"""For tests over real DDS: a node as a process, and this process as its peer.

Everything waits on conditions with generous time limits; nothing sleeps to synchronise.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time
from collections import defaultdict
from pathlib import Path

# Set before rclpy starts, for this process and all the nodes it starts. A process that a test
# starts to import this as well is told the test's.
# The next domain is that of `own_node`; each worker of pytest-xdist has two of its own.
os.environ["ROS_DOMAIN_ID"] = os.environ.get("STREMN_TEST_DOMAIN") or str(
    8 * random.SystemRandom().randint(0, 11)
    + 2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    + 1
)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from shapes import TINY_MODEL

from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import SeedMask
from stremn_ros.client import node_process, peer
from stremn_ros.messages import image_read, image_write

TIMEOUT = 180.0  # a machine that is busy with other things may take minutes to start a node
SECOND = 1_000_000_000
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "unconfigured_shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive_shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active_shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


def wait_for(condition, what, timeout=TIMEOUT, every=0.005):
    """The first true value of `condition()`; fails the test, naming `what`, after `timeout` s."""
    return peer.wait_for(condition, what, timeout, every)


def to_time(stamp: int) -> Time:
    return Time(sec=stamp // SECOND, nanosec=stamp % SECOND)


def to_stamp(message: Time) -> int:
    return message.sec * SECOND + message.nanosec


def image_message(array, stamp=0, encoding="rgb8", frame_id="camera", **options) -> Image:
    message = Image()
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame_id
    return image_write.encode(message, array, encoding, **options)


def tiny_model(folder: Path) -> str:
    """A model folder with random weights that loads and runs fast."""
    import torch

    from stremn_ros.model_folder import save_model
    from stremn_ros.network import SegmentationConfig, SegmentationNetwork

    torch.manual_seed(0)
    config = SegmentationConfig(
        template_channels=32,
        key_channels=16,
        value_channels=32,
        query_channels=32,
        decoder_channels=(32, 16, 16),
    )
    save_model(folder, SegmentationNetwork(config), {"slots": 5, "processing_size": 96})
    return str(folder)


class Background:
    """A thread that runs `run` until the block ends, which sets `ended`."""

    def __enter__(self):
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self.run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self._thread.join()


@contextlib.contextmanager
def own_node(*parameters, arguments=(), kind=None):
    """A SegmentNode in this process (or another kind of node), in a DDS domain of its own: what is
    left of it until the garbage collector comes would still offer /stremn's services, and answer
    none, to other tests.
    """
    from stremn_ros.nodes.segment_node import SegmentNode

    gc.collect()  # of one before that a failed test still held
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]) % 100 + 1)
    words = ["--ros-args", *arguments]
    for parameter in parameters:
        words += ["-p", parameter]
    node = (kind or SegmentNode)(context=context, cli_args=words)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
        del node
        gc.collect()


class NodeProcess(node_process.NodeProcess):
    """A node of the package as a process of its own, with its log in a folder."""

    def __init__(self, module, folder: Path, parameters=None, remaps=(), environment=None):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            module,
            folder / f"{module}_{time.monotonic_ns()}.log",
            parameters,
            remaps,
            # One thread each for the network here and there: the same sums in the same order, so
            # that masks can be compared bit for bit.
            {"OMP_NUM_THREADS": "1", "ROS_LOG_DIR": str(folder), **(environment or {})},
        )


@contextlib.contextmanager
def segment_node(folder: Path, parameters=None, *, remaps=(), environment=None):
    """The process of a segmentation node with the tiny model, told all; it must end cleanly."""
    node = NodeProcess(
        "segment_node",
        folder,
        {
            "model": str(TINY_MODEL),
            "click_model": "",  # the colored shapes are what GrabCut is made for
            "runtime": "torch",
            "image_reliability": "reliable",
            "diagnostics_period": 0.1,
            "log_period": 0.0,
            **(parameters or {}),
        },
        remaps,
        environment,
    )
    try:
        yield node
    finally:
        code = node.stop()
    assert code == 0, node.log[-4000:]
    assert "Traceback" not in node.log


class Peer(peer.Peer):
    """With the calls that tests make of nodes; a context manager."""

    def __init__(self, name="peer"):
        super().__init__(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, kind, name, request=None, /, timeout=TIMEOUT, repeat=None, **fields):
        """A service call from this process to another."""
        request = request if request is not None else kind.Request(**fields)
        return super().call(kind, name, request, timeout, repeat)

    def call_later(self, kind, name, request=None, /, **fields):
        """Sends the request; the function returned waits for the response."""
        self.greet(kind, name, TIMEOUT)
        future = self.ask(kind, name, request if request is not None else kind.Request(**fields))

        def response(timeout=TIMEOUT):
            wait_for(future.done, f"{name} to answer", timeout)
            return future.result()

        return response

    # -- lifecycle and parameters

    def state(self, node="/stremn") -> str:
        return super().state(node, TIMEOUT)

    def transition(self, name, node="/stremn") -> bool:
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        return self.call(ChangeState, f"{node}/change_state", request).success

    def bring_up(self, process, node="/stremn"):
        """Configures and activates; process: whose log tells why not."""
        for step in ("configure", "activate"):
            assert self.transition(step, node), process.log

    def set_parameter(self, name, value, node="/stremn"):
        """(successful, reason)"""
        parameter = Parameter(name, value=value).to_parameter_msg()
        response = self.call(SetParameters, f"{node}/set_parameters", parameters=[parameter])
        return response.results[0].successful, response.results[0].reason

    def get_parameter(self, name, node="/stremn"):
        response = self.call(GetParameters, f"{node}/get_parameters", names=[name])
        return rclpy.parameter.parameter_value_to_python(response.values[0])

    def describe(self, names, node="/stremn"):
        return self.call(
            DescribeParameters, f"{node}/describe_parameters", names=list(names)
        ).descriptors


class SegmentPeer(Peer):
    """The peer of a segment node: sends images, collects masks, objects and diagnostics."""

    def __init__(self, image_topic="/image", node="/stremn", camera=""):
        super().__init__(f"segment_peer_{camera}" if camera else "segment_peer")
        self.private = f"{node}/{camera}" if camera else node
        of = f" of {camera}" if camera else ""
        self._status_name = f"{node.lstrip('/')}: segmentation{of}"
        self.masks: dict[int, Image] = {}
        self.objects: dict[int, ObjectArray] = {}
        self.overlays: list[Image] = []
        # a key that is not there yet is empty: who waits for a value may ask before the first comes
        self.diagnostics = defaultdict(str)
        self.status = None
        self.status_count = 0
        self._overlay_subscription = None
        self._stamp = 1_000 * SECOND
        self.images = self.node.create_publisher(Image, image_topic, 10)
        self.queue = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(Image, f"{self.private}/mask", self._on_mask, self.queue)
        self.objects_subscription = self.node.create_subscription(
            ObjectArray, f"{self.private}/objects", self._on_objects, self.queue
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def _on_mask(self, message):
        self.masks[to_stamp(message.header.stamp)] = message

    def _on_objects(self, message):
        self.objects[to_stamp(message.header.stamp)] = message

    def _on_diagnostics(self, message):
        for status in message.status:
            if status.name == self._status_name:
                values = {item.key: item.value for item in status.values}
                self.diagnostics = defaultdict(str, values)
                self.status = status
                self.status_count += 1

    def subscribe_overlay(self):
        self._overlay_subscription = self.node.create_subscription(
            Image, f"{self.private}/overlay", self.overlays.append, self.queue
        )

    def unsubscribe_overlay(self):
        self.node.destroy_subscription(self._overlay_subscription)

    def next_stamp(self, step=100_000_000) -> int:
        self._stamp += step
        return self._stamp

    def publish(self, array, stamp=None, encoding="rgb8", **options) -> int:
        stamp = self.next_stamp() if stamp is None else stamp
        self.images.publish(image_message(array, stamp, encoding, **options))
        return stamp

    def publish_message(self, message) -> int:
        """Sends a message as it is, but for a stamp of its own."""
        stamp = self.next_stamp()
        message.header.stamp = to_time(stamp)
        self.images.publish(message)
        return stamp

    def segment(self, array, stamp=None, encoding="rgb8", **options):
        """Sends one frame and waits for its mask: (labels, objects)."""
        stamp = self.publish(array, stamp, encoding, **options)
        wait_for(
            lambda: stamp in self.masks and stamp in self.objects,
            f"the mask of the frame {stamp}; the last diagnostics: {self.describe_status()}",
        )
        return image_read.decode_labels(self.masks[stamp]), self.objects[stamp]

    def connect(self, array):
        """Sends frames until the first mask comes: then both ways are known to work."""
        sent = set()

        def answered():
            sent.add(self.publish(array))
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                # of any: on a busy machine a frame may take longer than a second
                if sent & self.masks.keys() & self.objects.keys():
                    return True
                time.sleep(0.005)
            return False

        wait_for(answered, f"the first mask; the last diagnostics: {self.describe_status()}")

    def seed(self, truth, stamp=0, **fields):
        """Objects from a label mask; the answer, which must be a success."""
        mask = image_message(truth, stamp, "mono8")
        answer = self.call(SeedMask, f"{self.private}/seed_mask", mask=mask, **fields)
        assert answer.success, answer.message
        return answer

    @property
    def told(self):
        """All reasons in the diagnostics: which stands first depends on what else is the matter."""
        status = self.status
        if status is None:
            return ""
        also = (item.value for item in status.values if item.key == "also")
        return " | ".join([status.message, *also])

    def fresh_diagnostics(self):
        """The first diagnostics whose making began after this call."""
        before = self.status_count
        wait_for(lambda: self.status_count >= before + 2, "diagnostics")
        return self.diagnostics

    def settled_counters(self):
        """(received, segmented, dropped, failed) once nothing waits and nothing is in work."""

        def settled():
            values = self.fresh_diagnostics()
            return values if values["waiting"] == values["in work"] == "0" else None

        values = wait_for(settled, "the node to be idle")
        return tuple(int(values[key]) for key in ("received", "segmented", "dropped", "failed"))

    def describe_status(self):
        return self.status and (self.status.message, self.diagnostics)
