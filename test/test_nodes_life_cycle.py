"""How the executor of the lifecycle nodes is kept going, and when it ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException

from stremn_ros.nodes.life_cycle import spin


class Executor:
    """Raises one thing after the other; the context ends with the last one."""

    def __init__(self, raised) -> None:
        self.raised = list(raised)
        self.context = SimpleNamespace(ok=lambda: bool(self.raised))

    def spin(self) -> None:
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
    spin(executor, SimpleNamespace(get_logger=lambda: SimpleNamespace(error=log.append)))
    assert len(executor.raised) == left
    assert len(log) == told
    assert all("a callback failed" in text and "ValueError" in text for text in log)
