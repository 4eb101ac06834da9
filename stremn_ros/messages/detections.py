"""Tracked objects as vision_msgs, where that package is installed, and what detectors publish.

The types are handed in, so that nothing here imports ROS and the conversion can be tried without
vision_msgs (it has no wheels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stremn_ros.imaging.checks import name_of
from stremn_ros.messages.spatial import Detection3DTypes
from stremn_ros.results import ObjectState, TrackedObject


@dataclass(frozen=True)
class Detection:
    """What a detector found in an image.

    Attributes:
        box: (x, y, width, height) in pixels of the image; upright, around one that is turned.
        label: the class.
        score: 0..1.
    """

    box: tuple[float, float, float, float]
    label: str
    score: float


def read_detections(message: Any) -> list[Detection]:
    """The detections of a message, unchecked.

    Args:
        message: a vision_msgs/Detection2DArray (4.0 or newer; of several hypotheses the one with
            the highest score counts), or a yolo_msgs/DetectionArray.
    """
    found = []
    for item in message.detections:
        middle = item.bbox.center.position
        if hasattr(item, "results"):  # vision_msgs
            best = max(
                (each.hypothesis for each in item.results),
                # a NaN would be above all that come after it
                key=lambda each: each.score if math.isfinite(each.score) else -math.inf,
                default=None,
            )
            if best is None:
                continue
            width, height = item.bbox.size_x, item.bbox.size_y
            label, score = best.class_id, best.score
        else:  # yolo_msgs
            width, height = item.bbox.size.x, item.bbox.size.y
            label, score = item.class_name, item.score
        width, height = _around(width, height, getattr(item.bbox.center, "theta", 0.0))
        box = (middle.x - width / 2, middle.y - height / 2, width, height)
        found.append(Detection(box, str(label).strip(), score))  # lists of classes have "\r\n"
    return found


def _around(width: float, height: float, theta: float) -> tuple[float, float]:
    """Sides of the upright box around one that is turned by theta, in radians."""
    if not math.isfinite(theta):
        return math.nan, math.nan
    cosine, sine = abs(math.cos(theta)), abs(math.sin(theta))
    return width * cosine + height * sine, width * sine + height * cosine


def detector_types() -> dict[str, Any]:
    """Messages of detectors that are installed, by the name of the topic below the node's."""
    types: dict[str, Any] = {}
    vision = vision_types()
    if vision is not None:
        types["seed_detections"] = vision.detection_array
    try:
        from yolo_msgs.msg import DetectionArray
    except ImportError:
        return types
    return {**types, "seed_yolo": DetectionArray}


@dataclass(frozen=True)
class VisionTypes:
    """The message classes; label_info is None where vision_msgs does not have it (before 4.1)."""

    detection_array: Any
    detection: Any
    hypothesis: Any
    label_info: Any = None
    vision_class: Any = None


def vision_types() -> VisionTypes | None:
    """The classes of the installed vision_msgs; None where it is absent or too old to use."""
    try:
        from vision_msgs import msg
    except ImportError:
        return None
    array, detection, hypothesis = (
        getattr(msg, name, None)
        for name in ("Detection2DArray", "Detection2D", "ObjectHypothesisWithPose")
    )
    # before 4.0, which brought Point2D, the centre of a box was another type
    if None in (array, detection, hypothesis) or not hasattr(msg, "Point2D"):
        return None
    label_info, vision_class = (getattr(msg, name, None) for name in ("LabelInfo", "VisionClass"))
    return VisionTypes(array, detection, hypothesis, label_info, vision_class)


def detection_3d_types() -> Detection3DTypes | None:
    """Those of detections in space; None as above."""
    if (types := vision_types()) is None:
        return None
    from vision_msgs import msg

    array, detection = getattr(msg, "Detection3DArray", None), getattr(msg, "Detection3D", None)
    if array is None or detection is None:
        return None
    return Detection3DTypes(array, detection, types.hypothesis)


def to_detections(types: VisionTypes, header: Any, objects: Sequence[TrackedObject]) -> Any:
    """A Detection2DArray of the objects that are seen (state TRACKED) in a frame.

    Args:
        header: of the source frame. objects: of a SegmentResult.

    Returns:
        One detection for each: `id` is the object's id, the only hypothesis has the id as its
        class_id (`label_info` tells its name) and the score, and the box is that of its pixels:
        center and size, in pixels of the source image, pixel 0 reaching from 0 to 1.
    """
    array = types.detection_array(header=header)
    for item in objects:
        if item.state is not ObjectState.TRACKED:
            continue
        detection = types.detection(header=header, id=str(item.id))
        x, y, width, height = (float(value) for value in item.box)
        detection.bbox.center.position.x = x + width / 2
        detection.bbox.center.position.y = y + height / 2
        detection.bbox.size_x = width
        detection.bbox.size_y = height
        hypothesis = types.hypothesis()
        hypothesis.hypothesis.class_id = str(item.id)
        hypothesis.hypothesis.score = float(item.score)
        detection.results.append(hypothesis)
        array.detections.append(detection)
    return array


def to_label_info(
    types: VisionTypes, header: Any, ids: Sequence[int], names: Mapping[int, str], score: float
) -> Any:
    """A LabelInfo: the values of ~/mask and the class ids of ~/detections with their names.

    Names: see ``imaging.checks.name_of``; 0 is `background`. score: below which an object does
    not count as seen.
    """
    info = types.label_info(header=header, threshold=float(score))
    for number, name in [(0, "background"), *((n, name_of(n, names)) for n in sorted(ids))]:
        info.class_map.append(types.vision_class(class_id=number, class_name=name))
    return info
