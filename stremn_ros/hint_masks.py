"""The mask of one object from hints: a box, a polygon, points on and beside it. No ROS.

    masks = HintMasks.load("clicks_lite0")
    made = masks.make(frame, inside=[(250, 170)])     # made.mask, made.quality

The click network makes it, on a crop of the frame around the hints. GrabCut makes it
(`imaging.seeding`) where there is no such model, and within a polygon.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError, ModelError
from stremn_ros.imaging.hints import (
    BOX,
    INSIDE,
    OUTSIDE,
    PADDING,
    PLANES,
    Window,
    cut,
    draw_box,
    draw_points,
    put_back,
)
from stremn_ros.imaging.seeding import (
    DOUBTFUL,
    Box,
    Place,
    Points,
    agreement,
    check_hints,
    keep_parts,
    make_mask,
)
from stremn_ros.model_folder import find_model, load_click_network
from stremn_ros.runtime.clicks import TorchClicks, make_clicks

log = logging.getLogger(__name__)

DEFAULT_MODEL = "clicks_lite0"
GRABCUT = "GrabCut"
# The window around a box or an earlier mask, as a factor of its longer side.
AROUND = 1.4
SMALLEST_EXTENT = 16  # pixels of the frame that a window is made for at least
# After the first look at the whole image points get so many closer ones, at most.
CLOSER_LOOKS = 2
# The outline is exact to about so many pixels of the crop: two of the network's own.
INEXACT = 8
# A mask of less predicted IoU is refused; one of less than LOW is reported as doubtful: such masks
# of one click on the photos that were held out had a mean IoU of about 0.5, the others of 0.77.
REFUSED = 0.3
LOW = 0.7
MOST = 0.98  # of the frame; a mask of more is no object


@dataclass(frozen=True)
class HintMask:
    """A mask that was made of hints.

    Attributes:
        mask: uint8 [H, W], 1 on the object, 0 elsewhere; never empty.
        predicted: the IoU, 0..1, that the click network predicts it to have with the object; None
            where GrabCut made it.
    """

    mask: NDArray[np.uint8]
    predicted: float | None = None

    def quality(self, agreement: float) -> float:
        """How good the mask is, 0..1: its predicted IoU, or the agreement where there is none."""
        return agreement if self.predicted is None else self.predicted

    def doubt(self, agreement: float) -> str:
        """Why the mask is probably not the object's; empty where nothing says so."""
        if self.predicted is not None:
            if self.predicted >= LOW:
                return ""
            return f"its predicted IoU with the object is only {self.predicted:.2f}"
        if agreement >= DOUBTFUL:
            return ""
        return f"it changes when the hints are moved a little (agreement {agreement:.2f})"


class ClickSegmenter:
    """Makes masks of boxes and points with a click network. It may be used by several threads.

    Args:
        run: the network on a runtime. crop_size: of its crops. name: of the model.
    """

    def __init__(self, run: TorchClicks, crop_size: int, name: str) -> None:
        self._run, self._size, self.name = run, crop_size, name

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: str = "auto",
        runtime: str = "auto",
        auto_build: bool = False,
    ) -> ClickSegmenter:
        """Loads a click model by name or folder.

        Args:
            device, auto_build: as in ``Segmenter.load``; runtime: ``runtime.clicks.RUNTIMES``.

        Raises:
            ModelError: the model is missing or damaged.
            RuntimeUnavailableError: the runtime or device is unknown or not there.
        """
        folder = find_model(model)
        network, spec = load_click_network(folder)
        run = make_clicks(network, runtime, device, folder, auto_build)
        return cls(run, spec.crop_size, folder.name)

    @property
    def runtime_name(self) -> str:
        """What runs the network."""
        return self._run.name

    def make(self, frame: NDArray[np.uint8], place: Place) -> HintMask:
        """The mask of the object that hints without a polygon show.

        Args:
            frame: RGB uint8 [H, W, 3]; place: its hints, of ``imaging.seeding.check_hints``.

        Raises:
            InputError: what was found is no object; the text says why and what would help.
        """
        if place.box is not None:
            window = _window_around(_corners(place.box), frame.shape[1], frame.shape[0])
            probability, quality = self._look_at(frame, place, window)
        else:
            probability, quality = self._zoom(frame, place)
        mask = (probability > 0.5).astype(np.uint8) & place.allowed
        return HintMask(self._checked(mask, quality, place), quality)

    def _zoom(self, frame: NDArray[np.uint8], place: Place) -> tuple[NDArray[np.float32], float]:
        """Points do not tell the size of the object: the first look is wide, the next ones just
        around what was found."""
        height, width = frame.shape[:2]
        x, y = (place.inside.min(axis=0) + place.inside.max(axis=0)) / 2.0
        window = Window.around((x, y), max(height, width), width, height)
        found = self._look_at(frame, place, window)
        for _ in range(CLOSER_LOOKS):
            mask = keep_parts((found[0] > 0.5).astype(np.uint8), place.inside)
            if not mask.any():
                break
            corners = _corners(cv2.boundingRect(mask))
            closer = _window_around(np.vstack([corners, place.inside]), width, height)
            if closer.resembles(window):
                break
            window = closer
            found = self._look_at(frame, place, window)
        return found

    def _look_at(
        self, frame: NDArray[np.uint8], place: Place, window: Window
    ) -> tuple[NDArray[np.float32], float]:
        """The probability float32 [H, W] of each pixel of the frame, and the predicted IoU."""
        size = self._size
        hints = np.zeros((PLANES, size, size), np.float32)
        draw_points(hints[INSIDE], window.to_crop(place.inside, size))
        draw_points(hints[OUTSIDE], window.to_crop(place.outside, size))
        if place.box is not None:
            draw_box(hints[BOX], window.to_crop(_corners(place.box), size))
        found, quality = self._run(cut(frame, window, size, PADDING), hints)
        return put_back(found, window, frame.shape[1], frame.shape[0]), quality

    def _checked(self, mask: NDArray[np.uint8], quality: float, place: Place) -> NDArray[np.uint8]:
        """The mask as the points want it, without what belongs to other things.

        The outline is moved to a point that is just beyond it: it is not exact to the pixel.

        Raises:
            InputError: it is no object, or not the one that the hints show.
        """
        more = "give more points, a box, a polygon or a mask"
        if not mask.any():
            raise InputError(f"no object was found with these hints: {more}")
        extent = max(cv2.boundingRect(mask)[2:])
        reach = max(2.0, INEXACT * AROUND * extent / self._size)
        for x, y in place.inside.astype(int):
            if not _include(mask, x, y, reach):
                raise InputError(
                    f"what was found does not contain the point ({x}, {y}) on the object: {more}"
                )
        mask = keep_parts(mask & place.allowed, place.inside)
        share = float(mask.mean())
        if share > MOST:
            raise InputError(
                f"what was found fills {share:.0%} of the image, so it is no object in it: {more}"
            )
        for x, y in place.outside.astype(int):
            if not _exclude(mask, x, y, reach, place.inside):
                raise InputError(
                    f"what was found contains the point ({x}, {y}) beside the object: {more}"
                )
        if quality < REFUSED:
            raise InputError(
                f"there is probably no object here: the mask that was found has a predicted IoU of "
                f"{quality:.2f}, and less than {REFUSED} is refused; {more}"
            )
        return mask


def _corners(box: Sequence[int]) -> NDArray[np.float64]:
    """The first and the last pixel (x, y) of a box (x, y, width, height)."""
    x, y, width, height = box
    return np.array([[x, y], [x + width - 1, y + height - 1]], np.float64)


def _window_around(shown: NDArray[np.float64], width: int, height: int) -> Window:
    """The window in which pixels (x, y) [N, 2] are seen closely."""
    low, high = shown.min(axis=0), shown.max(axis=0)
    x, y = (low + high + 1.0) / 2.0
    side = AROUND * max(SMALLEST_EXTENT, float((high - low).max()) + 1.0)
    return Window.around((x, y), side, width, height)


def _include(mask: NDArray[np.uint8], x: int, y: int, reach: float) -> bool:
    """Whether a point is in the mask; one that is nearly in it is, afterwards."""
    if not mask[y, x]:
        distance = float(cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)[y, x])
        if distance > reach:
            return False
        cv2.circle(mask, (int(x), int(y)), round(distance) + 1, 1, -1)
    return True


def _exclude(
    mask: NDArray[np.uint8], x: int, y: int, reach: float, inside: NDArray[np.float64]
) -> bool:
    """Whether a point is not in the mask; one that is nearly beside it is not, afterwards.

    Points inside [N, 2] stay in the mask.
    """
    if mask[y, x]:
        distance = float(cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[y + 1, x + 1])
        if distance > reach:
            return False
        room = np.linalg.norm(inside.astype(int) - [x, y], axis=1).min(initial=np.inf)
        radius = round(min(distance, np.floor(room) - 1.0))
        cv2.circle(mask, (int(x), int(y)), radius, 0, -1)
    return True


class HintMasks:
    """Makes masks of hints by a click network, or by GrabCut where there is none.

    Args:
        network: None: GrabCut makes all masks.
    """

    def __init__(self, network: ClickSegmenter | None = None) -> None:
        self._network = network

    @classmethod
    def load(cls, model: str | os.PathLike[str] = DEFAULT_MODEL, **options: Any) -> HintMasks:
        """With a click model by name or folder; an empty name means GrabCut.

        A model that is missing or damaged is reported in the log, and GrabCut is taken.

        Args:
            options: keywords of ``ClickSegmenter.load``.
        """
        if not model:
            return cls()
        try:
            return cls(ClickSegmenter.load(model, **options))
        except ModelError as error:
            log.warning("GrabCut makes the masks of boxes and points: %s", error)
            return cls()

    @property
    def maker(self) -> str:
        """What makes the masks, for people."""
        if self._network is None:
            return GRABCUT
        return f"{self._network.name} on {self._network.runtime_name}"

    def make(
        self,
        frame: NDArray[np.uint8],
        *,
        box: Box | None = None,
        polygon: Points | None = None,
        inside: Points | None = None,
        outside: Points | None = None,
    ) -> HintMask:
        """The mask of one object from hints in pixels of the frame; any of them, or several.

        Args:
            frame: RGB uint8 [H, W, 3]; the hints: as of ``imaging.seeding.make_mask``.

        Raises:
            InputError: no hint, a hint outside of the frame, hints that contradict each other, or
                nothing that is an object; the text says what would be right.
        """
        hints: Mapping[str, Any] = {
            "box": box,
            "polygon": polygon,
            "inside": inside,
            "outside": outside,
        }
        place = check_hints(frame, **hints)
        if self._network is not None and (polygon is None or not len(polygon)):
            return self._network.make(frame, place)
        return HintMask(make_mask(frame, **hints))

    def agreement(self, frame: NDArray[np.uint8], mask: NDArray[Any], **hints: Any) -> float:
        """How little a mask of ``make`` depends on where exactly its hints are, 0..1.

        As ``imaging.seeding.agreement``, with what made the mask.
        """
        return agreement(frame, mask, lambda *at, **by: self.make(*at, **by).mask, **hints)
