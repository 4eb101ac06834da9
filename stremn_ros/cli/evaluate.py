"""`stremn evaluate`: score a model on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stremn_ros.cli import evaluate_prediction
from stremn_ros.cli.options import (
    add_click_model,
    add_model_options,
    check_writable,
    listed,
    load_davis,
    load_segmenter,
    model_name,
)
from stremn_ros.errors import InputError
from stremn_ros.files import write_json


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="score a model on a data set", description="Scores a model on a data set."
    )
    sets = evaluate.add_subparsers(title="data sets", metavar="DATA_SET", required=True)
    parser = sets.add_parser(
        "davis",
        parents=[common],
        help="J, F and J&F on DAVIS or YouTube-VOS",
        description="Scores J, F and J&F (percent) by the official semi-supervised definition, on "
        "the official folder layout: JPEGImages/480p, Annotations/480p, ImageSets; or that of "
        "YouTube-VOS: JPEGImages, Annotations, meta.json.",
    )
    parser.add_argument("--root", required=True, metavar="DAVIS", help="folder of the data set")
    parser.add_argument(
        "--split",
        default="val",
        help='a list in ImageSets, or "all" for every annotated folder (default: %(default)s); of '
        "YouTube-VOS all annotated folders are taken",
    )
    parser.add_argument(
        "--year",
        default="auto",
        choices=("auto", "2016", "2017"),
        help="which list of that name; auto takes the longest (default: %(default)s). With the "
        "lists of 2016 all objects of a mask are one",
    )
    parser.add_argument("--resolution", default="480p", help="sub-folder (default: %(default)s)")
    parser.add_argument("--sequences", metavar="A,B,...", help="only these sequences of the split")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="use only every N-th frame, for a quick look; the result is marked as partial",
    )
    parser.add_argument(
        "--json", metavar="OUT.json", help="write the result as JSON, again after each sequence"
    )
    parser.add_argument("--masks", metavar="DIR", help="write the predicted masks as label PNGs")
    parser.add_argument(
        "--pictures", metavar="DIR", help="draw the five worst sequences and all scores"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    parser.set_defaults(run=_run)
    evaluate_prediction.add(sets, common)
    _add_clicks(sets, common)
    _add_suite(sets, common)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation.davis import evaluate_davis
    from stremn_ros.evaluation.davis_result import DavisResult

    dataset = load_davis(options)
    check_writable(options.json, file=True)
    for path in (options.masks, options.pictures):
        check_writable(path)
    segmenter = load_segmenter(options, dataset.max_objects)

    def write(result: DavisResult) -> None:
        if options.json is not None:
            write_json(options.json, result.as_dict())
        if len(result.sequences) == len(dataset.sequences):  # before the pictures, which may fail
            print(result.table(), flush=True)

    evaluate_davis(
        dataset,
        segmenter,
        every=options.every,
        masks=options.masks,
        pictures=options.pictures,
        progress=not options.quiet,
        settings={
            "model": model_name(options.model),
            "processing_size": options.processing_size or "the model's default",
        },
        # marked as partial: hours of work are not lost with the last sequence
        on_sequence=write,
    )
    return 0


def _add_suite(sets: Any, common: argparse.ArgumentParser) -> None:
    parser = sets.add_parser(
        "suite",
        parents=[common],
        help="all development sets in one table with a spread",
        description="Scores a model on all sets of a suite file: whole sequences, short parts of "
        "them, and composed clips. The spread is that of a bootstrap over the objects.",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="suite file, e.g. config/suite.yaml"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the sets' roots")
    parser.add_argument("--sets", metavar="A,B,...", help="only these sets")
    parser.add_argument("--against", metavar="OLD.json", help="compare with an earlier result")
    parser.add_argument(
        "--json", metavar="OUT.json", help="write the result as JSON, again after each set"
    )
    parser.add_argument("--pictures", metavar="DIR", help="draw the worst sequences and the clips")
    add_model_options(parser)
    parser.set_defaults(run=_run_suite)


def _run_suite(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation import suite

    config = Path(options.config)
    sets = suite.read_suite(config)
    if options.sets is not None:
        names = listed(options.sets)
        if unknown := sorted(set(names) - {each.name for each in sets}):
            raise InputError(f"{config}: no sets {unknown}; it has {[each.name for each in sets]}")
        if not names:
            raise InputError("--sets names no set: leave it out for all of them")
        sets = [each for each in sets if each.name in names]
    other = suite.read_result(Path(options.against)) if options.against else None
    if other is not None and not {each.name for each in sets} & other["sets"].keys():
        raise InputError(
            f"{options.against}: has none of the sets {[each.name for each in sets]} to compare "
            f"with, but {list(other['sets'])}"
        )
    check_writable(options.json, file=True)
    check_writable(options.pictures)
    segmenters: dict[int, Any] = {}

    def load(objects: int) -> Any:
        if objects not in segmenters:
            segmenters[objects] = load_segmenter(options, objects)
        return segmenters[objects]

    def found_so_far(results: dict[str, suite.SetResult]) -> dict[str, Any]:
        segmenter = next(iter(segmenters.values()))
        return suite.as_dict(
            results,
            {
                "model": model_name(options.model),
                "runtime": segmenter.runtime_name,
                "slots": segmenter.memory.slots,
                "update_rule": segmenter.update_rule,
                "update_every": segmenter.update_every,
                "processing_size": options.processing_size or "the model's default",
            },
            partial=len(results) < len(sets),
        )

    def write(results: dict[str, suite.SetResult]) -> None:
        if options.json is not None:
            write_json(options.json, found_so_far(results))

    results = suite.run_suite(
        sets,
        Path(options.data),
        load,
        pictures=Path(options.pictures) if options.pictures else None,
        on_set=write,
    )
    found = found_so_far(results)
    if "calibration" in found:
        error = found["calibration"]["expected_calibration_error"]
        print(f"score against IoU: expected calibration error {error:.3f}")
    if other is not None:
        print("\nchange, object by object:")
        print("\n".join(suite.compare(found, other)))
    return 0


def _add_clicks(sets: Any, common: argparse.ArgumentParser) -> None:
    parser = sets.add_parser(
        "clicks",
        parents=[common],
        help="IoU of masks that are made of boxes and points",
        description="Makes masks of objects from a box and from 1 to N points, and compares them "
        "with the true masks. The points are placed by the usual protocol: the next one goes to "
        "the middle of the largest error.",
    )
    parser.add_argument(
        "--photos",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of images/ and masks/; only the photos that no training uses are taken",
    )
    parser.add_argument(
        "--videos", nargs="+", default=[], metavar="DIR", help="folders in DAVIS' layout"
    )
    parser.add_argument(
        "--count", type=int, default=300, help="objects of the photos (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, default=2, help="frames of each sequence (default: %(default)s)"
    )
    parser.add_argument("--clicks", type=int, default=3, help="points (default: %(default)s)")
    parser.add_argument("--grabcut", action="store_true", help="measure GrabCut beside the model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--json", metavar="OUT.json", help="write the result as JSON")
    parser.add_argument("--pictures", metavar="DIR", help="draw the worst masks of each set")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_click_model(parser)
    parser.set_defaults(run=_run_clicks, auto_build=False)


def _run_clicks(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation import clicks
    from stremn_ros.hint_masks import GRABCUT, ClickSegmenter, HintMasks

    if not options.photos and not options.videos:
        raise InputError("say what to judge on: --photos, --videos, or both")
    for name, least in (("count", 0), ("frames", 1), ("clicks", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} is {getattr(options, name)}; it must be {least} or more")
    check_writable(options.json, file=True)
    check_writable(options.pictures)
    makers: dict[str, HintMasks] = {}
    if options.click_model:
        network = ClickSegmenter.load(options.click_model, device=options.device)
        makers[network.name] = HintMasks(network)
    if options.grabcut or not makers:
        makers[GRABCUT] = HintMasks()

    def objects() -> Any:
        if options.photos:
            yield from clicks.photo_objects([Path(root) for root in options.photos], options.count)
        for root in options.videos:
            yield from clicks.video_objects(Path(root), options.frames)

    result = clicks.evaluate_clicks(
        objects,
        makers,
        options.clicks,
        not options.quiet,
        Path(options.pictures) if options.pictures else None,
    )
    print(clicks.table(result))
    if options.json is not None:
        write_json(options.json, result)
    return 0
