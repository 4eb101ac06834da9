"""What may change while the nodes run; the names are those of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stremn_ros.options import RUN_TIME, TUNABLES

FARTHEST_AHEAD = 2.0  # seconds that a mask may be predicted


@dataclass
class IntakeSettings:
    """Of the images as they come; read at each use, so it may be changed at any time."""

    reset_on_time_jump: bool = True
    time_jump_tolerance: float = 0.1
    frame_timeout: float = 2.0
    stale_after: float = 1.0
    max_age: float = 0.0  # seconds; 0 for any


@dataclass
class Settings(IntakeSettings):
    """Of the segmentation node; it also has the options of the segmenter that may change."""

    low_confidence: float = 0.7
    mask_horizon: float = 0.0  # seconds; 0: as old as masks are when they go out
    overlay: bool = True
    overlay_alpha: float = 0.5
    seed_wait: float = 2.0
    seed_share: float = 0.5
    strict_seeds: bool = True
    catch_up_time: float = 1.0
    autosave_period: float = 0.0
    autosave_at_stop: bool = False
    autoload: bool = False
    detection_classes: Sequence[str] = field(default_factory=lambda: [""])
    detection_min_score: float = 0.5
    detection_overlap: float = 0.3
    follow_id: int = 0
    points_voxel: float = 0.0

    def __post_init__(self) -> None:
        for name in RUN_TIME:
            own = TUNABLES[name].own
            setattr(self, name, TUNABLES[name].default if own is None else own)

    def options(self) -> dict[str, Any]:
        """Of the segmenter, those that are not left to the model."""
        given = {name: TUNABLES[name].given(getattr(self, name)) for name in RUN_TIME}
        return {name: value for name, value in given.items() if value is not None}
