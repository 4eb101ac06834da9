"""Starts the segmentation node, configures and activates it.

ros2 launch stremn_ros segment.launch.py image_topic:=/camera/image_raw rviz:=true
ros2 launch stremn_ros segment.launch.py cameras:=left=/left/image_raw,right=/right/image_raw
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
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from stremn_ros.nodes.dds_profile import profile_environment

SHARE = get_package_share_directory("stremn_ros")
# arguments that are parameters of the node: given ones win over the parameter file
TEXT_PARAMETERS = (
    "model",
    "runtime",
    "device",
    "image_transport",
    "image_reliability",
    "snapshot_dir",
)
NUMBER_PARAMETERS = ("processing_size", "slots", "max_objects")

ARGUMENTS = [
    DeclareLaunchArgument(
        "image_topic", default_value="image", description="Topic of the camera's images."
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Several cameras on one network: NAME=TOPIC of each, with commas. Empty: one "
        "camera, on image_topic.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=os.path.join(SHARE, "config", "segment.yaml"),
        description="YAML file with the node's parameters.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Name of a model, or path of a model folder. Empty: as the parameter file "
        "says.",
    ),
    DeclareLaunchArgument(
        "runtime",
        default_value="",
        description="What runs the network: auto, torch or onnxruntime. Empty: as the parameter "
        "file says.",
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description="auto, cpu, cuda or cuda:1 and so on. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "processing_size",
        default_value="",
        description="Rows of the picture that the network sees; fewer is faster and coarser. "
        "Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "slots",
        default_value="",
        description="Memory slots per object, 2 to 16. Empty: as the parameter file says.",
    ),
    DeclareLaunchArgument(
        "max_objects",
        default_value="",
        description="Most objects followed at once. Empty: as the parameter file says.",
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
    DeclareLaunchArgument(
        "snapshot_dir",
        default_value="",
        description="Folder for snapshots of the memory (save_memory, load_memory, autosave). "
        "Empty: as the parameter file says.",
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
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
    DeclareLaunchArgument(
        "node_name",
        default_value="stremn",
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
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Open rviz2 with the image, the mask and the overlay.",
    ),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=os.path.join(SHARE, "config", "stremn.rviz"),
        description="Configuration of rviz2.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severe messages that the node logs.",
    ),
    DeclareLaunchArgument(
        "enclave",
        default_value="",
        description="SROS 2 enclave of the node; /stremn with the policy in config/security. "
        "Empty: none.",
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value=os.path.join(SHARE, "config", "fastdds_shm.xml"),
        description="Fast DDS profile for the processes started here: shared memory that images "
        "fit into. A profile that is set in the environment wins; empty sets none.",
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
    return found


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

    cameras = _cameras(value("cameras"))
    remappings = [("image", value("image_topic"))]
    if cameras:
        parameters["cameras"] = list(cameras)
        remappings = [(f"{name}/image", topic) for name, topic in cameras.items()]

    profile = value("fastdds_profile")
    environment = [
        SetEnvironmentVariable(name, path)
        for name, path in (profile_environment(profile) if profile else {}).items()
    ]

    enclave = ["--enclave", value("enclave")] if value("enclave") else []
    predicts = value("predict") == "true"
    predict_name, predict_model = value("node_name") + "_predict", value("predict_model")
    words = []
    if predicts:  # it watches the first camera
        namespace = "/" + value("namespace").strip("/")
        topic = next(iter(cameras.values()), value("image_topic"))
        words = ["-r", f"__node:={predict_name}", "-r", f"__ns:={namespace}"]
        words += ["-r", f"image:={topic}", "-p", f"model:={predict_model}"]
    node = Node(
        package="stremn_ros",
        executable="segment_predict_node" if predicts else "segment_node",
        name=value("node_name"),
        namespace=value("namespace"),
        parameters=[value("params_file"), parameters],
        remappings=remappings,
        arguments=[
            *(f"--predict={word}" for word in words),
            "--ros-args",
            "--log-level",
            value("log_level"),
            *enclave,
        ],
        respawn=value("respawn") == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )

    full_name = "/" + "/".join(
        part for part in (value("namespace").strip("/"), value("node_name")) if part
    )
    handlers = []
    if value("autostart") == "true":
        started = [full_name, f"{full_name}_predict"] if predicts else [full_name]
        command = [sys.executable, "-m", "stremn_ros.nodes.bring_up"]
        security = ["--ros-args", *enclave] if enclave else []
        handlers = [
            RegisterEventHandler(
                OnProcessStart(
                    target_action=node,
                    # new ones each time, as a node that died is started again
                    on_start=lambda event, context: [
                        ExecuteProcess(
                            cmd=[*command, name, *security], name="bring_up", output="screen"
                        )
                        for name in started
                    ],
                )
            )
        ]

    # of several cameras rviz shows the first
    first, shown = next(iter(cameras.items()), ("", value("image_topic")))
    below = f"{full_name}/{first}" if first else full_name
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", LaunchConfiguration("rviz_config")],
        remappings=[
            ("/image", shown),
            ("/stremn/mask", f"{below}/mask"),
            ("/stremn/overlay", f"{below}/overlay"),
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
        output="screen",
    )
    return [*environment, *handlers, node, rviz]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
