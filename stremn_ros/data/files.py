"""Reading images and label masks from disk with errors that name the file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

log = logging.getLogger(__name__)


@dataclass
class Handled:
    """Whether a guarded read failed and was skipped."""

    failed: bool = False


class BrokenFiles:
    """What happens when a file of a data set cannot be read.

    Args:
        policy: ``raise``: the InputError reaches the caller. ``skip``: it is logged once for each
            message and counted, and the caller goes on with another file.
    """

    def __init__(self, policy: str = "raise") -> None:
        if policy not in ("raise", "skip"):
            raise InputError(f"broken={policy!r}; it must be 'raise' or 'skip'")
        self.policy = policy
        self.messages: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many reads failed so far."""
        return sum(self.messages.values())

    @contextlib.contextmanager
    def handled(self) -> Iterator[Handled]:
        """Guards a read: ``with broken.handled() as handled: ...``, then look at its ``failed``."""
        outcome = Handled()
        try:
            yield outcome
        except InputError as error:
            if self.policy == "raise":
                raise
            message = str(error)
            if message not in self.messages:
                log.warning("left out: %s", message)
            self.messages[message] = self.messages.get(message, 0) + 1
            outcome.failed = True


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3]; InputError names a file that is missing or cannot be decoded."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: not an image that OpenCV can decode")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Label mask uint8 [H, W]; indexed PNGs keep their ids, a lone 255 becomes 1 (DAVIS 2016)."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L", "1"):
                raise InputError(f"{path}: mode {file.mode}; a label mask is an 8-bit indexed PNG")
            labels = np.array(file).astype(np.uint8)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a label mask that can be read ({error})") from None
    if labels.max(initial=0) == 255 and not ((labels > 0) & (labels < 255)).any():
        labels = (labels > 0).astype(np.uint8)
    return labels
