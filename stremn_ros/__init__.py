"""STReMN on a robot: object segmentation and frame prediction with a memory of fixed size."""

__version__ = "0.1.0"
