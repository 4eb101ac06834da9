"""Points of objects with color and label, laid out as a sensor_msgs/PointCloud2 has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError

Xyz = NDArray[np.float32]

# one point in memory, little endian: what PCL calls XYZRGBL. rgb is 0x00RRGGBB.
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")])
_FIELDS = POINT.itemsize // 4
_COLOR = np.uint32(0x00FFFFFF)  # without alpha: 0xFF there would make the field's float a NaN
_SMALLEST_VOXEL = 1e-3  # m


@dataclass(frozen=True)
class PointCloud:
    """N points in meters, in the frame that the tracker works in.

    Attributes:
        data: structured array [N] of `POINT`: x, y, z, rgb (0x00RRGGBB, 0 without an image) and
            label (the object's id).
    """

    data: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.data)

    @property
    def xyz(self) -> Xyz:
        """A view: float32 [N, 3]."""
        return self.data.view(np.float32).reshape(-1, _FIELDS)[:, :3]

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """A copy: uint8 [N, 3]."""
        codes = self.data["rgb"]
        return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)

    @property
    def labels(self) -> NDArray[np.uint32]:
        """A view: uint32 [N]."""
        return np.asarray(self.data["label"])


def color_codes(image: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """0x00RRGGBB of an RGB image uint8 [H, W, 3]: uint32 [H, W]."""
    bgra = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGRA))
    codes = bgra.view("<u4")[..., 0]
    codes &= _COLOR
    return np.asarray(codes, np.uint32)


def check_voxel(voxel: float) -> float:
    """Refuses what is no size of a voxel: 0 (none), or 1 mm and more.

    Raises:
        InputError: anything else.
    """
    if voxel != 0 and not _SMALLEST_VOXEL <= voxel <= 10.0:
        raise InputError(f"the voxel size is {voxel:g} m; it must be 0 (off) or 0.001 to 10 m")
    return float(voxel)


def downsampled(cloud: PointCloud, voxel: float) -> PointCloud:
    """One point for each voxel and label: the mean of its points and of their colors.

    Args:
        voxel: length of an edge in meters; 0 leaves the cloud as it is.

    Raises:
        InputError: a size out of range.
    """
    if not check_voxel(voxel) or not len(cloud):
        return cloud
    labels = cloud.labels
    # a grid that stays where it is from image to image; its cells are counted from the lowest
    cells = np.floor(np.ascontiguousarray(cloud.xyz.T) / np.float32(voxel)).astype(np.int64)
    cells -= cells.min(axis=1)[:, None]
    across = [int(value) + 1 for value in cells.max(axis=1)]
    key = labels.astype(np.int64)
    for axis in range(3):
        key = key * across[axis] + cells[axis]
    bits = len(key).bit_length()
    if (256 * across[0] * across[1] * across[2]).bit_length() + bits < 63:
        # sorting keys with their places in the low bits is four times as fast as argsort
        order = np.sort(key << bits | np.arange(len(key))) & ((1 << bits) - 1)
    else:
        order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.empty(len(key), bool)
    first[0] = True
    np.not_equal(key[1:], key[:-1], out=first[1:])
    group = np.empty(len(key), np.int64)
    group[order] = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    counts = np.bincount(group)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(group, weights=values) / counts

    data = np.empty(len(starts), POINT)
    for name in "xyz":
        data[name] = mean(cloud.data[name])
    codes = cloud.data["rgb"]
    red, green, blue = (
        np.rint(mean(codes >> shift & 255)).astype(np.uint32) for shift in (16, 8, 0)
    )
    data["rgb"] = red << 16 | green << 8 | blue
    data["label"] = labels[order[starts]]
    return PointCloud(data)
