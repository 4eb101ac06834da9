"""Two cameras, one node, one network: what a robot with two cameras needs.

ros2 launch examples/follow_two_cameras.launch.py left:=/left/image_raw right:=/right/image_raw

The masks are on /stremn/left/mask and /stremn/right/mask, and each camera has its own services:

ros2 run stremn_ros stremn seed --camera left --box 210,120,90,110 --name cup
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

LAUNCH = os.path.join(get_package_share_directory("stremn_ros"), "launch", "segment.launch.py")


def generate_launch_description() -> LaunchDescription:
    """segment.launch.py with two cameras; it configures and activates the node."""
    left, right = LaunchConfiguration("left"), LaunchConfiguration("right")
    return LaunchDescription(
        [
            DeclareLaunchArgument("left", default_value="/left/image_raw"),
            DeclareLaunchArgument("right", default_value="/right/image_raw"),
            DeclareLaunchArgument("model", default_value="segment_lite0"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(LAUNCH),
                launch_arguments={
                    "cameras": ["left=", left, ",right=", right],
                    "model": LaunchConfiguration("model"),
                    # a node that crashed comes back; see docs/snapshots.md
                    "respawn": "true",
                }.items(),
            ),
        ]
    )
