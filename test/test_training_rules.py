"""Update rules in the training loop: the same memory as the segmenter's; the scorer learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shapes import TINY_MODEL
from training_helpers import TINY_NETWORK, check_same, clip

from stremn_ros.errors import InputError, ModelError
from stremn_ros.memory.rules import RULES
from stremn_ros.model_folder import SCORER, WEIGHTS, load_network, save_model
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.segmenter import Segmenter
from stremn_ros.training.losses import segmentation_loss
from stremn_ros.training.segment import SegmentTraining, build_network, freeze
from stremn_ros.training.unroll import unroll


@pytest.fixture(scope="module")
def scored_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a scorer that decides by chance, but clearly."""
    folder = tmp_path_factory.mktemp("models") / "scored"
    network, spec = load_network(TINY_MODEL)
    torch.manual_seed(3)
    scorer = network.add_pair_scorer()
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    save_model(folder, network, spec.defaults)
    return folder


def test_the_scorer_lies_beside_the_weights_and_changes_nothing_else(scored_model: Path) -> None:
    assert (scored_model / SCORER).is_file()
    assert (scored_model / WEIGHTS).stat().st_size == (TINY_MODEL / WEIGHTS).stat().st_size
    with_scorer = Segmenter.load(str(scored_model), device="cpu")
    without = Segmenter.load(str(TINY_MODEL), device="cpu")
    assert with_scorer._fingerprint() == without._fingerprint()
    with pytest.raises(ModelError, match=r"trained without one.*stremn train segment"):
        Segmenter.load(str(TINY_MODEL), device="cpu", update_rule="learned")
    without = Segmenter.load(str(TINY_MODEL), device="cpu")
    with pytest.raises(ModelError, match="needs a scorer"):
        without.update_rule = "learned"
    assert without.update_rule == "least_similar"


@pytest.mark.parametrize(
    ("rule", "absorb", "slots"),
    [
        ("learned", False, 3),
        ("learned", False, 5),
        ("least_similar", True, 3),
        ("newest", True, 4),
        ("first_and_previous", False, 5),
        ("linear", False, 5),
    ],
)
def test_the_unrolled_memory_is_the_segmenters(
    scored_model: Path, rule: str, absorb: bool, slots: int
) -> None:
    pairs, images, labels = clip(10)
    network, _ = load_network(scored_model)
    with torch.no_grad():
        done = unroll(network, images, labels, 2, slots, RULES[rule], absorb)
    segmenter = Segmenter.load(
        str(scored_model),
        device="cpu",
        slots=slots,
        update_rule=rule,
        input_to_memory=absorb,
        processing_size=(96, 128),
        min_score=0.0,
    )
    segmenter.seed(*pairs[0])
    if rule == "linear":
        segmenter.memory.keep_every = 1
    check_same(segmenter, pairs, done.logits)


@pytest.mark.parametrize("key_source", ["image", "template"])
def test_the_loss_teaches_the_scorer(key_source: str) -> None:
    """Its gradient goes through every pair; evaluation takes the best pair, the same each time."""
    torch.manual_seed(0)
    network = SegmentationNetwork(
        SegmentationConfig.from_mapping({**TINY_NETWORK, "key_source": key_source})
    )
    scorer = network.add_pair_scorer()
    _, images, labels = clip(7)
    labels = (labels == 1).to(torch.uint8)
    done = unroll(network, images, labels, 1, 4, RULES["learned"])
    segmentation_loss(done.logits[-1], labels[:, -1]).backward()
    for name, parameter in scorer.named_parameters():
        if name != "judge.2.bias":  # adds the same to every pair, so nothing hangs on it
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    network.eval()
    with torch.no_grad():
        one, two = (unroll(network, images, labels, 1, 4, RULES["learned"]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.logits, two.logits, strict=True))


def test_only_what_is_named_is_trained_and_a_start_may_lack_the_scorer(tmp_path: Path) -> None:
    network, _ = load_network(TINY_MODEL)
    config = SegmentTraining(
        run=str(tmp_path),
        phases=[],
        network=network.config.to_mapping(),
        start=str(TINY_MODEL),
        update_rule="learned",
    )
    built = build_network(config)
    assert built.pair_scorer is not None
    for name, value in network.state_dict().items():
        assert torch.equal(built.state_dict()[name], value), name
    config.train_only = ["pair_scorer."]
    freeze(built, config)
    trained = {name for name, part in built.named_parameters() if part.requires_grad}
    assert trained == {f"pair_scorer.{name}" for name, _ in built.pair_scorer.named_parameters()}
    config.train_only = ["pair_scorer.", "scorer"]
    with pytest.raises(InputError, match=r"begins with \['scorer'\]"):
        freeze(built, config)
    config.update_rule = "best"
    with pytest.raises(InputError, match="least_similar"):
        build_network(config)
