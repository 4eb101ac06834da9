"""Starts the prediction node, configures and activates it.

ros2 launch stremn_ros predict.launch.py image_topic:=/camera/image_raw horizon:=4
"""

from __future__ import annotations

import os
import sys

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from stremn_ros.nodes.dds_profile import profile_environment

SHARE = get_package_share_directory("stremn_ros")
# arguments that are parameters of the node: given ones win over the parameter file
TEXT_PARAMETERS = ("model", "device", "image_transport", "image_reliability")
NUMBER_PARAMETERS = ("processing_size", "slots", "observe", "horizon")

ARGUMENTS = [
    DeclareLaunchArgument(
        "image_topic", default_value="image", description="Topic of the camera's images."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=os.path.join(SHARE, "config", "predict.yaml"),
        description="YAML file with the node's parameters.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Name of a prediction model, or path of a model folder. Empty: as the "
        "parameter file says.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:1 and so on. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "processing_size",
        default_value="",
        description="Rows of the picture that the network sees. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "slots",
        default_value="",
        description="Memory slots, 2 to 16. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "observe",
        default_value="",
        description="Images to see before the first prediction. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "horizon",
        default_value="",
        description="How many images ahead to predict. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        description="raw, or compressed: JPEG or PNG from <image_topic>/compressed. Empty: as the "
        "parameter file says.",
    ),
    DeclareLaunchArgument(
        "image_reliability",
        default_value="",
        description="best_effort or reliable, asked of the image's publisher. Empty: as the "
        "parameter file says.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
    DeclareLaunchArgument(
        "node_name",
        default_value="stremn_predict",
        description="Name of the node; its topics and services are below /<namespace>/<node_name>.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="Configure and activate the node once it runs; false leaves that to you.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=["true", "false"],
        description="Start the node again, two seconds after it died.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severe messages that the node logs.",
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value=os.path.join(SHARE, "config", "fastdds_shm.xml"),
        description="Fast DDS profile for the processes started here: shared memory that images "
        "fit into. A profile that is set in the environment wins; empty sets none.",
    ),
]


def _actions(context: LaunchContext) -> list:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    parameters: dict[str, object] = {name: value(name) for name in TEXT_PARAMETERS if value(name)}
    for name in NUMBER_PARAMETERS:
        if value(name):
            try:
                parameters[name] = int(value(name))
            except ValueError:
                raise RuntimeError(f"{name}:={value(name)} is not a whole number") from None
    if not os.path.isfile(value("params_file")):
        raise RuntimeError(f"params_file:={value('params_file')}: there is no such file")
    profile = value("fastdds_profile")
    environment = [
        SetEnvironmentVariable(name, path)
        for name, path in (profile_environment(profile) if profile else {}).items()
    ]
    node = Node(
        package="stremn_ros",
        executable="predict_node",
        name=value("node_name"),
        namespace=value("namespace"),
        parameters=[value("params_file"), parameters],
        remappings=[("image", value("image_topic"))],
        arguments=["--ros-args", "--log-level", value("log_level")],
        respawn=value("respawn") == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    handlers = []
    if value("autostart") == "true":
        parts = (value("namespace").strip("/"), value("node_name"))
        full_name = "/" + "/".join(part for part in parts if part)
        bring_up = [sys.executable, "-m", "stremn_ros.nodes.bring_up", full_name]
        handlers = [
            RegisterEventHandler(
                OnProcessStart(
                    target_action=node,
                    # a new one each time, as a node that died is started again
                    on_start=lambda event, context: ExecuteProcess(
                        cmd=bring_up, name="bring_up", output="screen"
                    ),
                )
            )
        ]
    return [*environment, *handlers, node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
