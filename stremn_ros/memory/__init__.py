"""The fixed-slot memory: similarity, fusion, update rules and the preallocated bank."""

from .bank import MAX_SLOTS, MIN_SLOTS, SlotMemory
from .fusion import FusionCell
from .rules import RULES
from .similarity import align, slot_similarity

__all__ = [
    "MAX_SLOTS",
    "MIN_SLOTS",
    "RULES",
    "FusionCell",
    "SlotMemory",
    "align",
    "slot_similarity",
]
