"""The fixed-slot memory: similarity, fusion, update rules and the preallocated bank.

Names are imported when they are first used, so that the table of rules (``memory.rules``) can be
read without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bank import MAX_SLOTS, MIN_SLOTS, NEW, SlotMemory, Update
    from .fusion import FusionCell
    from .growing import GrowingMemory
    from .rules import RULES, Rule
    from .scorer import PairScorer
    from .similarity import align, mutual_similarity, slot_similarity

_WHERE = {
    "MAX_SLOTS": "bank",
    "MIN_SLOTS": "bank",
    "NEW": "bank",
    "RULES": "rules",
    "FusionCell": "fusion",
    "GrowingMemory": "growing",
    "PairScorer": "scorer",
    "Rule": "rules",
    "SlotMemory": "bank",
    "Update": "bank",
    "align": "similarity",
    "mutual_similarity": "similarity",
    "slot_similarity": "similarity",
}

__all__ = [
    "MAX_SLOTS",
    "MIN_SLOTS",
    "NEW",
    "RULES",
    "FusionCell",
    "GrowingMemory",
    "PairScorer",
    "Rule",
    "SlotMemory",
    "Update",
    "align",
    "mutual_similarity",
    "slot_similarity",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
