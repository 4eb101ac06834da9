"""What the lifecycle nodes share: parameters of a table, transitions, diagnostics, the executor.

Threads: the executor runs each kind of callback in a separate group, so that an image, a
service call, a transition and the diagnostics never wait for one another; the callbacks do no
work themselves but hand it to a core, whose worker thread owns the network.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from stremn_ros.errors import StremnError
from stremn_ros.nodes import entry, parameters
from stremn_ros.nodes.entry import StopSignals, init
from stremn_ros.nodes.spinning import Spinning
from stremn_ros.stream.diagnosis import ERROR, OK, WARN, Report, with_reason
from stremn_ros.stream.settings import IntakeSettings

# One for each callback group of the node that can hold a thread: the diagnostics, and the default
# group of transitions and parameters; one more keeps the executor itself responsive.
THREADS = 3
SWITCH_INTERVAL = 0.0005  # seconds
TWIN_PERIOD = 1.0  # seconds between two looks for a node of the same name
SHUT_DOWN = (
    "the node was shut down (finalized), from where no transition leads: end its process and start "
    "it again"
)


class Stream(Protocol):
    """The images of one camera, and what is made of them."""

    name: str

    def activate(self) -> str:
        """Starts the subscriptions; the name of the image topic."""

    def save(self) -> None:
        """Takes no more images, and saves what is remembered where that is wished."""

    def stop(self) -> None:
        """Does the same, and ends the subscriptions; what is remembered is kept."""

    def release(self) -> None:
        """Lets go of everything that `configure` made; more than once if need be."""

    def settings_changed(self) -> None:
        """The settings or values have changed."""

    def report(self) -> Report | None:
        """For the diagnostics; None while not configured."""


class NetworkNode(LifecycleNode):
    """A lifecycle node that runs a network on the images of its streams.

    A subclass must make its streams at the end of `__init__`, and load its network in `_load`.

    Args:
        name: of the node. table: of its parameters, in `parameters`. work: what the diagnostics
            call it. settings: an object whose attributes may change while the node runs; those
            that have a parameter's name follow it.
    """

    def __init__(
        self, name: str, table: str, work: str, settings: IntakeSettings, **options: Any
    ) -> None:
        super().__init__(name, **options)
        self._table, self._work = table, work
        self._streams: Sequence[Stream] = ()
        self._configured = False
        self._ending = False  # the process received a stop signal
        self._finalized = False  # shut down by its lifecycle, from where no transition leads
        self._failure = ""  # why the last configure failed
        self._doing = ("", 0.0)  # what configure is at, and since when
        self._twin = False  # another node has this one's name
        self._looked_for_twin = 0.0
        self._values, self._problems = parameters.declare(self, table)
        self._settings = settings
        self._use(self._values)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics_group = MutuallyExclusiveCallbackGroup()
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # not the node's clock, which may be a simulated one that stands still
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self._make_timer()
        for problem in self._problems.values():
            self.get_logger().error(f"{problem}; `configure` will fail until it is set right")

    def _load(self) -> None:
        """Loads the network and makes what works with it; called within `configure`."""
        raise NotImplementedError

    def _unload(self) -> None:
        """Lets go of what `_load` made beside the streams; from any state."""

    # ------------------------------------------------------------------ parameters

    def _use(self, values: dict[str, Any]) -> None:
        self._values.update(values)
        for name in vars(self._settings):
            if name in values:
                setattr(self._settings, name, values[name])
        for stream in self._streams:
            stream.settings_changed()

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, reason = parameters.check_changes(self._table, changes, configured=self._configured)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        for name in values:  # wrong at the start, and set right now
            self._problems.pop(name, None)
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
                raise StremnError("; ".join(self._problems.values()))
            self._configured = True
            self._note_doing(f"loading model {self._values['model']}")
            with self._library_log():
                self._load()
            if self._ending:
                raise StremnError("the process received a stop signal")
        except Exception as error:
            if self._ending:
                self.get_logger().info("stop signal while configuring: given up")
                self.release()
                return TransitionCallbackReturn.FAILURE
            expected = isinstance(error, StremnError)
            self._failure = str(error) if expected else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure failed: {self._failure}")
            if not expected:
                self.get_logger().error(traceback.format_exc())
            self.release()
            return TransitionCallbackReturn.FAILURE
        finally:
            self._doing = ("", 0.0)
        self._failure = ""
        return super().on_configure(state)

    def _note_doing(self, text: str) -> None:
        self._doing = (text, time.monotonic())

    @contextmanager
    def _library_log(self) -> Iterator[None]:
        """The library's log (it loads, it builds an engine) goes to the node's log as well."""
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
        """Starts the subscriptions; a failure leaves the node inactive, the reason in the log."""
        result = super().on_activate(state)  # the publishers first, for the first result
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        try:
            topics = [stream.activate() for stream in self._streams]
        except StremnError as error:
            self.get_logger().error(f"activate failed: {error}")
            self.on_deactivate(state)
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"active: waiting for images on {', '.join(topics)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the subscriptions; what is remembered is kept for the next activation."""
        for stream in self._streams:
            stream.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the network and the memory."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state."""
        self.release()
        self._finalized = True
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: back to unconfigured, from where it can be tried again."""
        self.get_logger().error("a transition failed; the node is unconfigured again")
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def save(self) -> None:
        """The process must stop: takes no more images, and saves the memory."""
        self._ending = True
        for stream in self._streams:
            try:
                stream.save()
            except Exception:  # the others are saved all the same
                self.get_logger().error(f"not saved:\n{traceback.format_exc()}")

    def release(self) -> None:
        """Ends the work and frees the network; from any state, more than once if need be."""
        for stream in self._streams:
            stream.release()
        self._unload()
        if self._configured:
            self._configured = False
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # else PyTorch keeps the memory from other processes

    # ------------------------------------------------------------------ diagnostics

    def _unready(self) -> str:
        """Why a service call cannot be answered yet, and what to do."""
        if self._finalized:
            return SHUT_DOWN
        doing = self._doing[0]
        reason = f" (it failed: {self._failure})" if self._failure else ""
        if doing:
            return f"the node is being configured ({doing}): try again when it is active"
        return (
            f"the node is not configured{reason}: `ros2 lifecycle set {self._path} configure`, "
            "then activate"
        )

    def _state_report(self) -> Report:
        """Of a node that has no network."""
        if self._finalized:
            return Report(OK, SHUT_DOWN, {})
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
        self._look_for_twin()
        for stream in self._streams:
            report = stream.report() or self._state_report()
            if self._twin:
                report = with_reason(report, WARN, self._twin_text())
            which = f" of {stream.name}" if stream.name else ""
            array.status.append(
                DiagnosticStatus(
                    level=bytes([report.level]),
                    name=f"{self._path.lstrip('/')}: {self._work}{which}",
                    message=report.message,
                    hardware_id=report.values.get("runtime", ""),
                    values=[KeyValue(key=key, value=text) for key, text in report.values.items()],
                )
            )
        self._diagnostics_pub.publish(array)

    def _look_for_twin(self) -> None:
        now = time.monotonic()
        if now - self._looked_for_twin < TWIN_PERIOD:
            return
        self._looked_for_twin = now
        own = (self.get_name(), self.get_namespace())
        twin = self.get_node_names_and_namespaces().count(own) > 1
        if twin and not self._twin:
            self.get_logger().warning(self._twin_text())
        self._twin = twin

    def _twin_text(self) -> str:
        return (
            f"another node is called {self._path} too: calls are answered by either, and both "
            "publish and save under the same names; end one, or start it with another name "
            "(-r __node:=NAME, node_name:=NAME). One that died is seen for some 20 s more"
        )

    # ------------------------------------------------------------------ other

    def start(self) -> None:
        """Configures and activates the node if ``autostart`` says so; else tells how to do it."""
        if not self._values["autostart"]:
            self.get_logger().info(
                f"unconfigured: `ros2 lifecycle set {self._path} configure`, then `activate`; or "
                "start it with -p autostart:=true, or by a launch file"
            )
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @property
    def threads(self) -> int:
        """How many threads the executor wants for this node."""
        return THREADS

    @property
    def _path(self) -> str:
        return self.get_fully_qualified_name()

    def _write_log(self, severity: str, text: str) -> None:
        # A separate call for each severity: rclpy ties a place in the code to one severity.
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
        self.release()
        super().destroy_node()


def run(nodes: Iterable[NetworkNode], signals: StopSignals) -> int:
    """Runs nodes in this process until a signal stops it; the lifecycle services drive them.

    The executor has its own threads, so that the main thread is there for signals.
    """
    # The worker waits for the executor's Python, and the other way round, for no longer than this;
    # by default it is 5 ms, which is as much as a node may add to an image in all.
    sys.setswitchinterval(SWITCH_INTERVAL)
    nodes = list(nodes)
    executor = MultiThreadedExecutor(num_threads=sum(node.threads for node in nodes))
    for node in nodes:
        executor.add_node(node)

    spinning = Spinning(executor, nodes[0].get_logger().error, signals.tell)
    for node in nodes:
        executor.create_task(node.start)
    signals.wait()
    for node in nodes:
        node.save()  # before anything is torn down: whatever happens then, this is on the disk
    for node in nodes:
        node.release()  # it also ends service calls that wait for a frame
    spinning.stop()
    for node in nodes:
        node.destroy_node()
    entry.shut_down()
    return 0


def main(name: str, make: Callable[[], Iterable[NetworkNode]], args: list[str] | None) -> int:
    """The main function of an executable with nodes of this kind.

    Args:
        name: of the executable. make: makes the nodes, once ROS has started.
        args: of the command line; None takes those of the process.
    """

    def start(signals: StopSignals) -> int:
        init(args)
        return run(make(), signals)

    return entry.run(name, start)
