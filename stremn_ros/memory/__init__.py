"""The fixed-slot memory: similarity, fusion, update rules and the preallocated bank.

Names are imported when they are first used, so that the table of rules (``memory.rules``) can be
read without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stremn_ros.memory.bank import MAX_SLOTS, MIN_SLOTS, NEW, SlotMemory, Update
    from stremn_ros.memory.fusion import FusionCell
    from stremn_ros.memory.growing import GrowingMemory
    from stremn_ros.memory.inspection import ObjectMemory, SlotContent, describe, slot_attention
    from stremn_ros.memory.rules import RULES, Rule
    from stremn_ros.memory.scorer import PairScorer
    from stremn_ros.memory.similarity import align, mutual_similarity, slot_similarity

_WHERE = {
    "MAX_SLOTS": "bank",
    "MIN_SLOTS": "bank",
    "NEW": "bank",
    "RULES": "rules",
    "FusionCell": "fusion",
    "GrowingMemory": "growing",
    "ObjectMemory": "inspection",
    "PairScorer": "scorer",
    "Rule": "rules",
    "SlotContent": "inspection",
    "SlotMemory": "bank",
    "Update": "bank",
    "align": "similarity",
    "describe": "inspection",
    "mutual_similarity": "similarity",
    "slot_attention": "inspection",
    "slot_similarity": "similarity",
}

__all__ = [
    "MAX_SLOTS",
    "MIN_SLOTS",
    "NEW",
    "RULES",
    "FusionCell",
    "GrowingMemory",
    "ObjectMemory",
    "PairScorer",
    "Rule",
    "SlotContent",
    "SlotMemory",
    "Update",
    "align",
    "describe",
    "mutual_similarity",
    "slot_attention",
    "slot_similarity",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
