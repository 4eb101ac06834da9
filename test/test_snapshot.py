"""Snapshots: a memory goes on from a file bit for bit; a bad file changes nothing."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shapes import DISC, SQUARE, TINY_MODEL, scene

from stremn_ros import snapshot as module
from stremn_ros.errors import CapacityError, InputError, ModelError
from stremn_ros.segmenter import ObjectState, Segmenter
from stremn_ros.snapshot import KEY, Snapshot

pytestmark = pytest.mark.usefixtures("one_thread")


def load(model: Path = TINY_MODEL, **options: object) -> Segmenter:
    return Segmenter.load(str(model), device="cpu", runtime="torch", **options)


def followed(steps: int = 7, **options: object) -> Segmenter:
    segmenter = load(**options)
    segmenter.seed(*scene(0))
    for step in range(1, steps):
        segmenter.step(scene(step)[0])
    return segmenter


def contents(segmenter: Segmenter) -> dict[str, bytes]:
    return {name: part.numpy().tobytes() for name, part in segmenter.memory.state().items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "memory.safetensors"
    followed().save(path, {DISC: "cup", 77: "never seeded"})
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_every": 3},
        {"slots": 2},
        {"update_rule": "oldest"},
        {"processing_size": (96, 160), "max_objects": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_fresh_segmenter_goes_on_bit_for_bit(tmp_path: Path, options: dict, steps: int) -> None:
    first = followed(steps, **options)
    size = first.save(tmp_path / "memory", {SQUARE: "näme \N{BANANA}"})
    assert size == (tmp_path / "memory").stat().st_size
    second = load(**options)
    assert second.load_memory(tmp_path / "memory") == {SQUARE: "näme \N{BANANA}"}
    assert second.ids == first.ids
    assert second.slots_used == first.slots_used
    assert second.processing_size == first.processing_size
    for step in range(steps, steps + 6):
        one, two = first.step(scene(step)[0]), second.step(scene(step)[0])
        np.testing.assert_array_equal(one.labels, two.labels)
        assert one.objects == two.objects
    assert one.labels.any()
    assert contents(first) == contents(second)


def test_what_was_seeded_with_numbers_of_numpy_can_be_saved(tmp_path: Path) -> None:
    frame, truth = scene(0)
    segmenter = load(slots=np.int64(4))
    assert segmenter.seed(frame, truth, ids=np.unique(truth)[1:]) == [DISC, SQUARE]
    segmenter.rename(DISC, np.int64(7))
    segmenter.save(tmp_path / "memory")
    fresh = load(slots=4)
    fresh.load_memory(tmp_path / "memory")
    assert fresh.ids == [SQUARE, 7]
    ids = [found.id for found in segmenter.step(scene(1)[0]).objects]
    assert ids == [SQUARE, 7]
    assert all(type(object_id) is int for object_id in ids)


def test_states_and_the_order_of_rows_are_kept(tmp_path: Path) -> None:
    first = load(lost_after=2)
    frame, truth = scene(0)
    first.seed(frame, np.select([truth == DISC, truth == SQUARE], [9, 4]).astype(np.uint8))
    first.seed(frame, np.where(truth == DISC, 200, 0).astype(np.uint8))
    first.remove(4)  # the last row moves into its place
    empty = np.full_like(frame, 90)
    for _ in range(4):
        first.step(empty)
    first.save(tmp_path / "memory")
    second = load(lost_after=2)
    second.seed(frame, np.where(truth, 5, 0).astype(np.uint8))  # forgotten by loading
    second.load_memory(tmp_path / "memory")
    assert second.ids == [9, 200]
    one, two = first.step(empty), second.step(empty)
    assert one.objects == two.objects
    assert {item.state for item in two.objects} == {ObjectState.LOST}
    second.seed(frame, np.where(truth == SQUARE, 4, 0).astype(np.uint8))
    assert second.ids == [4, 9, 200]


def test_a_memory_without_objects(tmp_path: Path) -> None:
    load().save(tmp_path / "memory")
    segmenter = followed()
    assert segmenter.load_memory(tmp_path / "memory") == {}
    assert segmenter.ids == []
    assert not segmenter.step(scene(1)[0]).labels.any()
    assert segmenter.seed(*scene(0, (80, 160))) == [DISC, SQUARE]
    assert segmenter.processing_size == (96, 192)


def test_a_name_has_128_characters_at_most(saved: Path, tmp_path: Path) -> None:
    segmenter = followed()
    for wrong in ("x" * 129, "a\0b"):
        with pytest.raises(InputError, match="the name"):
            segmenter.save(tmp_path / "memory", {DISC: wrong})
    segmenter.save(tmp_path / "memory", {DISC: "x" * 128})
    snapshot = Snapshot.read(tmp_path / "memory")
    # of an earlier version, which knew no such limit
    replace(snapshot, names={DISC: "y" * 1000}).write(tmp_path / "memory")
    assert Snapshot.read(tmp_path / "memory").names == {DISC: "y" * 128}


def test_the_file_is_safetensors_with_a_header_that_can_be_read(saved: Path) -> None:
    with safe_open(str(saved), framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
    assert (header["format"], header["ids"], header["slots"]) == (1, [DISC, SQUARE], 4)
    assert header["processing_size"] == [96, 128]
    assert header["names"] == {str(DISC): "cup"}
    assert stat.S_IMODE(saved.stat().st_mode) & 0o600 == 0o600
    assert os.listdir(saved.parent) == [saved.name]


def refusals(segmenter: Segmenter, path: Path, kind: type[Exception], text: str) -> None:
    before, ids, step = contents(segmenter), segmenter.ids, scene(9)[0]
    expected = segmenter.segment(step).labels
    with pytest.raises(kind, match=text):
        segmenter.load_memory(path)
    assert (contents(segmenter), segmenter.ids) == (before, ids)
    np.testing.assert_array_equal(segmenter.segment(step).labels, expected)


def test_what_does_not_fit_is_refused_with_the_remedy(saved: Path, tmp_path: Path) -> None:
    for options, kind, text in (
        ({"slots": 3}, InputError, r"has 4 slots .* this segmenter 3: load .* slots=4"),
        ({"max_objects": 1}, CapacityError, "has 2 objects, but max_objects is 1"),
        ({"processing_size": 112}, InputError, "size of 96x128.* 112: .*processing_size=96"),
        ({"processing_size": (96, 144)}, InputError, "size of 96x128"),
    ):
        segmenter = load(**options)
        frame, truth = scene(0)
        segmenter.seed(frame, truth * (truth == DISC))
        refusals(segmenter, saved, kind, text)
    other = tmp_path / "other"
    shutil.copytree(TINY_MODEL, other)
    weights = load_file(str(other / "weights.safetensors"))
    name = next(key for key, value in weights.items() if value.numel() > 100)
    weights[name].view(-1)[3] += 0.01
    save_file(weights, str(other / "weights.safetensors"))
    config = (other / "config.yaml").read_text()  # other weights on purpose, so without a digest
    (other / "config.yaml").write_text(re.sub(r"sha256:\n(  .*\n)*", "", config))
    segmenter = load(other)
    segmenter.seed(*scene(0))
    refusals(segmenter, saved, ModelError, "load the model that it was saved with")


def test_what_was_learned_is_kept_and_older_files_are_read(saved: Path, tmp_path: Path) -> None:
    first = followed(5)
    first.learn(*scene(12), ids=[DISC])
    first.correct(*scene(4), ids=[SQUARE])
    first.save(tmp_path / "memory")
    second = load()
    second.load_memory(tmp_path / "memory")
    assert second.memory.locked(DISC) == second.memory.locked(SQUARE) == 2
    for step in range(5, 11):
        one, two = first.step(scene(step)[0]), second.step(scene(step)[0])
        np.testing.assert_array_equal(one.labels, two.labels)
    assert contents(first) == contents(second)
    older = rewritten(saved, tmp_path / "older", lambda f: f["tensors"].pop("locked"))
    third, fourth = load(), load()
    third.load_memory(older)
    fourth.load_memory(saved)
    assert contents(third) == contents(fourth)


def rewritten(source: Path, target: Path, change) -> Path:
    """The snapshot with a change, and a digest that is right for it: written with intent."""
    read = Snapshot.read(source)
    fields = dict(vars(read))
    fields["tensors"] = {name: part.clone() for name, part in read.tensors.items()}
    change(fields)
    Snapshot(**fields).write(target)
    return target


def set_to(name, index, value):
    def change(fields):
        fields["tensors"][name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (set_to("keys", (0, 0, 0, 0), float("nan")), "keys holds NaN"),
        (set_to("similarity", (1, 0, 1), float("inf")), "similarity holds NaN or inf"),
        (set_to("used", 0, 9), "said to use 9 slots"),
        (set_to("used", 0, 0), "said to use 0 slots"),
        (set_to("order", (0, 1), 7), "which cannot be"),
        (set_to("order", (0, 0), 1), "which cannot be"),
        (set_to("born", (0, 1), -1), "born holds a negative"),
        (set_to("locked", 0, 0), "said to have 0 of 4 slots locked"),
        (set_to("locked", 0, 4), "said to have 4 of 4 slots locked"),
        (lambda f: f["tensors"].pop("values"), "values must be .* it is missing"),
        (lambda f: f["tensors"].update(keys=f["tensors"]["keys"].half()), "float16"),
        (lambda f: f["tensors"].update(keys=f["tensors"]["keys"][:1].clone()), r"keys must be"),
        (lambda f: f["ids"].append(3), "counts"),
        (lambda f: f["ids"].__setitem__(0, 300), "ids"),
        (lambda f: f["ids"].__setitem__(0, SQUARE), "ids"),
        (lambda f: f.update(unseen=[-1, 0]), "counts"),
        (lambda f: f.update(processing_size=None), "without a processing size"),
        (lambda f: f.update(processing_size=(96, 130)), "size of 96x130"),
        (lambda f: f.update(processing_size=(96, 16000)), "size of 96x16000"),
        (lambda f: f.update(processing_size=(96, 144)), "must be"),
        (lambda f: f.update(slots="many"), "header is not valid"),
    ],
)
def test_a_file_made_to_deceive_changes_nothing(saved, tmp_path, change, text) -> None:
    refusals(followed(3), rewritten(saved, tmp_path / "bad", change), InputError, text)


def test_any_damage_is_found(saved: Path, tmp_path: Path) -> None:
    segmenter = followed(3)
    data = saved.read_bytes()
    bad = tmp_path / "bad"
    rng = np.random.default_rng(0)
    for position in [0, 3, 7, 8, 20, *rng.integers(0, len(data), 40).tolist(), len(data) - 1]:
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        bad.write_bytes(changed)
        with pytest.raises(InputError):
            segmenter.load_memory(bad)
    for length in (0, 1, 8, 100, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:length])
        refusals(segmenter, bad, InputError, "damaged")


def test_headers_that_only_others_write_are_refused(tmp_path: Path) -> None:
    segmenter = followed(2)
    bad = tmp_path / "bad"
    ours = {KEY: json.dumps({"format": 1})}

    def write(header: dict, data: bytes) -> None:
        text = json.dumps(header).encode()
        bad.write_bytes(len(text).to_bytes(8, "little") + text + data)

    write({"__metadata__": None}, b"")
    refusals(segmenter, bad, InputError, "not a snapshot")
    for kind, data in (("F8_E8M0", b"ab"), ("F4", b"a")):
        part = {"dtype": kind, "shape": [2], "data_offsets": [0, len(data)]}
        write({"__metadata__": ours, "keys": part}, data)
        refusals(segmenter, bad, InputError, f"damaged or not a snapshot.*{kind}")


def test_a_snapshot_of_another_shape_of_camera_is_looked_into(tmp_path: Path) -> None:
    """What the last frame asked of the memory is of another size then."""
    wide = Segmenter.load(str(TINY_MODEL), device="cpu")
    frame, labels = scene(0, (120, 214))
    wide.seed(frame, labels)
    wide.save(tmp_path / "wide")
    segmenter = followed(2)
    assert segmenter.look_inside()[0].slots[0].attention is not None
    segmenter.load_memory(tmp_path / "wide")
    assert [memory.slots[0].attention for memory in segmenter.look_inside()] == [None, None]
    segmenter.step(frame)
    assert segmenter.look_inside()[0].slots[0].attention is not None


@pytest.mark.parametrize("names", [None, [], ["disc"], "disc", 7])
def test_names_that_are_no_mapping_are_refused(saved: Path, tmp_path: Path, names: object) -> None:
    tensors = load_file(saved)
    with safe_open(saved, "pt") as file:
        header = json.loads(file.metadata()[KEY])
    header.pop("digest")
    header["names"] = names
    header["digest"] = module._digest(header, tensors)
    save_file(tensors, tmp_path / "bad", metadata={KEY: json.dumps(header)})
    refusals(followed(3), tmp_path / "bad", InputError, "header is not valid")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def test_other_files_are_refused_and_a_pickle_is_not_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter = followed(2)
    bad = tmp_path / "bad"
    bad.write_bytes(pickle.dumps(Trap()))
    refusals(segmenter, bad, InputError, "damaged or not a snapshot")
    torch.save({"a": Trap()}, bad)
    refusals(segmenter, bad, InputError, "damaged or not a snapshot")
    assert not (tmp_path / "trapped").exists()
    refusals(segmenter, TINY_MODEL / "weights.safetensors", InputError, "not a snapshot")
    refusals(segmenter, tmp_path, InputError, "is not a file")
    refusals(segmenter, tmp_path / "none", InputError, "there is no snapshot")
    save_file({}, str(bad), metadata={KEY: json.dumps({"format": 2})})
    refusals(segmenter, bad, InputError, "format 2; this version reads format 1")
    for header in ("[]", "{", '{"format": 1}', "null"):
        save_file({}, str(bad), metadata={KEY: header})
        refusals(segmenter, bad, InputError, "damaged")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    refusals(segmenter, tmp_path / "pipe", InputError, "is not a file")


def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    kept = {name: followed(steps).snapshot() for name, steps in (("one", 1), ("two", 4))}
    for name, snapshot in kept.items():
        snapshot.write(tmp_path / name)
    os.link(tmp_path / "one", path)
    # in a process of its own, as a node would; a link over one of the same file would do nothing
    code = (
        "import os\nwhile True:\n for name in ('two', 'one'):\n"
        "  os.link(name, 'new')\n  os.replace('new', 'memory')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        try:
            seen = {Snapshot.read(path).remembered for _ in range(400)}
        finally:
            process.kill()
    assert seen == {snapshot.remembered for snapshot in kept.values()}


@pytest.mark.parametrize("name", ["", "a\0b", "/", "a\udfffb\0"])
def test_what_is_no_name_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="the snapshot cannot be written to"):
        followed(2).save(name)


def test_a_write_that_fails_leaves_the_old_file(saved: Path, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "memory"
    shutil.copy(saved, path)
    segmenter = followed(3)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(module.os, name, full)
            with pytest.raises(InputError, match=r"No space left on device; what was there"):
                segmenter.save(path)
        assert path.read_bytes() == saved.read_bytes()
        assert os.listdir(tmp_path) == ["memory"]
    for target in (tmp_path / "none" / "memory", path / "memory", Path("/proc/memory"), tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            segmenter.save(target)
    assert os.listdir(tmp_path) == ["memory"]
    # what a killed process left is no obstacle, nor followed if it is a link
    outside = tmp_path / "outside"
    (tmp_path / ".memory.tmp").symlink_to(outside)
    segmenter.save(path)
    assert not outside.exists()
    assert os.listdir(tmp_path) == ["memory"]
    fresh = load()
    fresh.load_memory(path)
    assert contents(fresh) == contents(segmenter)
