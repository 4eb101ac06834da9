"""Damage to masks in training: what it does, to which masks, and that it can be done again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stremn_ros.memory.rules import RULES
from stremn_ros.network import SegmentationConfig, SegmentationNetwork
from stremn_ros.training.damage import MaskDamage
from stremn_ros.training.unroll import unroll


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of two objects each, side by side; the last object is too small to be damaged."""
    small = torch.zeros(2, 2, 40, 56)
    small[:, 0, 8:30, 4:26] = 0.9
    small[0, 1, 8:30, 28:50] = 0.8
    small[1, 1, 30:32, 40:43] = 0.8
    return small, F.interpolate(small, scale_factor=4, mode="nearest")


def test_no_share_changes_nothing_and_a_seed_does_the_same_again() -> None:
    small, large = masks()
    for seed in range(5):
        kept = MaskDamage(0.0, seed)(small, large)
        assert torch.equal(kept[0], small)
        assert torch.equal(kept[1], large)
        first, again = MaskDamage(0.7, seed)(small, large), MaskDamage(0.7, seed)(small, large)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(small, masks()[0]), "the arguments stay as they are"


def test_what_it_does_is_a_cut_a_patch_or_nothing_left() -> None:
    small, large = masks()
    areas, kinds = (small > 0.5).flatten(2).sum(dim=2), {"cut": 0, "patch": 0, "gone": 0}
    for seed in range(60):
        left, big = MaskDamage(1.0, seed)(small, large)
        assert float(left.sum(dim=1).max()) <= 1.0 + 1e-5, "probabilities of a pixel"
        assert torch.equal((F.avg_pool2d(big, 4) > 0.5)[left > 0.5].all(), torch.tensor(True))
        # clip 0, object 0: its neighbor may take pixels, too
        before, after = float(areas[1, 0]), float((left[1, 0] > 0.5).sum())
        inside = float(((left[1, 0] > 0.5) & (small[1, 0] > 0.5)).sum())
        if after == 0:
            kinds["gone"] += 1
            assert float((big[1, 0] > 0.5).sum()) == 16 * before, "it is not remembered as empty"
        elif after < before:
            kinds["cut"] += 1
            assert after == inside
            assert 0.35 <= after / before <= 0.85
        else:
            kinds["patch"] += 1
            assert inside == before
        assert torch.equal(left[1, 1] > 0.5, small[1, 1] > 0.5), "too small to be damaged"
    assert kinds["cut"] > kinds["patch"] > 0
    assert kinds["gone"] > 0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_that_of_objects_in_frames(share: float) -> None:
    small, large = masks()
    damage = MaskDamage(share, 3)
    changed = [not torch.equal(damage(small, large)[0][1, 0], small[1, 0]) for _ in range(400)]
    # a patch may lie within the mask and change nothing
    assert 0.7 * share < np.mean(changed) <= 1.2 * share


def test_the_memory_and_the_next_frame_see_the_damage_and_not_the_seed() -> None:
    torch.manual_seed(0)
    values = {"previous_mask": True, "sensory_channels": 4, "decoder_channels": (16, 12, 8)}
    network = SegmentationNetwork(
        SegmentationConfig(
            encoder="tiny", template_channels=16, key_channels=8, value_channels=12, **values
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    frames = torch.rand(1, 4, 3, 64, 64) * 255
    labels = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    labels[:, 0, 8:40, 8:40] = 1
    calls = []

    class Gone(MaskDamage):
        def __call__(self, previous, masks):
            calls.append((previous.shape, masks.shape))
            return torch.zeros_like(previous), torch.zeros_like(masks)

    def run(damage):
        with torch.no_grad():
            return unroll(network, frames, labels, 1, 3, RULES["most_similar"], damage=damage)

    whole, hurt = run(None).logits, run(Gone(1.0, 0)).logits
    assert calls == [((1, 1, 16, 16), (1, 1, 64, 64))] * 3
    assert torch.equal(whole[0], hurt[0]), "the frame after the seed is as it was"
    assert not torch.equal(whole[1], hurt[1])
