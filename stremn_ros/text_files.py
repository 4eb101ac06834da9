"""Text files as people have them: lists, settings and tables, of every system's encoding."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from stremn_ros.errors import InputError

# the longer ones first: UTF-32's mark begins with UTF-16's
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


# a spreadsheet takes a cell that begins so for a formula, and would run it (OWASP, CSV injection)
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_line(values: Iterable[Any]) -> str:
    """A line of a table (CSV), with its newline.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; numbers do not.
    """
    line = io.StringIO()
    # with "\r\n" as its end, the writer puts a text with a "\r" in it in quotes, too
    csv.writer(line, lineterminator="\r\n").writerow([_plain_cell(value) for value in values])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _plain_cell(value: Any) -> Any:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value


def read_text(path: str | os.PathLike[str], strict: bool = True) -> str:
    """A file's text by its byte order mark, else as UTF-8; line ends become newlines.

    Editors of Windows begin UTF-8 with a mark, and its shell writes UTF-16.

    Args:
        strict: False replaces what is in another encoding, where only numbers count.

    Raises:
        InputError: it cannot be read, or is in neither of these encodings.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding, "strict" if strict else "replace")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not {encoding.upper().removesuffix('-SIG')} text (byte {error.start} is "
            f"0x{data[error.start]:02x}): save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a list without the space around them; empty ones and comments (#) are left out.

    Raises:
        InputError: as ``read_text``.
    """
    lines = (line.strip() for line in read_text(path).split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers. Names must not repeat.

    In YAML 1.1 the frame 00012 is the tenth, 1:30 is ninety, and 4e-4 is a text.
    """

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).lower()
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"{repeated[0]} stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(_INT, _Loader.construct_yaml_int)
# whole numbers first: the first that fits is taken
_Loader.add_implicit_resolver(
    _INT,
    re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """What a YAML file holds; no object but plain ones is made.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.load(read_text(path), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        text = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as YAML: {text}") from None
    except RecursionError:
        raise InputError(f"{path} cannot be read as YAML: it is nested too deeply") from None
