"""An executor in a separate thread, which ends reliably when asked to."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.task import Future

InvalidHandle = rclpy_implementation.InvalidHandle


class Spinning:
    """Runs an executor's callbacks until `stop`, or until its context is shut down.

    `Executor.shutdown` alone may leave the thread that spins waiting for ever: it takes away the
    guard condition that is to wake the thread, just when the thread is about to wait. So the thread
    ends first, and the executor is shut down after it.

    Args:
        executor: with its nodes. failed: is called with each failure of a callback, which does
            not end the thread. ended: is called in the thread when it ends.
    """

    def __init__(
        self,
        executor: Executor,
        failed: Callable[[str], object],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._executor, self._failed, self._ended = executor, failed, ended
        self._stopped = False
        self._done: Future = Future()
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after the callbacks that it is at, and shuts the executor down."""
        self._stopped = True
        self._done.set_result(None)
        self._thread.join()
        self._executor.shutdown()

    def _run(self) -> None:
        try:
            while self._executor.context.ok():
                self._done = Future()  # a new one each time, as spinning adds a callback to it
                if self._stopped:
                    return
                try:
                    self._executor.spin_until_future_complete(self._done)
                    return
                except (KeyboardInterrupt, ExternalShutdownException):
                    return
                except InvalidHandle:
                    # deactivate destroyed the subscription just when the executor, in another
                    # thread, was about to wait for its QoS events; rclpy guards all but those
                    continue
                except Exception:  # of a callback: rclpy hands it on, but it must not end the node
                    if not self._executor.context.ok():
                        return  # stopped just when rclpy was about to wait: an RCLError
                    self._failed(f"a callback failed:\n{traceback.format_exc()}")
        finally:
            self._ended()
