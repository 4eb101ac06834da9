"""Compressed images through real DDS: the masks of the same picture sent raw, and bad data told."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from ros_helpers import SegmentPeer, image_message, segment_node, to_time, wait_for
from sensor_msgs.msg import CompressedImage
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

from stremn_interfaces.srv import SeedMask
from stremn_ros.messages import compressed_read, image_read
from stremn_ros.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


class CompressedPeer(SegmentPeer):
    """Sends what `publish` is given as JPEG or PNG, or bytes as they are."""

    def __init__(self):
        super().__init__("/unused")
        self.images = self.node.create_publisher(CompressedImage, "/camera/image/compressed", 10)
        self.last = None

    def publish(self, picture, stamp=None, encoding=".png", **_):
        stamp = self.next_stamp() if stamp is None else stamp
        encoding = ".png" if encoding == "rgb8" else encoding  # what `segment` says if not told
        message = CompressedImage(format=f"rgb8; {encoding[1:]} compressed bgr8")
        message.header.stamp = to_time(stamp)
        message.header.frame_id = "camera"
        data = picture
        if isinstance(picture, np.ndarray):
            data = cv2.imencode(encoding, np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
        message.data = array.array("B", data)
        self.last = message
        self.images.publish(message)
        return stamp


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    parameters = {"image_transport": "compressed"}
    with segment_node(folder, parameters, remaps=["image:=/camera/image"]) as process:
        yield process


def test_masks_of_compressed_images(node):
    with CompressedPeer() as peer:
        reference = Segmenter.load(str(TINY_MODEL), runtime="torch")
        assert peer.transition("configure"), node.log
        assert peer.transition("activate"), node.log
        node.wait_for_log("waiting for images on /camera/image/compressed")
        mask = image_message(scene(0)[1], 0, "mono8")
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask)
        assert "no frame received yet on /camera/image/compressed" in answer.message
        peer.connect(scene(0)[0])
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask)
        assert answer.success, answer.message
        reference.seed(*scene(0))
        bytes_kept = []
        for step in range(1, 11):
            kind = ".png" if step % 2 else ".jpg"
            labels, objects = peer.segment(scene(step)[0], encoding=kind)
            bytes_kept.append(len(peer.last.data))
            sent = compressed_read.decode_rgb(peer.last)
            assert (kind == ".png") == np.array_equal(sent, scene(step)[0])
            expected = reference.step(sent)
            np.testing.assert_array_equal(labels, expected.labels)
            assert objects.header.frame_id == "camera"
            assert iou(labels, scene(step)[1], DISC) > 0.5
        assert [item.id for item in objects.objects] == [DISC, SQUARE]
        # what cannot be read: counted, told, and no object notices
        good = bytes(peer.last.data)
        before = peer.settled_counters()
        cases = {
            b"": "the compressed image has no data",
            good[:-200]: "the JPEG is cut short",
            b"GIF89a": "begins with 47 49 46 38, which is neither JPEG nor PNG",
            bytes(image_message(scene(0)[0]).data): "begins with 5a 5a 5a 5a, which is neither",
        }
        for step, (data, text) in enumerate(cases.items(), 11):
            peer.publish(data)
            wait_for(lambda text=text: text in peer.diagnostics.get("last error", ""), text)
            labels, _ = peer.segment(scene(step)[0])
            np.testing.assert_array_equal(labels, reference.step(scene(step)[0]).labels)
        change = [new - old for new, old in zip(peer.settled_counters(), before)]
        assert change == [2 * len(cases), len(cases), 0, len(cases)]
        # the buffer keeps them compressed, and a seed for the past works on them
        values = peer.fresh_diagnostics()
        assert int(values["seed buffer [bytes]"]) < 30 * scene(0)[0].nbytes / 10
        stamp = peer.publish(scene(15)[0])
        wait_for(lambda: stamp in peer.masks, "a mask")
        for step in (16, 17):
            peer.segment(scene(step)[0])
        mask = image_message(scene(15)[1], stamp, "mono8")
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask, replace=True)
        assert answer.success, answer.message
        assert "carried forward through 2 of the 2 frames" in answer.message
        # a mask that is no mask: masks are always raw images
        bad = image_message(scene(15)[1], stamp, "mono8")
        bad.encoding = "jpeg"
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=bad)
        assert "a mask cannot be of encoding 'jpeg'" in answer.message
        assert image_read.decode_labels(peer.masks[stamp]).any()
