"""The segmentation node and the prediction node in one process (segment.launch.py predict:=true).

The ROS arguments of the command line are the segmentation node's; those of the prediction node
follow the option --predict, one each: ``--predict=-p --predict=model:=predict_rgb``. Both look at
one camera, so the prediction node has the parameters of ``SHARED`` from the other, unless it is
given its own.
"""

from __future__ import annotations

import argparse
import json
import sys

from rclpy.utilities import remove_ros_args

from stremn_ros.nodes import life_cycle
from stremn_ros.nodes.life_cycle import NetworkNode
from stremn_ros.nodes.predict_node import PredictNode
from stremn_ros.nodes.segment_node import SegmentNode

# What is true of the camera and the machine, whatever is made of the images.
SHARED = ("use_sim_time", "device", "image_transport", "image_reliability")


def main(args: list[str] | None = None) -> int:
    """Runs both nodes until a signal stops them; the lifecycle services drive them."""
    words = sys.argv if args is None else ["segment_predict_node", *args]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predict", action="append", default=[], metavar="ROS_ARGUMENT")
    options = parser.parse_args(remove_ros_args(words)[1:])

    # The prediction node takes no ROS arguments of the process: a parameter file for /** and a new
    # name for the node would count for both
    def make() -> list[NetworkNode]:
        segment = SegmentNode()
        own = ["--ros-args"]
        for name in SHARED:
            own += ["-p", f"{name}:={json.dumps(segment.get_parameter(name).value)}"]
        own += options.predict  # of a parameter that is given twice the last one counts
        return [segment, PredictNode(cli_args=own, use_global_arguments=False)]

    return life_cycle.main("segment_predict_node", make, words)


if __name__ == "__main__":
    sys.exit(main())
