"""STReMN on a robot: object segmentation and frame prediction with a memory of fixed size.

The names in ``__all__`` are imported when they are first used, so that ``import stremn_ros`` loads
neither PyTorch nor OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stremn_ros import moved, privacy

if TYPE_CHECKING:
    from stremn_ros.hint_masks import HintMasks
    from stremn_ros.imaging.video import open_frames
    from stremn_ros.imaging.visualization import read_label_png
    from stremn_ros.options import SegmenterOptions
    from stremn_ros.predictor import Predictor
    from stremn_ros.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = [
    "HintMasks",
    "Predictor",
    "Segmenter",
    "SegmenterOptions",
    "open_frames",
    "read_label_png",
]

_WHERE = {
    "HintMasks": "hint_masks",
    "Predictor": "predictor",
    "Segmenter": "segmenter",
    "SegmenterOptions": "options",
    "open_frames": "imaging.video",
    "read_label_png": "imaging.visualization",
}

privacy.switch_off()
moved.install()


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
