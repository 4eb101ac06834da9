"""`stremn doctor`: what is installed, what would be used, what is wrong."""

from __future__ import annotations

import argparse
from typing import Any

from stremn_ros.cli.options import announce, check_writable
from stremn_ros.files import write_json


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="report what is installed, what would be used, and what is wrong",
        description="Examines this installation. The exit code is 0 only when the segmentation "
        "node can run here.",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the findings as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    announce("looking at this machine")
    from stremn_ros.doctor import examine

    check_writable(options.json, file=True)
    report = examine()
    print(report.text())
    if options.json is not None:
        write_json(options.json, report.as_dict())
    return 0 if report.ready else 1
