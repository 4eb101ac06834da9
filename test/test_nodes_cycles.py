"""The life cycle again and again: nothing is left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest
import rclpy
import ros_helpers  # noqa: F401 - sets the domain before rclpy starts
from rclpy.lifecycle import TransitionCallbackReturn
from shapes import TINY_MODEL

from stremn_ros.nodes.segment_node import SegmentNode

CYCLES = 100
SUCCESS = TransitionCallbackReturn.SUCCESS


def resident() -> int:
    """Bytes of this process that lie in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS in /proc/self/status")


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
def test_a_hundred_full_cycles_leave_nothing_behind(tmp_path):
    context = rclpy.Context()
    # A domain of its own: what is left of this node until the garbage collector comes would still
    # offer /stremn's services, and answer none, to the tests after this one.
    rclpy.init(context=context, domain_id=int(os.environ["ROS_DOMAIN_ID"]) % 100 + 1)
    arguments = ["-p", f"model:={TINY_MODEL}", "-p", f"snapshot_dir:={tmp_path}"]
    arguments += ["-p", "autosave_period:=60.0", "-p", "autosave_at_stop:=true"]
    node = SegmentNode(context=context, cli_args=["--ros-args", *arguments])
    seen = []
    try:
        begin = time.monotonic()
        for cycle in range(CYCLES):
            for step in ("configure", "activate", "deactivate", "cleanup"):
                assert getattr(node, f"trigger_{step}")() == SUCCESS, (cycle, step)
            if cycle % 10 == 9:
                gc.collect()
                publishers = len(list(node.publishers))
                seen.append((resident(), threading.active_count(), open_files(), publishers))
        print(f"\n{CYCLES} cycles in {time.monotonic() - begin:.1f} s")
        print("resident MB, threads, open files, publishers after each ten cycles:")
        print("\n".join(f"{bytes / 1e6:.1f} {rest}" for bytes, *rest in seen))
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
        del node
        gc.collect()
    first, last = seen[1], seen[-1]
    assert last[1:] == first[1:]
    assert last[0] < first[0] * 1.02
