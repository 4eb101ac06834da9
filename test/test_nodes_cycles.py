"""The life cycle again and again, while images come: nothing is left behind.

The figures in docs/reliability.md: `STREMN_CYCLES=100 pytest -s test/test_nodes_cycles.py`
"""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest
import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import image_message, own_node, wait_for
from sensor_msgs.msg import Image
from shapes import TINY_MODEL, scene

from stremn_ros.nodes.spinning import Spinning

CYCLES = int(os.environ.get("STREMN_CYCLES", 40))
SETTLED = 20 if CYCLES < 60 else 30  # cycles, after which nothing grows any more
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
def own_threads():
    """How many there are beside the executor's, which starts its own, up to a limit, when it needs
    them."""
    names = [thread.name for thread in threading.enumerate()]
    return sum(not name.startswith("ThreadPoolExecutor") for name in names)


def test_full_cycles_leave_nothing_behind(tmp_path):
    """Images come through DDS all the time, into every state; each activation segments some."""
    seen, stop = [], threading.Event()
    with own_node(
        f"model:={TINY_MODEL}",
        "runtime:=torch",
        f"snapshot_dir:={tmp_path}",
        "autosave_period:=60.0",
        "autosave_at_stop:=true",
        "image_reliability:=reliable",
    ) as node:
        camera = rclpy.create_node("camera", context=node.context)
        images = camera.create_publisher(Image, "image", 1)

        def send():
            step = 0
            while not stop.wait(0.005):
                step += 1
                images.publish(image_message(scene(step % 60)[0], step * 10**8))

        executor = MultiThreadedExecutor(node.threads, context=node.context)
        executor.add_node(node)
        sending = threading.Thread(target=send)
        sending.start()
        spinning = Spinning(executor, node.get_logger().error)
        try:
            begin = time.monotonic()
            for cycle in range(CYCLES):
                for step in ("configure", "activate"):
                    assert getattr(node, f"trigger_{step}")() == SUCCESS, (cycle, step)
                core = node._cameras[0]._core
                wait_for(lambda core=core: core.counters().segmented, f"an image in cycle {cycle}")
                if cycle % 10 == 0:  # with objects as well
                    mask = image_message(scene(0)[1], 0, "mono8")
                    assert core.seed_mask(mask).success
                    done = core.counters().segmented
                    wait_for(
                        lambda core=core, done=done: core.counters().segmented > done,
                        "an image with objects",
                    )
                for step in ("deactivate", "cleanup"):
                    assert getattr(node, f"trigger_{step}")() == SUCCESS, (cycle, step)
                if cycle % 10 == 9:
                    gc.collect()
                    publishers = len(list(node.publishers))
                    seen.append((resident(), own_threads(), open_files(), publishers))
            print(f"\n{CYCLES} cycles in {time.monotonic() - begin:.1f} s")
            print("resident MB, threads, open files, publishers after each ten cycles:")
            print("\n".join(f"{bytes / 1e6:.1f} {rest}" for bytes, *rest in seen))
        finally:
            stop.set()
            sending.join()
            spinning.stop()
            camera.destroy_node()
    first, last = seen[SETTLED // 10 - 1], seen[-1]
    assert last[1:] == first[1:]
    assert last[0] < first[0] * 1.02
