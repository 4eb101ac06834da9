"""What a network is made of, a segmentation network here: `network` in a model's config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from stremn_ros.errors import ModelError
from stremn_ros.mappings import build

_C = TypeVar("_C", bound="NetworkConfig")


@dataclass(frozen=True)
class NetworkConfig:
    """The entry ``network`` of a model's config.yaml."""

    @classmethod
    def from_mapping(cls: type[_C], values: Mapping[str, Any]) -> _C:
        """From the parsed YAML; ModelError names an unknown or ill-typed entry."""
        return build(cls, values, "network", ModelError)

    def to_mapping(self) -> dict[str, Any]:
        """Plain types for YAML."""
        values = asdict(self).items()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values}


@dataclass(frozen=True)
class SegmentationConfig(NetworkConfig):
    """Architecture of a segmentation network.

    Attributes:
        encoder: a key of ``encoders.ENCODERS``.
        template_channels: C of a template X.
        key_channels, value_channels: of the memory's keys and values.
        query_channels: of the query value that Eq. 10 concatenates to what was read.
        decoder_channels: widths at strides 16, 8 and 4.
        key_source: ``template`` (the paper: the memory key is made of X) or ``image`` (STCN: of
            the image alone, by the same head as the query's key, and shared by all objects).
        affinity: ``dot`` (Eq. 10), ``l2`` (STCN: negative squared distance) or ``selective``
            (XMem: that distance with a weight for each channel of the query's key, and a factor
            for each cell of the memory).
        read_cells: so many cells of the memory are read by each cell of a frame: those that are
            most like it (STCN). 0: all, as in the paper.
        quality: a head that predicts the IoU of each mask, which is then the object's score.
        memory_encoder: ``image`` (the paper: a second image encoder with the masks as further
            inputs) or ``mask`` (the masks and the query's own features).
        previous_mask: the decoder sees the masks of the previous frame.
        sensory_channels: of a recurrent map that each frame hands to the next; 0 for none.
        presence: a head that tells whether the object is in the frame at all, by which its mask's
            probabilities are multiplied (SAM 2 has such a head; the paper has none).
    """

    encoder: str = "efficientnet_lite0"
    template_channels: int = 256
    key_channels: int = 64
    value_channels: int = 192
    query_channels: int = 128
    decoder_channels: tuple[int, int, int] = (192, 96, 48)
    key_source: str = "image"
    affinity: str = "l2"
    presence: bool = False
    quality: bool = False
    memory_encoder: str = "image"
    previous_mask: bool = False
    sensory_channels: int = 0
    read_cells: int = 0

    def __post_init__(self) -> None:
        from stremn_ros.network.encoders import ENCODERS

        for name, allowed in (
            ("encoder", tuple(ENCODERS)),
            ("key_source", ("image", "template")),
            ("affinity", ("l2", "dot", "selective")),
            ("memory_encoder", ("image", "mask")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ModelError(f"network.{name} is {value!r}; it must be one of {allowed}")
        for name in ("presence", "quality", "previous_mask"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ModelError(f"network.{name} is {value!r}; it must be true or false")
        if self.affinity == "selective" and self.key_source != "image":
            raise ModelError("network.affinity selective needs key_source image")
        for name in ("sensory_channels", "read_cells"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4096:
                raise ModelError(f"network.{name} is {value!r}; it must be 0..4096")
        widths = (
            self.template_channels,
            self.key_channels,
            self.value_channels,
            self.query_channels,
            *self.decoder_channels,
        )
        if len(self.decoder_channels) != 3 or not all(
            isinstance(width, int) and 1 <= width <= 4096 for width in widths
        ):
            raise ModelError(
                "network widths must be whole numbers from 1 to 4096, decoder_channels three of "
                f"them; got {widths}"
            )

    @property
    def query_key_channels(self) -> int:
        """Channels of ``Query.key``."""
        return 2 * self.key_channels + 1 if self.affinity == "selective" else self.key_channels

    @property
    def memory_key_channels(self) -> int:
        """Channels of a memory cell's key: the first ones of ``Query.key``."""
        return self.key_channels + 1 if self.affinity == "selective" else self.key_channels

    def carried(self, cells: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """What a frame hands to the next one for each object: name -> shape, at (h, w) cells."""
        h, w = cells
        shapes: dict[str, tuple[int, ...]] = {}
        if self.previous_mask:
            shapes["previous"] = (2, 4 * h, 4 * w)
        if self.sensory_channels:
            shapes["hidden"] = (self.sensory_channels, h, w)
        return shapes
