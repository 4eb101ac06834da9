"""The lifecycle node `stremn_predict`: images in, the coming image out.

The work is in `predict_core`; here are the topics, the parameters, the transitions and the
diagnostics. Callbacks do no work themselves but hand it to the core's worker thread.
"""

from __future__ import annotations

import gc
import sys
import traceback
from typing import Any

import rclpy
import torch
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from stremn_interfaces.msg import PredictionError
from stremn_ros.errors import StremnError
from stremn_ros.nodes import image_codec, parameters
from stremn_ros.nodes.frames import NANOSECONDS
from stremn_ros.nodes.limited_log import LimitedLog
from stremn_ros.nodes.predict_core import PredictCore, Predicted, PredictSettings
from stremn_ros.nodes.report import ERROR, OK, Report
from stremn_ros.predictor import Predictor

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# the newest prediction is the one that counts, so nothing is queued for slow subscribers
RESULTS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# One for each callback group that can hold a thread: images, the service, the diagnostics, the
# default group; one more keeps the executor itself responsive.
THREADS = 5


class PredictNode(LifecycleNode):
    """See the ROS contract in the package's documentation for topics and services."""

    threads = THREADS

    def __init__(self, **options: Any) -> None:
        super().__init__("stremn_predict", **options)
        self._core: PredictCore | None = None
        self._failure = self._hint = ""
        self._subscription: Any = None
        self._publishers: list[Any] = []
        self._values, self._problems = parameters.declare(self, parameters.PREDICT)
        self._settings = PredictSettings()
        self._limited = LimitedLog(self._write_log, self._values["log_period"])
        self._use(self._values)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._image_group, service_group, self._diagnostics_group = (
            MutuallyExclusiveCallbackGroup() for _ in range(3)
        )
        self.create_service(Trigger, "~/reset", self._on_reset, callback_group=service_group)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # not the node's clock, which may be a simulated one that stands still
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._make_timer()
        for problem in self._problems:
            self.get_logger().error(f"{problem}; `configure` will fail until it is set right")

    # ------------------------------------------------------------------ parameters

    def _use(self, values: dict[str, Any]) -> None:
        self._values.update(values)
        for name in vars(self._settings):
            if name in values:
                setattr(self._settings, name, values[name])
        self._limited.period = self._values["log_period"]

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, reason = parameters.check_changes(
            parameters.PREDICT, changes, configured=self._core is not None
        )
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        # a value that was wrong at the start and has now been set right
        self._problems = [
            text for text in self._problems if not any(f"parameter {n} " in text for n in values)
        ]
        self._use(values)
        if "diagnostics_period" in values:
            self.destroy_timer(self._timer)
            self._timer = self._make_timer()
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
            self._configure()
        except Exception as error:
            expected = isinstance(error, StremnError)
            self._failure = str(error) if expected else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure failed: {self._failure}")
            if not expected:
                self.get_logger().error(traceback.format_exc())
            self.free()
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return super().on_configure(state)

    def _configure(self) -> None:
        values = self._values
        predictor = Predictor.load(
            values["model"],
            device=values["device"],
            processing_size=values["processing_size"] or None,
            slots=values["slots"] or None,
            observe=values["observe"] or None,
        )
        self._image_pub = self.create_lifecycle_publisher(Image, "~/predicted_image", RESULTS)
        self._error_pub = self.create_lifecycle_publisher(
            PredictionError, "~/prediction_error", RESULTS
        )
        self._publishers = [self._image_pub, self._error_pub]
        self._core = PredictCore(
            predictor,
            publish=self._publish,
            log=self._log,
            settings=self._settings,
            topic=self.image_topic,
            node=self.get_fully_qualified_name(),
            now=lambda: self.get_clock().now().nanoseconds,
        )
        self.get_logger().info(
            f"configured: model {values['model']}, {predictor.horizon} images at once, predictions "
            f"after {predictor.observe} images"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the subscription."""
        result = super().on_activate(state)  # the publishers first
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        assert self._core is not None
        self._hint = ""
        self._core.activate()
        reliable = self._values["image_reliability"] == "reliable"
        self._subscription = self.create_subscription(
            CompressedImage if self._compressed else Image,
            self.image_topic if self._compressed else "image",
            self._on_image,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=(
                    ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
                ),
            ),
            callback_group=self._image_group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.get_logger().info(f"active: waiting for images on {self.image_topic}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the subscription."""
        self._stop()
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

    def _stop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self.destroy_subscription(subscription)
        if self._core is not None:
            self._core.deactivate()

    def free(self) -> None:
        """Lets go of everything that `configure` made; more than once if need be."""
        self._stop()
        core, self._core = self._core, None
        if core is not None:
            core.close()
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        publishers, self._publishers = self._publishers, []
        for publisher in publishers:
            self.destroy_lifecycle_publisher(publisher)

    # ------------------------------------------------------------------ images

    @property
    def _compressed(self) -> bool:
        return self._values["image_transport"] == "compressed"

    @property
    def image_topic(self) -> str:
        """Full name of the topic; that of compressed images follows a remapping of `image`."""
        topic = self.resolve_topic_name("image")
        return f"{topic}/compressed" if self._compressed else topic

    def _on_image(self, message: Image | CompressedImage) -> None:
        core = self._core
        if core is not None:
            core.on_frame(message)

    def _on_incompatible(self, info: Any) -> None:
        policy = qos_policy_name_from_kind(info.last_policy_kind).lower()
        self._hint = (
            f"a publisher of {self.image_topic} cannot be heard: its {policy} does not fit; set "
            "image_reliability to best_effort, or let the camera publish reliably"
        )
        self._log("error", "", self._hint)

    def _publish(self, predicted: Predicted) -> None:
        """In the worker."""
        source = predicted.frame.message.header
        if predicted.image is not None:
            image = Image()
            image.header.frame_id = source.frame_id
            image.header.stamp = _time(predicted.stamp)
            self._image_pub.publish(image_codec.encode(image, predicted.image, "rgb8"))
        if predicted.error is not None and predicted.change is not None:
            self._error_pub.publish(
                PredictionError(
                    header=source,
                    predicted_from=_time(predicted.source),
                    error=predicted.error,
                    change=predicted.change,
                )
            )

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        core = self._core
        if core is None:
            response.success, response.message = False, self._unready
        else:
            response.success, response.message = True, core.reset()
        return response

    # ------------------------------------------------------------------ diagnostics

    @property
    def _unready(self) -> str:
        reason = f" (it failed: {self._failure})" if self._failure else ""
        path = self.get_fully_qualified_name()
        return f"not configured{reason}: `ros2 lifecycle set {path} configure`, then activate"

    def _publish_diagnostics(self) -> None:
        core = self._core
        if core is not None:
            report = core.report(self._hint)
        else:
            report = Report(ERROR if self._failure else OK, self._unready, {})
        array = DiagnosticArray()
        # the only stamp that is made here: when the diagnosis was made
        array.header.stamp = self.get_clock().now().to_msg()
        array.status.append(
            DiagnosticStatus(
                level=bytes([report.level]),
                name=f"{self.get_fully_qualified_name().lstrip('/')}: prediction",
                message=report.message,
                values=[KeyValue(key=key, value=text) for key, text in report.values.items()],
            )
        )
        self._diagnostics_pub.publish(array)

    def _log(self, severity: str, key: str, text: str) -> None:
        self._limited(severity, key, text)

    def _write_log(self, severity: str, text: str) -> None:
        # One call per severity at a place of its own: rclpy ties a place to one severity.
        logger = self.get_logger()
        if severity == "error":
            logger.error(text)
        elif severity == "warning":
            logger.warning(text)
        else:
            logger.info(text)

    def destroy_node(self) -> None:
        """Frees the network as well."""
        self.free()
        super().destroy_node()


def _time(stamp: int) -> Time:
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def spin(nodes: list[Any]) -> int:
    """Runs lifecycle nodes in one process until it is told to stop."""
    executor = MultiThreadedExecutor(num_threads=sum(node.threads for node in nodes))
    for node in nodes:
        executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except (KeyboardInterrupt, ExternalShutdownException):
                break
            except InvalidHandle:
                # a subscription that was destroyed just when the executor was about to wait for it
                continue
            except Exception:  # of a callback: rclpy hands it on, but it must not end the node
                nodes[0].get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
    finally:
        for node in nodes:
            node.free()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; the lifecycle services drive it."""
    rclpy.init(args=args)
    return spin([PredictNode()])


if __name__ == "__main__":
    sys.exit(main())
