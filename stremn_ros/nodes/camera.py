"""One camera of the segmentation node: its topics and services, around its own core.

A node with one camera has them below its own name (`image`, `~/mask`, `~/seed_mask`); one with
several has them below the name of each (`left/image`, `~/left/mask`, `~/left/seed_mask`).

Each camera has its own callback groups for images, for masks of the topic `~/seed`, for the
services that seed, for those that take objects away or stop, and for snapshots: a call that waits
holds up neither images nor other cameras, and what takes away or stops never waits behind what
adds. Within a group a second call waits for the first. Blocking callbacks on an executor of several
threads are used instead of coroutines because rclpy of Humble does not wake up for a future that
another thread completes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject
from stremn_ros.hint_masks import HintMasks
from stremn_ros.messages import image_write
from stremn_ros.messages.reading import nanoseconds
from stremn_ros.nodes import parameters
from stremn_ros.nodes.depth_input import DepthInput
from stremn_ros.nodes.hint_topics import HintTopics
from stremn_ros.nodes.image_input import (
    ImageInput,
    SubscriptionEventCallbacks,
    no_time_yet,
    policy_name,
)
from stremn_ros.nodes.outputs import TRANSFORM_TYPES, Outputs
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.answers import Answer, Segmented
from stremn_ros.stream.autosave import Snapshots
from stremn_ros.stream.diagnosis import Report
from stremn_ros.stream.limited_log import LimitedLog, alike
from stremn_ros.stream.segment_core import SegmentCore
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.spatial_core import SpatialCore
from stremn_ros.stream.worker import Worker

# Threads of the executor that one camera can hold: with an image, a mask of the topic, and a call
# of each of the three kinds of services; and with a depth image.
THREADS = 6
# taken at once, into the core's inbox; the depth is for a burst, one mask for each object
SEEDS = QoSProfile(depth=16, reliability=ReliabilityPolicy.RELIABLE)
_ENDING = "the node is being cleaned up"
NO_TF = (
    "publish_tf is true, but tf2_msgs is not installed, so no transforms are published: "
    "sudo apt install ros-$ROS_DISTRO-tf2-msgs"
)
NO_FRAME = (
    "publish_tf is true, but the images have no frame (header.frame_id is empty), so no transforms "
    "are published: have the camera's driver set it"
)


class Camera:
    """See the ROS contract in the package's documentation for topics and services.

    Args:
        node: that the topics and services are made on.
        name: below which they are; empty for a node with one camera.
        values: of the node's parameters, by name; read at each use.
        settings: those that may change while it runs.
        log: log(severity, text) of the node.
        unready: says why there is no core to work with.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        values: Mapping[str, Any],
        settings: Settings,
        log: Callable[[str, str], None],
        unready: Callable[[], str],
    ) -> None:
        self.name = name
        self._node = node
        self._values = values
        self._settings = settings
        self._write = log
        self._unready = unready
        self._private = f"~/{name}/" if name else "~/"
        self._log = LimitedLog(self._write_log, values["log_period"])
        self._images = ImageInput(
            node, f"{name}/image" if name else "image", values, self._on_image, self._log
        )
        self._core: SegmentCore | None = None
        self._depth: DepthInput | None = None
        self._space: SpatialCore | None = None
        self._snapshots: Snapshots | None = None
        self._resumed = False  # since `configure`
        self._enabled = True
        self._seed_hint = ""  # what is known of a connection that cannot work
        self._seeds: Any = None
        self._hints: HintTopics | None = None
        self._outputs: Outputs | None = None
        self._seed_group = MutuallyExclusiveCallbackGroup()  # of the topic
        # Services are there in every state, so that a call gets an answer that says what to do.
        for services in (
            (
                (SeedMask, "seed_mask", self._on_seed_mask),
                (SeedObject, "seed_object", self._on_seed_object),
            ),
            (
                (RemoveObject, "remove_object", self._on_remove_object),
                (Trigger, "reset", self._on_reset),
                (SetBool, "enable", self._on_enable),
            ),
            (
                (SaveMemory, "save_memory", self._on_save_memory),
                (LoadMemory, "load_memory", self._on_load_memory),
            ),
        ):
            group = MutuallyExclusiveCallbackGroup()
            for kind, service, callback in services:
                node.create_service(kind, self._private + service, callback, callback_group=group)

    # ------------------------------------------------------------------ life

    def configure(self, segmenter: Segmenter, worker: Worker, masks: HintMasks) -> None:
        """Makes publishers, core and snapshots; no frame is taken yet."""
        values, node = self._values, self._node

        depth_topic = self._own_topic("depth_topic")
        outputs = Outputs(node, self._private, self._settings, values, bool(depth_topic))
        self._outputs = outputs
        if depth_topic:
            self._make_space(depth_topic, outputs)
        path = node.get_fully_qualified_name()
        self._core = SegmentCore(
            segmenter,
            publish=self._publish,
            log=self._log,
            seeded=self._tell_of_topic,
            settings=self._settings,
            masks=masks,
            seed_buffer=values["seed_buffer"],
            topic=self._images.topic,
            node=path,
            now=lambda: node.get_clock().now().nanoseconds,
            worker=worker,
            wanted=lambda: outputs.wanted,
        )
        self._core.enable(self._enabled)
        words = [*path.strip("/").split("/"), *([self.name] if self.name else [])]
        self._snapshots = Snapshots(
            self._core, values["snapshot_dir"], ".".join(words), self._settings, self._log
        )
        self._resumed = False
        click_topic = self._own_topic("click_topic")
        self._hints = HintTopics(node, self._private, click_topic, lambda: self._core)

    def _own_topic(self, parameter: str) -> str:
        """The topic that a parameter names for this camera; empty for none."""
        cameras = parameters.camera_names(self._values["cameras"])
        return parameters.camera_topics(parameter, self._values[parameter], cameras)[self.name]

    def _make_space(self, depth_topic: str, outputs: Outputs) -> None:
        """What works with the depth camera; it does not listen to it yet."""
        values = self._values

        def listen(on: bool) -> None:
            (depth.start if on else depth.stop)()

        space = SpatialCore(
            publish=outputs.publish_in_space,
            demand=outputs.demand,
            listen=listen,
            log=self._log,
            settings=self._settings,
            topic=self._node.resolve_topic_name(depth_topic),
            slop=values["depth_slop"],
            buffer=values["depth_buffer"],
            rectified=values["depth_rectified"],
        )
        depth = DepthInput(
            self._node,
            depth_topic,
            self._own_topic("depth_camera_info_topic"),
            values,
            space.on_depth,
            space.on_info,
            self._log,
        )
        self._space, self._depth = space, depth

    def _publish(self, segmented: Segmented) -> None:
        """The mask at once; what depends on depth when that has come."""
        outputs, space = self._outputs, self._space
        assert outputs is not None
        if space is not None:
            segmented = replace(segmented, known=space.known)
        outputs.publish(segmented)
        if space is not None:
            space.put(segmented)

    def activate(self) -> str:
        """Starts the subscriptions; the name of the image topic."""
        assert self._core is not None
        assert self._snapshots is not None
        assert self._outputs is not None
        self._seed_hint = ""
        self._outputs.tell_again()
        # once, as from then on the memory in this process is the newer one
        if self._settings.autoload and not self._resumed and not self._core.tracked():
            self._snapshots.autoload()
        self._resumed = True
        self._core.activate()
        if self._space is not None:
            self._space.activate()
        self._seeds = self._node.create_subscription(
            Image,
            self._private + "seed",
            self._on_seed,
            SEEDS,
            callback_group=self._seed_group,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_deaf_to_seeds),
        )
        assert self._hints is not None
        self._hints.start()
        return self._images.start()

    def save(self) -> None:
        """Takes no more images, and saves the memory with autosave_at_stop."""
        if self._core is not None:
            self._core.deactivate()
        if self._snapshots is not None and self._settings.autosave_at_stop:
            self._snapshots.autosave()

    def stop(self) -> None:
        """Does the same, and ends the subscriptions; the objects are kept."""
        self.save()
        self._images.stop()
        if self._space is not None:
            self._space.deactivate()
        seeds, self._seeds = self._seeds, None
        if seeds is not None:
            self._node.destroy_subscription(seeds)
        if self._hints is not None:
            self._hints.stop()

    def release(self) -> None:
        """Lets go of everything that `configure` made; more than once if need be."""
        self.stop()
        snapshots, self._snapshots = self._snapshots, None
        if snapshots is not None:
            snapshots.close()
        core, self._core = self._core, None
        if core is not None:
            core.close()
        space, self._space, self._depth = self._space, None, None
        if space is not None:
            space.close()
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()

    def settings_changed(self) -> None:
        """The settings or values have changed."""
        self._log.period = self._values["log_period"]
        if self._snapshots is not None:
            self._snapshots.settings_changed()

    def report(self) -> Report | None:
        """For the diagnostics; None while not configured."""
        self._images.look()
        core, snapshots, space, depth = self._core, self._snapshots, self._space, self._depth
        if core is None:
            return None
        last, problem = snapshots.status() if snapshots is not None else ("", "")
        problems = [problem, self._seed_hint]
        if self._hints is not None:
            self._hints.look()
            problems.append(self._hints.hint)
        in_space = ""
        if space is not None and depth is not None:
            depth.look()
            problems += space.problems(depth.problem)
            in_space = space.text()
        if self._values["publish_tf"] and TRANSFORM_TYPES is None:
            problems.append(NO_TF)
        elif self._values["publish_tf"] and space is not None and space.known.unframed:
            problems.append(NO_FRAME)
        if not self._values["depth_topic"]:
            idle = [name for name in ("publish_tf", "follow_id") if self._values[name]]
            if idle:
                problems.append(
                    f"{' and '.join(idle)}: no object has a position without a depth camera: set "
                    "depth_topic"
                )
        return core.report(self._images.problem, last, problems, no_time_yet(self._node), in_space)

    def _on_image(self, message: Any, publisher: Any, sequence: int | None) -> None:
        core = self._core
        if core is not None:
            core.on_frame(message, publisher, sequence)

    # ------------------------------------------------------------------ seeds by topic

    def _on_seed(self, mask: Image) -> None:
        """~/seed: as the service seed_mask; log and diagnostics report the result."""
        core = self._core
        if core is not None:
            core.seed_later(mask)

    def _on_deaf_to_seeds(self, info: Any) -> None:
        self._seed_hint = (
            "QoS mismatch with a publisher of "
            f"{self._node.resolve_topic_name(self._private + 'seed')}: "
            f"its {policy_name(info)} does not fit; publish seeds reliably"
        )
        self._log("error", "", self._seed_hint)

    # ------------------------------------------------------------------ services

    def _try(self, work: Callable[[SegmentCore], Answer]) -> Answer:
        core = self._core
        try:
            return Answer(False, self._unready()) if core is None else work(core)
        except Exception as error:  # a call is answered, whatever happens
            self._write_log("error", traceback.format_exc())
            return Answer(False, f"failed inside: {type(error).__name__}: {error}")

    def _tell(self, answer: Answer) -> None:
        if answer.success:
            self._write_log("info", answer.message)
        else:  # a program may call wrongly a hundred times a second
            self._log("warning", f"refused: {alike(answer.message)}", answer.message)

    def _tell_of_topic(self, answer: Answer) -> None:
        """As `_tell`, of what came by a topic: a detector may publish each of its masks."""
        if answer.success:
            self._log("info", f"seeded {answer.ids}", answer.message)
        else:
            self._tell(answer)

    def _answer(self, response: Any, work: Callable[[SegmentCore], Answer]) -> Answer:
        """Runs a service on the core and fills what all responses share."""
        answer = self._try(work)
        response.success = answer.success
        response.message = answer.message
        if hasattr(response, "tracked_ids"):
            response.tracked_ids = answer.tracked_ids
        if hasattr(response, "ids"):
            response.ids = answer.ids
        if hasattr(response, "stamp") and answer.frame is not None:
            response.stamp = answer.frame.message.header.stamp
            response.exact = answer.exact
            response.overlapped_ids = answer.overlapped_ids
            response.frame_time = answer.frame_time
        self._tell(answer)
        return answer

    def _on_seed_mask(
        self, request: SeedMask.Request, response: SeedMask.Response
    ) -> SeedMask.Response:
        self._answer(
            response,
            lambda core: core.seed_mask(
                request.mask,
                request.names,
                request.replace,
                strict=request.strict,
                on_overlap=request.on_overlap,
            ),
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
                stamp=nanoseconds(request.stamp),
                strict=request.strict,
                on_overlap=request.on_overlap,
            ),
        )
        response.agreement = answer.agreement
        response.quality = answer.quality
        # not unasked: a terminal would show every pixel of it
        if request.return_mask and answer.mask is not None and answer.frame is not None:
            response.mask.header = answer.frame.message.header
            image_write.encode(response.mask, answer.mask, "mono8")
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

    def _write_log(self, severity: str, text: str) -> None:
        self._write(severity, f"{self.name}: {text}" if self.name else text)
