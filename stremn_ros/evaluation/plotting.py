"""Figures of matplotlib, drawn without a window and without its global list of figures."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from stremn_ros.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """An empty figure of width by height inches, whose parts are laid out when it is drawn."""
    from matplotlib.figure import Figure  # here, as only those who draw need it

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG, whole; the folder is made.

    Raises:
        InputError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    data = io.BytesIO()
    canvas.print_png(data)
    write_bytes(path, data.getvalue())
