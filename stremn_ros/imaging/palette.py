"""The colors of object ids, as DAVIS and PASCAL VOC have them."""

from __future__ import annotations

import numpy as np


def _make_palette() -> np.ndarray:
    """The palette of DAVIS: the bit-interleaved colors of PASCAL VOC, with 191 for 192.

    DAVIS itself goes on with grays from id 22; here the scheme of VOC goes on, so that all 255
    ids can be told apart.
    """
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                palette[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    palette[:22][palette[:22] == 192] = 191
    return palette


PALETTE = _make_palette()  # uint8 [256, 3] RGB; id 0 (background) is black
PALETTE.setflags(write=False)
# color -> id; VOC's own files have 192 where DAVIS has 191
IDS = {
    tuple(color): index
    for source in (np.where(PALETTE == 191, 192, PALETTE), PALETTE)
    for index, color in enumerate(source.tolist())
}
