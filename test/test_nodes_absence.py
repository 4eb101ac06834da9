"""A node without GPU, TensorRT, pycuda, ONNX Runtime: each absence leaves a working one."""

from __future__ import annotations

import os

import pytest
from ros_helpers import NodeProcess, SegmentPeer, image_message
from shapes import TINY_MODEL, iou, scene

from stremn_interfaces.srv import SeedMask

ABSENT = {
    "no_onnxruntime": ("onnxruntime",),
    "nothing_at_all": (
        "onnxruntime",
        "onnx",
        "onnxscript",
        "tensorrt",
        "tensorrt_rtx",
        "tensorrt_rtx_bindings",
        "pycuda",
    ),
}


@pytest.mark.parametrize("absent", ABSENT)
def test_a_node_works_on_what_remains(tmp_path, absent):
    """auto_build is on: what cannot be built must not end the node either."""
    for name in ABSENT[absent]:
        folder = tmp_path / "absent" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"raise ImportError('{name} is taken away')\n")
    node = NodeProcess(
        "segment_node",
        tmp_path / "node",
        {
            "model": str(TINY_MODEL),
            "auto_build": True,
            "image_reliability": "reliable",
            "diagnostics_period": 0.1,
        },
        environment={
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")])
            ),
            "CUDA_VISIBLE_DEVICES": "",
            "STREMN_CACHE": str(tmp_path / "cache"),
        },
    )
    peer = SegmentPeer()
    try:
        assert peer.transition("configure"), node.log
        assert peer.transition("activate"), node.log
        frame, truth = scene(0)
        peer.connect(frame)
        answer = peer.call(
            SeedMask, "/stremn/seed_mask", mask=image_message(truth, 0, "mono8"), replace=True
        )
        if not answer.success:  # the frame of the seed has not come yet
            raise AssertionError(answer.message)
        for step in range(1, 4):
            frame, truth = scene(step)
            labels, objects = peer.segment(frame)
        assert min(iou(labels, truth, number) for number in (1, 2)) > 0.5
        assert [item.id for item in objects.objects] == [1, 2]
        assert peer.fresh_diagnostics()["runtime"] == "torch (cpu)"
    finally:
        peer.close()
        code = node.stop()
    assert code == 0, node.log[-4000:]
    assert "Traceback" not in node.log
