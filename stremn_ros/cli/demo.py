"""`stremn demo`: the whole chain on a real video, through real ROS nodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from stremn_ros.cli.options import announce


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "demo", add_help=False, help="follow an object in a real video, through real ROS nodes"
    )
    parser.set_defaults(run=_run, forwards=True)


def _run(options: argparse.Namespace) -> int:
    announce("loading ROS 2")
    from stremn_ros.demo.run import main as demo

    run: Callable[[Sequence[str]], int | None] = demo
    return int(run(options.rest) or 0)
