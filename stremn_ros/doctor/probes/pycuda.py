"""pycuda, for a GPU that shares the memory of the CPU."""

from __future__ import annotations

from typing import Any

import pycuda
import pycuda.driver


def values() -> dict[str, Any]:
    return {"version": pycuda.VERSION_TEXT}
