"""Service calls of a peer: a response that is lost, and one that never comes."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.task import Future  # noqa: E402

from stremn_ros.client import bring_up  # noqa: E402
from stremn_ros.client.peer import Peer, check_name  # noqa: E402
from stremn_ros.errors import InputError, StremnError  # noqa: E402


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


@pytest.mark.parametrize("name", ["/stremn", "stremn", "/robot_1/stremn", "_x/y2", "image"])
def test_names_of_ros(name):
    check_name(name, "a node")


@pytest.mark.parametrize(
    "name", ["", "/", "/1bad", "/a b", "a//b", "/a/", "~/x", "gr\u00f6n", "a-b"]
)
def test_what_is_no_name_is_said(name):
    with pytest.raises(InputError, match="cannot be the name of a node: each part between"):
        check_name(name, "a node")


def test_a_wrong_name_is_not_waited_for(capfd):
    assert bring_up.main(["/1bad"]) == 1
    assert "'/1bad' cannot be the name of a node" in capfd.readouterr().err


def test_others_are_made_once():
    peer = LossyPeer(lost=1)
    with pytest.raises(StremnError, match=r"/x did not answer within 0\.1 s"):
        peer.call(None, "/x", None, 0.1)
    assert peer.asked == 1
    with pytest.raises(StremnError, match="did not answer"):
        LossyPeer(lost=10**6).call(None, "/x", None, 0.2, repeat=0.05)
