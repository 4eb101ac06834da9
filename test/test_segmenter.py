"""The segmenter: it follows objects, refuses bad input without harm, and does not grow."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

from stremn_ros.errors import (
    CapacityError,
    InputError,
    ModelError,
    RuntimeUnavailableError,
    UnknownObjectError,
)
from stremn_ros.evaluation.machine import resident_bytes
from stremn_ros.model_folder import (
    find_model,
    load_network,
    read_config,
    read_weights,
    save_model,
)
from stremn_ros.network import SegmentationNetwork
from stremn_ros.runtime.choose import choose_device
from stremn_ros.runtime.onnx.export import entry_folder
from stremn_ros.segmenter import ObjectState, Segmenter


def load(**options: object) -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), device="cpu", **options)


def test_follows_two_objects_at_the_sources_size() -> None:
    segmenter = load()
    frame, truth = scene(0, (180, 240))
    assert segmenter.seed(frame, truth) == [DISC, SQUARE]
    for step in range(1, 13):
        frame, truth = scene(step, (180, 240))
        result = segmenter.step(frame)
        assert result.labels.shape == (180, 240)
        assert result.labels.dtype == np.uint8
        assert iou(result.labels, truth, DISC) > 0.5
        assert iou(result.labels, truth, SQUARE) > 0.5
    assert set(np.unique(result.labels)) <= {0, DISC, SQUARE}


def test_objects_describe_the_mask() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    result = segmenter.step(scene(1)[0])
    assert [found.id for found in result.objects] == [DISC, SQUARE]
    for found in result.objects:
        ys, xs = np.nonzero(result.labels == found.id)
        assert found.area == len(xs)
        assert found.box == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert found.centroid == pytest.approx((xs.mean(), ys.mean()), abs=1e-6)
        assert found.state is ObjectState.TRACKED
        assert 0.5 < found.score <= 1.0


def test_the_same_input_gives_the_same_output() -> None:
    results = []
    for _ in range(2):
        segmenter = load()
        segmenter.seed(*scene(0))
        results.append([segmenter.step(scene(step)[0]).labels for step in range(1, 8)])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_any_ids_and_any_time() -> None:
    """A second object joins later, the first leaves; what stays goes on being followed."""
    segmenter = load()
    frame, truth = scene(0)
    segmenter.seed(frame, (truth == DISC) * 200)
    for step in range(1, 4):
        segmenter.step(scene(step)[0])
    frame, truth = scene(4)
    assert segmenter.seed(frame, (truth == SQUARE) * 17) == [17]
    assert segmenter.ids == [17, 200]
    for step in range(5, 9):
        frame, truth = scene(step)
        labels = segmenter.step(frame).labels
    assert iou((labels == 200) * DISC, truth, DISC) > 0.5
    assert iou((labels == 17) * SQUARE, truth, SQUARE) > 0.5
    segmenter.remove(200)
    frame, truth = scene(9)
    result = segmenter.step(frame)
    assert [found.id for found in result.objects] == [17]
    assert iou((result.labels == 17) * SQUARE, truth, SQUARE) > 0.5


def test_seeding_again_replaces_the_seed_of_that_object_only() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    for step in range(1, 6):
        segmenter.step(scene(step)[0])
    kept = segmenter.memory
    row = kept.rows[SQUARE]
    before = kept.templates[row].clone()
    frame, truth = scene(6)
    segmenter.seed(frame, (truth == DISC).astype(np.uint8) * DISC)
    assert segmenter.slots_used == {DISC: 1, SQUARE: 4}
    assert torch.equal(kept.templates[row], before)


def test_a_correction_forgets_nothing() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    for step in range(1, 8):
        segmenter.step(scene(step)[0])
    row = segmenter.memory.rows[DISC]
    seed, square = (
        part.clone() for part in (segmenter.memory.templates[row, 0], contents_of(segmenter))
    )
    frame, truth = scene(8)
    assert segmenter.correct(frame, truth, ids=[DISC]) == [DISC]
    assert segmenter.slots_used == {DISC: 4, SQUARE: 4}
    assert segmenter.memory.locked(DISC) == 2
    assert torch.equal(segmenter.memory.templates[row, 0], seed), "the first seed stays"
    assert torch.equal(contents_of(segmenter), square), "and the other object"
    for step in range(9, 13):
        frame, truth = scene(step)
        result = segmenter.step(frame)
        assert iou(result.labels, truth, DISC) > 0.5


def contents_of(segmenter: Segmenter, object_id: int = SQUARE) -> torch.Tensor:
    return segmenter.memory.templates[segmenter.memory.rows[object_id]]


def test_a_correction_brings_back_an_object_that_was_lost() -> None:
    segmenter = load(lost_after=2, min_score=0.6)
    segmenter.seed(*scene(0))
    empty = np.full_like(scene(0)[0], 128)
    for _ in range(5):
        result = segmenter.step(empty)
    assert {found.state for found in result.objects} == {ObjectState.LOST}
    frame, truth = scene(2)
    segmenter.segment(frame)
    segmenter.correct(frame, truth)
    segmenter.remember()
    result = segmenter.step(scene(3)[0])
    assert {found.state for found in result.objects} == {ObjectState.TRACKED}


def test_the_mirror_image_of_a_seed_is_locked_beside_it() -> None:
    segmenter, other = load(mirrored_seed=True, slots=6), load()
    frame, truth = scene(0)
    segmenter.seed(frame, truth)
    other.seed(np.ascontiguousarray(frame[:, ::-1]), np.ascontiguousarray(truth[:, ::-1]))
    memory = segmenter.memory
    for object_id in (DISC, SQUARE):
        own, mirrored = memory.order(object_id)
        assert memory.locked(object_id) == 2
        templates = memory.templates[memory.rows[object_id]]
        wanted = other.memory.templates[other.memory.rows[object_id], 0]
        torch.testing.assert_close(templates[mirrored], wanted)
        assert not torch.allclose(templates[own], wanted)
    kept = contents_of(segmenter)[:2].clone()
    for step in range(1, 12):
        frame, truth = scene(step)
        result = segmenter.step(frame)
        assert min(iou(result.labels, truth, n) for n in (DISC, SQUARE)) > 0.5
    assert torch.equal(contents_of(segmenter)[:2], kept), "neither is fused"
    segmenter.correct(frame, truth, ids=[SQUARE])
    assert memory.locked(SQUARE) == 3
    assert torch.equal(contents_of(segmenter)[:2], kept), "nor in the way of what is learned later"


@pytest.mark.parametrize("slots", [2, 3])
def test_without_a_slot_for_it_a_seed_has_no_mirror_image(slots: int) -> None:
    segmenter = load(mirrored_seed=True, slots=slots)
    segmenter.seed(*scene(0))
    assert segmenter.slots_used == {DISC: 1, SQUARE: 1}
    assert segmenter.memory.locked(DISC) == 1


def test_another_frame_is_learned_without_a_change_of_the_present() -> None:
    half = scene(0)[1].copy()
    half[:, : np.nonzero(half == DISC)[1].min() + np.ptp(np.nonzero(half == DISC)[1]) // 2] = 0
    frame, _ = scene(1)
    found = []
    for learns in (False, True):
        segmenter = load()
        segmenter.seed(scene(0)[0], half, ids=[DISC])  # a part only
        segmenter.segment(frame)
        if learns:
            before = segmenter.memory.updates(DISC), segmenter.look_inside()[0].last_update
            assert segmenter.learn(*scene(9), ids=[DISC]) == [DISC]  # a later one shows it whole
            assert (segmenter.memory.updates(DISC), before[1]) == before
        segmenter.remember()  # of the frame that was segmented
        assert segmenter.memory.updates(DISC) == 1
        found.append(iou(segmenter.segment(scene(2)[0]).labels, scene(2)[1], DISC))
    assert found[1] > found[0] + 0.02


def test_a_correction_takes_pixels_from_others_and_they_forget_nothing() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    for step in range(1, 8):
        segmenter.step(scene(step)[0])
    frame, truth = scene(8)
    mask = np.where(truth == DISC, DISC, 0).astype(np.uint8)
    columns = np.nonzero(truth == SQUARE)[1]
    mask[(truth == SQUARE) & (np.arange(truth.shape[1]) < columns.mean())] = DISC
    seed = contents_of(segmenter)[0].clone()
    segmenter.correct(frame, mask)
    assert segmenter.slots_used[SQUARE] == 4
    assert segmenter.memory.locked(SQUARE) == 1
    assert torch.equal(contents_of(segmenter)[0], seed)


@pytest.mark.parametrize("name", ["correct", "learn"])
def test_what_is_not_followed_is_neither_corrected_nor_learned(name: str) -> None:
    segmenter = load()
    frame, truth = scene(0)
    segmenter.seed(frame, truth, ids=[DISC])
    before = {key: part.clone() for key, part in segmenter.memory.state().items()}
    tell = getattr(segmenter, name)
    with pytest.raises(UnknownObjectError, match=f"object {SQUARE} is not tracked"):
        tell(frame, truth)
    with pytest.raises(InputError, match="do not occur in the mask"):
        tell(frame, truth, ids=[9])
    with pytest.raises(InputError, match="mask"):
        tell(frame, truth[:-1], ids=[DISC])
    after = segmenter.memory.state()
    assert all(torch.equal(after[key], part) for key, part in before.items())


def test_replace_forgets_the_others() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    frame, truth = scene(1)
    segmenter.seed(frame, (truth == SQUARE) * 5, replace=True)
    assert segmenter.ids == [5]


def test_segmenting_does_not_change_the_memory() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    segmenter.step(scene(1)[0])
    before = segmenter.memory.templates.clone()
    first = segmenter.segment(scene(2)[0])
    assert torch.equal(segmenter.memory.templates, before)
    np.testing.assert_array_equal(segmenter.segment(scene(2)[0]).labels, first.labels)
    segmenter.remember()
    assert not torch.equal(segmenter.memory.templates, before)
    after = segmenter.memory.templates.clone()
    segmenter.remember()
    assert torch.equal(segmenter.memory.templates, after), "nothing new to remember"


def test_without_objects_everything_is_background() -> None:
    segmenter = load()
    result = segmenter.step(scene(0)[0])
    assert not result.labels.any()
    assert result.objects == []
    segmenter.seed(*scene(0))
    segmenter.reset()
    assert segmenter.ids == []
    assert not segmenter.step(scene(1)[0]).labels.any()


def test_a_size_that_changes_in_mid_stream() -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    segmenter.step(scene(1)[0])
    for size in ((240, 320), (96, 128), (120, 160)):
        frame, truth = scene(2, size)
        labels = segmenter.step(frame).labels
        assert labels.shape == size
        assert iou(labels, truth, DISC) > 0.5


def test_an_unseen_object_is_occluded_then_lost_and_not_remembered() -> None:
    segmenter = load(lost_after=3)
    segmenter.seed(*scene(0))
    for step in range(1, 4):
        segmenter.step(scene(step)[0])
    segmenter.min_score = 1.0  # nothing can reach it: every object counts as unseen
    before = segmenter.memory.templates.clone()
    states = [segmenter.step(scene(step)[0]).objects[0].state for step in range(4, 9)]
    assert states == [ObjectState.OCCLUDED] * 3 + [ObjectState.LOST] * 2
    assert torch.equal(segmenter.memory.templates, before)
    segmenter.min_score = 0.5
    assert segmenter.step(scene(9)[0]).objects[0].state is ObjectState.TRACKED


def test_between_updates_the_memory_rests() -> None:
    segmenter = load(update_every=3, slots=16)
    segmenter.seed(*scene(0))
    used, templates = [], []
    for step in range(1, 10):
        segmenter.step(scene(step)[0])
        used.append(segmenter.slots_used[DISC])
        templates.append(segmenter.memory.templates.clone())
    assert used == [1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert torch.equal(templates[3], templates[2])
    assert torch.equal(templates[4], templates[2])
    assert not torch.equal(templates[5], templates[4])


def test_only_an_object_that_changes_is_written() -> None:
    segmenter = load(update_every=2, update_change=0.01, slots=16)
    first, labels = scene(0)
    segmenter.seed(first, labels)
    for _ in range(6):
        segmenter.step(first)
    assert segmenter.slots_used == {DISC: 1, SQUARE: 1}, "it looks as in the seed"
    other = first.copy()
    other[labels == SQUARE] = (30, 110, 220)
    for _ in range(2):
        assert all(each.state is ObjectState.TRACKED for each in segmenter.step(other).objects)
    assert segmenter.slots_used == {DISC: 1, SQUARE: 2}
    for _ in range(4):
        segmenter.step(other)
    assert segmenter.slots_used == {DISC: 1, SQUARE: 2}, "the newest template shows that"
    segmenter.update_change = 0.0
    for _ in range(2):
        segmenter.step(other)
    assert segmenter.slots_used == {DISC: 2, SQUARE: 3}


def test_memory_does_not_grow_with_frames() -> None:
    """Bytes of the bank are constant, and the process settles: 400 frames after warm-up."""
    segmenter = load()
    segmenter.seed(*scene(0))
    size = segmenter.memory_bytes
    frames = [scene(step)[0] for step in range(40)]

    for _ in range(3):
        for frame in frames:
            segmenter.step(frame)
    settled = resident_bytes()
    for _ in range(10):
        for frame in frames:
            segmenter.step(frame)
    assert segmenter.memory_bytes == size
    assert resident_bytes() - settled < 8 * 2**20


BAD_MASKS = [
    (lambda m: m[:-1], "they must match"),
    (lambda m: m * 0, "all zero"),
    (lambda m: m.astype(np.float32), "integer"),
    (lambda m: m.astype(np.int32) * 1000, "1..255"),
    (lambda m: -m.astype(np.int32), "1..255"),
    (lambda m: m.tolist(), "integer array"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD_MASKS)
def test_a_bad_mask_is_refused_and_nothing_changes(spoil: object, said: str) -> None:
    runs = []
    for bad in (False, True):
        segmenter = load()
        segmenter.seed(*scene(0))
        segmenter.step(scene(1)[0])
        if bad:
            frame, truth = scene(2)
            with pytest.raises(InputError, match=said):
                segmenter.seed(frame, spoil(truth))
        runs.append(segmenter.step(scene(2)[0]).labels)
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        None,
    ],
)
def test_a_bad_frame_is_refused(frame: object) -> None:
    segmenter = load()
    segmenter.seed(*scene(0))
    before = segmenter.segment(scene(1)[0]).labels
    with pytest.raises(InputError, match="frame must"):
        segmenter.step(frame)
    with pytest.raises(InputError, match="frame must"):
        segmenter.seed(frame, np.ones((10, 10), np.uint8))
    np.testing.assert_array_equal(segmenter.segment(scene(1)[0]).labels, before)


def test_capacity_and_unknown_ids() -> None:
    segmenter = load(max_objects=2)
    frame, truth = scene(0)
    segmenter.seed(frame, truth)
    with pytest.raises(CapacityError, match="max_objects is 2"):
        segmenter.seed(frame, (truth == DISC) * 9)
    for ids, said in (
        ([4], "do not occur"),
        ([1.0], "one of the ids is 1.0; it must be a whole number"),
        (1, "ids is 1; it must be a list"),
        ("12", "ids is '12'; it must be a list"),
        ([], "ids is empty; name one or more of"),
    ):
        with pytest.raises(InputError, match=said):
            segmenter.seed(frame, truth, ids=ids)
    with pytest.raises(UnknownObjectError, match="tracked are"):
        segmenter.remove(9)
    assert segmenter.ids == [DISC, SQUARE]
    segmenter.seed(frame, (truth == DISC) * 9, replace=True)
    assert segmenter.ids == [9]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 1}, "2..16"),
        ({"update_rule": "best"}, "least_similar"),
        ({"processing_size": 8}, "32..4096"),
        ({"processing_size": (64, 64, 64)}, "rows"),
        ({"max_objects": 0}, "1..255"),
        ({"update_every": 0}, "at least 1"),
    ],
)
def test_options_out_of_range(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(**options)


def test_devices_and_runtimes_that_are_not_there() -> None:
    for options in ({"runtime": "abacus"}, {"device": "tpu"}):
        with pytest.raises(RuntimeUnavailableError, match="use"):
            Segmenter.load(str(TINY_MODEL), **options)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeUnavailableError, match="sees no GPU"):
            Segmenter.load(str(TINY_MODEL), device="cuda")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda:2", "cuda:9"):
        with pytest.raises(RuntimeUnavailableError, match="cuda:0 to cuda:1"):
            choose_device(device)
    assert choose_device("cuda:1").index == 1


def copy_model(folder: Path) -> Path:
    for name in ("config.yaml", "weights.safetensors"):
        (folder / name).write_bytes((TINY_MODEL / name).read_bytes())
    return folder


def test_a_model_s_folder_may_have_a_name_in_an_unknown_encoding(tmp_path: Path) -> None:
    model = tmp_path / os.fsdecode(b"f\xfcr")  # Latin-1
    shutil.copytree(TINY_MODEL, model)
    assert Segmenter.load(str(model), device="cpu", runtime="torch").seed(*scene(0)) == [1, 2]
    str(entry_folder(model)).encode()  # or ONNX Runtime could not open the export


def test_weights_are_not_copied_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are mapped: read as bytes they would be in memory twice."""
    monkeypatch.setattr(Path, "read_bytes", None)
    assert read_weights(TINY_MODEL / "weights.safetensors")


def test_models_that_do_not_exist_or_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'nonesuch'.*one of"):
        Segmenter.load("nonesuch")
    folder = copy_model(tmp_path)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    for spoiled, said in (
        (whole[: len(whole) // 2], "damaged"),
        (b"garbage", "damaged"),
        (b"", "damaged"),
    ):
        weights.write_bytes(spoiled)
        with pytest.raises(ModelError, match=said):
            Segmenter.load(str(folder))
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no weights\.safetensors"):
        Segmenter.load(str(folder))


def test_weights_of_another_network_or_with_nan(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_model(tmp_path)
    weights = load_file(str(folder / "weights.safetensors"))
    name = "classify.weight"
    for change, said in (
        ({name: torch.full_like(weights[name], float("nan"))}, "NaN"),
        ({name: torch.zeros(1, 2, 3, 3)}, "another shape"),
        ({"strange": torch.zeros(1)}, "unknown"),
    ):
        save_file({**weights, **change}, str(folder / "weights.safetensors"))
        with pytest.raises(ModelError, match=said):
            Segmenter.load(str(folder))
    del weights[name]
    save_file(weights, str(folder / "weights.safetensors"))
    with pytest.raises(ModelError, match="missing"):
        Segmenter.load(str(folder))


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    """Anywhere in them; the file loads, and the network is another one."""
    folder = copy_model(tmp_path)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in (header + 1, (header + len(whole)) // 2, len(whole) - 4):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"weights\.safetensors is damaged: its sha256 is"):
            Segmenter.load(str(folder))
    config = folder / "config.yaml"
    text = config.read_text()
    # changed on purpose: without its line it is not checked
    config.write_text("".join(line for line in text.splitlines(True) if "weights.safe" not in line))
    assert Segmenter.load(str(folder)).ids == []
    config.write_text(text)
    weights.write_bytes(whole)
    assert Segmenter.load(str(folder)).ids == []
    for wrong in ("sha256: 5", "sha256: {weights.safetensors: 12ab}", "sha256: [a]"):
        config.write_text(f"task: segmentation\n{wrong}\n")
        with pytest.raises(ModelError, match="must map names of files to 64 hexadecimal digits"):
            Segmenter.load(str(folder))


def test_models_that_are_written_and_those_that_are_shipped_have_digests(tmp_path: Path) -> None:
    network, spec = load_network(TINY_MODEL)
    save_model(tmp_path / "made", network, spec.defaults)
    assert set(read_config(tmp_path / "made").digests) == {"weights.safetensors"}
    load_network(tmp_path / "made")
    shipped = sorted((Path(__file__).parents[1] / "models").glob("*/*.safetensors"))
    assert len(shipped) >= 4
    for path in shipped:
        digests = yaml.safe_load((path.parent / "config.yaml").read_text())["sha256"]
        assert digests[path.name] == hashlib.sha256(path.read_bytes()).hexdigest(), path


@pytest.mark.parametrize(
    "text", ["", "[]", "task: prediction", "task: segmentation\nnetwork: 3", "\t{", "a: [1"]
)
def test_a_config_that_cannot_be(tmp_path: Path, text: str) -> None:
    folder = copy_model(tmp_path)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"config\.yaml"):
        Segmenter.load(str(folder))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("newest: 3", r"unknown entries \['newest'\]"),
        ("slots: 4.0", "slots is 4.0; it takes whole numbers"),
        ("slots: null", "slots is None"),
        ("slots: 99", r"slots is 99; it must be 2\.\.16"),
        ("processing_size: '96'", "processing_size is the text '96'"),
        ("processing_size: null", "processing_size is None"),
        ("processing_size: 96.5", "processing_size is 96.5"),
        ("processing_size: [96]", "processing_size has 1 entries"),
        ("update_rule: best", "update rule 'best' is unknown"),
        ("min_score: high", "min_score is the text 'high'"),
    ],
)
def test_defaults_of_a_model_that_cannot_be_are_named(tmp_path: Path, line: str, said: str) -> None:
    folder = copy_model(tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text[: text.index("defaults:")] + f"defaults: {{{line}}}\n")
    # of whoever needs them: a segmenter, or an export for its processing size
    for read in (lambda: Segmenter.load(str(folder)), lambda: read_config(folder).options()):
        with pytest.raises(ModelError, match=rf"config\.yaml: defaults: .*{said}"):
            read()


def test_a_model_may_be_given_as_a_path() -> None:
    assert Segmenter.load(TINY_MODEL, device="cpu").runtime_name == load().runtime_name
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        Segmenter.load(Path("nowhere"))


def test_a_folder_is_a_model_without_a_slash_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    copy_model(folder)
    (folder / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("mine") == Path("mine")
    for place, word in ((folder, "."), (folder / "inner", "..")):
        monkeypatch.chdir(place)
        assert find_model(word) == folder
    (tmp_path / "segment_lite0").mkdir()
    copy_model(tmp_path / "segment_lite0")
    monkeypatch.chdir(tmp_path)
    assert find_model("segment_lite0").is_absolute(), "the model of that name, not the folder"
    assert find_model("./segment_lite0") == Path("segment_lite0")
    for word in (300 * "x", "/" + 300 * "x", "a\0b", "~nobody-of-that-name/x"):
        with pytest.raises(ModelError, match="no model"):
            find_model(word)


def test_a_renamed_object_keeps_the_score_that_was_predicted_for_it(tmp_path: Path) -> None:
    _, spec = load_network(TINY_MODEL)
    network = SegmentationNetwork(dataclasses.replace(spec.network, quality=True))
    save_model(tmp_path / "made", network, spec.defaults)
    segmenter = Segmenter.load(str(tmp_path / "made"), device="cpu")
    segmenter.seed(*scene(0))
    segmenter.segment(scene(1)[0])
    seen = segmenter._reader.frame
    assert seen is not None
    predicted = dict(seen.quality)
    segmenter.rename(DISC, 9)
    assert seen.quality == {9: predicted[DISC], SQUARE: predicted[SQUARE]}
