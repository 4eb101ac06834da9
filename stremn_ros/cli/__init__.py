"""The command `stremn`: one file a subcommand. What one needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import sys
from collections.abc import Sequence

from stremn_ros import __version__
from stremn_ros.cli import (
    bench,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    label,
    predict,
    seed,
    segment,
    sweep,
    train,
    view,
)
from stremn_ros.errors import StremnError
from stremn_ros.files import UNKNOWN, printing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0: done; 1: doctor found that the main job cannot run; 2: a wrong argument or input, with one
    line on stderr that says which; 130: interrupted.
    """
    parser = build_parser()
    options = argparse.Namespace(debug=False)
    code = 0
    # a file's name may be in no encoding that the terminal has
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=UNKNOWN)
    logging.basicConfig(level=logging.WARNING, format="stremn: %(message)s")
    try:
        with printing():
            options, rest = parser.parse_known_args(arguments)
            if rest and not getattr(options, "forwards", False):
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            options.rest = rest
            code = int(options.run(options) or 0)
        return code
    except StremnError as error:
        if options.debug:
            raise
        return _complain(str(error))
    except OSError as error:
        if options.debug:
            raise
        return _complain(str(error))
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("stremn: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"stremn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand that this installation can run."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser = argparse.ArgumentParser(
        prog="stremn",
        description="Follow objects in video from one mask each, with a memory of fixed size.",
    )
    parser.add_argument("--version", action="version", version=f"stremn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    segment.add(commands, common)
    label.add(commands, common)
    predict.add(commands, common)
    evaluate.add(commands, common)
    inspect.add(commands, common)
    sweep.add(commands, common)
    bench.add(commands, common)
    export.add(commands, common)
    if _exists("stremn_ros.training"):
        train.add(commands, common)
    if _exists("stremn_ros.demo.run"):
        demo.add(commands, common)
    view.add(commands, common)
    seed.add(commands, common)
    doctor.add(commands, common)
    return parser


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
