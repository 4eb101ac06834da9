"""examples/follow_object.py closes the loop: a drawn RGB-D camera that drives as cmd_vel says."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Twist
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import segment_node, wait_for
from shapes import DISC
from spatial_peer import DEPTH, FOCAL, FRAME, WALL, K, SpatialPeer

from stremn_interfaces.msg import TrackedObject

ROOT = Path(__file__).resolve().parent.parent
SIZE = (120, 160)
RADIUS = 0.18  # m, of the ball
STEP = 0.2  # simulated seconds from image to image
DISTANCE = 1.2
LINEAR, ANGULAR = 0.3, 0.8


class World:
    """A robot with a camera at (x, y), looking along its heading, and a ball that goes its way."""

    def __init__(self):
        self.x = self.y = self.heading = self.time = 0.0
        self.hidden = False

    def ball(self):
        """A walk that leads away, and from side to side."""
        return 1.2 + 0.1 * self.time, 0.5 * math.sin(self.time / 6.0)

    def relative(self):
        """(right, ahead) of the ball, in the camera's frame."""
        dx, dy = self.ball()[0] - self.x, self.ball()[1] - self.y
        ahead = math.cos(self.heading) * dx + math.sin(self.heading) * dy
        right = math.sin(self.heading) * dx - math.cos(self.heading) * dy
        return right, ahead

    def drive(self, linear, angular):
        self.heading += angular * STEP
        self.x += linear * STEP * math.cos(self.heading)
        self.y += linear * STEP * math.sin(self.heading)
        self.time += STEP

    def look(self):
        """Frame uint8, truth uint8 and depth uint16 (millimeters)."""
        right, ahead = self.relative()
        truth = np.zeros(SIZE, np.uint8)
        if ahead > 0.2 and not self.hidden:
            center = (round(K[2] + FOCAL * right / ahead), round(K[5]))
            cv2.circle(truth, center, round(FOCAL * RADIUS / ahead), DISC, -1)
        frame = np.full((*SIZE, 3), 90, np.uint8)
        frame[truth == DISC] = (220, 40, 30)
        depth = np.full(SIZE, 1000 * WALL, np.uint16)
        depth[truth == DISC] = round(1000 * ahead) if ahead > 0 else 0
        return frame, truth, depth


class Robot(SpatialPeer):
    """The camera, and who obeys cmd_vel."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self.commands = []  # (when, linear, angular)
        self.node.create_subscription(
            Twist,
            "/cmd_vel",
            lambda m: self.commands.append((time.monotonic(), m.linear.x, m.angular.z)),
            QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE),
        )

    def step(self):
        """An image; the labels and the objects of it."""
        frame, _, depth = self.world.look()
        stamp = self.next_stamp(round(STEP * 1e9))
        self.send_info(stamp)
        self.send_depth(depth, stamp)
        return self.segment(frame, stamp, frame_id=FRAME)

    def standing(self, since):
        """When the first command to stand still came after a time."""
        for when, linear, angular in list(self.commands):
            if when >= since and linear == angular == 0.0:
                return when
        return None


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("follow")
    with segment_node(folder, {"depth_topic": DEPTH, "lost_after": 1000}) as node:
        robot = Robot()
        robot.world.hidden = True
        log = (folder / "follow.log").open("wb")
        command = [sys.executable, str(ROOT / "examples" / "follow_object.py"), "--ros-args"]
        for name, value in {
            "object_id": DISC,
            "distance": DISTANCE,
            "max_linear": LINEAR,
            "max_angular": ANGULAR,
            "rate": 50.0,
        }.items():
            command += ["-p", f"{name}:={value}"]

        def start():
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # a shell in the background has SIGINT ignored, and its children, too
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

        follower = start()
        try:
            robot.bring_up(node)
            robot.connect(robot.world.look()[0])
            robot.world.hidden = False
            robot.step()
            robot.seed(robot.world.look()[1])
            wait_for(lambda: robot.commands, "the first command")
            yield robot
            for number in (signal.SIGINT, signal.SIGTERM):
                follower.send_signal(number)
                assert follower.wait(60) == 0, (folder / "follow.log").read_text()
                wait_for(lambda: robot.commands[-1][1:] == (0.0, 0.0), "the last command", 30)
                if number == signal.SIGINT:
                    robot.commands.clear()
                    follower = start()
                    wait_for(lambda: robot.commands, "a command of the next one")
        finally:
            if follower.poll() is None:
                os.kill(follower.pid, signal.SIGKILL)
                follower.wait()
            log.close()
            robot.close()


def test_it_keeps_the_object_in_view_for_a_minute(robot):
    world = robot.world

    drive_off(robot)  # by then it has found the node, which takes seconds on a busy machine
    apart, sides, begin = [], [], world.time
    while world.time < begin + 60.0:
        labels, objects = robot.step()
        before = len(robot.commands)  # the ones before may be of the image before
        assert labels.any(), f"out of view at {world.time:.1f} s: {world.relative()}"
        assert [item.state for item in objects.objects] == [TrackedObject.TRACKED]
        wait_for(lambda: len(robot.commands) > before, "a command")  # noqa: B023
        _, linear, angular = robot.commands[-1]
        assert abs(linear) <= LINEAR + 1e-6
        assert abs(angular) <= ANGULAR + 1e-6
        world.drive(linear, angular)
        right, ahead = world.relative()
        apart.append(math.hypot(right, ahead))
        sides.append(abs(math.atan2(right, ahead)))
    # the ball was 1.2 m away and walked 6 m; half of the field of view is 28 degrees
    assert world.x > 4.0
    assert max(sides) < math.radians(25)  # a command may be late on a busy machine
    assert 0.8 < float(np.median(apart[50:])) < 1.8
    print(
        f"apart {np.median(apart):.2f} m (most {max(apart):.2f}), {math.degrees(max(sides)):.0f}°"
    )


def drive_off(robot):
    """Until it drives."""

    def drives():
        robot.step()
        return abs(robot.commands[-1][1]) + abs(robot.commands[-1][2]) > 0.01

    robot.world.time += 3.0  # the ball goes on, so there is something to drive for
    wait_for(drives, "a command to drive", 60)


def test_it_stops_within_three_tenths_of_a_second_when_the_object_is_hidden(robot):
    took = []
    for _ in range(3):  # a machine that is busy with other things may be late once
        robot.world.hidden = False
        drive_off(robot)
        robot.world.hidden = True
        begin = time.monotonic()
        labels, objects = robot.step()
        assert not labels.any()
        assert [item.state for item in objects.objects] == [TrackedObject.OCCLUDED]
        took.append(wait_for(lambda: robot.standing(begin), "a stop") - begin)  # noqa: B023
        # and it stays so while the object is hidden
        count = len(robot.commands)
        for _ in range(3):
            robot.step()
        wait_for(lambda: len(robot.commands) > count + 3, "more commands")  # noqa: B023
        assert {command[1:] for command in robot.commands[count:]} == {(0.0, 0.0)}
        if took[-1] < 0.3:
            break
    print(f"stopped after {took[-1]:.3f} s")
    assert min(took) < 0.3
    robot.world.hidden = False


def test_it_stops_when_the_depth_or_the_images_stop(robot):
    drive_off(robot)
    # images go on without depth: positions grow old
    for _ in range(5):
        stamp = robot.next_stamp(round(STEP * 1e9))
        robot.segment(robot.world.look()[0], stamp, frame_id=FRAME)
    begin = time.monotonic()
    wait_for(lambda: robot.standing(begin), "a stop without depth")
    drive_off(robot)
    begin = time.monotonic()  # no image comes any more: the watchdog's turn
    wait_for(lambda: robot.standing(begin), "a stop without images")


def test_a_limit_that_would_not_count_is_not_taken(robot):
    taken, reason = robot.set_parameter("max_linear", 0.1, node="/follow_object")
    assert not taken
    assert "read-only" in reason


def test_bad_parameters_are_told():
    for name, value, says in (
        ("object_id", 0, "object_id is 0; it must be"),
        ("distance", -1.0, "distance is -1; it must be"),
        ("distance", 20, "distance is 20; it must be"),  # a whole number is one, too
        ("stamped", 1, "stamped is 1; it must be of type bool"),
        ("object_id", 1.5, "object_id is 1.5; it must be of type int"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "examples" / "follow_object.py"),
                "--ros-args",
                "-p",
                f"{name}:={value}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr
