"""The parameters of the nodes: one table, from which they are declared, checked and documented."""

from stremn_ros.nodes.parameters.cameras import (
    MOST_CAMERAS,
    camera_names,
    camera_topics,
    wrong_cameras,
)
from stremn_ros.nodes.parameters.declare import (
    check_changes,
    declare,
    descriptor,
    unknown_parameters,
    with_floats,
)
from stremn_ros.nodes.parameters.docs import markdown
from stremn_ros.nodes.parameters.spec import RUN_TIME, START, UNCONFIGURED, ParameterSpec
from stremn_ros.nodes.parameters.table import (
    IMAGE_RELIABILITIES,
    PARAMETERS,
    PREDICT,
    SEGMENT,
    UPDATE_RULES,
    VIDEO_SOURCE,
    parameters_of,
)

__all__ = [
    "IMAGE_RELIABILITIES",
    "MOST_CAMERAS",
    "PARAMETERS",
    "PREDICT",
    "RUN_TIME",
    "SEGMENT",
    "START",
    "UNCONFIGURED",
    "UPDATE_RULES",
    "VIDEO_SOURCE",
    "ParameterSpec",
    "camera_names",
    "camera_topics",
    "check_changes",
    "declare",
    "descriptor",
    "markdown",
    "parameters_of",
    "unknown_parameters",
    "with_floats",
    "wrong_cameras",
]
