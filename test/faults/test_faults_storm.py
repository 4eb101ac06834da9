"""A short storm; `python test/faults/storm.py --inputs 20000` is the whole one."""

from __future__ import annotations

import pytest
import torch
from storm import SERVICES, Maker, Storm

from stremn_ros.errors import InputError
from stremn_ros.messages import image_read

INPUTS = 300


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_inputs_are_bad_and_of_every_kind():
    make = Maker(1)
    encodings = set()
    for _ in range(600):
        kind, message = make.image()
        encodings.add(kind)
        with pytest.raises(InputError):
            image_read.decode_rgb(message)
    assert encodings == set(image_read.ENCODINGS)
    assert {make.call()[0] for _ in range(300)} == set(SERVICES)


def test_no_malformed_input_crashes_the_node_or_costs_a_track(tmp_path):
    storm = Storm(tmp_path, seed=7)
    try:
        result = storm.run(INPUTS)
    finally:
        storm.close()
    assert result["ok"], result
    assert result["counts"]["bad images"] == result["counts"]["bad calls"] == INPUTS // 2
    assert (result["crashes"], result["lost_tracks"], result["masks_that_differ"]) == (0, 0, 0)
    assert min(result["mean_iou"].values()) > 0.5
    for kind in ("bad depth images", "bad camera_infos"):
        assert result["counts"][kind] > INPUTS // 12
