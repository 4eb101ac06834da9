"""The live page saves and loads the memory of a running node, through real DDS."""

from __future__ import annotations

from pathlib import Path

import pytest
from ros_helpers import SegmentPeer, segment_node
from shapes import DISC, SQUARE, scene

from stremn_ros.errors import StremnError
from stremn_ros.web.node_source import NodeSource
from stremn_ros.web.requests import Request


def do(source: NodeSource, action: str) -> dict:
    return source.do(Request(1, action))


def test_the_memory_is_saved_and_loaded(tmp_path: Path) -> None:
    with segment_node(tmp_path, {"snapshot_dir": str(tmp_path / "memory")}) as node:
        peer = SegmentPeer()
        source = NodeSource("stremn")
        try:
            peer.bring_up(node)
            peer.connect(scene(0)[0])
            peer.seed(scene(0)[1])
            peer.segment(scene(1)[0])
            assert do(source, "save")["message"]
            do(source, "reset")
            assert not peer.segment(scene(1)[0])[1].objects
            do(source, "load")
            assert [item.id for item in peer.segment(scene(2)[0])[1].objects] == [DISC, SQUARE]
            (tmp_path / "memory" / "stremn.safetensors").write_bytes(b"no snapshot")
            with pytest.raises(StremnError, match="stremn"):
                do(source, "load")
            assert len(peer.segment(scene(2)[0])[1].objects) == 2
        finally:
            source.close()
            peer.close()
