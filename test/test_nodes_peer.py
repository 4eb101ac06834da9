"""Service calls of a peer: a response that is lost, and one that never comes."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.task import Future  # noqa: E402

from stremn_ros.errors import StremnError  # noqa: E402
from stremn_ros.nodes.peer import Peer  # noqa: E402


class LossyPeer(Peer):
    """Without a node: the first responses never come."""

    def __init__(self, lost):
        self.lost, self.asked = lost, 0

    def ask(self, kind, name, request, timeout=60.0):
        self.asked += 1
        future = Future()
        if self.asked > self.lost:
            future.set_result(f"answer {self.asked}")
        return future


def test_a_request_that_may_be_made_twice_is_repeated_until_it_is_answered():
    peer = LossyPeer(lost=2)
    assert peer.call(None, "/x", None, 60.0, repeat=0.05) == "answer 3"
    assert peer.asked == 3


def test_others_are_made_once():
    peer = LossyPeer(lost=1)
    with pytest.raises(StremnError, match=r"/x did not answer within 0\.1 s"):
        peer.call(None, "/x", None, 0.1)
    assert peer.asked == 1
    with pytest.raises(StremnError, match="did not answer"):
        LossyPeer(lost=10**6).call(None, "/x", None, 0.2, repeat=0.05)
