"""Optical flow, and what a robot engineer would try first: the last movement simply continues."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 32  # the flow's image pyramid needs this many pixels


class FlowExtrapolation:
    """Carries on the movement between two frames by OpenCV's DIS optical flow."""

    def __init__(self) -> None:
        create = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]
        self._flow: Any = create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(
        self, previous: NDArray[np.uint8], newest: NDArray[np.uint8], horizon: int
    ) -> NDArray[np.uint8]:
        """The frames that follow.

        Args:
            previous, newest: [H, W, C], C 1 or 3, one size; horizon: how many frames.

        Returns:
            [horizon, H, W, C]: the newest frame, each pixel carried on as the flow between the two
            frames says, farther with every step; beyond the edge the edge's color.
        """
        height, width, colors = newest.shape
        if min(height, width) < SMALLEST_SIDE:
            return np.repeat(newest[None], horizon, axis=0)
        gray = [_gray(image) for image in (newest, previous)]
        # per pixel of the newest frame, where it will have gone after one more step
        ahead = -self._flow.calc(gray[0], gray[1], None)
        columns, rows = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )
        # what moves most is written last: it is taken to be in front
        order = np.argsort(np.abs(ahead).sum(axis=2), axis=None, kind="stable")
        flat = ahead.reshape(-1, 2)[order]
        places = np.stack([columns.ravel()[order], rows.ravel()[order]], axis=1)
        frames = []
        for step in range(1, horizon + 1):
            arrived = np.rint(places + step * flat).astype(np.int64)
            inside = ((arrived >= 0) & (arrived < (width, height))).all(axis=1)
            there = ahead.copy()  # where nothing arrives, what moved away from there is followed
            there[arrived[inside, 1], arrived[inside, 0]] = flat[inside]
            frames.append(
                cv2.remap(
                    newest,
                    columns - step * there[:, :, 0],
                    rows - step * there[:, :, 1],
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                ).reshape(height, width, colors)
            )
        return np.stack(frames).astype(np.uint8)


class HalfFlow:
    """The movement between two frames at half their resolution, by DIS without its slow last part.

    The variational refinement that is left out takes two thirds of the time and gives 0.07 dB to
    an extrapolation; a network that refines the flow itself does not need it.
    """

    def __init__(self) -> None:
        create = cv2.DISOpticalFlow_create  # type: ignore[attr-defined]
        self._flow: Any = create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setVariationalRefinementIterations(0)

    def __call__(
        self, previous: NDArray[np.uint8], newest: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """[2, H/2, W/2]: how far the point at a pixel of the newest frame has moved since the
        previous one, (x, y), in pixels of a half.

        Args:
            previous, newest: [H, W, C], C 1 or 3, one size, of even sides.
        """
        height, width = newest.shape[:2]
        half = (width // 2, height // 2)
        if min(height, width) < SMALLEST_SIDE:
            return np.zeros((2, *half[::-1]), np.float32)
        back = self._flow.calc(_gray(newest), _gray(previous), None)
        small = cv2.resize(back, half, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(-0.5 * small.transpose(2, 0, 1), np.float32)


def _gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.shape[2] == 1:
        return image[:, :, 0]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
