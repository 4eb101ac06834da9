"""What may change while the nodes run; the names are those of the parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class IntakeSettings:
    """Of the images as they come; read at each use, so it may be changed at any time."""

    reset_on_time_jump: bool = True
    time_jump_tolerance: float = 0.1
    frame_timeout: float = 2.0
    stale_after: float = 1.0


@dataclass
class Settings(IntakeSettings):
    """Of the segmentation node."""

    min_score: float = 0.5
    return_score: float = -1.0  # below 0: the model's own
    lost_after: int = 0  # 0: the model's own
    smallest_part: float = 0.0
    low_confidence: float = 0.7
    update_rule: str = ""  # empty: the model's own
    update_every: int = 0  # 0: the model's own
    overlay: bool = True
    overlay_alpha: float = 0.5
    seed_wait: float = 2.0
    seed_share: float = 0.5
    strict_seeds: bool = True
    catch_up_time: float = 1.0
    autosave_period: float = 0.0
    autosave_at_stop: bool = False
    autoload: bool = False
