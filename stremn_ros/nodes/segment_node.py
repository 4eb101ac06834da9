"""The lifecycle node `stremn`: images in, masks of the seeded objects out.

The work is in `segment_core`; here are the topics, services, parameters and transitions.

Threads: the executor runs each kind of callback in a group of its own, so that an image, a
service call, a transition and the diagnostics never wait for one another; the callbacks do no
work themselves but hand it to the core, whose one worker thread owns the segmenter. Services are
one group: a second call waits for the first, as everything they do ends up in one queue anyway.
Blocking callbacks on an executor of several threads are used instead of coroutines because rclpy
of Humble does not wake up for a future that another thread completes.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
import torch
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point32
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.msg import ObjectArray, TrackedObject
from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject
from stremn_ros import visualization
from stremn_ros.errors import StremnError
from stremn_ros.nodes import image_codec, parameters
from stremn_ros.nodes.detections import VisionTypes, to_detections, to_label_info, vision_types
from stremn_ros.nodes.segment_core import (
    ERROR,
    NANOSECONDS,
    OK,
    Answer,
    LimitedLog,
    Report,
    SegmentCore,
    Segmented,
    Settings,
)
from stremn_ros.nodes.snapshots import Snapshots
from stremn_ros.segmenter import Segmenter

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Later than Humble: the number that each publisher gives its messages, which shows what was lost.
WITH_MESSAGE_INFO = hasattr(Subscription, "CallbackType")
# One for each callback group that can hold a thread: image, services, diagnostics, and the default
# group of transitions and parameters; one more keeps the executor itself responsive.
EXECUTOR_THREADS = 5
_ENDING = "the node is being cleaned up"


class SegmentNode(LifecycleNode):
    """See the ROS contract in the package's documentation for topics and services."""

    def __init__(self, **options: Any) -> None:
        super().__init__("stremn", **options)
        self._core: SegmentCore | None = None
        self._snapshots: Snapshots | None = None
        self._resumed = False  # since `configure`
        self._subscription: Any = None
        self._overlay_pub: Any = None
        self._mask_pub: Any = None
        self._objects_pub: Any = None
        self._vision: VisionTypes | None = None  # where vision_msgs is installed
        self._detections_pub: Any = None
        self._label_info_pub: Any = None
        self._labels_told: Any = None  # what the last label_info said
        self._hint = ""  # what is known of a connection that cannot work
        self._failure = ""  # why the last configure failed
        self._enabled = True
        self._active = False
        self._log = LimitedLog(self._write_log)
        self._values, self._problems = parameters.declare(self, parameters.SEGMENT)
        self._settings = Settings()
        self._use(self._values)
        self.add_on_set_parameters_callback(self._on_set_parameters)

        self._image_group = MutuallyExclusiveCallbackGroup()
        self._service_group = MutuallyExclusiveCallbackGroup()
        self._diagnostics_group = MutuallyExclusiveCallbackGroup()
        # Services are there in every state, so that a call gets an answer that says what to do.
        for kind, name, callback in (
            (SeedMask, "~/seed_mask", self._on_seed_mask),
            (SeedObject, "~/seed_object", self._on_seed_object),
            (RemoveObject, "~/remove_object", self._on_remove_object),
            (Trigger, "~/reset", self._on_reset),
            (SetBool, "~/enable", self._on_enable),
            (SaveMemory, "~/save_memory", self._on_save_memory),
            (LoadMemory, "~/load_memory", self._on_load_memory),
        ):
            self.create_service(kind, name, callback, callback_group=self._service_group)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self._make_timer()
        for problem in self._problems:
            self.get_logger().error(f"{problem}; `configure` will fail until it is set right")

    # ------------------------------------------------------------------ parameters

    def _use(self, values: dict[str, Any]) -> None:
        self._values.update(values)
        for name in vars(self._settings):
            if name in values:
                setattr(self._settings, name, values[name])
        self._log.period = self._values["log_period"]
        if self._snapshots is not None:
            self._snapshots.wake()

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, reason = parameters.check_changes(
            parameters.SEGMENT, changes, configured=self._core is not None
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
        segmenter = Segmenter.load(
            values["model"],
            device=values["device"],
            runtime=values["runtime"],
            slots=values["slots"] or None,
            update_rule=values["update_rule"] or None,
            processing_size=values["processing_size"] or None,
            max_objects=values["max_objects"],
            update_every=values["update_every"] or None,
        )
        # the newest mask is the one that counts, so nothing is queued for slow subscribers
        results = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._mask_pub = self.create_lifecycle_publisher(Image, "~/mask", results)
        self._objects_pub = self.create_lifecycle_publisher(ObjectArray, "~/objects", results)
        self._overlay_pub = self.create_lifecycle_publisher(Image, "~/overlay", results)
        self._vision = vision_types()
        if self._vision is not None:
            self._detections_pub = self.create_lifecycle_publisher(
                self._vision.detection_array, "~/detections", results
            )
            if self._vision.label_info is not None:
                self._label_info_pub = self.create_lifecycle_publisher(
                    self._vision.label_info,
                    "~/label_info",
                    QoSProfile(  # for those who come later as well
                        depth=1,
                        reliability=ReliabilityPolicy.RELIABLE,
                        durability=DurabilityPolicy.TRANSIENT_LOCAL,
                    ),
                )
        self._core = SegmentCore(
            segmenter,
            publish=self._publish,
            log=self._log,
            settings=self._settings,
            seed_buffer=values["seed_buffer"],
            topic=self._image_topic,
            now=lambda: self.get_clock().now().nanoseconds,
        )
        self._core.enable(self._enabled)
        self._snapshots = Snapshots(
            self._core,
            values["snapshot_dir"],
            self._path.strip("/").replace("/", "."),
            self._settings,
            self._log,
        )
        self._resumed = False
        self.get_logger().info(
            f"configured: model {values['model']} on {segmenter.runtime_name}, up to "
            f"{segmenter.max_objects} objects"
        )

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the subscription."""
        assert self._core is not None
        assert self._snapshots is not None
        self._hint = ""
        self._labels_told = None
        result = super().on_activate(state)  # the publishers first, for the first mask
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        # once, as from then on the memory in this process is the newer one
        if self._settings.autoload and not self._resumed and not self._core.tracked():
            self._snapshots.autoload()
        self._resumed = True
        self._core.activate()
        reliable = self._values["image_reliability"] == "reliable"
        self._subscription = self.create_subscription(
            CompressedImage if self._compressed else Image,
            self._image_topic if self._compressed else "image",
            self._on_image_with_info if WITH_MESSAGE_INFO else self._on_image,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                reliability=(
                    ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
                ),
                durability=DurabilityPolicy.VOLATILE,
            ),
            callback_group=self._image_group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._active = True
        self.get_logger().info(f"active: waiting for images on {self._subscription.topic_name}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends the subscription; objects are kept for the next activation."""
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
        self._active = False
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._core is not None:
            self._core.deactivate()
        if self._snapshots is not None and self._settings.autosave_at_stop:
            self._snapshots.autosave()

    def free(self) -> None:
        """Ends the work and frees the network; from any state, more than once if need be."""
        self._stop()
        snapshots, self._snapshots = self._snapshots, None
        if snapshots is not None:
            snapshots.close()
        core, self._core = self._core, None
        if core is not None:
            core.close()
            del core
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # else PyTorch keeps the memory from other processes
        for name in (
            "_mask_pub",
            "_objects_pub",
            "_overlay_pub",
            "_detections_pub",
            "_label_info_pub",
        ):
            publisher = getattr(self, name)
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
                setattr(self, name, None)

    @property
    def _compressed(self) -> bool:
        return self._values["image_transport"] == "compressed"

    @property
    def _image_topic(self) -> str:
        """Full name of the topic; that of compressed images follows a remapping of `image`."""
        topic = self.resolve_topic_name("image")
        return f"{topic}/compressed" if self._compressed else topic

    def _on_image(self, message: Image | CompressedImage) -> None:
        core = self._core
        if core is not None:
            core.on_frame(message)

    def _on_image_with_info(self, message: Image | CompressedImage, info: Any) -> None:
        core = self._core
        if core is not None:
            publisher = info.get("publisher_gid")
            sequence = info.get("publication_sequence_number") if publisher is not None else None
            core.on_frame(message, str(publisher), sequence)

    def _on_incompatible(self, info: Any) -> None:
        policy = qos_policy_name_from_kind(info.last_policy_kind).lower()
        remedy = (
            "set image_reliability to best_effort, or let the camera publish reliably"
            if policy == "reliability"
            else "make its QoS fit, or set qos_overrides for the subscription"
        )
        self._hint = (
            f"a publisher of {self._image_topic} cannot be heard: its {policy} "
            f"does not fit what this node asks for; {remedy} (ros2 topic info -v shows both)"
        )
        self._log("error", "", self._hint)

    # ------------------------------------------------------------------ publishing (worker thread)

    def _publish(self, segmented: Segmented) -> None:
        header = segmented.frame.message.header  # stamps are copied, never made
        mask = image_codec.encode(Image(header=header), segmented.result.labels, "mono8")
        self._mask_pub.publish(mask)
        objects = ObjectArray(header=header)
        objects.objects = [
            self._object(found, segmented.names.get(found.id, ""))
            for found in segmented.result.objects
        ]
        assert self._core is not None
        objects.latency = self._core.age(segmented.frame)
        self._objects_pub.publish(objects)
        if self._vision is not None:
            self._publish_vision(self._vision, header, segmented)
        if self._overlay_pub.get_subscription_count():
            picture = visualization.overlay(
                segmented.rgb, segmented.result.labels, self._settings.overlay_alpha
            )
            self._overlay_pub.publish(image_codec.encode(Image(header=header), picture, "rgb8"))

    def _publish_vision(self, types: VisionTypes, header: Any, segmented: Segmented) -> None:
        found = segmented.result.objects
        if self._label_info_pub is not None:
            ids, score = [item.id for item in found], self._settings.min_score
            told = ids, dict(segmented.names), score
            if told != self._labels_told:  # before the first detection that needs it
                info = to_label_info(types, header, ids, segmented.names, score)
                self._label_info_pub.publish(info)
                self._labels_told = told
        self._detections_pub.publish(to_detections(types, header, found))

    @staticmethod
    def _object(found: Any, name: str) -> TrackedObject:
        x, y, width, height = found.box
        return TrackedObject(
            id=int(found.id),
            name=name,
            state=int(found.state),
            score=float(found.score),
            area=int(found.area),
            box=RegionOfInterest(
                x_offset=int(x), y_offset=int(y), width=int(width), height=int(height)
            ),
            centroid=Point32(x=float(found.centroid[0]), y=float(found.centroid[1])),
        )

    def _publish_diagnostics(self) -> None:
        core = self._core
        snapshots = self._snapshots
        if core is not None:
            last, problem = snapshots.status() if snapshots is not None else ("", "")
            report = core.report(self._hint, last, problem)
        elif self._failure:
            report = Report(ERROR, f"configure failed: {self._failure}", {})
        else:
            report = Report(
                OK, f"not configured: `ros2 lifecycle set {self._path} configure` loads it", {}
            )
        status = DiagnosticStatus(
            level=bytes([report.level]),
            name=f"{self._path.lstrip('/')}: segmentation",
            message=report.message,
            hardware_id=report.values.get("runtime", ""),
            values=[KeyValue(key=key, value=value) for key, value in report.values.items()],
        )
        array = DiagnosticArray(status=[status])
        # the only stamp that is made here: when the diagnosis was made
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics_pub.publish(array)

    # ------------------------------------------------------------------ services

    @property
    def _path(self) -> str:
        return self.get_fully_qualified_name()

    def _answer(self, response: Any, work: Callable[[SegmentCore], Answer]) -> Answer:
        """Runs a service on the core and fills what all responses share."""
        core = self._core
        try:
            if core is None:
                reason = f" (it failed: {self._failure})" if self._failure else ""
                answer = Answer(
                    False,
                    f"the node is not configured{reason}: `ros2 lifecycle set {self._path} "
                    "configure`, then activate",
                )
            else:
                answer = work(core)
        except Exception as error:  # a service answers, whatever happens
            self.get_logger().error(traceback.format_exc())
            answer = Answer(False, f"failed inside: {type(error).__name__}: {error}")
        response.success = answer.success
        response.message = answer.message
        if hasattr(response, "tracked_ids"):
            response.tracked_ids = answer.tracked_ids
        if hasattr(response, "ids"):
            response.ids = answer.ids
        if hasattr(response, "stamp") and answer.frame is not None:
            response.stamp = answer.frame.message.header.stamp
        self._write_log("info" if answer.success else "warning", answer.message)
        return answer

    def _on_seed_mask(
        self, request: SeedMask.Request, response: SeedMask.Response
    ) -> SeedMask.Response:
        self._answer(
            response, lambda core: core.seed_mask(request.mask, request.names, request.replace)
        )
        return response

    def _on_seed_object(
        self, request: SeedObject.Request, response: SeedObject.Response
    ) -> SeedObject.Response:
        box = request.box
        corners = (box.x_offset, box.y_offset, box.width, box.height)
        answer = self._answer(
            response,
            lambda core: core.seed_object(
                request.id,
                request.name,
                box=corners if any(corners) else None,
                polygon=[(point.x, point.y) for point in request.polygon.points],
                inside=[(point.x, point.y) for point in request.points_inside],
                outside=[(point.x, point.y) for point in request.points_outside],
                stamp=_nanoseconds(request.stamp),
            ),
        )
        if answer.success and answer.mask is not None and answer.frame is not None:
            response.mask.header = answer.frame.message.header
            image_codec.encode(response.mask, answer.mask, "mono8")
        return response

    def _on_remove_object(
        self, request: RemoveObject.Request, response: RemoveObject.Response
    ) -> RemoveObject.Response:
        self._answer(response, lambda core: core.remove(request.id))
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._answer(response, lambda core: core.reset())
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        def work(core: SegmentCore) -> Answer:
            self._enabled = request.data
            return core.enable(request.data)

        self._answer(response, work)
        return response

    def _on_save_memory(
        self, request: SaveMemory.Request, response: SaveMemory.Response
    ) -> SaveMemory.Response:
        snapshots = self._snapshots
        self._answer(
            response,
            lambda core: snapshots.save(request.path) if snapshots else core.failure(_ENDING),
        )
        return response

    def _on_load_memory(
        self, request: LoadMemory.Request, response: LoadMemory.Response
    ) -> LoadMemory.Response:
        snapshots = self._snapshots
        self._answer(
            response,
            lambda core: snapshots.load(request.path) if snapshots else core.failure(_ENDING),
        )
        return response

    # ------------------------------------------------------------------ other

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


def _nanoseconds(stamp: Time) -> int:
    return max(0, stamp.sec * NANOSECONDS + stamp.nanosec)


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is told to stop; the lifecycle services drive it."""
    rclpy.init(args=args)
    executor = MultiThreadedExecutor(num_threads=EXECUTOR_THREADS)
    node = SegmentNode()
    executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except (KeyboardInterrupt, ExternalShutdownException):
                break
            except InvalidHandle:
                # deactivate destroyed the subscription just when the executor, in another thread,
                # was about to wait for its QoS events; rclpy guards all but those against that
                continue
            except Exception:  # of a callback: rclpy hands it on, but it must not end the node
                node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")
    finally:
        node.free()  # first: it also ends service calls that wait for a frame
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
