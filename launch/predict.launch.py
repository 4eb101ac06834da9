"""Starts the prediction node, configures and activates it.

ros2 launch stremn_ros predict.launch.py image_topic:=/camera/image_raw horizon:=4
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction

from stremn_ros.client.launching import (
    AS_FILE,
    given_parameters,
    lifecycle_node,
    reader,
    shared_arguments,
)

# arguments that are parameters of the node: given ones win over the parameter file
TEXT_PARAMETERS = ("model", "device", "image_transport", "image_reliability")
NUMBER_PARAMETERS = ("processing_size", "slots", "observe", "horizon")

ARGUMENTS = [
    *shared_arguments("predict.yaml", "stremn_predict"),
    DeclareLaunchArgument(
        "observe",
        default_value="",
        description=f"Images to see before the first prediction. {AS_FILE}",
    ),
    DeclareLaunchArgument(
        "horizon",
        default_value="",
        description=f"How many images ahead to predict. {AS_FILE}",
    ),
]


def _actions(context: LaunchContext) -> list:
    value = reader(context)
    parameters = given_parameters(value, TEXT_PARAMETERS, NUMBER_PARAMETERS)
    remappings = [("image", value("image_topic"))]
    return lifecycle_node(value, "predict_node", parameters, remappings)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
