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
from rclpy.executors import SingleThreadedExecutor

from stremn_ros.errors import InputError, StremnError
from stremn_ros.nodes.entry import init, shut_down
from stremn_ros.nodes.spinning import Spinning

Result = TypeVar("Result")


def check_name(name: str, what: str) -> None:
    """InputError where `name` cannot be the name of `what`: a node, a topic, a camera."""
    if not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name, re.ASCII):
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
    """An rclpy node with its own context, spinning in a thread; `node` makes subscriptions."""

    def __init__(self, name: str) -> None:
        self._context = rclpy.Context()
        init(context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._spinning = Spinning(executor, self.node.get_logger().error)

    def ask(self, kind: Any, name: str, request: Any, timeout: float = 60.0) -> Any:
        """The future of a service's response, with the request sent.

        Raises:
            StremnError: the service was not there within `timeout` seconds.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name)
        wait_for(client.service_is_ready, f"the service {name}", timeout)
        return client.call_async(request)

    def call(
        self, kind: Any, name: str, request: Any, timeout: float = 60.0, repeat: float | None = None
    ) -> Any:
        """The response of a service; StremnError when none comes within `timeout` seconds.

        repeat: ask again after so many seconds without one, for requests that may be made twice.
        The first response to a new client is lost where the server, on a busy machine, has not
        discovered its reader yet: rmw_fastrtps waits 0.1 s for that and gives up.
        """
        end = time.monotonic() + timeout
        answers: SimpleQueue[Any] = SimpleQueue()
        while (left := end - time.monotonic()) > 0:
            self.ask(kind, name, request, left).add_done_callback(answers.put)
            left = max(0.0, end - time.monotonic())
            with contextlib.suppress(Empty):
                return answers.get(timeout=left if repeat is None else min(left, repeat)).result()
        raise StremnError(
            f"{name} did not answer within {timeout:g} s. It may still do what was asked: look at "
            "its log or its objects before you ask again, or wait longer"
        )

    def state(self, node: str, timeout: float = 60.0) -> str:
        """The state of a lifecycle node, e.g. "active". Asked first, it makes sure that the node
        has discovered this peer."""
        request = GetState.Request()
        answer = self.call(GetState, f"{node}/get_state", request, timeout, 5.0)
        return str(answer.current_state.label)

    def close(self) -> None:
        self._spinning.stop()
        self.node.destroy_node()
        shut_down(self._context)
