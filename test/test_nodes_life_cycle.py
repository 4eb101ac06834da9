"""How the executor of the lifecycle nodes is kept going, and when it ends."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from ros_helpers import own_node

from stremn_ros.nodes import entry
from stremn_ros.nodes.spinning import Spinning


class Executor:
    """Raises one thing after the other; the context ends with the last one."""

    def __init__(self, raised) -> None:
        self.raised = list(raised)
        self.context = SimpleNamespace(ok=lambda: bool(self.raised))

    def spin_until_future_complete(self, done) -> None:
        raise self.raised.pop(0)


@pytest.mark.parametrize(
    ("raised", "told", "left"),
    [
        ([ValueError("of a callback"), InvalidHandle(), ExternalShutdownException()], 1, 0),
        ([ValueError("one"), ValueError("two"), KeyboardInterrupt(), ValueError("never")], 2, 1),
        # the context went while rclpy was about to wait: no failure of a callback
        ([RuntimeError("the given context is not valid")], 0, 0),
    ],
)
def test_only_being_told_to_stop_ends_it_and_only_callbacks_that_fail_are_told(raised, told, left):
    executor, log = Executor(raised), []
    ended = threading.Event()
    Spinning(executor, log.append, ended.set)
    assert ended.wait(10)
    assert len(executor.raised) == left
    assert len(log) == told
    assert all("a callback failed" in text and "ValueError" in text for text in log)


def test_it_ends_whenever_it_is_told_to():
    """Without a timer or a message that would wake it; `Executor.shutdown` alone hangs here."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with own_node() as node:
            for _ in range(100):
                executor = MultiThreadedExecutor(2, context=node.context)
                executor.add_node(node)
                spinning = Spinning(executor, pytest.fail)
                ending = threading.Thread(target=spinning.stop, daemon=True)
                ending.start()
                ending.join(60)
                assert not ending.is_alive()
    finally:
        sys.setswitchinterval(before)


def test_no_shutdown_touches_the_handlers_of_signals(monkeypatch):
    """rclpy's own sets them to the default for a moment."""
    monkeypatch.setattr(rclpy, "uninstall_signal_handlers", lambda: pytest.fail("touched"))
    context = rclpy.Context()
    rclpy.init(context=context)
    monkeypatch.setattr(rclpy, "get_default_context", lambda: context)
    entry.shut_down()
    assert not context.ok()
    sources = (Path(entry.__file__).parents[1]).rglob("*.py")
    assert not [
        path for path in sources if re.search(r"rclpy\.(try_)?shutdown\(", path.read_text())
    ]
