"""A runtime that runs out of memory, at any of its calls, or of a place to build: told, and no
object is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import image_message, own_node, wait_for
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.diagnosis import ERROR
from stremn_ros.stream.segment_core import SegmentCore

STAGES = ("encode_query", "encode_memory", "project", "fuse", "read", "decode")
ERRORS = {
    "host": lambda: MemoryError("cannot allocate"),
    "torch": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    ),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


class Failing:
    """The stages of a runtime, of which one fails at its next calls."""

    def __init__(self, stages):
        self._stages = stages
        self.stage, self.error, self.left, self.failed = "", None, 0, 0

    def fail(self, stage, error, times=1):
        self.stage, self.error, self.left = stage, error, times

    def __getattr__(self, name):
        found = getattr(self._stages, name)
        if name not in STAGES:
            return found

        def call(*given, **options):
            if name == self.stage and self.left:
                self.left -= 1
                self.failed += 1
                raise self.error()
            return found(*given, **options)

        return call


class Rig:
    def __init__(self):
        segmenter = Segmenter.load(str(TINY_MODEL), runtime="torch")
        self.stages = segmenter.wrap_stages(Failing)
        self.published, self.logs = [], []
        self.core = SegmentCore(
            segmenter,
            publish=self.published.append,
            log=lambda severity, key, text: self.logs.append(text),
        )
        self.core.activate()
        self.stamp = 0

    def send(self, step):
        self.stamp += 100_000_000
        self.core.on_frame(image_message(scene(step)[0], self.stamp))
        wait_for(self.core.idle, "an idle core")
        return self.stamp

    def seed(self, step, *ids, stamp=0):
        truth = scene(step)[1]
        labels = np.where(np.isin(truth, ids), truth, 0).astype(np.uint8)
        return self.core.seed_mask(image_message(labels, stamp, "mono8"))

    def follow(self, steps):
        """IoU of both objects in the last of these."""
        for step in steps:
            self.send(step)
        labels = self.published[-1].result.labels
        return [iou(labels, scene(steps[-1])[1], number) for number in (DISC, SQUARE)]


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.core.close()


def test_in_any_stage_it_costs_a_frame_or_an_update_and_no_object(rig):
    rig.send(0)
    assert rig.seed(0, DISC, SQUARE).success
    rig.follow(range(1, 8))  # the memory is full and slots are fused from here on
    step = 8
    for stage in STAGES:
        for name, error in ERRORS.items():
            before = rig.core.counters()
            rig.stages.failed = 0
            rig.stages.fail(stage, error)
            rig.send(step)
            step += 1
            # a stage that this frame had no use for is met by the next ones
            for _ in range(3):
                if rig.stages.failed:
                    break
                rig.send(step)
                step += 1
            assert rig.stages.failed == 1, (stage, name)
            rig.stages.left = 0
            error_text = rig.core.report().values["last error"]
            assert "lower processing_size" in error_text, (stage, name, error_text)
            after = rig.core.counters()
            assert after.failed - before.failed <= 1
            assert after.received == after.segmented + after.dropped + after.failed
            overlaps = rig.follow(range(step, step + 2))
            step += 2
            assert min(overlaps) > 0.45, (stage, name, overlaps)
            assert rig.core.tracked() == [DISC, SQUARE]


@pytest.mark.parametrize("stage", ["encode_query", "encode_memory", "project", "read", "decode"])
def test_a_seed_that_runs_out_of_memory_is_refused_and_others_do_not_notice(rig, stage):
    stamps = [rig.send(step) for step in range(4)]
    assert rig.seed(3, SQUARE).success
    rig.follow(range(4, 6))
    rig.stages.fail(stage, ERRORS["cuda"], times=99)
    answers = [rig.seed(5, DISC), rig.seed(2, DISC, stamp=stamps[2])]
    rig.stages.left = 0
    # encoders run for every seed, the memory is read only for one of the past or beside others
    assert not all(answer.success for answer in answers)
    for answer in answers:
        if not answer.success:
            assert "lower processing_size" in answer.message
            assert SQUARE in answer.tracked_ids
    assert rig.follow(range(6, 9))[1] > 0.45
    assert rig.seed(8, DISC).success
    assert min(rig.follow(range(9, 12))) > 0.45


def test_a_cache_that_cannot_be_written_to_is_told_and_auto_does_without(monkeypatch):
    """/proc takes no folders, even of root."""
    monkeypatch.setenv("STREMN_CACHE", "/proc/stremn")
    with own_node(f"model:={TINY_MODEL}", "auto_build:=true", "device:=cpu") as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        report = node._cameras[0].report()
        assert report.values["runtime"].startswith("torch")
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        results = node.set_parameters([Parameter("runtime", value="onnxruntime")])
        assert results[0].successful
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert "nothing can be written to the cache folder /proc/stremn" in node._failure
        assert node._state_report().level == ERROR
