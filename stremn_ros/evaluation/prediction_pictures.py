"""Pictures of predictions: past, truth, prediction and their difference, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from stremn_ros.imaging.visualization import drawable

Image = NDArray[np.uint8]
MARGIN, GAP, CAPTION, TILE = 132, 3, 22, 112
COLUMNS = 10
BACKGROUND, INK = 255, (40, 40, 40)


def difference(a: Image, b: Image) -> Image:
    """How far two RGB images are apart, from black over red to white (the largest color's)."""
    far = np.abs(a.astype(np.int16) - b).max(axis=2).astype(np.uint8)
    colored = cv2.applyColorMap(far, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colored, cv2.COLOR_BGR2RGB), np.uint8)


def prediction_sheet(
    past: Image, truth: Image | None, predictions: Mapping[str, Image], title: str = ""
) -> Image:
    """A sheet with time running to the right.

    Args:
        past: uint8 [T, H, W, 3]; truth: [horizon, H, W, 3] or None where it is not known.
        predictions: name of the method -> [horizon, H, W, 3].

    Returns:
        uint8 [H', W', 3]: the rows past, truth, and for each method its frames and, where the truth
        is known, their difference from it. At most ten columns, spread evenly.
    """
    rows: list[tuple[str, Image, int]] = [("past", past, 1 - len(past))]
    if truth is not None:
        rows.append(("truth", truth, 1))
    for name, frames in predictions.items():
        rows.append((name, frames, 1))
        if truth is not None:
            pairs = zip(frames, truth, strict=False)
            rows.append(("difference", np.stack([difference(a, b) for a, b in pairs]), 1))
    height, width = past.shape[1:3]
    tile = TILE, max(1, round(TILE * height / width))
    columns = max(min(len(frames), COLUMNS) for _, frames, _ in rows)
    top = CAPTION + 6 if title else 4
    step = tile[1] + CAPTION + GAP
    sheet = np.full(
        (top + len(rows) * step, MARGIN + columns * (tile[0] + GAP), 3), BACKGROUND, np.uint8
    )
    if title:
        _write(sheet, title, 6, CAPTION - 4)
    for row, (name, frames, first) in enumerate(rows):
        y = top + row * step
        _write(sheet, name, 6, y + CAPTION + tile[1] // 2)
        shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), COLUMNS)).round())
        for column, index in enumerate(shown.astype(int)):
            x = MARGIN + column * (tile[0] + GAP)
            shrinks = tile[0] < width
            method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
            scaled = cv2.resize(frames[index], tile, interpolation=method)
            sheet[y + CAPTION : y + CAPTION + tile[1], x : x + tile[0]] = scaled
            moment = first + int(index)
            _write(sheet, "now" if moment == 0 else f"{moment:+d}", x + 2, y + CAPTION - 6)
    return sheet


def _write(sheet: Image, text: str, x: int, y: int) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(sheet, drawable(text), (x, y), font, 0.45, INK, 1, cv2.LINE_AA)
