"""STReMN on a robot: object segmentation and frame prediction with a memory of fixed size."""

from . import privacy

__version__ = "0.1.0"

privacy.switch_off()
