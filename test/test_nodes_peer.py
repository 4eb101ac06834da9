"""Service calls of a peer: a response that is lost, and one that never comes."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")

import numpy as np  # noqa: E402
from rclpy.task import Future  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from stremn_ros.client import bring_up, peer  # noqa: E402
from stremn_ros.client.peer import Peer, check_name  # noqa: E402
from stremn_ros.client.segment_client import SegmentClient  # noqa: E402
from stremn_ros.errors import InputError, StremnError  # noqa: E402
from stremn_ros.nodes.entry import init  # noqa: E402


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


@pytest.mark.filterwarnings("ignore:Failed to fini rosout")  # rclpy's, of the name too long
@pytest.mark.parametrize("name", ["my client", "", "a/b", "/a", "x" * 300, None])
def test_a_name_of_an_own_node_that_is_none_is_said_and_leaves_nothing_open(name, monkeypatch):
    contexts = []
    monkeypatch.setattr(
        peer, "init", lambda context: contexts.append(context) or init(context=context)
    )
    with pytest.raises(InputError, match="cannot be the name of a node"):
        Peer(name)
    assert not any(context.ok() for context in contexts)


def test_a_call_after_the_end_is_said_and_a_second_end_does_nothing():
    closed = SegmentClient(name="closed", timeout=1.0)
    closed.close()
    closed.close()
    for call in (
        closed.connect,
        closed.reset,
        lambda: closed.remove(1),
        lambda: closed.image_size(0.1),
        lambda: closed.first_image("/x", 0.1),
        lambda: closed.ask(Trigger, "/x", Trigger.Request(), 0.1),
    ):
        with pytest.raises(StremnError, match="was closed: make another"):
            call()


class Recorder(SegmentClient):
    """Keeps the requests instead of sending them."""

    def __init__(self):
        self.sent = []

    def _call(self, kind, service, request):
        self.sent.append(request)
        return request


@pytest.mark.parametrize("box", [np.array([210, 120, 90, 110]), (210.0, 120, np.float32(90), 110)])
def test_whole_numbers_of_any_type_are_sent(box):
    client = Recorder()
    sent = client.seed_object(object_id=np.int64(3), box=box).box
    assert (sent.x_offset, sent.y_offset, sent.width, sent.height) == (210, 120, 90, 110)
    assert all(type(value) is int for value in (sent.x_offset, client.sent[0].id))
    assert client.remove(2.0).id == 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.seed_object(box=(210.5, 1, 2, 3)), "x_offset is 210.5; it must be a whole"),
        (lambda c: c.seed_object(box=(-3, 1, 2, 3)), "x_offset is -3"),
        (lambda c: c.seed_object(box=(1, 2, float("nan"), 3)), "width is nan"),
        (lambda c: c.seed_object(box=(1, 2, 3, float("inf"))), "height is inf"),
        (lambda c: c.seed_object(box=(1, 2, 3, 2**32)), "height is 4294967296"),
        (lambda c: c.seed_object(box=(1, 2, 3)), r"box is \(1, 2, 3\); it must be \(x, y, width"),
        (lambda c: c.seed_object(box=5), "box is 5"),
        (lambda c: c.seed_object(box="1234"), "x_offset is '1'"),
        (lambda c: c.seed_object(object_id=2**31, inside=[(1, 2)]), "object_id is 2147483648"),
        (lambda c: c.seed_object(object_id="3", inside=[(1, 2)]), "object_id is '3'"),
        (lambda c: c.seed_object(name=None, inside=[(1, 2)]), "name is None; it must be a text"),
        (lambda c: c.seed_object(name="a\udc80", inside=[(1, 2)]), "it must be a text"),
        (lambda c: c.seed_object(inside=(80, 60)), r"inside: a list of \(x, y\) pairs"),
        (lambda c: c.seed_object(polygon=[(1,)]), r"polygon: a list of \(x, y\) pairs"),
        (lambda c: c.seed_object(inside=[(1, 2)], on_overlap=-1), "on_overlap is -1"),
        (lambda c: c.seed_mask(np.ones((2, 3), np.uint8), "cup"), "names is the text 'cup'"),
        (lambda c: c.seed_mask(np.ones((2, 3), np.uint8), [None]), "a name is None"),
        (lambda c: c.remove(2.5), "object_id is 2.5"),
        (lambda c: c.remove(-1), "object_id is -1"),
        (lambda c: c.save(None), "path is None"),
        (lambda c: c.load(3), "path is 3"),
    ],
)
def test_what_a_request_cannot_carry_is_said_and_not_sent(call, said):
    client = Recorder()
    with pytest.raises(InputError, match=said):
        call(client)
    assert not client.sent


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
