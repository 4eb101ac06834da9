"""A node that lives beside other work in a process: for programs that call services of nodes."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import rclpy
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameterTypes
from rclpy.exceptions import InvalidNodeNameException
from rclpy.executors import SingleThreadedExecutor

from stremn_ros.errors import InputError, StremnError
from stremn_ros.nodes.entry import init, shut_down
from stremn_ros.nodes.spinning import Spinning

Result = TypeVar("Result")

AGAIN = 1.0  # seconds until a question that may be asked twice is asked again
LONGEST = 1e8  # seconds that a wait may take at once, for a clock that counts not much farther
GREETING = 10.0  # seconds that a node may take to answer the first question; then on without


def check_name(name: str, what: str) -> None:
    """InputError where `name` cannot be the name of `what`: a node, a topic, a camera."""
    if not isinstance(name, str) or not re.fullmatch(
        r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name, re.ASCII
    ):
        raise InputError(
            f"{name!r} cannot be the name of {what}: each part between '/' begins with a letter "
            "or '_' and has letters, digits and '_' only, as in /robot1/stremn"
        )


def wait_for(
    condition: Callable[[], Result], what: str, timeout: float, every: float = 0.01
) -> Result:
    """The first true value of `condition()`; StremnError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise StremnError(f"waited {timeout:g} s for {what}")
        time.sleep(every)


class Peer:
    """An rclpy node with its own context, spinning in a thread; `node` makes subscriptions.

    Raises:
        InputError: `name` cannot be the name of a node.
        StremnError: ROS cannot be started here; of each call: this peer was closed.
    """

    _closed = False

    def __init__(self, name: str) -> None:
        check_name(name, "a node")
        if "/" in name:
            raise InputError(f"{name!r} cannot be the name of a node made here: leave out the '/'")
        self._context = rclpy.Context()
        init(context=self._context)
        try:
            self.node = rclpy.create_node(name, context=self._context)
        except InvalidNodeNameException as error:  # too long
            shut_down(self._context)
            raise InputError(f"{name!r} cannot be the name of a node: {error}") from None
        except BaseException:
            shut_down(self._context)
            raise
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        # kept to the end: rclpy does not bear that one is destroyed while another thread spins
        self._greetings: dict[str, Any] = {}
        self._spinning = Spinning(executor, self.node.get_logger().error)

    def ask(self, kind: Any, name: str, request: Any, timeout: float = 60.0) -> Any:
        """The future of a service's response, with the request sent.

        Raises:
            StremnError: the service was not there within `timeout` seconds.
        """
        return self._client(kind, name, timeout).call_async(request)

    def greet(self, kind: Any, name: str, timeout: float = 60.0) -> None:
        """Makes sure that the response to the first request of a service can arrive.

        rmw_fastrtps drops a response where the node has not discovered the client's reader within
        0.1 s, as on a busy machine. DDS announces the readers of a process in the order in which
        they were made. So a node that answers a client made later knows this one, too: it is
        asked for the types of no parameters, again and again until it answers. A node without that
        service, one that this process may not ask (SROS 2) and one that is busy with something
        else for ten seconds are not waited for.

        Raises:
            StremnError: the service was not there within `timeout` seconds.
        """
        end = time.monotonic() + min(timeout, GREETING)
        self._client(kind, name, timeout)
        if name in self._greetings:
            return
        self._greetings[name] = None
        question = self._question(name)
        if question is None:
            return
        # RuntimeError: rclpy's, where a policy forbids the client
        with contextlib.suppress(RuntimeError, StremnError):
            client = self._greetings[name] = self.node.create_client(GetParameterTypes, question)

            def ask(left: float) -> Any:
                wait_for(client.service_is_ready, f"the service {question}", left)
                return client.call_async(GetParameterTypes.Request())

            _answer(ask, question, GREETING, AGAIN, end)

    def _question(self, name: str) -> str | None:
        """The name of the service that tells types of parameters, of the node with service `name`;
        None where it has none. A node makes it before its own, so it is known by now."""
        offered = {found for found, _ in self.node.get_service_names_and_types()}
        above = self.node.resolve_service_name(name)
        while above := above.rpartition("/")[0]:
            if f"{above}/get_parameter_types" in offered:
                return f"{above}/get_parameter_types"
        return None

    def _client(self, kind: Any, name: str, timeout: float) -> Any:
        self._check_open()
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name)
        wait_for(client.service_is_ready, f"the service {name}", timeout)
        return client

    def call(
        self, kind: Any, name: str, request: Any, timeout: float = 60.0, repeat: float | None = None
    ) -> Any:
        """The response of a service; StremnError when none comes within `timeout` seconds.

        repeat: ask again after so many seconds without one, for requests that may be made twice.
        Others are made once, and only after the node has discovered this client (`greet`).
        """
        end = time.monotonic() + timeout
        if repeat is None:
            self.greet(kind, name, timeout)
        return _answer(lambda left: self.ask(kind, name, request, left), name, timeout, repeat, end)

    def state(self, node: str, timeout: float = 60.0) -> str:
        """The state of a lifecycle node, e.g. "active". Asked first, it makes sure that the node
        has discovered this peer."""
        request = GetState.Request()
        answer = self.call(GetState, f"{node}/get_state", request, timeout, 5.0)
        return str(answer.current_state.label)

    def _check_open(self) -> None:
        if self._closed:
            raise StremnError("this client was closed: make another one")

    def close(self) -> None:
        """Ends it; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._spinning.stop()
        self.node.destroy_node()
        shut_down(self._context)


def _answer(
    ask: Callable[[float], Any], name: str, timeout: float, repeat: float | None, end: float
) -> Any:
    """The response of a service until `end` (monotonic), with the words that `Peer.call` has.

    ask: sends the request, with the seconds that are left, and returns its future.
    """
    answers: SimpleQueue[Any] = SimpleQueue()
    while (left := end - time.monotonic()) > 0:
        ask(left).add_done_callback(answers.put)
        left = max(0.0, end - time.monotonic())
        with contextlib.suppress(Empty):
            return answers.get(timeout=min(left, repeat or LONGEST)).result()
    raise StremnError(
        f"{name} did not answer within {timeout:g} s. It may still do what was asked: look at "
        "its log or its objects before you ask again, or wait longer"
    )
