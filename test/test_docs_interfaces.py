"""The topics and services of the nodes are those of the docs, with their types."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import own_node
from shapes import TINY_MODEL, scene

from stremn_ros.imaging.video import write_image
from stremn_ros.nodes.predict_node import PredictNode
from stremn_ros.nodes.video_source_node import VideoSource

DOCS = Path(__file__).resolve().parents[1] / "docs"
# what every node of rclpy has
OF_ROS = {"/rosout", "/parameter_events", "/clock"}


def rows(page: str) -> Iterator[tuple[str, str, str]]:
    """in, out or empty, the name, and the package/Type of each topic or service in a page."""
    text = (DOCS / f"{page}.md").read_text()
    pattern = r"^\|(?: (in|out) \|)? `([~/\w]+)`[^|]* \| (\w+/\w+)"
    yield from re.findall(pattern, text, re.M)


def is_installed(of_type: str) -> bool:
    package, name = of_type.split("/")
    for kind in ("msg", "srv"):
        with contextlib.suppress(ImportError):
            if hasattr(importlib.import_module(f"{package}.{kind}"), name):
                return True
    return False


def found(names_and_types: Any) -> dict[str, str]:
    return {
        name: types[0].replace("/msg/", "/").replace("/srv/", "/")
        for name, types in names_and_types
        if name not in OF_ROS
    }


def published(node: Any) -> dict[str, str]:
    where = node.get_name(), node.get_namespace()
    topics = found(node.get_publisher_names_and_types_by_node(*where))
    return {name: kind for name, kind in topics.items() if "transition_event" not in name}


def services(node: Any) -> dict[str, str]:
    served = found(node.get_service_names_and_types_by_node(node.get_name(), node.get_namespace()))
    of_ros = ("rcl_interfaces", "lifecycle_msgs", "type_description_interfaces")
    return {name: kind for name, kind in served.items() if not kind.startswith(of_ros)}


def documented(pages: list[str], kind: str, node: str) -> dict[str, str]:
    return {
        name.replace("~", node): of_type
        for page in pages
        for way, name, of_type in rows(page)
        if way == kind and is_installed(of_type)
    }


def test_segment_node() -> None:
    with own_node(f"model:={TINY_MODEL}", "depth_topic:=/depth", "publish_tf:=true") as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        out = documented(["segment_node"], "out", "/stremn")
        out |= documented(["spatial"], "", "/stremn")  # its table has outputs only
        told = published(node)
        told.pop("/tf", None)  # named in the text of docs/spatial.md
        assert told == out
        assert services(node) == documented(["segment_node"], "", "/stremn")
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        where = node.get_name(), node.get_namespace()
        taken = found(node.get_subscriber_names_and_types_by_node(*where))
        heard = documented(["segment_node"], "in", "/stremn")
        # the images, raw or compressed; clicks only where their topic is set
        compressed = heard.pop("image/compressed", None)
        heard = {name if name.startswith("/") else f"/{name}": kind for name, kind in heard.items()}
        heard.pop("/click_topic", None)
        assert compressed == "sensor_msgs/CompressedImage"
        assert heard.items() <= taken.items()
        assert {name for name in taken if name.startswith("/stremn/")} <= set(heard)


def test_predict_node(tmp_path: Path) -> None:
    with own_node(kind=PredictNode) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert published(node) == documented(["predict_node"], "out", "/stremn_predict")
        assert services(node) == documented(["predict_node"], "", "/stremn_predict")


def test_video_source_node(tmp_path: Path) -> None:
    write_image(tmp_path / "00000.png", scene(0)[0])
    with own_node(f"path:={tmp_path}", kind=VideoSource) as node:
        out = documented(["video_source_node"], "out", "")
        assert published(node) == {f"/{name}": kind for name, kind in out.items()}
        assert services(node) == {}


@pytest.mark.parametrize("page", ["segment_node", "predict_node", "video_source_node", "spatial"])
def test_the_pages_have_rows(page: str) -> None:
    assert len(list(rows(page))) >= 2
