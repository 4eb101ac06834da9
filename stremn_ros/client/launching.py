"""What the launch files of the lifecycle nodes share: arguments, the node, its way to active.

Imported by launch files alone: the packages `launch` and `launch_ros` are not there without ROS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.nodes.parameters import parameters_of
from stremn_ros.privacy import SWITCHES

SHARE = get_package_share_directory("stremn_ros")
AS_FILE = "Default: the value in params_file."

Value = Callable[[str], str]
"""What a launch argument is set to, by its name."""


def shared_arguments(params_file: str, node_name: str) -> list[DeclareLaunchArgument]:
    """Of every lifecycle node. params_file: its name in config; node_name: the default."""
    return [
        DeclareLaunchArgument(
            "image_topic", default_value="image", description="Topic of the camera's images."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=os.path.join(SHARE, "config", params_file),
            description="YAML file with the node's parameters.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "node_name",
            default_value=node_name,
            description="Name of the node; its topics and services are below "
            "/<namespace>/<node_name>.",
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
            "enclave",
            default_value="",
            description="SROS 2 enclave of the node, as config/security has them. Empty: none.",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=os.path.join(SHARE, "config", "fastdds_shm.xml"),
            description="Fast DDS profile for the processes started here: shared memory that "
            "images fit into. A profile that is set in the environment wins; empty sets none.",
        ),
    ]


def reader(context: LaunchContext) -> Value:
    """Reads the launch arguments; the namespace is the full one, as `full_namespace` says."""

    def value(name: str) -> str:
        text = str(LaunchConfiguration(name).perform(context))
        return full_namespace(context, text) if name == "namespace" else text

    return value


def full_namespace(context: LaunchContext, namespace: str = "") -> str:
    """A namespace below what PushRosNamespace set around the launch file, as launch_ros joins them.

    Of `robot1` around it, and `eyes`: /robot1/eyes. `/eyes` stays as it is. Empty: the root.
    """
    around = str(LaunchConfiguration("ros_namespace", default="").perform(context))
    if not namespace.startswith("/"):
        namespace = f"{around}/{namespace}"
    inner = namespace.strip("/")
    return f"/{inner}" if inner else ""


def parameter_arguments(node: str, names: Iterable[str]) -> list[DeclareLaunchArgument]:
    """For parameters of a node, with what its table says of them."""
    specs = parameters_of(node)
    return [
        DeclareLaunchArgument(
            name, default_value="", description=f"{specs[name].description} {AS_FILE}"
        )
        for name in names
    ]


def given_parameters(value: Value, node: str, names: Iterable[str]) -> dict[str, Any]:
    """The node's parameters that were given as launch arguments; they win over the file.

    Raises:
        RuntimeError: one that is a number, or true or false, was given as something else.
    """
    kinds = {name: type(spec.default) for name, spec in parameters_of(node).items()}

    def given(name: str) -> Any:
        if kinds[name] is str:
            return value(name)
        return truth(value, name) if kinds[name] is bool else number(value, name, kinds[name])

    return {name: given(name) for name in names if value(name)}


def truth(value: Value, name: str) -> bool:
    """An argument as true or false.

    Raises:
        RuntimeError: it is neither.
    """
    text = value(name).lower()
    if text not in ("true", "false"):
        raise RuntimeError(f"{name}:={value(name)} is not true or false")
    return text == "true"


def number(value: Value, name: str, kind: Callable[[str], Any]) -> Any:
    """An argument as a number. kind: int or float.

    Raises:
        RuntimeError: it is none.
    """
    try:
        return kind(value(name))
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise RuntimeError(f"{name}:={value(name)} is not {what}") from None


def full_name(value: Value) -> str:
    """/<namespace>/<node_name>."""
    parts = (value("namespace").strip("/"), value("node_name"))
    return "/" + "/".join(part for part in parts if part)


def lifecycle_node(
    value: Value,
    executable: str,
    parameters: Mapping[str, Any],
    remappings: Sequence[tuple[str, str]],
    *,
    arguments: Sequence[str] = (),
    also: Sequence[str] = (),
) -> list[Any]:
    """The actions that start a node and take it to active.

    Args:
        parameters: beside those of the file. arguments: of the process, before the ROS arguments.
        also: full names of other lifecycle nodes in the same process.

    Raises:
        RuntimeError: there is no parameter file.
    """
    if not os.path.isfile(value("params_file")):
        raise RuntimeError(f"params_file:={value('params_file')}: there is no such file")
    environment = [
        SetEnvironmentVariable(name, path)
        for name, path in {
            **SWITCHES,
            **profile_environment(value("fastdds_profile")),
        }.items()
    ]
    enclave = ["--enclave", value("enclave")] if value("enclave") else []
    node = Node(
        package="stremn_ros",
        executable=executable,
        name=value("node_name"),
        namespace=value("namespace"),
        parameters=[value("params_file"), dict(parameters)],
        remappings=list(remappings),
        arguments=[*arguments, "--ros-args", "--log-level", value("log_level"), *enclave],
        respawn=value("respawn") == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    if value("autostart") != "true":
        return [*environment, node]
    command = [sys.executable, "-m", "stremn_ros.client.bring_up"]
    # read now: when the process starts, the arguments of a group around it are gone already
    names = (full_name(value), *also)
    security = ["--ros-args", *enclave] if enclave else []
    started = RegisterEventHandler(
        OnProcessStart(
            target_action=node,
            # new ones each time, as a node that died is started again
            on_start=lambda event, context: [
                ExecuteProcess(
                    cmd=[*command, name, "--pid", str(event.pid), *security],
                    name="bring_up",
                    output="screen",
                )
                for name in names
            ],
        )
    )
    return [*environment, started, node]
