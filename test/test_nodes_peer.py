"""Service calls of a peer: a response that is lost, and one that never comes."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.task import Future  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from stremn_ros.client import bring_up, peer  # noqa: E402
from stremn_ros.client.peer import Peer, check_name  # noqa: E402
from stremn_ros.errors import InputError, StremnError  # noqa: E402


class LossyPeer(Peer):
    """Without a node: the first responses never come."""

    def __init__(self, lost):
        self.lost, self.asked = lost, 0

    def greet(self, kind, name, timeout=60.0):
        pass

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


@pytest.fixture
def served():
    """(the client's peer, the server's, the names of the services that were asked in turn)"""
    asked, server, client = [], Peer("greeted"), Peer("greeting")

    def answer(name):
        def answered(request, response):
            asked.append(name)
            return response

        return answered

    for name in ("/greeted/reset", "/greeted/left/reset", "/other/reset"):
        server.node.create_service(Trigger, name, answer(name))
    yield client, server, asked
    client.close()
    server.close()


@pytest.mark.parametrize("name", ["/greeted/reset", "/greeted/left/reset"])
def test_a_request_is_made_when_the_node_has_answered_another(served, name):
    client, _, asked = served
    told = []
    ask = client.ask
    client.ask = lambda *words: told.append(client._greetings[name].srv_name) or ask(*words)
    for _ in range(2):
        client.call(Trigger, name, Trigger.Request(), 30.0)
    assert told == ["/greeted/get_parameter_types"] * 2
    assert asked == [name, name]
    assert len(client._greetings) == 1


def test_a_node_that_answers_no_greeting_is_asked_all_the_same(served, monkeypatch):
    client, _, asked = served
    client.call(Trigger, "/other/reset", Trigger.Request(), 30.0)  # no parameters of such a node
    assert client._greetings == {"/other/reset": None}
    monkeypatch.setattr(peer, "GREETING", 0.5)
    monkeypatch.setattr(client, "_question", lambda name: "/nobody/get_parameter_types")
    client.call(Trigger, "/greeted/reset", Trigger.Request(), 30.0)
    assert asked == ["/other/reset", "/greeted/reset"]


def test_a_policy_that_forbids_the_greeting_does_not_forbid_the_request(served, monkeypatch):
    client, _, asked = served
    client._client(Trigger, "/greeted/reset", 30.0)

    def forbidden(*words):
        raise RuntimeError("could not create the client: not allowed by the policy")

    monkeypatch.setattr(client.node, "create_client", forbidden)
    client.call(Trigger, "/greeted/reset", Trigger.Request(), 30.0)
    assert asked == ["/greeted/reset"]
