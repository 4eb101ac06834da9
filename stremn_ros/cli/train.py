"""`stremn train`: train a model."""

from __future__ import annotations

import argparse
from typing import Any

from stremn_ros.cli.options import announce


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    train = commands.add_parser("train", help="train a model", description="Trains a model.")
    tasks = train.add_subparsers(title="tasks", metavar="TASK", required=True)
    # Their own options, --config among them, are those of the trainings; --help shows them
    for task, text in (
        ("segment", "segmentation"),
        ("predict", "prediction"),
        ("clicks", "click"),
    ):
        parser = tasks.add_parser(
            task, parents=[common], add_help=False, help=f"train the {text} network"
        )
        parser.set_defaults(run=_run, forwards=True, task=task)


def _run(options: argparse.Namespace) -> int:
    announce("loading PyTorch")
    import importlib

    training = importlib.import_module(f"stremn_ros.training.{options.task}")
    return int(training.main(options.rest) or 0)
