"""`stremn view`: the live page, on which a click on an object makes it followed."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

from stremn_ros.cli.options import (
    add_click_model,
    add_model_options,
    load_hint_masks,
    load_segmenter,
    without_ros,
)
from stremn_ros.errors import InputError, StremnError

PORT = 8765
MAX_OBJECTS = 8


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "view",
        parents=[common],
        help="a page in the browser: click an object, and it is followed",
        description="Opens a page for a video, a folder of images, a recording (a tab for each "
        "camera), a webcam or a running ROS node. "
        "A click on an object, or a box or an outline around it, makes it followed.",
        epilog="examples: stremn view clip.mp4   stremn view 0   stremn view --node /stremn",
    )
    parser.add_argument(
        "video",
        nargs="?",
        metavar="VIDEO|FOLDER|RECORDING|0",
        help="video, folder of images, bag (.mcap, .db3, .bag, rosbag2), or the number of a webcam",
    )
    parser.add_argument("--node", help="full name of a running segmentation node (/stremn)")
    parser.add_argument(
        "--camera",
        default="",
        metavar="NAME[=TOPIC],...",
        help="of a node with several cameras: their names, one tab each, and the topics of their "
        "images",
    )
    parser.add_argument(
        "--image-topic",
        default="",
        help="of the node's images, without which it is looked up; of a recording: this one alone",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone); on any other one "
        "the page is opened by a link with a token",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help="port (default: %(default)s; 0: a free one)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/view"),
        metavar="DIR",
        help="folder that exports are put into, each in a new one (default: %(default)s)",
    )
    parser.add_argument(
        "--rerun",
        nargs="?",
        const="",
        metavar="FILE.rrd",
        help="log what the page shows to Rerun: open its viewer, or record a file (needs the "
        "package rerun-sdk)",
    )
    parser.add_argument(
        "--max-objects", type=int, default=MAX_OBJECTS, help="most objects (default: %(default)s)"
    )
    add_model_options(parser)
    add_click_model(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if (not options.video) == (options.node is None):
        raise InputError("say what to show: a video, a folder, a webcam's number, or --node NAME")
    if options.camera and options.node is None:
        raise InputError("--camera is for --node; of a recording --image-topic shows one camera")
    if not 0 <= options.port <= 65535:
        raise InputError(f"--port is {options.port}: 1 to 65535, or 0 for a free one")
    try:
        from stremn_ros.web.server import PageServer
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "aiohttp":
            raise
        raise StremnError(
            "the page needs the package aiohttp: pip install aiohttp (`make setup` brings it)"
        ) from None
    from stremn_ros.web.access import Access
    from stremn_ros.web.rerun_log import RerunLog, file_to_record

    file = file_to_record(options.rerun or "")
    access = Access(options.host)
    with contextlib.ExitStack() as closing:
        if options.node is not None:
            sources = _node(options, closing)
        else:
            sources = _file(options, closing)
        if options.rerun is not None:
            closing.callback(RerunLog(sources, file).close)
        return _serve(PageServer(sources, access, options.port), access)


def _file(options: argparse.Namespace, closing: contextlib.ExitStack) -> dict[str, Any]:
    """A source for a video or webcam, or one for each camera of a recording, by its topic."""
    from stremn_ros.web.frames import CameraFrames, VideoFrames
    from stremn_ros.web.video_source import VideoSource

    live = options.video.isdecimal() and not os.path.exists(options.video)
    path = None if live else Path(options.video)
    indexes = {} if path is None else _cameras_of(path, options.image_topic)
    if options.image_topic and not indexes and (path is None or path.exists()):
        raise InputError(f"--image-topic is for a node or a recording, and {options.video} is none")
    # before the model is loaded, which takes a while
    opened: dict[str, Any] = {}
    with contextlib.ExitStack() as failing:
        if path is None:
            opened[""] = CameraFrames(int(options.video))
        elif indexes:
            from stremn_ros.web.recording_frames import RecordingFrames

            for topic, index in indexes.items():
                opened[topic] = RecordingFrames(path, index)
                failing.callback(opened[topic].close)
        else:
            opened[""] = VideoFrames(path)
        title = f"webcam {options.video}" if path is None else path.name
        sources: dict[str, Any] = {}
        masks = load_hint_masks(options)  # one network for all tabs
        for topic, frames in opened.items():
            if not topic:
                failing.callback(frames.close)
            segmenter = load_segmenter(options, options.max_objects)
            shown = f"{title} {topic}".rstrip()
            sources[topic] = VideoSource(frames, shown, segmenter, path, options.out, masks, topic)
        failing.pop_all()
    for source in sources.values():
        closing.callback(source.close)
    return sources


def _cameras_of(path: Path, topic: str) -> dict[str, Any]:
    """The indexes of a recording's cameras, by topic; none for a video or a folder of images."""
    from stremn_ros.recordings.bags import is_bag
    from stremn_ros.recordings.sources import read_indexes

    if not (path.exists() and is_bag(path)):
        return {}
    return read_indexes(path, [topic] if topic else [])


def _node(options: argparse.Namespace, closing: contextlib.ExitStack) -> dict[str, Any]:
    """A source for each camera, by its name; they are closed with `closing`."""
    try:
        from stremn_ros.web.node_source import NodeSource
    except ImportError as error:
        raise without_ros(error) from None
    topics = _cameras(options.camera, options.image_topic)
    masks = load_hint_masks(options)
    sources: dict[str, Any] = {}
    for name, topic in topics.items():
        sources[name] = NodeSource(options.node, name, topic, masks)
        closing.callback(sources[name].close)
    return sources


def _cameras(text: str, image_topic: str) -> dict[str, str]:
    """The topic of each camera, empty to look it up.

    Raises:
        InputError: a name twice, or --image-topic beside several cameras.
    """
    topics: dict[str, str] = {}
    for part in text.split(",") if text else [""]:
        name, _, topic = part.strip().partition("=")
        if text and not name:
            raise InputError(f"--camera is {text!r}; it is NAME or NAME=TOPIC, with commas between")
        if name in topics:
            raise InputError(f"--camera names {name} twice")
        topics[name] = topic
    if image_topic:
        if len(topics) > 1 or any(topics.values()):
            raise InputError(
                "--image-topic is for one camera; write --camera NAME=TOPIC,NAME=TOPIC"
            )
        return dict.fromkeys(topics, image_topic)
    return topics


def _serve(server: Any, access: Any) -> int:
    import asyncio

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)

        def ready() -> None:
            everywhere = access.host in ("0.0.0.0", "::")
            name = socket.gethostname() if everywhere else ""
            print(f"stremn view: open {access.link(server.port, name)}", flush=True)
            print("stremn view: Ctrl-C ends it", flush=True)

        await server.run(stop, ready)

    asyncio.run(serve())
    return 0
