"""`stremn seed`: gives a running node an object to follow, by hand."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import add_hints, announce, hint_names, without_ros
from stremn_ros.errors import InputError, StremnError

ON_OVERLAP = ("again", "replace", "both", "refuse")
SIZE_WAIT = 3.0  # seconds to wait for a mask of the node, which tells the size of its images


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "seed",
        parents=[common],
        help="seed an object in a running ROS node",
        description="Seeds objects in a running segmentation node: with a mask file, or with a "
        "box, a polygon or points, from which a mask is made. Coordinates are pixels of the image.",
        epilog="examples: stremn seed --box 210,120,90,110 --name cup   "
        "stremn seed --points '250,170;260,180' --not 30,30   "
        "stremn seed --mask first.png --camera left --replace",
    )
    parser.add_argument("--node", default="/stremn", help="full name of the node (/stremn)")
    parser.add_argument("--camera", default="", help="name of the camera, if the node has several")
    parser.add_argument("--mask", type=Path, help="label mask (PNG), each value 1..254 an object")
    add_hints(parser)
    parser.add_argument(
        "--name", default="", help="name of the object; with --mask one for each: A,B"
    )
    parser.add_argument("--id", type=int, default=0, help="id of the object; 0: a free one")
    parser.add_argument("--replace", action="store_true", help="forget all other objects first")
    parser.add_argument(
        "--on-overlap",
        choices=ON_OVERLAP,
        default="again",
        help="where the mask covers an object that is followed: seed that one again (default), "
        "replace it, follow both, or refuse",
    )
    parser.add_argument(
        "--image-topic",
        metavar="TOPIC",
        help="seed in the next image, for a video that is about to start "
        "(default: in the newest image)",
    )
    parser.add_argument("--timeout", type=float, default=20.0, help="longest wait in seconds (20)")
    parser.set_defaults(run=_run)


def _check(options: argparse.Namespace) -> None:
    given = hint_names(options)
    if options.mask is None and not set(given) - {"--not"}:
        raise InputError("say where the object is: --mask, --box, --polygon or --points")
    if options.mask is not None and given:
        raise InputError(f"--mask already says where the objects are: leave out {given[0]}")
    if options.mask is not None and options.id:
        raise InputError("--id goes with --box, --polygon or --points; a mask has its own ids")
    if not 0 <= options.id <= 255:
        raise InputError(f"--id is {options.id}: 1 to 255, or 0 for a free one")
    if not options.timeout > 0:
        raise InputError(f"--timeout is {options.timeout:g}: seconds, more than 0")


def _run(options: argparse.Namespace) -> int:
    _check(options)
    announce(f"looking for the node {options.node}")
    try:
        from stremn_ros.client.segment_client import SegmentClient
    except ImportError as error:
        raise without_ros(error) from None
    from stremn_ros.imaging.visualization import read_label_png

    labels = None if options.mask is None else read_label_png(options.mask)
    client = SegmentClient(
        options.node, options.camera, f"stremn_seed_{os.getpid()}", options.timeout
    )
    try:
        client.connect()
        answer = _seed(client, labels, options)
        if not answer.success and client.is_starting():
            announce(f"waiting for {options.node} to load its model")
            client.wait_while_starting()
            answer = _seed(client, labels, options)
    finally:
        client.close()
    if not answer.success:
        raise StremnError(f"{options.node} refused: {answer.message}")
    print(f"stremn seed: {answer.message}; followed now: {list(answer.tracked_ids)}", flush=True)
    return 0


def _seed(client: Any, labels: Any, options: argparse.Namespace) -> Any:
    """The node's answer to the seed that the options describe."""
    from stremn_ros.client.segment_client import fit_mask
    from stremn_ros.messages.reading import frame_size

    stamp = size = None
    if options.image_topic:
        image = client.first_image(options.image_topic, options.timeout)
        stamp, size = image.header.stamp, frame_size(image)
    choice: dict[str, Any] = {
        "on_overlap": ON_OVERLAP.index(options.on_overlap),
        "stamp": stamp,
    }
    if labels is not None:
        size = size or client.image_size(min(SIZE_WAIT, options.timeout))
        if size is not None and size != labels.shape:
            rows, columns = labels.shape
            labels = fit_mask(labels, size)
            print(f"stremn seed: the mask is {columns} x {rows} pixels, resized to the images")
        names = options.name.split(",") if options.name else []
        answer = client.seed_mask(labels, names, replace=options.replace, **choice)
    else:
        hints = {
            "box": options.box,
            "polygon": options.polygon or (),
            "inside": options.points or (),
            "outside": options.outside or (),
        }
        answer = client.seed_object(options.name, options.id, **hints, **choice)
        others = set(answer.tracked_ids) - {options.id}
        if options.replace and "max_objects" in answer.message and not answer.success and others:
            # its mask is good, and those that are to be forgotten have all the places
            client.remove(min(others))
            answer = client.seed_object(options.name, options.id, **hints, **choice)
        if options.replace and answer.success:
            for other in set(answer.tracked_ids) - set(answer.ids):
                answer.tracked_ids = client.remove(other).tracked_ids
    return answer
