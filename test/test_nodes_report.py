"""The diagnostics: for everything that is wrong its reason and its remedy, the worst first."""

from __future__ import annotations

import gc
import logging
import os
import threading
from types import SimpleNamespace

import pytest
import rclpy
from core_helpers import core_status
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import own_node, wait_for
from shapes import TINY_MODEL

from stremn_ros.results import ObjectState, TrackedObject
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.diagnosis import (
    ERROR,
    OK,
    WARN,
    FrameTiming,
    diagnose,
    with_reason,
)
from stremn_ros.stream.intake import Counters
from stremn_ros.stream.settings import Settings


def found(number, state="TRACKED", score=0.95, area=120):
    return TrackedObject(number, ObjectState[state], score, area, (0, 0, 12, 10), (6.0, 5.0))


def facts(**changes):
    """A camera with which all is well."""
    given = {
        "topic": "/camera/image",
        "node": "/stremn",
        "settings": Settings(),
        "counters": Counters(received=50, segmented=50),
        "active": True,
        "enabled": True,
        "window": 5.0,
        "since": 0.1,
        "arrivals": 50,
        "drops": 0,
        "lost": 0,
        "late": [],
        "done": [FrameTiming(1.0, 0.04, 0.03, 0.004)] * 50,
        "error": "",
        "error_age": 1e9,
        "kept_frames": 30,
        "kept_most": 30,
        "kept_bytes": 1,
        "ids": [1, 2],
        "objects": [found(1), found(2)],
        "names": {1: "cup"},
        "max_objects": 8,
        "memory_bytes": 5,
        "slots_used": {1: 2, 2: 1},
        "runtime": "colors",
    }
    return core_status({**given, **changes})


def test_when_all_is_well_the_figures_are_told():
    report = diagnose(facts())
    assert (report.level, report.message) == (OK, "segmenting")
    values = report.values
    assert values["also"] == ""
    assert values["object 1"] == "cup: TRACKED, score 0.950, area 120"
    assert values["object 2"] == "TRACKED, score 0.950, area 120"
    assert values["input rate [Hz]"] == values["output rate [Hz]"] == "10.00"
    assert (values["latency p50 [ms]"], values["node p50 [ms]"]) == ("40.00", "4.00")
    assert values["slots used"] == "1: 2, 2: 1"


CASES = {
    "no frames": (
        {"since": 3.0},
        WARN,
        "no image on /camera/image for 3.0 s",
        "ros2 topic info -v /camera/image",
    ),
    "an object that is hidden": (
        {"objects": [found(1), found(2, "OCCLUDED", 0.0, 0)]},
        WARN,
        "object 2 is not seen",
        "its mask is empty until it is found again",
    ),
    "QoS": (
        {"since": 3.0, "hint": "QoS mismatch with a publisher: set image_reliability"},
        WARN,
        "QoS mismatch with a publisher",
        "set image_reliability",
    ),
    "no clock": ({"no_clock": True}, WARN, "nothing has published a time on /clock", "--clock"),
    "lost on the way": (
        {"lost": 50},
        WARN,
        "50 of the last 100 images on /camera/image were lost on the way",
        "config/fastdds_shm.xml",
    ),
    "stale": ({"late": [7.0] * 40}, WARN, "are 7.0 s old when they come", "use_sim_time"),
    "very stale": ({"late": [1.7e9] * 50}, WARN, "are 54 years old when they come", "chrony"),
    "backlog": (
        {"drops": 40, "done": [FrameTiming(1.0, 0.4, 0.39, 0.004)] * 10},
        WARN,
        "backlog: 40 of the last 50 images on /camera/image were dropped for newer ones, as an "
        "image takes 400 ms",
        "lower processing_size",
    ),
    "lost object": (
        {"objects": [found(1), found(2, "LOST", 0.0, 0)]},
        WARN,
        "lost object 2",
        "seed it again, or remove it",
    ),
    "low confidence": (
        {"objects": [found(1, score=0.61), found(2)]},
        WARN,
        "low confidence in object 1 (0.61)",
        "seed it again",
    ),
    "a bad image": ({"error": "image refused: x", "error_age": 1.0}, WARN, "image refused: x", ""),
    "nothing works": (
        {"error": "image not segmented: y", "error_age": 1.0, "done": []},
        ERROR,
        "image not segmented: y",
        "",
    ),
    "snapshot": ({"problems": ("autosave failed: full",)}, WARN, "autosave failed: full", ""),
    "paused": ({"enabled": False}, OK, "paused", "~/enable"),
    "no objects": ({"ids": [], "objects": []}, OK, "no objects", "~/seed_mask"),
    "inactive": ({"active": False, "since": 99.0}, OK, "inactive", "ros2 lifecycle set /stremn"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_reason_has_its_remedy(name):
    changes, level, reason, remedy = CASES[name]
    report = diagnose(facts(**changes))
    assert report.level == level
    assert reason in report.message
    assert remedy in report.message
    assert report.values["also"] == ""


def test_the_worst_comes_first_and_nothing_is_left_out():
    report = diagnose(
        facts(
            enabled=True,
            done=[],
            error="image not segmented: z",
            error_age=0.5,
            lost=50,
            objects=[found(1, "LOST"), found(2, score=0.6)],
        )
    )
    assert (report.level, report.message) == (ERROR, "image not segmented: z")
    for part in ("were lost on the way", " | lost object 1", " | low confidence in object 2"):
        assert part in report.values["also"]
    report = diagnose(facts(ids=[], objects=[], since=3.0))
    assert report.message.startswith("no image on")
    assert report.values["also"].startswith("no objects")


def test_a_few_images_are_no_reason_to_judge():
    for changes in ({"arrivals": 4, "drops": 4}, {"arrivals": 4, "late": [9.0] * 4}):
        assert diagnose(facts(**changes)).level == OK
    assert diagnose(facts(settings=Settings(low_confidence=0.0), objects=[found(1, score=0.5)]))


def test_while_a_network_is_built_the_node_says_so_and_a_failure_says_why(monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    load = Segmenter.load

    def slow(*given, **options):
        logging.getLogger("stremn_ros.runtime.choose").info("building the engine for 240 x 320")
        entered.set()
        assert go_on.wait(60)
        return load(*given, **options)

    monkeypatch.setattr(Segmenter, "load", slow)
    with own_node(f"model:={TINY_MODEL}") as node:
        assert node._state_report().message.startswith("not configured")
        results = []
        thread = threading.Thread(target=lambda: results.append(node.trigger_configure()))
        thread.start()
        assert entered.wait(60)
        report = node._state_report()
        assert report.level == WARN
        assert report.message.startswith("configuring: building the engine for 240 x 320, ")
        assert "may take minutes" in report.message
        assert "is being configured (building the engine for 240 x 320)" in node._unready()
        go_on.set()
        thread.join()
        assert results == [TransitionCallbackReturn.SUCCESS]
        assert node._cameras[0].report().message.startswith("inactive")
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        monkeypatch.setattr(Segmenter, "load", lambda *a, **o: 1 / 0)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        report = node._state_report()
        assert (report.level, node._doing[0]) == (ERROR, "")
        assert "ZeroDivisionError" in report.message
        wait_for(
            lambda: "segmenter" not in [thread.name for thread in threading.enumerate()],
            "the worker to end",
        )


def test_something_more_that_is_wrong_goes_first_where_it_is_worse():
    fine = diagnose(facts())
    report = with_reason(fine, WARN, "another node")
    assert (report.level, report.message, report.values["also"]) == (WARN, "another node", "")
    warned = diagnose(facts(since=3.0, objects=[found(1, "LOST"), found(2)]))
    report = with_reason(warned, WARN, "another node")
    assert report.message == warned.message
    assert report.values["also"].startswith("another node | lost object 1")
    report = with_reason(warned, ERROR, "worse")
    assert (report.level, report.message) == (ERROR, "worse")
    assert report.values["also"].startswith(warned.message)


def test_two_nodes_of_one_name_are_told():
    with own_node(f"model:={TINY_MODEL}") as first:
        first._look_for_twin()
        assert not first._twin
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]) % 100 + 1)
        other = rclpy.create_node("stremn", context=context)
        told = []
        first._diagnostics_pub = SimpleNamespace(publish=told.append)
        try:

            def seen():
                first._looked_for_twin = 0.0
                first._publish_diagnostics()
                return first._twin

            wait_for(seen, "the other node", every=0.1)
            status = told[-1].status[0]
            assert status.level == bytes([WARN])
            assert status.message.startswith("another node is called /stremn too")
            assert "-r __node:=NAME" in status.message
        finally:
            other.destroy_node()
            rclpy.try_shutdown(context=context)
            del other, context  # else it is in the graph until the garbage collector comes
            gc.collect()
        wait_for(lambda: not seen(), "the other node to be gone", every=0.1)
