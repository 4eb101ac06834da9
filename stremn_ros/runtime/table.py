"""The names of the runtimes, for all texts and choices; nothing heavy is imported for them."""

from __future__ import annotations

RUNTIMES = ("torch", "onnxruntime", "onnxruntime_int8", "cudagraphs", "tensorrt")

LISTED = f"auto, {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}"
"""For texts: all that a parameter or option `runtime` may be."""
