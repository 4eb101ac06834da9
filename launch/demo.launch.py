"""Plays a video as a camera and follows an object in it; for watching in rviz2.

ros2 launch stremn_ros demo.launch.py rviz:=true
ros2 launch stremn_ros demo.launch.py video:=/path/to/video.mp4 mask:=/path/to/first_frame_mask.png

Without a mask nothing is seeded: use `stremn seed` yourself. `stremn demo` does the same
without launch and rviz, and writes a video, a contact sheet and figures.
"""

from __future__ import annotations

import os
import sys

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from stremn_ros.client.launching import full_namespace, number, reader
from stremn_ros.demo.assets import RATE, START_FRAME, WIDTH, demo_video

SHARE = get_package_share_directory("stremn_ros")
IMAGE_TOPIC = "/demo/image"

ARGUMENTS = [
    DeclareLaunchArgument(
        "video",
        default_value="",
        description="Video file or folder of images. Empty: the demo's own video, with its mask.",
    ),
    DeclareLaunchArgument(
        "mask",
        default_value="",
        description="Label mask (PNG, one id per object) of the first frame played.",
    ),
    DeclareLaunchArgument("rate", default_value=str(RATE), description="Frames per second."),
    DeclareLaunchArgument(
        "width", default_value=str(WIDTH), description="Width of the images; the height follows."
    ),
    DeclareLaunchArgument(
        "loop",
        default_value="true",
        choices=["true", "false"],
        description="Play the video again and again; stamps go on rising.",
    ),
    DeclareLaunchArgument(
        "model", default_value="segment_lite0", description="Name of a model, or path of a folder."
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Open rviz2 with the image and the overlay.",
    ),
]


def _actions(context: LaunchContext) -> list:
    value = reader(context)
    video, mask = value("video"), value("mask")
    start = 0
    if not video:
        video = str(demo_video())
        mask = mask or os.path.join(SHARE, "config", "demo_seed.png")
        start = START_FRAME
    # all that can be wrong is looked at before anything is started
    for name, path in (("video", video), ("mask", mask)):
        if path and not os.path.exists(path):
            raise RuntimeError(f"{name}:={path}: there is no such file")
    rate = number(value, "rate", float)
    width = number(value, "width", int)

    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "segment.launch.py")),
        launch_arguments={
            "image_topic": IMAGE_TOPIC,
            "image_reliability": "reliable",
            "model": value("model"),
            "rviz": value("rviz"),
        }.items(),
    )
    source = Node(
        package="stremn_ros",
        executable="video_source_node",
        name="video_source",
        parameters=[
            {
                "path": video,
                "rate": rate,
                "width": width,
                "loop": value("loop") == "true",
                "start_frame": start,
                # the node, and what seeds it
                "wait_for_subscribers": 2 if mask else 1,
            }
        ],
        remappings=[("image", IMAGE_TOPIC), ("camera_info", "/demo/camera_info")],
        output="screen",
    )
    actions = [segment, source]
    if mask:
        actions.append(
            ExecuteProcess(
                cmd=[
                    sys.executable,
                    "-m",
                    "stremn_ros.cli",
                    "seed",
                    "--mask",
                    mask,
                    "--node",
                    f"{full_namespace(context)}/stremn",
                    "--image-topic",
                    IMAGE_TOPIC,
                    "--replace",
                    "--timeout",
                    "600",
                ],
                name="seed",
                output="screen",
            )
        )
    return actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
