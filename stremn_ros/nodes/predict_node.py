"""The lifecycle node `stremn_predict`: images in, the coming image out.

The work is in `predict_core`; here are the topics and the service. What lifecycle nodes share is
in `life_cycle`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from stremn_interfaces.msg import PredictionError
from stremn_ros.messages import image_write
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.nodes import life_cycle, parameters
from stremn_ros.nodes.image_input import ImageInput, no_time_yet
from stremn_ros.nodes.qos import create_result_publisher
from stremn_ros.predictor import Predictor
from stremn_ros.stream.diagnosis import Report
from stremn_ros.stream.limited_log import LimitedLog
from stremn_ros.stream.predict_core import PredictCore, Predicted, PredictSettings

# Of the executor: one with an image, one with a call.
THREADS = 2


class Predictions:
    """Images of a camera in, predictions out, around a core; see `life_cycle.Stream`.

    Args: as of `camera.Camera`.
    """

    name = ""

    def __init__(
        self,
        node: LifecycleNode,
        values: Mapping[str, Any],
        settings: PredictSettings,
        log: Callable[[str, str], None],
        unready: Callable[[], str],
    ) -> None:
        self._node, self._values, self._settings = node, values, settings
        self._unready = unready
        self._core: PredictCore | None = None
        self._publishers: list[Any] = []
        self._log = LimitedLog(log, values["log_period"])
        self._images = ImageInput(node, "image", values, self._on_image, self._log)
        node.create_service(
            Trigger, "~/reset", self._on_reset, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def configure(self, predictor: Predictor) -> None:
        """Makes publishers and core; no frame is taken yet."""
        node = self._node
        self._image_pub = create_result_publisher(node, Image, "~/predicted_image")
        self._error_pub = create_result_publisher(node, PredictionError, "~/prediction_error")
        self._confidence_pub = create_result_publisher(node, Image, "~/prediction_confidence")
        self._publishers = [self._image_pub, self._error_pub, self._confidence_pub]
        self._core = PredictCore(
            predictor,
            publish=self._publish,
            wants_confidence=lambda: self._confidence_pub.get_subscription_count() > 0,
            log=self._log,
            settings=self._settings,
            topic=self._images.topic,
            node=node.get_fully_qualified_name(),
            now=lambda: node.get_clock().now().nanoseconds,
        )

    def activate(self) -> str:
        """Starts the subscription; the name of the image topic."""
        assert self._core is not None
        self._core.activate()
        return self._images.start()

    def save(self) -> None:
        """Takes no more images; there is nothing to save."""
        if self._core is not None:
            self._core.deactivate()

    def stop(self) -> None:
        """Ends the subscription."""
        self.save()
        self._images.stop()

    def release(self) -> None:
        """Lets go of everything that `configure` made; more than once if need be."""
        self.stop()
        core, self._core = self._core, None
        if core is not None:
            core.close()
        publishers, self._publishers = self._publishers, []
        for publisher in publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def settings_changed(self) -> None:
        """The settings or values have changed."""
        self._log.period = self._values["log_period"]

    def report(self) -> Report | None:
        """For the diagnostics; None while not configured."""
        self._images.look()
        core = self._core
        if core is None:
            return None
        return core.report(self._images.problem, no_time_yet(self._node))

    def _on_image(self, message: Any, publisher: Any, sequence: int | None) -> None:
        core = self._core
        if core is not None:
            core.on_frame(message, publisher, sequence)

    def _publish(self, predicted: Predicted) -> None:
        """In the worker."""
        source = predicted.frame.message.header
        if predicted.image is not None:
            image = Image()
            image.header.frame_id = source.frame_id
            image.header.stamp = _time(predicted.stamp)
            self._image_pub.publish(image_write.encode(image, predicted.image, "rgb8"))
            if predicted.confidence is not None:
                sure = Image(header=image.header)
                self._confidence_pub.publish(
                    image_write.encode(sure, predicted.confidence, "mono8")
                )
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
            response.success, response.message = False, self._unready()
        else:
            response.success, response.message = True, core.reset()
        return response


class PredictNode(life_cycle.NetworkNode):
    """See the ROS contract in the package's documentation for topics and services."""

    def __init__(self, **options: Any) -> None:
        settings = PredictSettings()
        super().__init__("stremn_predict", parameters.PREDICT, "prediction", settings, **options)
        self._predictions = Predictions(
            self, self._values, settings, self._write_log, self._unready
        )
        self._streams = [self._predictions]

    def _load(self) -> None:
        values = self._values
        predictor = Predictor.load(
            values["model"],
            device=values["device"],
            runtime=values["runtime"],
            auto_build=values["auto_build"],
            processing_size=values["processing_size"] or None,
            slots=values["slots"] or None,
            observe=values["observe"] or None,
        )
        self._predictions.configure(predictor)
        self.get_logger().info(
            f"configured: model {values['model']} on {predictor.runtime_name}, "
            f"{predictor.horizon} images at once, predictions after {predictor.observe} images"
        )

    @property
    def threads(self) -> int:
        """How many threads the executor wants for this node."""
        return life_cycle.THREADS + THREADS


def _time(stamp: int) -> Time:
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def main(args: list[str] | None = None) -> int:
    """Runs the node until a signal stops it; the lifecycle services drive it."""
    return life_cycle.main("predict_node", lambda: [PredictNode()], args)


if __name__ == "__main__":
    sys.exit(main())
