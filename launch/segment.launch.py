"""Starts the segmentation node, configures and activates it.

ros2 launch stremn_ros segment.launch.py image_topic:=/camera/image_raw rviz:=true
ros2 launch stremn_ros segment.launch.py cameras:=left=/left/image_raw,right=/right/image_raw
ros2 launch stremn_ros segment.launch.py image_topic:=/camera/color/image_raw \\
    depth_topic:=/camera/aligned_depth_to_color/image_raw rviz:=true
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch_ros.actions import Node

from stremn_ros.client.launching import (
    SHARE,
    Value,
    full_name,
    given_parameters,
    lifecycle_node,
    number,
    parameter_arguments,
    reader,
    shared_arguments,
)
from stremn_ros.nodes.parameters import SEGMENT, wrong_cameras
from stremn_ros.options import TUNABLES

# arguments that are parameters of the node: given ones win over the parameter file
NODE_PARAMETERS = (
    "model",
    "runtime",
    "device",
    "image_transport",
    "image_reliability",
    "snapshot_dir",
    "max_age",
    "click_topic",
    "depth_topic",
    "depth_camera_info_topic",
    "depth_slop",
    "points_voxel",
    "follow_id",
    "publish_tf",
    *(name for name, tunable in TUNABLES.items() if tunable.parameter),
)

ARGUMENTS = [
    *shared_arguments("segment.yaml", "stremn"),
    *parameter_arguments(SEGMENT, NODE_PARAMETERS),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Several cameras on one network: NAME=TOPIC of each, with commas. Empty: one "
        "camera, on image_topic.",
    ),
    DeclareLaunchArgument(
        "predict",
        default_value="false",
        choices=["true", "false"],
        description="Also run the prediction node, <node_name>_predict, in the same process.",
    ),
    DeclareLaunchArgument(
        "predict_model",
        default_value="predict_rgb",
        description="Model of the prediction node: a name, or the path of a model folder.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Open rviz2 with the image, the overlay, and with depth_topic the "
        "points and boxes of the objects.",
    ),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=os.path.join(SHARE, "config", "stremn.rviz"),
        description="Configuration of rviz2.",
    ),
    DeclareLaunchArgument(
        "web",
        default_value="false",
        choices=["true", "false"],
        description="Serve the live page (`stremn view`): click an object, and it is followed.",
    ),
    DeclareLaunchArgument("web_port", default_value="8765", description="Port of the live page."),
    DeclareLaunchArgument(
        "web_host",
        default_value="127.0.0.1",
        description="Address of the live page. 0.0.0.0: other machines reach it, by a link with a "
        "token that is printed.",
    ),
]


def _cameras(text: str) -> dict[str, str]:
    """Names and topics of the argument `cameras`."""
    found = {}
    for part in filter(None, text.split(",")):
        name, equals, topic = part.strip().partition("=")
        if not (name and equals and topic) or name in found:
            raise RuntimeError(
                f"cameras:={text} is not NAME=TOPIC,NAME=TOPIC with each name once "
                "(left=/left/image_raw,right=/right/image_raw)"
            )
        found[name] = topic
    if wrong := wrong_cameras(list(found)):
        raise RuntimeError(f"cameras:={text}: {wrong}")
    return found


def _rviz(value: Value, remappings: list[tuple[str, str]]) -> list:
    """Opens rviz2 where it is wished and installed, or says that it is not.

    It is looked up now: launch would look for it when the nodes run already, fail, and leave them
    running without anybody to end them.

    Raises:
        RuntimeError: there is no such configuration.
    """
    if value("rviz") != "true":
        return []
    if not os.path.isfile(value("rviz_config")):
        raise RuntimeError(f"rviz_config:={value('rviz_config')}: there is no such file")
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        return [
            LogInfo(
                msg="WARNING: rviz:=true, but rviz2 is not installed, so it is not opened: "
                f"sudo apt install ros-{distribution}-rviz2; the nodes run without it"
            )
        ]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", value("rviz_config")],
            remappings=remappings,
            output="screen",
        )
    ]


def _web(value: Value, node: str, cameras: dict[str, str]) -> list:
    """The live page in a separate process, if it is wanted and aiohttp is installed.

    cameras: the image topic of each, by its name; an empty name for a node with one.
    """
    if value("web") != "true":
        return []
    port = number(value, "web_port", int)
    if importlib.util.find_spec("aiohttp") is None:
        return [
            LogInfo(
                msg="WARNING: web:=true, but the package aiohttp is not installed, so there is no "
                "page: pip install aiohttp; the nodes run without it"
            )
        ]
    words = ["--node", node, "--host", value("web_host"), "--port", str(port)]
    topics = {name: _image_of(value, topic) for name, topic in cameras.items()}
    if "" in topics:
        words += ["--image-topic", topics[""]]
    else:
        words += ["--camera", ",".join(f"{name}={topic}" for name, topic in topics.items())]
    return [
        ExecuteProcess(
            cmd=[sys.executable, "-m", "stremn_ros.cli", "view", *words],
            name="web",
            output="screen",
        )
    ]


def _image_of(value: Value, topic: str) -> str:
    """The full name of the topic that the node's images come on."""
    if not topic.startswith("/"):
        topic = f"{value('namespace')}/{topic}"
    return (
        "/" + topic.strip("/") + ("/compressed" if value("image_transport") == "compressed" else "")
    )


def _actions(context: LaunchContext) -> list:
    value = reader(context)
    parameters = given_parameters(value, SEGMENT, NODE_PARAMETERS)
    cameras = _cameras(value("cameras"))
    remappings = [("image", value("image_topic"))]
    if cameras:
        parameters["cameras"] = list(cameras)
        remappings = [(f"{name}/image", topic) for name, topic in cameras.items()]
    # of several cameras rviz shows the first, and the prediction node watches it
    first, shown = next(iter(cameras.items()), ("", value("image_topic")))
    name = full_name(value)

    executable, words, also = "segment_node", [], []
    if value("predict") == "true":
        executable, also = "segment_predict_node", [f"{name}_predict"]
        words = ["-r", f"__node:={value('node_name')}_predict"]
        words += ["-r", f"__ns:={value('namespace') or '/'}"]
        words += ["-r", f"image:={shown}"]
        words += ["-p", f"model:={json.dumps(value('predict_model'))}"]  # 2026 is no number
    node = lifecycle_node(
        value,
        executable,
        parameters,
        remappings,
        arguments=[f"--predict={word}" for word in words],
        also=also,
    )

    below = f"{name}/{first}" if first else name
    shows = _rviz(
        value,
        [
            ("/image", shown),
            ("/stremn/mask", f"{below}/mask"),
            ("/stremn/overlay", f"{below}/overlay"),
            ("/stremn/points", f"{below}/points"),
            ("/stremn/markers", f"{below}/markers"),
        ],
    )
    return [*node, *shows, *_web(value, name, cameras or {"": shown})]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
