"""`stremn sweep`: one model under several memories, as the paper's Tables 3, 4 and 9 to 11."""

from __future__ import annotations

import argparse
from typing import Any

from stremn_ros.cli.options import add_model_options, check_writable, listed, load_davis, tuned
from stremn_ros.errors import InputError

SWEPT = ("slots", "update_rule", "input_to_memory", "max_objects")
RULES = "oldest,newest,least_similar,most_similar,first_and_previous,linear"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "sweep",
        parents=[common],
        conflict_handler="resolve",
        help="score a model on DAVIS with several numbers of slots and update rules",
        description="Evaluates one model on DAVIS with each number of slots, with each update "
        "rule, and with input_to_memory (I2M): the paper's Tables 3, 4 and 9 to 12. The JSON is "
        "written after every run, so the same command continues a stopped sweep.",
    )
    parser.add_argument("--root", required=True, metavar="DAVIS", help="folder of the data set")
    parser.add_argument("--split", default="val", help="as for evaluate davis")
    parser.add_argument("--year", default="auto", choices=("auto", "2016", "2017"))
    parser.add_argument("--resolution", default="480p", help="sub-folder (default: %(default)s)")
    parser.add_argument("--sequences", metavar="A,B,...", help="only these sequences of the split")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every N-th frame, for a quick look"
    )
    parser.add_argument("--json", metavar="OUT.json", help="results; continued if it exists")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    parser.add_argument(
        "--slots",
        default="2,3,4,5,6",
        metavar="K,K,...",
        help="numbers of slots, with the rule --update-rule (default: %(default)s); none: ''",
    )
    parser.add_argument(
        "--rules",
        default=RULES,
        metavar="RULE,...",
        help="update rules, with the model's number of slots (default: %(default)s; also: learned)",
    )
    parser.add_argument("--no-i2m", action="store_true", help="leave input_to_memory out")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from stremn_ros.evaluation.sweep import plot, sweep

    if options.input_to_memory:
        raise InputError("the sweep runs both forms; leave --input-to-memory out")
    try:
        slots = [int(part) for part in listed(options.slots)]
    except ValueError:
        raise InputError(f"--slots {options.slots}: whole numbers, as 2,3,4,5,6") from None
    if not slots and not listed(options.rules) and options.no_i2m:
        raise InputError("nothing is left to sweep: name --slots or --rules, or drop --no-i2m")
    dataset = load_davis(options)
    for path in (options.json, options.plot):
        check_writable(path, file=True)
    result = sweep(
        dataset,
        options.model,
        slots=slots,
        rules=listed(options.rules),
        rule=options.update_rule,
        i2m=not options.no_i2m,
        every=options.every,
        path=options.json,
        progress=not options.quiet,
        device=options.device,
        runtime=options.runtime,
        auto_build=options.auto_build,
        **{name: value for name, value in tuned(options).items() if name not in SWEPT},
    )
    print(result.table())
    if options.plot is not None:
        plot(result, options.plot)
    return 0
