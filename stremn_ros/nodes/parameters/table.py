"""The parameters of every node: one row each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from stremn_ros.nodes.parameters.cameras import wrong_cameras
from stremn_ros.nodes.parameters.spec import RUN_TIME, START, UNCONFIGURED, ParameterSpec
from stremn_ros.options import TUNABLES
from stremn_ros.runtime.table import LISTED, PREDICTION_RUNTIMES, listed
from stremn_ros.stream.settings import FARTHEST_AHEAD

SEGMENT = "segment_node"
VIDEO_SOURCE = "video_source_node"
PREDICT = "predict_node"

IMAGE_RELIABILITIES = ("auto", "best_effort", "reliable")

UPDATE_RULES = TUNABLES["update_rule"].choices


def _observe(value: int) -> str | None:
    return "3 images or more, or 0 for the model's own number" if 0 < value < 3 else None


def _period(value: float) -> str | None:
    return "0.1 seconds or more, or 0 for never" if 0 < value < 0.1 else None


def _qos_time(value: float) -> str | None:
    return "0.001 seconds or more, or 0 for none" if 0 < value < 0.001 else None


def _voxel(value: float) -> str | None:
    return "0.001 m or more, or 0 for every point" if 0 < value < 0.001 else None


_SHARED = (
    ParameterSpec(
        "autostart",
        False,
        "Configure and activate the node as soon as it runs. For a node that is started by its "
        "executable; the launch files do it themselves.",
        UNCONFIGURED,
    ),
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
        "The diagnostics warn of a tracked object if its score is below this; 0 turns this off.",
        RUN_TIME,
        0.0,
        1.0,
    ),
    _shared("autostart"),
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
        "Seconds that a seed waits for the first frame, or for the next one if its own is not "
        "kept. A strict seed waits for its own frame.",
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
        "click_model",
        "clicks_lite0",
        "Name or folder of the model that makes masks of boxes and points. Empty: GrabCut makes "
        "them, as it does if the model is missing.",
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
        "mask_horizon",
        0.0,
        "Seconds by which ~/predicted_mask and ~/predicted_objects are ahead of their image. 0: "
        "the age that masks have when they go out, so they show the time at which they arrive.",
        RUN_TIME,
        0.0,
        FARTHEST_AHEAD,
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
        "Publish a transform on /tf for each object that has a position: <node>_<name>, with the "
        "node's namespace in front.",
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
    ParameterSpec(
        "runtime",
        "auto",
        f"What runs the network: {listed(PREDICTION_RUNTIMES)}. auto takes ONNX Runtime on a CPU, "
        "for a model that was exported, else PyTorch.",
        UNCONFIGURED,
    ),
    ParameterSpec(
        "auto_build",
        False,
        "Export the model for ONNX Runtime in configure if that was not done: about a minute, "
        "once. Without it auto takes PyTorch until you run `stremn export MODEL --runtime onnx`.",
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
    _shared("autostart"),
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
