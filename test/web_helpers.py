"""The live page's server in a thread, with a source that the test holds in its hands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from shapes import scene

from stremn_ros.errors import InputError
from stremn_ros.web.access import Access
from stremn_ros.web.requests import ACTIONS, Request
from stremn_ros.web.server import PageServer
from stremn_ros.web.source import Picture

PATIENCE = 60.0


class FakeSource:
    """A source of the scene's pictures; `requests` are those that came."""

    title = "a <b>test</b>"
    abilities = frozenset(ACTIONS) - {"ack", "export"}

    def __init__(self) -> None:
        self.newest: Picture | None = None
        self.stopped = False
        self.requests: list[Request] = []
        self.work: Callable[[Request], None] = lambda request: None
        self._changed: Callable[[], None] = lambda: None

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def show(self, number: int) -> None:
        frame, truth = scene(number)
        self.newest = Picture(
            number, 10**18 + number, frame, truth, ({"id": 1, "name": "x", "state": "TRACKED"},)
        )
        self._changed()

    def status(self) -> dict[str, Any]:
        return {"playing": True, "dropped": 0, "live": True, "problem": "", "stopped": self.stopped}

    def do(self, request: Request) -> dict[str, Any]:
        self.requests.append(request)
        self.work(request)
        if request.do == "remove" and request.object_id == 9:
            raise InputError("object 9 is not tracked")
        return {"message": "done"}

    def close(self) -> None:
        pass


@contextlib.contextmanager
def serving(source: Any, host: str = "127.0.0.1", port: int = 0) -> Iterator[PageServer]:
    """The server until the block ends; port 0: a free one. What its thread raises is raised.

    source: one, or several by the name on their tabs.
    """
    sources = source if isinstance(source, dict) else {"": source}
    server = PageServer(sources, Access(host), port)
    ready = threading.Event()
    ends: list[Callable[[], None]] = []
    raised: list[BaseException] = []

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        await server.run(stop, ready.set)

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            raised.append(error)
            ready.set()

    worker = threading.Thread(target=thread)
    worker.start()
    try:
        assert ready.wait(PATIENCE)
        if not raised:
            yield server
    finally:
        ends[0]()
        worker.join(PATIENCE)
        assert not worker.is_alive(), "the server does not end"
        if raised:
            raise raised[0]


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {timeout:g} s for {what}"
        time.sleep(0.02)
    return found


def read_picture(data: bytes) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Head, image BGR and labels of a picture's message."""
    (length,) = struct.unpack(">I", data[:4])
    head = json.loads(data[4 : 4 + length])
    rest = data[4 + length :]
    image = cv2.imdecode(np.frombuffer(rest[: head["jpeg"]], np.uint8), cv2.IMREAD_COLOR)
    labels = cv2.imdecode(np.frombuffer(rest[head["jpeg"] :], np.uint8), cv2.IMREAD_UNCHANGED)
    return head, image, labels
