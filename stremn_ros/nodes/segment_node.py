"""The lifecycle node `stremn`: images in, masks of the seeded objects out.

The work is in `segment_core`, the topics and services of each camera in `camera`; here are the
parameters, the transitions and the diagnostics. All cameras share one network and one worker.

Threads: the executor runs each kind of callback in a group of its own, so that an image, a
service call, a transition and the diagnostics never wait for one another; the callbacks do no
work themselves but hand it to the core, whose worker thread owns the segmenters.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from stremn_ros.errors import StremnError
from stremn_ros.nodes import camera, parameters
from stremn_ros.nodes.camera import Camera
from stremn_ros.nodes.report import ERROR, OK, WARN, Report
from stremn_ros.nodes.settings import Settings
from stremn_ros.nodes.worker import Worker
from stremn_ros.segmenter import Segmenter

# One for each callback group of the node that can hold a thread: the diagnostics, and the default
# group of transitions and parameters; one more keeps the executor itself responsive.
NODE_THREADS = 3
SWITCH_INTERVAL = 0.0005  # seconds


class SegmentNode(LifecycleNode):
    """See the ROS contract in the package's documentation for topics and services."""

    def __init__(self, **options: Any) -> None:
        super().__init__("stremn", **options)
        self._worker: Worker | None = None
        self._failure = ""  # why the last configure failed
        self._doing = ("", 0.0)  # what configure is at, and since when
        self._values, self._problems = parameters.declare(self, parameters.SEGMENT)
        self._settings = Settings()
        self._cameras: list[Camera] = []
        self._use(self._values)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._cameras = [
            Camera(self, name, self._values, self._settings, self._write_log, self._unready)
            for name in parameters.camera_names(self._values["cameras"])
        ]
        self.threads = NODE_THREADS + camera.THREADS * len(self._cameras)
        """How many threads the executor wants."""
        self._diagnostics_group = MutuallyExclusiveCallbackGroup()
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # not the node's clock, which may be a simulated one that stands still
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self._make_timer()
        for problem in self._problems:
            self.get_logger().error(f"{problem}; `configure` will fail until it is set right")

    # ------------------------------------------------------------------ parameters

    def _use(self, values: dict[str, Any]) -> None:
        self._values.update(values)
        for name in vars(self._settings):
            if name in values:
                setattr(self._settings, name, values[name])
        for item in self._cameras:
            item.wake()

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, reason = parameters.check_changes(
            parameters.SEGMENT, changes, configured=self._worker is not None
        )
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        # a value that was wrong at the start and has now been set right
        self._problems = [
            text for text in self._problems if not any(f"parameter {n} " in text for n in values)
        ]
        self._use(values)
        if "diagnostics_period" in values:
            self.destroy_timer(self._diagnostics_timer)
            self._diagnostics_timer = self._make_timer()
        return SetParametersResult(successful=True)

    def _make_timer(self) -> Any:
        return self.create_timer(
            self._values["diagnostics_period"],
            self._publish_diagnostics,
            callback_group=self._diagnostics_group,
            clock=self._steady,
        )

    # ------------------------------------------------------------------ transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the network; a failure leaves the node unconfigured with the reason in the log."""
        try:
            if self._problems:
                raise StremnError("; ".join(self._problems))
            with self._library_log():
                self._configure()
        except Exception as error:
            expected = isinstance(error, StremnError)
            self._failure = str(error) if expected else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure failed: {self._failure}")
            if not expected:
                self.get_logger().error(traceback.format_exc())
            self.free()
            return TransitionCallbackReturn.FAILURE
        finally:
            self._doing = ("", 0.0)
        self._failure = ""
        return super().on_configure(state)

    def _configure(self) -> None:
        values = self._values
        self._note_doing(f"loading model {values['model']}")
        segmenter = Segmenter.load(
            values["model"],
            device=values["device"],
            runtime=values["runtime"],
            auto_build=values["auto_build"],
            slots=values["slots"] or None,
            update_rule=values["update_rule"] or None,
            processing_size=values["processing_size"] or None,
            max_objects=values["max_objects"],
            update_every=values["update_every"] or None,
        )
        self._worker = Worker(lambda text: self._write_log("error", f"the worker: {text}"))
        every_id = range(1, segmenter.max_objects + 1)
        for number, item in enumerate(self._cameras):
            # the same network for all; the memory of each is its own
            item.configure(segmenter if not number else segmenter.fork(every_id), self._worker)
        cameras = f", {len(self._cameras)} cameras" if len(self._cameras) > 1 else ""
        self.get_logger().info(
            f"configured: model {values['model']} on {segmenter.runtime_name}, up to "
            f"{segmenter.max_objects} objects{cameras}"
        )

    def _note_doing(self, text: str) -> None:
        self._doing = (text, time.monotonic())

    @contextmanager
    def _library_log(self) -> Iterator[None]:
        """What the library logs meanwhile (it loads, it builds an engine) is told here as well."""
        source, handler = logging.getLogger("stremn_ros"), logging.Handler(logging.INFO)

        def emit(record: logging.LogRecord) -> None:
            text = record.getMessage()
            self._note_doing(text)
            self._write_log("warning" if record.levelno >= logging.WARNING else "info", text)

        handler.emit = emit  # type: ignore[method-assign]
        level = source.level
        source.addHandler(handler)
        source.setLevel(logging.INFO)
        try:
            yield
        finally:
            source.setLevel(level)
            source.removeHandler(handler)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the subscriptions."""
        result = super().on_activate(state)  # the publishers first, for the first mask
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        topics = [item.activate() for item in self._cameras]
        self.get_logger().info(f"active: waiting for images on {', '.join(topics)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the subscriptions; objects are kept for the next activation."""
        for item in self._cameras:
            item.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the network and the memory."""
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state."""
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: back to unconfigured, from where it can be tried again."""
        self.get_logger().error("a transition failed; the node is unconfigured again")
        self.free()
        return TransitionCallbackReturn.SUCCESS

    def free(self) -> None:
        """Ends the work and frees the network; from any state, more than once if need be."""
        for item in self._cameras:
            item.free()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # else PyTorch keeps the memory from other processes

    # ------------------------------------------------------------------ diagnostics

    def _unready(self) -> str:
        doing = self._doing[0]
        reason = f" (it failed: {self._failure})" if self._failure else ""
        if doing:
            return f"the node is being configured ({doing}): try again when it is active"
        return (
            f"the node is not configured{reason}: `ros2 lifecycle set {self._path} configure`, "
            "then activate"
        )

    def _state_report(self) -> Report:
        """Of a node that has no network yet."""
        doing, since = self._doing
        if doing:
            spent = time.monotonic() - since
            return Report(
                WARN,
                f"configuring: {doing}, {spent:.1f} s so far; a network or engine that is built "
                "for the first time may take minutes, the next start finds it built",
                {},
            )
        if self._failure:
            return Report(ERROR, f"configure failed: {self._failure}", {})
        return Report(
            OK, f"not configured: `ros2 lifecycle set {self._path} configure` loads it", {}
        )

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray()
        # the only stamp that is made here: when the diagnosis was made
        array.header.stamp = self.get_clock().now().to_msg()
        for item in self._cameras:
            report = item.report() or self._state_report()
            which = f" of {item.name}" if item.name else ""
            array.status.append(
                DiagnosticStatus(
                    level=bytes([report.level]),
                    name=f"{self._path.lstrip('/')}: segmentation{which}",
                    message=report.message,
                    hardware_id=report.values.get("runtime", ""),
                    values=[KeyValue(key=key, value=text) for key, text in report.values.items()],
                )
            )
        self._diagnostics_pub.publish(array)

    # ------------------------------------------------------------------ other

    @property
    def _path(self) -> str:
        return self.get_fully_qualified_name()

    def _write_log(self, severity: str, text: str) -> None:
        # One call per severity at a place of its own: rclpy ties a place to one severity.
        logger = self.get_logger()
        if severity == "error":
            logger.error(text)
        elif severity == "warning":
            logger.warning(text)
        elif severity == "info":
            logger.info(text)
        else:
            logger.debug(text)

    def destroy_node(self) -> None:
        """Frees the network as well."""
        self.free()
        super().destroy_node()


def spin(executor: MultiThreadedExecutor, node: SegmentNode) -> None:
    """Until told to stop; no callback's failure ends it."""
    while executor.context.ok():
        try:
            executor.spin()
            return
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except InvalidHandle:
            # deactivate destroyed the subscription just when the executor, in another thread, was
            # about to wait for its QoS events; rclpy guards all but those against that
            continue
        except Exception:  # of a callback: rclpy hands it on, but it must not end the node
            node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; the lifecycle services drive it."""
    # The worker waits for the executor's Python, and the other way round, for no longer than this;
    # by default it is 5 ms, which is as much as the node may add to an image in all.
    sys.setswitchinterval(SWITCH_INTERVAL)
    rclpy.init(args=args)
    node = SegmentNode()
    executor = MultiThreadedExecutor(num_threads=node.threads)
    executor.add_node(node)
    try:
        spin(executor, node)
    finally:
        node.free()  # first: it also ends service calls that wait for a frame
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
