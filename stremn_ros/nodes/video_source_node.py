"""Publishes a video file or a folder of images as a camera does: the node `video_source`.

Topics (remap them by name): `image` (sensor_msgs/Image) and `camera_info` beside it. The process
ends by itself, with exit code 0, once the last image of a video that does not loop was delivered;
with 1 and the reason in the log when the video cannot be read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from stremn_ros.errors import InputError
from stremn_ros.imaging.video import VideoCutShortError, open_frames
from stremn_ros.messages import image_read, image_write
from stremn_ros.nodes import entry, parameters
from stremn_ros.nodes.image_input import no_time_yet

PROGRESS_PERIOD = 2.0  # seconds between two lines of progress
# Images that a reliable publisher keeps for subscribers that lag: at 30 Hz a third of a second.
DEPTH = 10
# A publisher learns of a subscriber a moment before that one can receive from it; an image sent in
# between is lost to it, even a reliable one.
SETTLE = 0.5
DELIVERY_TIMEOUT = 30.0  # seconds for the last images to be acknowledged
# A best-effort image is never acknowledged; the publisher stays this long for the last one.
LINGER = 0.5


class VideoSource(Node):
    """Drives itself with a timer; `done` is set at the end, `error` when it ended badly."""

    def __init__(self, **options: Any) -> None:
        super().__init__("video_source", **options)
        self.done = False
        self.error = ""
        self.published = 0
        self._cut_short = False  # the file, which was reported
        self._values, problems = parameters.declare(self, parameters.VIDEO_SOURCE)
        if problems:
            raise InputError("; ".join(problems.values()))
        values = self._values
        if not values["path"]:
            raise InputError(
                "parameter path is empty: give a video file or a folder of images "
                "(--ros-args -p path:=/path/to/video.mp4)"
            )
        self._frames = open_frames(
            values["path"], start=values["start_frame"], end=values["end_frame"] or None
        )
        size = self._output_size()
        if size != self._frames.size:
            self._frames = open_frames(
                values["path"],
                start=values["start_frame"],
                end=values["end_frame"] or None,
                size=size,
            )
        self._source: Iterator[NDArray[np.uint8]] = iter(self._frames)
        self._next: NDArray[np.uint8] | None = self._read()
        if self._next is None:
            raise InputError(f"{values['path']}: no frame can be read")
        reliable = values["reliability"] == "reliable"
        quality = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        self._reliable = reliable
        self._images = self.create_publisher(Image, "image", quality)
        self._infos = (
            self.create_publisher(CameraInfo, "camera_info", quality)
            if values["camera_info"]
            else None
        )
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._last_progress = time.monotonic()
        self._complete_since: float | None = None  # when all subscribers waited for were there
        # not the node's clock, which may be a simulated one that stands still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(0.05, self._wait_for_subscribers, clock=steady)
        rows, columns = self._frames.size
        self.get_logger().info(
            f"{values['path']}: {self._frames.count or 'some'} frames of {columns} x {rows} at "
            f"{self.rate:g} Hz on {self._images.topic_name}"
            + (", looping" if values["loop"] else "")
        )

    @property
    def rate(self) -> float:
        """Frames per second."""
        return float(self._values["rate"]) or float(self._frames.fps)

    def _output_size(self) -> tuple[int, int]:
        """(rows, columns) that scale and width ask for, fit for the encoding."""
        rows, columns = self._frames.size
        factor = self._values["scale"]
        if self._values["width"]:
            factor = self._values["width"] / columns
        size = [max(1, round(side * factor)) for side in (rows, columns)]
        if self._values["encoding"] not in ("rgb8", "bgr8", "rgba8", "bgra8"):
            size = [max(2, side - side % 2) for side in size]  # cells of two pixels
        if max(size) > image_read.MAX_SIDE:
            raise InputError(
                f"scale and width make images of {size[1]} x {size[0]} pixels: at most "
                f"{image_read.MAX_SIDE} a side"
            )
        return size[0], size[1]

    def _read(self) -> NDArray[np.uint8] | None:
        """The next frame; None at the end of the video, and of a round of one that loops."""
        try:
            return next(self._source, None)
        except VideoCutShortError as error:
            # what it has was published; one that loops repeats that
            if not self._values["loop"]:
                raise
            if not self._cut_short:
                self.get_logger().warning(f"each round ends there: {error}")
            self._cut_short = True
            return None

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values, reason = parameters.check_changes(parameters.VIDEO_SOURCE, changes, configured=True)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        self._values.update(values)
        if "rate" in values and self.published:
            self._start()
        return SetParametersResult(successful=True)

    def _start(self) -> None:
        self.destroy_timer(self._timer)
        self._timer = self.create_timer(1.0 / self.rate, self._publish)

    def _wait_for_subscribers(self) -> None:
        if no_time_yet(self):
            self._tell_waiting(
                "use_sim_time is true, but nothing has published a time on /clock: start the "
                "simulation, or set use_sim_time to false"
            )
            return
        wanted = self._values["wait_for_subscribers"]
        present = self._images.get_subscription_count()
        if present >= wanted:
            if self._complete_since is None:
                self._complete_since = time.monotonic()
            if not wanted or time.monotonic() - self._complete_since >= SETTLE:
                self._start()
                self._publish()
            return
        self._complete_since = None
        self._tell_waiting(
            f"waiting for subscribers of {self._images.topic_name}: {present} of {wanted}"
        )

    def _tell_waiting(self, text: str) -> None:
        if time.monotonic() - self._last_progress >= PROGRESS_PERIOD:
            self._last_progress = time.monotonic()
            self.get_logger().info(text)

    def _publish(self) -> None:
        try:
            self._publish_next()
        except InputError as error:  # a frame in the middle that cannot be decoded
            self._end(str(error))

    def _publish_next(self) -> None:
        if self.done or self._next is None:
            return
        message = Image()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = self._values["frame_id"]
        image_write.encode(message, self._next, self._values["encoding"])
        self._images.publish(message)
        if self._infos is not None:
            info = CameraInfo(header=message.header)
            info.height, info.width = message.height, message.width
            self._infos.publish(info)
        self.published += 1
        # decoded now, so that the next image goes out on time
        self._next = None
        self._next = self._read()
        if self._next is None and self._values["loop"]:
            self._source = iter(self._frames)
            self._next = self._read()
        self._progress()
        if self._next is None:
            self._end()

    def _progress(self) -> None:
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_PERIOD:
            self._last_progress = now
            count = max(1, self._frames.count)
            rounds, place = divmod(self.published - 1, count)
            place += 1
            loop = f" of round {rounds + 1}" if self._values["loop"] else ""
            self.get_logger().info(
                f"published {place}/{count} frames{loop} ({100 * place // count} %) to "
                f"{self._images.get_subscription_count()} subscribers"
            )

    def _end(self, error: str = "") -> None:
        self._timer.cancel()
        self._next = None
        self.error = error
        self.done = True

    def deliver(self) -> bool:
        """Waits until subscribers have the last images; False when some did not take them."""
        publishers = [self._images] if self._infos is None else [self._images, self._infos]
        if not self._reliable:
            time.sleep(LINGER)
            return True
        end = time.monotonic() + DELIVERY_TIMEOUT
        return all(
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, end - time.monotonic())))
            for publisher in publishers
        )


def main(args: list[str] | None = None) -> int:
    """Runs the node; the exit code is 0 at the end of the video or after a stop signal, else 1."""

    def start(signals: entry.StopSignals) -> int:
        entry.init(args)
        return _run(signals)

    return entry.run("video_source_node", start)


def _run(signals: entry.StopSignals) -> int:
    executor = SingleThreadedExecutor()
    node: VideoSource | None = None
    code = 0
    try:
        node = VideoSource()
        executor.add_node(node)
        while rclpy.ok() and not (node.done or signals.told):
            executor.spin_once(timeout_sec=0.2)
        if node.error:
            node.get_logger().error(node.error)
            code = 1
        if node.done:
            if not node.deliver():
                node.get_logger().warning(
                    f"a subscriber did not take the last images within {DELIVERY_TIMEOUT:g} s"
                )
            node.get_logger().info(f"published all: {node.published} frames")
    except InputError as error:
        rclpy.logging.get_logger("video_source").error(str(error))
        code = 1
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        entry.shut_down()
    return code


if __name__ == "__main__":
    sys.exit(main())
