"""The lifecycle node `stremn`: images in, masks of the seeded objects out.

The work is in `segment_core`, the topics and services of each camera in `camera`, what lifecycle
nodes share in `life_cycle`. All cameras share one network and one worker.
"""

from __future__ import annotations

import sys
from typing import Any

from stremn_ros.hint_masks import HintMasks
from stremn_ros.nodes import camera, life_cycle, parameters
from stremn_ros.nodes.camera import Camera
from stremn_ros.options import TUNABLES
from stremn_ros.runtime.table import RUNTIMES
from stremn_ros.segmenter import Segmenter
from stremn_ros.stream.settings import Settings
from stremn_ros.stream.worker import Worker


class SegmentNode(life_cycle.NetworkNode):
    """See the ROS contract in the package's documentation for topics and services."""

    def __init__(self, **options: Any) -> None:
        settings = Settings()
        super().__init__("stremn", parameters.SEGMENT, "segmentation", settings, **options)
        self._camera_settings = settings
        self._worker: Worker | None = None
        self._cameras = [
            Camera(self, name, self._values, settings, self._write_log, self._unready)
            for name in parameters.camera_names(self._values["cameras"])
        ]
        self._streams = self._cameras

    def _load(self) -> None:
        values = self._values
        names = parameters.camera_names(values["cameras"])
        for name in ("click_topic", "depth_topic", "depth_camera_info_topic"):
            parameters.camera_topics(name, values[name], names)
        segmenter = Segmenter.load(
            values["model"],
            device=values["device"],
            runtime=values["runtime"],
            auto_build=values["auto_build"],
            **{
                name: tunable.given(values[name])
                for name, tunable in TUNABLES.items()
                if tunable.parameter and not tunable.run_time
            },
        )
        segmenter.change(**self._camera_settings.options())
        on_cpu = RUNTIMES.get(values["runtime"], RUNTIMES["torch"]).device == "cpu"
        masks = HintMasks.load(
            values["click_model"],
            device=values["device"],
            runtime="auto" if on_cpu or values["runtime"] == "auto" else "torch",
            auto_build=values["auto_build"],
        )
        self._worker = Worker(lambda text: self._write_log("error", f"the worker: {text}"))
        every_id = range(1, segmenter.max_objects + 1)
        for number, item in enumerate(self._cameras):
            # the same network for all; the memory of each is its own
            item.configure(
                segmenter if not number else segmenter.fork(every_id), self._worker, masks
            )
        cameras = f", {len(self._cameras)} cameras" if len(self._cameras) > 1 else ""
        self.get_logger().info(
            f"configured: model {values['model']} on {segmenter.runtime_name}, up to "
            f"{segmenter.max_objects} objects{cameras}; masks of boxes and points by {masks.maker}"
        )

    def _unload(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    @property
    def threads(self) -> int:
        """How many threads the executor wants for this node."""
        return life_cycle.THREADS + camera.THREADS * len(self._cameras)


def main(args: list[str] | None = None) -> int:
    """Runs the node until a signal stops it; the lifecycle services drive it."""
    return life_cycle.main("segment_node", lambda: [SegmentNode()], args)


if __name__ == "__main__":
    sys.exit(main())
