"""The parameters that name cameras, and a topic for each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stremn_ros.errors import InputError

MOST_CAMERAS = 16


def camera_names(given: Sequence[str]) -> list[str]:
    """Of the parameter `cameras`: the name of each, or one empty name for a node with one."""
    return [name for name in given if name] or [""]


def wrong_cameras(value: Sequence[str]) -> str | None:
    """What is wrong with the names of cameras; None where nothing is."""
    names = [name for name in value if name]
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name):
            return (
                f"{name!r} cannot be part of a topic's name: a letter first, then letters, digits "
                "and single '_'"
            )
    if len(set(names)) != len(names):
        return "each name once"
    if len(names) > MOST_CAMERAS:
        return f"at most {MOST_CAMERAS} cameras"
    return None


_TOPIC = re.compile(r"(~?/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


def camera_topics(parameter: str, text: str, cameras: Sequence[str]) -> dict[str, str]:
    """The topic of each camera, of a parameter that names one for each; empty where it has none.

    Args:
        parameter: its name. text: TOPIC for a node with one camera, NAME=TOPIC,NAME=TOPIC for one
            with several. cameras: as `camera_names`.

    Raises:
        InputError: another text, or a camera that there is not.
    """
    found = dict.fromkeys(cameras, "")
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, topic = part.rpartition("=")
        if bool(equals) != bool(cameras[0]) or name not in found:
            right = (
                f"NAME=TOPIC,NAME=TOPIC with names of cameras ({', '.join(cameras)})"
                if cameras[0]
                else "one topic, as the node has one camera without a name"
            )
            raise InputError(f"{parameter} is {text!r}; it must be {right}")
        if not _TOPIC.fullmatch(topic) or found[name]:
            raise InputError(
                f"{parameter} is {text!r}: "
                + (f"{name} is there twice" if found[name] else f"{topic!r} is no name of a topic")
            )
        found[name] = topic
    return found
