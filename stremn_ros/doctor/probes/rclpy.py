"""rclpy and the middleware that it would use."""

from __future__ import annotations

import os
from typing import Any

import rclpy
from rclpy.node import Node  # noqa: F401, it loads what a node needs
from rclpy.utilities import get_rmw_implementation_identifier


def values() -> dict[str, Any]:
    return {
        "rmw": get_rmw_implementation_identifier(),
        "where": os.path.dirname(rclpy.__file__),
    }
