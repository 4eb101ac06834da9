"""Packages of messages, and those that a node does without."""

from __future__ import annotations

import importlib
from typing import Any

from stremn_ros.doctor.probes import describe

NAMES = (
    "sensor_msgs.msg",
    "std_msgs.msg",
    "std_srvs.srv",
    "geometry_msgs.msg",
    "diagnostic_msgs.msg",
    "lifecycle_msgs.msg",
    "visualization_msgs.msg",
    "tf2_msgs.msg",
    "vision_msgs.msg",
    "cv_bridge",
)


def values() -> dict[str, Any]:
    missing = {}
    for name in NAMES:
        try:
            importlib.import_module(name)
        except Exception as error:
            missing[name.partition(".")[0]] = describe(error)
    return {"missing": missing}
