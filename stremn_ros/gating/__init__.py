"""What in a mask is not the object: where it was, how it moves, and what it reads of the seed."""

from stremn_ros.gating.carried import carried_shapes, motions_of, packed_motions
from stremn_ros.gating.familiarity import Familiarity
from stremn_ros.gating.gate import Gate
from stremn_ros.gating.likeness import Likeness
from stremn_ros.gating.motion import Motion

__all__ = [
    "Familiarity",
    "Gate",
    "Likeness",
    "Motion",
    "carried_shapes",
    "motions_of",
    "packed_motions",
]
