"""docs/python.md from the code: `python scripts/python_reference.py > docs/python.md`.

The site shows the whole docstrings instead (docs_site.py), by ``directives``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from stremn_ros.files import printing
from stremn_ros.options import TUNABLES, SegmenterOptions

HEAD = """# Python

What a program uses. The rest of the package may change without notice. This page names everything
with a line each; the site (`make docs`) and `help(...)` have arguments, shapes, units and errors.

    from stremn_ros import HintMasks, Predictor, Segmenter, open_frames, read_label_png
    from stremn_ros.client import SegmentClient
"""
NAMES = (
    "stremn_ros.segmenter.Segmenter",
    "stremn_ros.hint_masks.HintMasks",
    "stremn_ros.results",
    "stremn_ros.options.SegmenterOptions",
    "stremn_ros.predictor.Predictor",
    "stremn_ros.imaging.video.open_frames",
    "stremn_ros.imaging.visualization.read_label_png",
    "stremn_ros.client.segment_client.SegmentClient",
    "stremn_ros.spatial.tracker.SpatialTracker",
    "stremn_ros.spatial.camera.Intrinsics",
    "stremn_ros.errors",
)


def directives() -> str:
    """The page for mkdocstrings."""
    return "\n".join([HEAD, *(f"::: {name}\n" for name in NAMES)])


def page() -> str:
    """The page with a line for each name."""
    return "\n".join([HEAD, *(_section(name) for name in NAMES)])


def _section(path: str) -> str:
    thing = _found(path)
    lines = [f"## {path}", "", _first(thing), ""]
    if inspect.isfunction(thing):
        lines += [f"    {thing.__name__}{_signature(thing)}", ""]
    members = list(_members(thing))
    if members:
        lines += ["| Name | What it is |", "|---|---|"]
        lines += [f"| `{name}` | {text} |" for name, text in members]
        lines.append("")
    return "\n".join(lines)


def _found(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def _members(thing: Any) -> Any:
    """(name with its arguments, first sentence) in the order of the source."""
    for name, member in vars(thing).items():
        if name.startswith("_"):
            continue
        if inspect.ismodule(thing):
            if getattr(member, "__module__", "") == thing.__name__ and inspect.getdoc(member):
                yield name, _cell(member)
        elif isinstance(member, property):
            yield name, _cell(member)
        elif isinstance(member, (classmethod, staticmethod)) or inspect.isfunction(member):
            function = getattr(member, "__func__", member)
            if inspect.getdoc(function):
                yield f"{name}{_signature(function)}", _cell(function)
    if thing is SegmenterOptions:
        yield from ((name, option.text) for name, option in TUNABLES.items())
    elif inspect.isclass(thing):
        for name, text in _attributes(thing):
            yield name, text


def _attributes(thing: Any) -> Any:
    """Of the docstring's part Attributes."""
    _, _, rest = (inspect.getdoc(thing) or "").partition("Attributes:\n")
    entries: list[str] = []
    for line in rest.split("\n\n")[0].splitlines():
        if line.startswith("     ") and entries:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line.strip())
    for entry in entries:
        name, _, text = entry.partition(": ")
        yield name, text.replace("``", "`").replace("|", "\\|")


def _first(thing: Any) -> str:
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def _cell(thing: Any) -> str:
    return _first(thing).replace("|", "\\|")


def _signature(function: Any) -> str:
    """The names of the arguments; their types are on the site."""
    names = []
    kinds = inspect.Parameter
    marks: dict[Any, str] = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}
    star = False
    for item in inspect.signature(function).parameters.values():
        if item.name in ("self", "cls"):
            continue
        if item.kind is kinds.KEYWORD_ONLY and not star:
            names.append("*")
            star = True
        star = star or item.kind is kinds.VAR_POSITIONAL
        default = "" if item.default is kinds.empty else "=..."
        names.append(f"{marks.get(item.kind, '')}{item.name}{default}")
    return f"({', '.join(names)})"


if __name__ == "__main__":
    with printing():
        print(page(), end="")
