"""ROS 2 as the nodes need it: distribution, messages, interfaces, shared memory for images."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stremn_ros.doctor.probes import Probe
from stremn_ros.doctor.report import NOTE, OK, PROBLEM, Check
from stremn_ros.errors import InputError
from stremn_ros.nodes.dds_profile import FAST_DDS_2, FAST_DDS_3, profile_environment
from stremn_ros.resources import shared_file

# One VGA frame is 0.9 MB; a segment should hold several frames of a large camera
SEGMENT_BYTES_WANTED = 8 << 20
SEGMENT_BYTES_DEFAULT = 512 << 10


def check_distribution(environment: Mapping[str, str]) -> Check:
    wheels = set()
    for distribution in importlib.metadata.distributions():
        match = re.fullmatch(r"ros-([a-z]+)-rclpy", (distribution.metadata["Name"] or "").lower())
        if match:
            wheels.add(match[1])
    words = []
    if environment.get("ROS_DISTRO"):
        words.append(f"{environment['ROS_DISTRO']} is sourced")
    words += [f"wheels of {name} are installed" for name in sorted(wheels)]
    settings = [
        f"{name}={environment[name]}"
        for name in ("RMW_IMPLEMENTATION", "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")
        if environment.get(name)
    ]
    if not words:
        return Check(
            "ROS 2",
            PROBLEM,
            "no distribution is sourced and no ROS wheels are installed",
            "run `make setup` and use .venv/bin/stremn,\n"
            "or `source /opt/ros/<distribution>/setup.bash` first",
            "nodes",
        )
    if environment.get("ROS_DISTRO") and wheels and environment["ROS_DISTRO"] not in wheels:
        return Check(
            "ROS 2",
            NOTE,
            ", ".join(words + settings),
            "two distributions are mixed: use a shell where none is sourced, or a Python "
            "without the wheels",
        )
    return Check("ROS 2", OK, ", ".join(words + settings))


def check_rclpy(result: Probe) -> Check:
    if result.error:
        return Check(
            "rclpy",
            PROBLEM,
            f"cannot be imported: {result.error}",
            "run `make setup` and use .venv/bin/stremn, or source a ROS distribution built for "
            f"this Python ({sys.version_info.major}.{sys.version_info.minor})",
            "nodes",
        )
    return Check("rclpy", OK, f"{result.values['where']}, middleware {result.values['rmw']}")


# packages of messages that the nodes do without, and what is lacking then
OPTIONAL = {
    "vision_msgs": "detections and label_info are not published",
    "tf2_msgs": "no transforms are published (publish_tf)",
}


def check_messages(result: Probe) -> list[Check]:
    missing = dict(result.values.get("missing", {}))
    optional = {name for name in (*OPTIONAL, "cv_bridge") if missing.pop(name, None)}
    if result.error:
        missing["messages"] = result.error
    checks = []
    if missing:
        found = "\n".join(f"{name}: {error}" for name, error in missing.items())
        names = " ".join(f"ros-<distribution>-{name.replace('_', '-')}" for name in missing)
        checks.append(Check("messages", PROBLEM, found, f"install {names}", "nodes"))
    else:
        checks.append(
            Check("messages", OK, "sensor, std, geometry, diagnostic, lifecycle, visualization")
        )
    for name, without in OPTIONAL.items():
        if name in optional:
            remedy = f"wanted? install ros-<distribution>-{name.replace('_', '-')}"
            checks.append(Check(name, NOTE, f"not installed; {without}", remedy))
        elif not result.error:
            checks.append(Check(name, OK, "installed"))
    return checks


def check_interfaces(result: Probe, no_rclpy: bool = False) -> Check:
    if result.error and no_rclpy and "rclpy" in result.error:
        return Check(
            "stremn_interfaces",
            PROBLEM,
            "cannot be imported without rclpy",
            "first see to rclpy, above",
            "nodes",
        )
    if result.error:
        return Check(
            "stremn_interfaces",
            PROBLEM,
            f"cannot be imported: {result.error}",
            "build them: `make setup`, or in a workspace `colcon build` followed by\n"
            "`source install/setup.bash`; rebuild after a change of the ROS distribution",
            "nodes",
        )
    return Check("stremn_interfaces", OK, str(result.values["where"]))


def segment_size(profile: Path) -> int | None:
    """Largest shared-memory segment that a Fast DDS profile sets, in bytes; None for none."""
    text = re.sub(r"<!--.*?-->", "", profile.read_text(errors="replace"), flags=re.DOTALL)
    sizes = [int(value) for value in re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", text)]
    return max(sizes, default=None)


def _shipped_profile() -> Path | None:
    try:
        return shared_file("fastdds_shm.xml")
    except InputError:
        return None


def check_shared_memory(
    environment: Mapping[str, str], rmw: str, free: Callable[[str], Any] = shutil.disk_usage
) -> Check:
    name = "shared memory"
    if rmw and "fastrtps" not in rmw:
        return Check(name, OK, f"{rmw} is used, the profile for Fast DDS does not matter")
    given = [item for item in (FAST_DDS_3, FAST_DDS_2) if environment.get(item)]
    shipped = _shipped_profile() or "<share>/config/fastdds_shm.xml"
    plain = {k: v for k, v in environment.items() if k not in (FAST_DDS_3, FAST_DDS_2)}
    exports = [f"export {k}={v}" for k, v in profile_environment(shipped, plain).items()]
    offer = (
        "the launch files set it; a camera node that you start yourself needs it too:\n"
        + "\n".join(exports)
        + "\nor publish with reliable QoS"
    )
    if len(given) == 2:
        return Check(
            name,
            PROBLEM,
            f"{FAST_DDS_3} and {FAST_DDS_2} are both set; Fast DDS 3 reads both and refuses "
            "the second as a repetition",
            f"unset one of them: {FAST_DDS_2} is for ROS up to Jazzy",
        )
    variable = given[0] if given else None
    if variable is None:
        found = (
            f"no Fast DDS profile is set: its segment of {SEGMENT_BYTES_DEFAULT >> 10} KiB loses "
            "best-effort frames of VGA and up"
        )
        return Check(name, NOTE, found, offer)
    profile = Path(environment[variable])
    if not profile.is_file():
        return Check(name, PROBLEM, f"{variable} names {profile}, which does not exist", offer)
    size = segment_size(profile)
    if size is None or size < SEGMENT_BYTES_WANTED:
        said = "sets no segment_size" if size is None else f"sets a segment of {size >> 10} KiB"
        return Check(name, NOTE, f"{profile} {said}, too small for camera frames", offer)
    try:
        room = free("/dev/shm").free
    except OSError:
        room = None
    if room is not None and room < size:
        return Check(
            name,
            NOTE,
            f"{profile}: segments of {size >> 20} MiB, but /dev/shm has {room >> 20} MiB free",
            "start the container with --shm-size=512m or --ipc=host",
        )
    return Check(name, OK, f"{profile}: segments of {size >> 20} MiB")
