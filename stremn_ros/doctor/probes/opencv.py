"""OpenCV, and whether it reads videos."""

from __future__ import annotations

import re
from typing import Any

import cv2


def values() -> dict[str, Any]:
    return {
        "version": cv2.__version__,
        "ffmpeg": bool(re.search(r"FFMPEG: *YES", cv2.getBuildInformation())),
    }
