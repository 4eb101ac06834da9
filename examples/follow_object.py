#!/usr/bin/env python3
"""Drives a robot after an object: positions of the segmentation node in, cmd_vel out.

    python3 examples/follow_object.py --ros-args -p object_id:=1 -p distance:=1.0

The camera looks ahead (x right, y down, z ahead), and the robot turns on the spot (differential
drive). The robot stands still unless it knows that the object is seen:

- It stops at once when the object is OCCLUDED or LOST, is removed, or has no position.
- It stops when nothing was heard of the object for `timeout` seconds: a watchdog sends commands at
  a rate of its own, whatever else happens.
- Speeds and their rise are limited; stopping is not.

It avoids no obstacles. Put a collision monitor behind it, or use Nav2 (docs/nav2.md).
"""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any

import rclpy
from geometry_msgs.msg import Twist, TwistStamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from stremn_interfaces.msg import ObjectArray, TrackedObject

# name: default, lowest, highest
PARAMETERS: dict[str, tuple[float, float, float]] = {
    "distance": (1.0, 0.2, 10.0),  # m, to keep from the object
    "max_linear": (0.3, 0.0, 2.0),  # m/s
    "max_angular": (0.8, 0.0, 3.0),  # rad/s
    "max_acceleration": (0.5, 0.01, 10.0),  # m/s^2, of speeding up
    "gain_linear": (0.8, 0.0, 5.0),  # 1/s
    "gain_angular": (1.5, 0.0, 5.0),  # 1/s
    "timeout": (0.3, 0.05, 5.0),  # s without a message, after which it stops
    "max_position_age": (0.5, 0.0, 2.0),  # s that a position may be older than its image
    "rate": (20.0, 1.0, 100.0),  # Hz, of commands
}
STOP = (0.0, 0.0)


def clipped(value: float, most: float) -> float:
    return max(-most, min(most, value))


def command(x: float, z: float, limits: dict[str, float]) -> tuple[float, float]:
    """Linear and angular velocity (m/s, rad/s) towards an object `x` m right and `z` m ahead."""
    bearing = math.atan2(x, z)
    ahead = math.hypot(x, z) - limits["distance"]
    # an object beside the robot is turned to before it is driven at
    linear = limits["gain_linear"] * ahead * max(0.0, math.cos(bearing)) ** 2
    angular = -limits["gain_angular"] * bearing
    return clipped(linear, limits["max_linear"]), clipped(angular, limits["max_angular"])


def seconds(stamp: Any) -> float:
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


class FollowObject(Node):
    """See the text of the file."""

    def __init__(self) -> None:
        super().__init__("follow_object")
        self._topic: str = self._given("objects_topic", "/stremn/objects")
        self._stamped: bool = self._given("stamped", False)
        self._id: int = self._given("object_id", 1)
        self._limits: dict[str, float] = {}
        for name, (default, low, high) in PARAMETERS.items():
            value: float = self._given(name, default)
            if not low <= value <= high:
                raise SystemExit(f"follow_object: {name} is {value:g}; it must be {low} to {high}")
            self._limits[name] = value
        if not 1 <= self._id <= 255:
            raise SystemExit(f"follow_object: object_id is {self._id}; it must be 1 to 255")
        self._heard = -math.inf  # when, by the monotonic clock
        self._stamp = 0.0  # of the image before
        self._wanted = STOP
        self._reason = ""
        kind = TwistStamped if self._stamped else Twist
        self._commands = self.create_publisher(kind, "cmd_vel", 1)
        self.create_subscription(
            ObjectArray,
            self._topic,
            self._on_objects,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
        )
        # a steady clock: a simulated one that stands still must not stop the watchdog
        self.create_timer(
            1.0 / self._limits["rate"],
            self._on_timer,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def _given(self, name: str, default: Any) -> Any:
        """A parameter's value; it may not change later, as it is read only now."""
        # the type is left to this, as `-p distance:=1` is an integer to ROS
        said = ParameterDescriptor(dynamic_typing=True, read_only=True)
        value = self.declare_parameter(name, default, said).value
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise SystemExit(f"follow_object: {name} is {value!r}; it must be of type {kind}")
        return value

    def _on_objects(self, message: ObjectArray) -> None:
        self._heard = time.monotonic()
        found = [item for item in message.objects if item.id == self._id]
        stamp = seconds(message.header.stamp)
        passed, self._stamp = stamp - self._stamp, stamp
        reason = self._why_not(found[0] if found else None, stamp)
        if reason:
            self._stop(reason)
            return
        self._say(f"following object {self._id}")
        linear, angular = command(found[0].position.x, found[0].position.z, self._limits)
        before = self._wanted[0]
        faster = abs(before) + self._limits["max_acceleration"] * min(max(passed, 0.0), 0.5)
        if linear * before < 0:  # the other way: from standing on
            faster = self._limits["max_acceleration"] * min(max(passed, 0.0), 0.5)
        self._wanted = clipped(linear, faster), angular
        self._send()

    def _why_not(self, item: TrackedObject | None, stamp: float) -> str:
        """Why the robot must stand still; empty where it may drive."""
        if item is None:
            return f"object {self._id} is not followed: seed it"
        if item.state != TrackedObject.TRACKED:
            return "the object is LOST" if item.state == TrackedObject.LOST else "it is OCCLUDED"
        place = (item.position.x, item.position.y, item.position.z)
        if not all(math.isfinite(value) for value in place) or item.position.z <= 0:
            return "the object has no position: see the node's diagnostics (depth_topic)"
        age = stamp - seconds(item.position_stamp)
        if age > self._limits["max_position_age"]:
            return f"its position is {age:.1f} s old: does the depth camera still run?"
        return ""

    def _on_timer(self) -> None:
        silent = time.monotonic() - self._heard
        if silent > self._limits["timeout"]:
            self._stop(f"nothing heard on {self._topic} for {self._limits['timeout']:g} s")
        else:
            self._send()

    def _stop(self, reason: str) -> None:
        self._say(f"standing still: {reason}")
        self._wanted = STOP
        self._send()

    def _say(self, text: str) -> None:
        """Once, until it is something else."""
        if text != self._reason:
            self._reason = text
            self.get_logger().info(text)

    def _send(self) -> None:
        twist = Twist()
        twist.linear.x, twist.angular.z = self._wanted
        if self._stamped:
            message = TwistStamped(twist=twist)
            message.header.stamp = self.get_clock().now().to_msg()
            self._commands.publish(message)
        else:
            self._commands.publish(twist)

    def stand_still(self) -> None:
        """The last command, whatever ended the node."""
        self._wanted = STOP
        self._send()


def main() -> int:
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    # kill, docker stop and launch end it by these; the robot must not drive on then, either
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    node = FollowObject()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.stand_still()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
