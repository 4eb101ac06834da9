"""Hooks of mkdocs: the pages that come from code and from the README, and links out of docs/."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import python_reference
from mkdocs.structure.files import File

from stremn_ros.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")


def home() -> str:
    """The README as the first page: its links are from the root, those of the site from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    def moved(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups(default="")
        inside = target.removeprefix("docs/")
        if re.match(r"\w+:", target):
            return match[0]
        return f"{picture}[{words}]({inside if inside != target else '../' + target}{anchor})"

    return LINK.sub(moved, text)


def commands() -> str:
    """What every command says with --help, from its parser."""
    os.environ["COLUMNS"] = "80"  # argparse folds its help to the terminal's width
    lines = [
        "# Command line",
        "",
        "Made from the parsers; `stremn COMMAND --help` says the same.",
        "",
    ]

    def add(parser: argparse.ArgumentParser, depth: int) -> None:
        lines.extend(
            [f"{'#' * depth} {parser.prog}", "", "```text", parser.format_help(), "```", ""]
        )
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    add(child, min(depth + 1, 4))

    add(build_parser(), 2)
    return "\n".join(lines)


def messages() -> str:
    """Every message and service, as its file says."""
    lines = [
        "# Messages and services",
        "",
        "The package `stremn_interfaces`, made from its files. `ros2 interface show` prints them.",
        "",
    ]
    for path in sorted((ROOT / "stremn_interfaces").glob("[ms][sr][gv]/*.*")):
        lines.extend([f"## {path.stem}", "", f"`stremn_interfaces/{path.parent.name}/{path.stem}`"])
        lines.extend(["", "```text", path.read_text(encoding="utf-8").rstrip(), "```", ""])
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made."""
    pages = {"index.md": home, "commands.md": commands, "messages.md": messages}
    for name, make in pages.items():
        text = make()
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files outside docs/ become their paths in the repository."""
    del config, files
    if page.file.src_uri == "python.md":
        return python_reference.directives()
    folder = PurePosixPath(page.file.src_uri).parent

    def named(match: re.Match[str]) -> str:
        picture, words, target, _ = match.groups(default="")
        if picture or re.match(r"\w+:", target):
            return match[0]
        parts: list[str] = ["docs", *folder.parts]
        for part in PurePosixPath(target).parts:
            if part == "..":
                parts.pop()
            else:
                parts.append(part)
        if parts[0] == "docs":
            return match[0]
        path = "/".join(parts)
        return f"`{path}`" if words.strip("`") == path else f"{words} (`{path}`)"

    return LINK.sub(named, markdown)
