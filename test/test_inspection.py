"""A look inside the memory: attention by slot, and the history that `stremn inspect` draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from command_helpers import printed, stremn
from shapes import DISC, SQUARE, TINY_MODEL, scene

from stremn_ros.evaluation.inspection import draw, record
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.memory import slot_attention
from stremn_ros.segmenter import Segmenter


def load(**options: object) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", processing_size=(64, 96), **options)


@pytest.mark.parametrize("nearest", [0, 4])
@pytest.mark.parametrize("affinity", ["dot", "l2"])
def test_attention_of_slots_is_that_of_the_read(affinity: str, nearest: int) -> None:
    """With values that name their slot, the read of Eq. 10 is the share of each slot."""
    rng = np.random.default_rng(0)
    cells, slots = 12, 3
    query, keys = rng.normal(size=(cells, 5)), rng.normal(size=(slots * cells, 5))
    one_hot = np.repeat(np.eye(slots), cells, axis=0)
    ours = slot_attention(
        torch.from_numpy(query), torch.from_numpy(keys)[None], None, cells, affinity, nearest
    )
    np.testing.assert_allclose(
        ours[0].numpy(), reference.read(query, keys, one_hot, affinity, nearest), atol=1e-10
    )
    mask = torch.zeros(1, 1, slots * cells, dtype=torch.float64)
    mask[..., cells:] = -torch.inf
    only = slot_attention(
        torch.from_numpy(query), torch.from_numpy(keys)[None], mask, cells, affinity, nearest
    )
    np.testing.assert_allclose(only[0, :, 0], 1.0)


def test_look_inside_tells_slots_attention_and_the_last_update() -> None:
    segmenter = load(slots=4, update_every=1)
    assert segmenter.look_inside() == []
    segmenter.seed(*scene(0))
    (disc, square) = segmenter.look_inside()
    assert (disc.id, square.id) == (DISC, SQUARE)
    assert disc.updates == 0
    assert disc.last_update is None
    assert [slot.attention for slot in disc.slots] == [None]
    for step in range(1, 8):
        segmenter.step(scene(step)[0])
    for memory in segmenter.look_inside(), segmenter.look_inside(cells=8):
        for item in memory:
            assert item.updates == 7
            assert [slot.slot for slot in item.slots] == segmenter.memory.order(item.id)
            assert sum(slot.attention for slot in item.slots) == pytest.approx(1.0, abs=1e-3)
            assert [slot.born for slot in item.slots] == sorted(slot.born for slot in item.slots)
            assert sum(slot.fusions for slot in item.slots) == 4, "seven came, three stayed"
            assert item.last_update is not None
            assert item.last_update.slot == item.slots[-1].slot
            assert np.allclose(np.diag(item.similarity), 1.0)
            json.dumps(item.as_dict())
            assert "7 updates; seed" in item.text()
            assert "last fused slot" in item.text()
    frame, truth = scene(8)
    segmenter.segment(frame)
    everywhere, own = segmenter.look_inside()[0], segmenter.look_inside(truth)[0]
    assert [s.attention for s in everywhere.slots] != [s.attention for s in own.slots]


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 4},
        {"slots": 4, "update_rule": "oldest"},
        {"slots": 3, "input_to_memory": True},
        {"slots": 2},
        {"update_rule": "linear"},
        {"slots": 5, "mirrored_seed": True},
        {"update_rule": "linear", "mirrored_seed": True},
    ],
    ids=str,
)
def test_history_is_what_happened(tmp_path: Path, options: dict) -> None:
    """Every frame remembered is in exactly the slots that the fusions say, and none is lost."""
    segmenter = load(update_every=2, **options)
    frames = [scene(step) for step in range(21)]
    histories, pictures = record(segmenter, (frame for frame, _ in frames), frames[0][1], 100)
    remembered = set(range(100, 121, 2))
    for history in histories:
        held = [stay for stay in history.stays if stay.end is None]
        assert sorted(stay.slot for stay in held) == sorted(segmenter.memory.order(history.id))
        assert {stay.origin for stay in history.stays} <= remembered
        kept = {frame for stay in held for frame in stay.frames}
        if options.get("slots") == 2:
            assert kept == {100, 120}, "nothing is fused"
        elif segmenter.update_rule == "linear":
            assert kept <= remembered
            assert not history.fusions
        else:
            assert kept == remembered, "whatever goes is distilled into what stays"
        assert history.times == list(range(101, 121))
        assert all(np.nansum(row) == pytest.approx(1.0, abs=1e-2) for row in history.attention)
        for content in history.final.slots:
            stay = history.now(content.slot)
            assert stay is not None
            assert len(stay.absorbed) <= content.fusions or content.fusions == 0
        json.dumps(history.as_dict())
        if segmenter.options.mirrored_seed:
            assert history.mirrored == 1
            stay = history.now(1)
            assert stay is not None
            assert (stay.origin, stay.frames) == (100, [100])
            assert [history.name(slot) for slot in (0, 1, 2)] == ["seed", "mirrored", "slot 2"]
            if segmenter.update_rule != "linear":
                assert re.search(r"updates; seed \d+%, given \d+%, update", history.final.text())
    draw(histories[0], pictures, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 20_000
    assert {stay.origin for h in histories for stay in h.stays if stay.end is None} == set(pictures)


def test_inspect_command(tmp_path: Path) -> None:
    for step in range(8):
        write_image(tmp_path / "video" / f"{step:03}.png", scene(step)[0])
    write_label_png(tmp_path / "mask.png", scene(0)[1])
    words = ["inspect", str(tmp_path / "video")]
    words += ["--mask", str(tmp_path / "mask.png"), "--out", str(tmp_path / "out"), "--quiet"]
    words += ["--model", str(TINY_MODEL), "--slots", "3"]
    (tmp_path / "out").mkdir()
    for name in ("object_9.png", "object_of_mine.png"):
        (tmp_path / "out" / name).write_bytes(b"")
    said = printed(stremn(*words))
    found = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert [item["id"] for item in found["objects"]] == [DISC, SQUARE]
    assert found["objects"][0]["fusions"][0]["frame"] == 3
    assert (tmp_path / "out" / f"object_{SQUARE}.png").is_file()
    assert "object 1: 7 updates; seed" in said
    assert not (tmp_path / "out" / "object_9.png").exists(), "of an earlier run"
    assert (tmp_path / "out" / "object_of_mine.png").exists()
