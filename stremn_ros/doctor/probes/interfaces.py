"""Whether stremn_interfaces was built, and for this distribution."""

from __future__ import annotations

import os
from typing import Any

import stremn_interfaces

if stremn_interfaces.__file__ is None:  # a plain folder of that name, seen from its parent
    raise ImportError("only its sources are here, it was not built")

from rclpy.type_support import check_for_type_support

from stremn_interfaces.msg import ObjectArray
from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask, SeedObject


def values() -> dict[str, Any]:
    for kind in (ObjectArray, SeedMask, SeedObject, RemoveObject, SaveMemory, LoadMemory):
        check_for_type_support(kind)
    return {"where": os.path.dirname(stremn_interfaces.__file__)}
