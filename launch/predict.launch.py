"""Starts the prediction node, configures and activates it.

ros2 launch stremn_ros predict.launch.py image_topic:=/camera/image_raw horizon:=4
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction

from stremn_ros.client.launching import (
    given_parameters,
    lifecycle_node,
    parameter_arguments,
    reader,
    shared_arguments,
)
from stremn_ros.nodes.parameters import PREDICT

# arguments that are parameters of the node: given ones win over the parameter file
NODE_PARAMETERS = (
    "model",
    "runtime",
    "auto_build",
    "device",
    "image_transport",
    "image_reliability",
    "processing_size",
    "slots",
    "observe",
    "horizon",
)

ARGUMENTS = [
    *shared_arguments("predict.yaml", "stremn_predict"),
    *parameter_arguments(PREDICT, NODE_PARAMETERS),
]


def _actions(context: LaunchContext) -> list:
    value = reader(context)
    parameters = given_parameters(value, PREDICT, NODE_PARAMETERS)
    remappings = [("image", value("image_topic"))]
    return lifecycle_node(value, "predict_node", parameters, remappings)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])
