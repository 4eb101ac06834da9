"""What a frame is, checked in one place."""

from __future__ import annotations

from typing import Any

import numpy as np

from stremn_ros.errors import InputError


def check_frame(frame: Any) -> None:
    """Refuses what is no RGB frame: uint8 [H, W, 3] with at least one pixel.

    Raises:
        InputError: it is something else; the message says what.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise InputError(f"a frame must be a uint8 array [H, W, 3], not {kind}")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(f"a frame must have the shape [H, W, 3], not {list(frame.shape)}")
