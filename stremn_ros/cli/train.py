"""`stremn train`: train a model."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    train = commands.add_parser("train", help="train a model", description="Trains a model.")
    tasks = train.add_subparsers(title="tasks", metavar="TASK", required=True)
    # Its own options, --config among them, are those of the training; --help shows them
    parser = tasks.add_parser(
        "segment", parents=[common], add_help=False, help="train the segmentation network"
    )
    parser.set_defaults(run=_run, forwards=True)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.training.segment import main as train

    return int(train(options.rest) or 0)
