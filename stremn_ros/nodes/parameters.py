"""The parameters of the nodes: one table that declares them and makes docs/parameters.md.

`python -m stremn_ros.nodes.parameters > docs/parameters.md` writes the table; a test holds that
the file and the table agree. rclpy is imported only to declare, so the table can be read anywhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stremn_ros.errors import InputError
from stremn_ros.options import TUNABLES
from stremn_ros.runtime.table import LISTED

# When a parameter may change
RUN_TIME = "run time"
UNCONFIGURED = "while unconfigured"
START = "at start only"

SEGMENT = "segment_node"
VIDEO_SOURCE = "video_source_node"
PREDICT = "predict_node"

MOST_CAMERAS = 16

IMAGE_RELIABILITIES = ("auto", "best_effort", "reliable")

UPDATE_RULES = TUNABLES["update_rule"].choices

_TYPE_NAMES = {bool: "bool", int: "int", float: "double", str: "string", list: "string array"}


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: the type is that of the default."""

    name: str
    default: bool | int | float | str | list[str]
    description: str
    changes: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None  # returns what is wrong
    node: str = ""

    @property
    def type_name(self) -> str:
        return _TYPE_NAMES[type(self.default)]

    def validate(self, value: Any) -> Any:
        """The value in the parameter's type.

        Raises:
            InputError: another type, out of range or not one of the choices.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # `-p rate:=10` is an integer to ROS
        texts = not isinstance(value, list) or all(isinstance(item, str) for item in value)
        if type(value) is not kind or not texts:
            raise InputError(
                f"{self.name} is of type {self.type_name}, got {value!r} ({type(value).__name__})"
            )
        if isinstance(value, (int, float)):
            if not math.isfinite(value):
                raise InputError(f"{self.name} is {value}: a finite number is wanted")
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            if not low <= value <= high:
                raise InputError(f"{self.name} is {value}, the range is {self.range_text}")
        if self.choices and value not in self.choices:
            raise InputError(
                f"{self.name} is '{value}', it is one of: "
                + ", ".join(choice or "'' (empty)" for choice in self.choices)
            )
        wrong = self.check(value) if self.check is not None else None
        if wrong:
            raise InputError(f"{self.name} is {value!r}: {wrong}")
        return value

    @property
    def range_text(self) -> str:
        if self.choices:
            return ", ".join(f"`{choice}`" if choice else "empty" for choice in self.choices)
        if self.low is None and self.high is None:
            return ""
        return f"{self.low:g} to {self.high:g}"


def _observe(value: int) -> str | None:
    return "3 images or more, or 0 for the model's own number" if 0 < value < 3 else None


def _period(value: float) -> str | None:
    return "0.1 seconds or more, or 0 for never" if 0 < value < 0.1 else None


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


def _qos_time(value: float) -> str | None:
    return "0.001 seconds or more, or 0 for none" if 0 < value < 0.001 else None


def _voxel(value: float) -> str | None:
    return "0.001 m or more, or 0 for every point" if 0 < value < 0.001 else None


_SHARED = (
    ParameterSpec(
        "device", "auto", "Where it runs: auto, cpu, cuda or cuda:1 and so on.", UNCONFIGURED
    ),
    ParameterSpec(
        "image_reliability",
        "auto",
        "QoS reliability of the image subscription. auto asks for what the publishers offer. "
        "best_effort works with every publisher. reliable loses no image in transport, but "
        "receives nothing from a best-effort camera.",
        UNCONFIGURED,
        choices=IMAGE_RELIABILITIES,
    ),
    ParameterSpec(
        "image_transport",
        "raw",
        "How the images arrive: raw on `image`, or compressed (JPEG or PNG) on `image/compressed`.",
        UNCONFIGURED,
        choices=("raw", "compressed"),
    ),
    ParameterSpec(
        "reset_on_time_jump",
        True,
        "Forget all objects when the stamps of the images jump backwards (a bag that loops).",
        RUN_TIME,
    ),
    ParameterSpec(
        "time_jump_tolerance",
        0.1,
        "A stamp that is earlier than the newest one by more than this many seconds is a jump in "
        "time. A frame that is earlier by less is out of order and is dropped.",
        RUN_TIME,
        0.0,
        3600.0,
    ),
    ParameterSpec(
        "frame_timeout",
        2.0,
        "Seconds without a frame after which the diagnostics warn.",
        RUN_TIME,
        0.05,
        3600.0,
    ),
    ParameterSpec(
        "diagnostics_period",
        1.0,
        "Seconds between messages on /diagnostics.",
        RUN_TIME,
        0.05,
        60.0,
    ),
    ParameterSpec(
        "log_period",
        5.0,
        "A repeated warning about images is logged once in this many seconds.",
        RUN_TIME,
        0.0,
        3600.0,
    ),
)
"""What both nodes have, said once; the table below gives it its place there."""


def _shared(name: str, **changes: Any) -> ParameterSpec:
    return dataclasses.replace(next(spec for spec in _SHARED if spec.name == name), **changes)


@dataclass(frozen=True)
class _LeftToModel:
    """Refuses what is neither in an option's range nor the value that leaves it to the model."""

    own: int
    low: float
    right: str = field(compare=False)

    def __call__(self, value: int) -> str | None:
        return self.right if self.own < value < self.low else None


def _tuned(name: str, text: str = "", most: float | None = None) -> ParameterSpec:
    """The parameter of an option of the segmenter. text, most: of another network's option."""
    tunable = TUNABLES[name]
    own, low = tunable.own, tunable.low
    high = most or tunable.most or tunable.high
    description, check = text or tunable.text, None
    if own is not None:
        which = "Empty" if own == "" else "Below 0" if own == -1.0 else own
        description += f" {which} takes the model's own."
    if isinstance(own, int) and low is not None and high is not None and low > own + 1:
        number = "" if tunable.unit else " number"
        right = f"{low:g} to {high:g}{tunable.unit}, or {own} for the model's own{number}"
        check = _LeftToModel(own, low, right)
    return ParameterSpec(
        name,
        tunable.default if own is None else own,
        description,
        RUN_TIME if tunable.run_time else UNCONFIGURED,
        low if own is None or isinstance(own, str) or low is None else min(own, low),
        high,
        choices=("", *tunable.choices) if tunable.choices else (),
        check=check,
    )


_SEGMENT = (
    ParameterSpec(
        "cameras",
        [""],
        "Names of the cameras that share this node's network, up to 16, for instance [left, "
        "right]. Each has topics and services below its name (`left/image`, `~/left/mask`, "
        "`~/left/seed_mask`) and its own memory. Empty: one camera, without a name.",
        START,
        check=wrong_cameras,
    ),
    ParameterSpec(
        "model",
        "segment_lite0",
        "Name of a model under models/, or the path of a model folder.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "runtime",
        "auto",
        f"What runs the network: {LISTED}. auto takes the fastest one that is ready and exact. The "
        "log and `stremn doctor` say which one and why.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "auto_build",
        False,
        "Export the model, or build its plans, in configure if the runtime needs that: about a "
        "minute, once. Without it auto takes PyTorch until you run "
        "`stremn export MODEL --runtime onnx`.",
        UNCONFIGURED,
    ),
    _shared("device"),
    *(_tuned(name) for name, tunable in TUNABLES.items() if tunable.parameter),
    ParameterSpec(
        "low_confidence",
        0.7,
        "The diagnostics warn of a tracked object if the mean probability inside its mask is below "
        "this; 0 turns this off.",
        RUN_TIME,
        0.0,
        1.0,
    ),
    _shared("image_reliability"),
    _shared("image_transport"),
    ParameterSpec("overlay", True, "Make ~/overlay, while someone subscribes to it.", RUN_TIME),
    ParameterSpec("overlay_alpha", 0.5, "Strength of the colors on ~/overlay.", RUN_TIME, 0.0, 1.0),
    ParameterSpec(
        "seed_buffer",
        30,
        "Number of past frames that are kept, for seeds with a past stamp. They take this many "
        "times the bytes of an image.",
        UNCONFIGURED,
        1,
        600,
    ),
    ParameterSpec(
        "catch_up_time",
        1.0,
        "Time limit in seconds for carrying an object forward from a past frame to now. If there "
        "is no time for all frames, some are skipped, but never the newest. 0: only the newest.",
        RUN_TIME,
        0.0,
        30.0,
    ),
    ParameterSpec(
        "seed_wait",
        2.0,
        "Seconds that a seed waits for the next frame if its frame is not kept. A strict seed "
        "waits for its own frame.",
        RUN_TIME,
        0.0,
        60.0,
    ),
    ParameterSpec(
        "strict_seeds",
        True,
        "Refuse a mask on ~/seed whose stamp belongs to no kept image. False seeds it in the next "
        "image, where the object may be elsewhere. The services have a field for this.",
        RUN_TIME,
    ),
    ParameterSpec(
        "seed_share",
        0.5,
        "Share of the network's time that seeds may take while images wait.",
        RUN_TIME,
        0.05,
        0.95,
    ),
    ParameterSpec(
        "click_topic",
        "",
        "Topic of clicks that seed an object: geometry_msgs/Point as rqt_image_view publishes them "
        "(IMAGE_mouse_left), or PointStamped. With several cameras NAME=TOPIC,NAME=TOPIC. Empty: "
        "none.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "detection_classes",
        [""],
        "Classes of ~/seed_detections that are followed. Empty: all.",
        RUN_TIME,
    ),
    ParameterSpec(
        "detection_min_score",
        0.5,
        "Score that a detection needs to be followed.",
        RUN_TIME,
        0.0,
        1.0,
    ),
    ParameterSpec(
        "detection_overlap",
        0.3,
        "IoU of the boxes at or above which a detection is an object that is followed already.",
        RUN_TIME,
        0.01,
        1.0,
    ),
    ParameterSpec(
        "snapshot_dir",
        "",
        "The only folder for snapshots of the memory, to write and to read. Empty: no snapshots.",
        START,
    ),
    ParameterSpec(
        "autosave_period",
        0.0,
        "Save the memory every so many seconds (0.1 or more) if it changed; 0 turns this off.",
        RUN_TIME,
        0.0,
        86400.0,
        check=_period,
    ),
    ParameterSpec(
        "autosave_at_stop",
        False,
        "Save the memory when the node is deactivated, shut down or stopped by a signal.",
        RUN_TIME,
    ),
    ParameterSpec(
        "autoload",
        False,
        "Load the last saved memory at the first activation after `configure`.",
        RUN_TIME,
    ),
    _shared("reset_on_time_jump"),
    _shared("time_jump_tolerance"),
    _shared("frame_timeout"),
    ParameterSpec(
        "stale_after",
        1.0,
        "A frame whose stamp is older than this many seconds counts as stale. It is segmented "
        "anyway. 0 turns this off.",
        RUN_TIME,
        0.0,
        3600.0,
    ),
    ParameterSpec(
        "max_age",
        0.0,
        "Seconds by which a stamp may lag behind the node's clock: older images are dropped, and "
        "seeds for older images refused. 0 turns this off.",
        RUN_TIME,
        0.0,
        3600.0,
    ),
    ParameterSpec(
        "mask_deadline",
        0.0,
        "Deadline in the QoS of ~/mask: seconds within which the next mask comes. If it is late, "
        "subscribers with a deadline get an event. 0 for none.",
        UNCONFIGURED,
        0.0,
        3600.0,
        check=_qos_time,
    ),
    ParameterSpec(
        "mask_lifespan",
        0.0,
        "Lifespan in the QoS of ~/mask: seconds after which a mask that was not taken is not "
        "delivered any more. 0 for ever.",
        UNCONFIGURED,
        0.0,
        3600.0,
        check=_qos_time,
    ),
    ParameterSpec(
        "depth_topic",
        "",
        "Depth images that are aligned to the images, for positions, boxes and points in meters "
        "(docs/spatial.md); a name that ends in /compressedDepth for compressed ones. With several "
        "cameras NAME=TOPIC,NAME=TOPIC. Empty: no depth camera.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "depth_camera_info_topic",
        "",
        "The camera_info of the depth images. Empty: the topic camera_info beside depth_topic. "
        "With several cameras NAME=TOPIC,NAME=TOPIC.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "depth_rectified",
        False,
        "The depth images are rectified: use the matrix P of camera_info and no lens distortion.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "depth_slop",
        0.05,
        "Seconds that the stamps of an image and its depth image may be apart.",
        UNCONFIGURED,
        0.0,
        10.0,
    ),
    ParameterSpec(
        "depth_buffer",
        30,
        "Depth images kept until the mask of their image is there; more than come while an image "
        "is segmented.",
        UNCONFIGURED,
        1,
        600,
    ),
    ParameterSpec(
        "points_voxel",
        0.0,
        "Edge in meters of the voxels of ~/points, which has one point for each; 0 for all points.",
        RUN_TIME,
        0.0,
        10.0,
        check=_voxel,
    ),
    ParameterSpec(
        "follow_id",
        0,
        "Id of the object whose position goes out on ~/follow_pose; 0 for none.",
        RUN_TIME,
        0,
        255,
    ),
    ParameterSpec(
        "publish_tf",
        False,
        "Publish a transform on /tf for each object that has a position: <node>_<name>.",
        UNCONFIGURED,
    ),
    _shared("diagnostics_period"),
    _shared("log_period"),
)

_VIDEO_SOURCE = (
    ParameterSpec(
        "path",
        "",
        "Video file, or folder of images in the order of their names.",
        START,
    ),
    ParameterSpec(
        "rate",
        0.0,
        "Frames per second; 0 takes the file's own rate (24 for a folder).",
        RUN_TIME,
        0.0,
        1000.0,
    ),
    ParameterSpec("loop", False, "Start again at the end; stamps keep rising.", RUN_TIME),
    ParameterSpec("scale", 1.0, "Factor on the size of the frames.", START, 0.01, 8.0),
    ParameterSpec(
        "width",
        0,
        "Width of the published images; the height follows. 0: scale decides.",
        START,
        0,
        16384,
    ),
    ParameterSpec(
        "start_frame",
        0,
        "First frame published, counted from 0.",
        START,
        0,
        2**31 - 1,
    ),
    ParameterSpec(
        "end_frame",
        0,
        "Publishing ends before this frame; 0: at the end of the video.",
        START,
        0,
        2**31 - 1,
    ),
    ParameterSpec(
        "encoding",
        "rgb8",
        "Encoding of the published images.",
        START,
        choices=(
            "rgb8",
            "bgr8",
            "rgba8",
            "bgra8",
            "yuv422",
            "yuv422_yuy2",
            "nv12",
            "bayer_rggb8",
            "bayer_bggr8",
            "bayer_gbrg8",
            "bayer_grbg8",
        ),
    ),
    ParameterSpec("frame_id", "camera", "header.frame_id of the images.", START),
    ParameterSpec(
        "camera_info",
        True,
        "Publish camera_info beside the images, without a calibration (all of K zero).",
        START,
    ),
    ParameterSpec(
        "reliability",
        "reliable",
        "QoS reliability of the images. reliable also serves best-effort subscribers.",
        START,
        choices=("reliable", "best_effort"),
    ),
    ParameterSpec(
        "wait_for_subscribers",
        0,
        "Subscribers of `image` to wait for before the first frame.",
        START,
        0,
        100,
    ),
)

_PREDICT = (
    ParameterSpec(
        "model",
        "predict_rgb",
        "Name of a prediction model under models/, or the path of a model folder.",
        UNCONFIGURED,
    ),
    _shared("device"),
    _tuned(
        "processing_size",
        "Shorter side that the network works at; the longer follows from the image.",
        2048,  # as the Predictor has it
    ),
    _tuned("slots", "Memory slots."),
    ParameterSpec(
        "observe",
        0,
        "Images to see before the first prediction, at least 3; 0 takes the model's own number.",
        UNCONFIGURED,
        0,
        100,
        check=_observe,
    ),
    ParameterSpec(
        "horizon",
        0,
        "How many images ahead `~/predicted_image` is. 0: as far as the network predicts in one "
        "step. Beyond that, the network continues from its own predictions.",
        RUN_TIME,
        0,
        100,
    ),
    ParameterSpec(
        "max_gap",
        1.0,
        "Longest gap between two images in seconds. After a longer gap the movement is unknown, "
        "and the memory starts again.",
        RUN_TIME,
        0.001,
        3600.0,
    ),
    _shared(
        "reset_on_time_jump",
        description="Start again when time jumps backwards (a bag that loops).",
    ),
    _shared("time_jump_tolerance"),
    _shared("image_transport"),
    _shared("image_reliability"),
    _shared("frame_timeout"),
    _shared("diagnostics_period"),
    _shared("log_period"),
)

PARAMETERS: tuple[ParameterSpec, ...] = tuple(
    dataclasses.replace(spec, node=node)
    for node, specs in ((SEGMENT, _SEGMENT), (VIDEO_SOURCE, _VIDEO_SOURCE), (PREDICT, _PREDICT))
    for spec in specs
)


def parameters_of(node: str) -> dict[str, ParameterSpec]:
    """The table of one node, by name."""
    return {spec.name: spec for spec in PARAMETERS if spec.node == node}


def descriptor(spec: ParameterSpec) -> Any:
    """The rcl_interfaces/ParameterDescriptor of an entry.

    The type is left to `validate`, whose refusal says in words what would be right: that of rclpy
    names types by number.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    text = ParameterDescriptor(
        description=f"{spec.description} Changes: {spec.changes}.",
        read_only=spec.changes == START,
        dynamic_typing=True,
    )
    if spec.choices:
        named = ", ".join(choice or "'' (empty)" for choice in spec.choices)
        text.additional_constraints = f"One of: {named}"
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, float):
            text.floating_point_range = [
                FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high))
            ]
        else:
            text.integer_range = [
                IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
            ]
    return text


def declare(node: Any, table: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Declares the parameters of `table` on an rclpy node.

    A value given at the start (command line, YAML) that is not valid does not end the node: the
    default is declared in its place and the reason returned, for the node to refuse its work with.
    A parameter that the table does not have is named in the log.

    Returns:
        The values by name, and by name what was wrong with the values given.
    """
    # rclpy has no public way to see a value given at the start before declaring it, and declaring
    # a wrong one raises
    given = getattr(node, "_parameter_overrides", {})
    specs = parameters_of(table)
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for spec in specs.values():
        value: Any = spec.default
        if spec.name in given:
            try:
                value = spec.validate(given[spec.name].value)
            except InputError as error:
                problems[spec.name] = f"parameter {error}"
        node.declare_parameter(spec.name, value, descriptor(spec), ignore_override=True)
        values[spec.name] = value
    unknown = [name for name in given if not _is_known(node, name)]
    if unknown:
        node.get_logger().warning(unknown_parameters(unknown, specs))
    if hasattr(node, "add_pre_set_parameters_callback"):  # later than Humble
        node.add_pre_set_parameters_callback(lambda changes: with_floats(table, changes))
    return values, problems


def _is_known(node: Any, name: str) -> bool:
    # declared by this package or by rclpy, or when a topic is subscribed to
    return node.has_parameter(name) or name.startswith("qos_overrides.")


def unknown_parameters(names: Iterable[str], known: Iterable[str]) -> str:
    """What to say of parameters that were given and are none, perhaps misspelled."""
    described = []
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        described.append(f"{name} (did you mean {near[0]}?)" if near else name)
    one = len(described) == 1
    return (
        f"{'parameter' if one else 'parameters'} {', '.join(described)} {'is' if one else 'are'} "
        "not known to this node and ignored; docs/parameters.md has all"
    )


def with_floats(table: str, changes: Sequence[Any]) -> list[Any]:
    """rclpy Parameters, with whole numbers that are set where the table has a double as doubles."""
    from rclpy.parameter import Parameter

    specs = parameters_of(table)
    return [
        Parameter(change.name, value=float(change.value))
        if change.type_ == Parameter.Type.INTEGER
        and change.name in specs
        and isinstance(specs[change.name].default, float)
        else change
        for change in changes
    ]


def check_changes(
    table: str, changes: Sequence[Any], *, configured: bool
) -> tuple[dict[str, Any], str]:
    """Checks a set of rclpy Parameters for an on-set callback.

    Returns:
        The new values by name, and the reason for which they are refused ('' when they are fine).
        Parameters that are not in the table (use_sim_time, qos_overrides) are let through.
    """
    specs = parameters_of(table)
    values: dict[str, Any] = {}
    for parameter in changes:
        spec = specs.get(parameter.name)
        if spec is None:
            continue
        try:
            values[spec.name] = spec.validate(parameter.value)
        except InputError as error:
            return {}, str(error)
        if spec.changes == UNCONFIGURED and configured:
            return {}, (
                f"{spec.name} is used while configuring: deactivate and clean up the node, set "
                "it, and configure again"
            )
    return values, ""


_TITLES = {
    SEGMENT: "segment_node (node `stremn`)",
    VIDEO_SOURCE: "video_source_node (node `video_source`)",
    PREDICT: "predict_node (node `stremn_predict`)",
}


def markdown() -> str:
    """The text of docs/parameters.md."""
    lines = [
        "# Parameters of the nodes",
        "",
        "Made from the table in `stremn_ros/nodes/parameters.py` by "
        "`python -m stremn_ros.nodes.parameters > docs/parameters.md`; do not edit by hand.",
        "",
        'Changes "run time": `ros2 param set` at any time. "while unconfigured": in a YAML file, '
        "on the command line, or with `ros2 param set` before `configure`; refused, with the "
        'reason, while the node is configured. "at start only": read-only once the node runs.',
        "",
        "An invalid value is refused with the reason. If it was given at the start, `configure` of "
        "a lifecycle node fails, with the reason in the log. The log also names unknown "
        "parameters, such as a misspelled one in a file.",
    ]
    for node, title in _TITLES.items():
        lines += ["", f"## {title}", ""]
        lines += ["| Parameter | Type | Default | Values | Changes | What |"]
        lines += ["|---|---|---|---|---|---|"]
        for spec in parameters_of(node).values():
            default = str(spec.default) if spec.default != [""] else ""
            if isinstance(spec.default, bool):
                default = default.lower()  # as YAML writes it
            default = f"`{default}`" if default else "empty"
            lines.append(
                f"| `{spec.name}` | {spec.type_name} | {default} | {spec.range_text} | "
                f"{spec.changes} | {spec.description} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
