"""PyTorch modules of the networks: no state between frames, no ROS, no files."""

from stremn_ros.network.aggregation import aggregate_logits, kept_shares, object_probabilities
from stremn_ros.network.config import SegmentationConfig
from stremn_ros.network.segmentation import (
    Decoded,
    Query,
    Seen,
    SegmentationNetwork,
    nearest_weights,
    space_time_read,
    space_time_weights,
)

__all__ = [
    "Decoded",
    "Query",
    "Seen",
    "SegmentationConfig",
    "SegmentationNetwork",
    "aggregate_logits",
    "kept_shares",
    "nearest_weights",
    "object_probabilities",
    "space_time_read",
    "space_time_weights",
]
