"""The prediction network, its memory online and in training, the predictor, and the training."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from prediction_helpers import WIDTHS, moving_frames, tiny_network, tiny_prediction_model
from test_prediction_data import digits, draw_human36m, draw_kth, draw_video, write_idx

from stremn_ros import cli
from stremn_ros.clip_state import extend, forecast, new_state
from stremn_ros.data.moving_mnist import draw_paths
from stremn_ros.errors import InputError, ModelError
from stremn_ros.evaluation.prediction import (
    COPY,
    FLOW,
    copy_last,
    evaluate_prediction,
    in_batches,
    model_method,
    optical_flow,
)
from stremn_ros.imaging.motion import FlowExtrapolation
from stremn_ros.model_folder import load_prediction_network, save_model
from stremn_ros.network.carrying import Carried, Carrier, Division, track, track_through, transport
from stremn_ros.network.conv_lstm import ConvLstm, ConvLstmConfig
from stremn_ros.network.prediction import PredictionConfig, PredictionNetwork, correlate
from stremn_ros.network.steering import Steer
from stremn_ros.predictor import Predictor
from stremn_ros.training.predict import PredictTask, PredictTraining, train
from stremn_ros.training.prediction_losses import (
    PredictionLoss,
    scale_invariant_gradient,
    shrinkage_factor,
)
from stremn_ros.training.unroll_prediction import unroll_prediction

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------------- network


def test_correlation_finds_the_movement() -> None:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 32, 32, generator=rng)
    oldest = torch.nn.functional.interpolate(coarse, scale_factor=2.0)
    newest = torch.roll(oldest, (4, -6), (2, 3))
    match = correlate(newest, oldest)
    assert match.shape == (1, 83, 8, 8)
    inner = match[0, :81, 2:6, 2:6].flatten(1)
    # what is now here was two half pixels up and three to the right
    assert (inner.argmax(dim=0) == (4 - 2) * 9 + 4 + 3).all()
    movement = match[0, 81:, 2:6, 2:6]  # pixels a frame, and the two are two frames apart
    assert movement[0].mean().item() == pytest.approx(2.0, abs=0.3)
    assert movement[1].mean().item() == pytest.approx(-3.0, abs=0.3)


def test_transport_carries_and_blurs() -> None:
    layer = torch.zeros(1, 1, 24, 32)
    layer[0, 0, 10, 12] = 1.0
    path = torch.tensor([[[[3.0, -5.0], [0.5, 0.0], [40.0, 0.0]]]])
    moved = transport(layer, path, torch.full_like(path, 0.3))[0, :, 0]
    assert moved[0].argmax() == 13 * 32 + 7
    assert moved[0].sum().item() == pytest.approx(1.0, abs=1e-4)
    assert moved[1, 10, 12].item() == pytest.approx(moved[1, 11, 12].item())
    assert moved[2].max() < 1e-6  # out of sight
    wide = transport(layer, path, torch.full_like(path, 2.0))[0, 0, 0]
    rows = wide.sum(dim=1)
    spread = ((torch.arange(24) - 13.0).square() * rows).sum() / rows.sum()
    assert spread.item() == pytest.approx(4.0, rel=0.05)


def test_track_finds_layers_behind_others() -> None:
    """Two things, one over the other in some frames: each is found where it was drawn."""
    rng = np.random.default_rng(3)
    things = rng.random((2, 9, 7)) > 0.4
    corners = {
        0: [(20, 10), (18, 13), (14, 18), (9, 21)],
        1: [(22, 30), (20, 26), (17, 23), (13, 21)],
    }
    drawn = np.zeros((2, 4, 40, 48), np.float32)
    for which, places in corners.items():
        for t, (row, column) in enumerate(places):
            drawn[which, t, row : row + 9, column : column + 7] = things[which]
    layers = torch.from_numpy(drawn[None, :, 0])
    others = torch.from_numpy(drawn[:, 1:].max(axis=0)[None])
    where, match = track(layers, layers.amax(dim=1), others, reach=6)
    moved = [[np.subtract(p, places[0]) for p in places[1:]] for places in corners.values()]
    torch.testing.assert_close(
        where[0], torch.from_numpy(np.array(moved)).float(), atol=0.05, rtol=0
    )
    assert match.min() > 0.7
    assert match[0, :, 0].min() > 0.99
    slow, poor = track(
        layers, layers.amax(dim=1), others, reach=2
    )  # too fast for the window: no good match
    assert slow[0, :, 0].abs().max() <= 2.0
    assert poor[0, 1, 0] < match[0, 1, 0]


def test_layers_are_taken_from_the_frame_that_explains_the_others() -> None:
    """Two things cross, and can be told apart in one frame better than in another."""
    drawn = []
    for t in range(6):
        pair = torch.zeros(2, 48, 48)
        pair[0, 10 + 3 * t : 18 + 3 * t, 20:26] = 1.0
        pair[1, 26 - 3 * t : 30 - 3 * t, 16:28] = 0.7
        drawn.append(pair)
    things = torch.stack(drawn)  # [N, L, H, W]
    frames = things.amax(dim=1)[None, :, None]
    carrier = Carrier(4, (3,), layers=2, horizon=3, past=5).eval()
    for part in (carrier.steer.begin, carrier.steer.cell):
        torch.nn.init.zeros_(part[-1].weight)  # a path goes straight on
    none = torch.zeros(1, 2, 3)
    halves = Division(frames[:, 5].expand(-1, 2, -1, -1) * 0.5, none)  # it sees no difference
    early = Division(things[None, 1], none)
    where, match = track_through(early.layers, frames[:, :, 0], 1)
    steps = torch.arange(-1.0, 5.0) * 3.0
    still = torch.zeros(6)
    expected = torch.stack([torch.stack([steps, still], 1), torch.stack([-steps, still], 1)])
    apart = [0, 1, 4, 5]
    torch.testing.assert_close(where[0, :, apart], expected[:, apart], atol=0.1, rtol=0)
    assert match[0, :, 1].eq(1.0).all()

    # two clips: in the second it is the newest frame whose division is right
    right = Division(things[None, 5], none)
    wrong = Division(frames[:, 2].expand(-1, 2, -1, -1) * 0.5, none)
    both = [
        Division(*(torch.cat(parts) for parts in zip(halves, right, strict=True))),
        Division(*(torch.cat(parts) for parts in zip(early, wrong, strict=True))),
    ]
    with torch.no_grad():
        carried = carrier(both, (0, 4), frames.expand(2, -1, -1, -1, -1))
        alone = carrier([Division(*(part[:1] for part in both[1]))], (4,), frames)
    assert carried.ages.tolist() == [4, 0]
    torch.testing.assert_close(carried.layers[0], things[1])
    torch.testing.assert_close(carried.layers[1], things[5])
    torch.testing.assert_close(carried.frames[:1], alone.frames)
    # it goes on from where the things are now, whichever frame was divided
    for n, since in ((0, 4), (1, 0)):
        ahead = (torch.arange(1.0, 4.0) + since) * 3.0
        torch.testing.assert_close(carried.path[n, 0, :, 0], ahead, atol=0.5, rtol=0)
        torch.testing.assert_close(carried.path[n, 1, :, 0], -ahead, atol=0.5, rtol=0)


def test_layers_learn_from_where_they_are_found() -> None:
    """The path loss pulls a path towards the true displacement; the replay loss divides layers."""
    thing = torch.zeros(1, 1, 32, 32)
    thing[..., 10:16, 8:12] = 1.0
    truth = torch.stack([thing.roll((2 * n, -n), (2, 3)) for n in (1, 2)], dim=1)
    path = torch.tensor([[[[2.0, -1.0], [4.0, 0.0]]]], requires_grad=True)
    seen = torch.stack([thing.roll((-2, 1), (2, 3)), thing], dim=1)
    newest = torch.zeros(1, dtype=torch.int64)
    carried = Carried(truth, thing, path, newest, replayed=seen.clone().requires_grad_())
    loss = PredictionLoss(path=1.0).of_layers(carried, seen, truth)
    loss.backward()
    assert path.grad is not None
    assert path.grad[0, 0, 0].abs().max() < 1e-3
    assert path.grad[0, 0, 1, 0].abs() < 1e-3
    assert path.grad[0, 0, 1, 1] > 0.05  # one column too far to the right
    assert not PredictionLoss(replay=0.5).of_layers(carried, seen, truth).item()
    still = carried._replace(replayed=torch.stack([thing, thing], dim=1))
    share = 2.0 * 12.0 / (32 * 32) / 2  # of the pixels that one step leaves or enters, of one frame
    replay = PredictionLoss(replay=0.5).of_layers(still, seen, truth)
    assert replay.item() > 0.5 * 100.0 * share * 0.9
    # of the layers of the frame before, the paths reach one step farther
    before = carried._replace(layers=seen[:, 0], ages=newest + 1, path=path.detach() * 0.0)
    moved = torch.tensor([[[[4.0, -2.0], [6.0, -3.0]]]])
    there = before._replace(path=moved)
    assert PredictionLoss(path=1.0).of_layers(there, seen, truth).item() < 1e-3
    assert PredictionLoss(path=1.0).of_layers(before, seen, truth).item() > 1.0


def test_what_is_mirrored_moves_as_in_a_mirror() -> None:
    """Upside down and back to front, with the same features, the paths are the opposite ones."""
    torch.manual_seed(0)
    steer = Steer(features=3, horizon=5, past=4)
    for part in (steer.begin, steer.cell):
        torch.nn.init.normal_(part[-1].weight, std=0.3)
    size = (16, 24)
    centers = torch.rand(1, 2, 2) * 15.0
    where, match, features = torch.randn(1, 2, 4, 2), torch.rand(1, 2, 4), torch.rand(1, 2, 3)
    path, spread = steer(centers, size, where, match, features)
    across = torch.tensor([15.0, 23.0]) - centers
    opposite, same = steer(across, size, -where, match, features)
    torch.testing.assert_close(opposite, -path)
    torch.testing.assert_close(same, spread)
    assert (path[..., 0] - path[..., 1]).abs().max() > 0.1  # rows and columns by their own
    only, _ = steer(centers, size, where[:, :, :1], match[:, :, :1], features)
    assert only.isfinite().all()  # a single earlier frame has to do


def test_a_thing_on_its_way_goes_on() -> None:
    """Untrained, a path is the past velocity gone on with, step by step, on each axis."""
    steer = Steer(features=1, horizon=4, past=5)
    for part in (steer.begin, steer.cell):
        torch.nn.init.zeros_(part[-1].weight)
    velocity = torch.tensor([2.0, -1.0])
    where = -velocity * torch.arange(1.0, 6.0)[:, None]
    path, spread = steer(
        torch.full((1, 1, 2), 20.0), (64, 64), where[None, None], torch.ones(1, 1, 5),
        torch.zeros(1, 1, 1),
    )  # fmt: skip
    torch.testing.assert_close(path[0, 0], velocity * torch.arange(1.0, 5.0)[:, None])
    assert (spread[0, 0].diff(dim=0) > 0.0).all()  # what is farther off is less certain


def test_paths_alone_teach_the_steer_to_bounce() -> None:
    """After a few bare paths it foresees edges, which straight on does not."""
    torch.manual_seed(0)
    steer = Steer(features=2, horizon=10, past=9)
    optimizer = torch.optim.AdamW(steer.parameters(), lr=3e-3)
    loss = PredictionLoss(path=1.0)

    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        drawn = draw_paths(np.random.default_rng(seed), 128, 10, 10)
        centers, where, match, coming = (torch.from_numpy(x)[:, None] for x in drawn)
        path, spread = steer(centers, (64, 64), where, match, torch.zeros(128, 1, 2))
        return path, spread, coming

    with torch.no_grad():
        path, _, coming = run(1000)
        straight = (path - coming).abs().mean()
    for seed in range(120):
        optimizer.zero_grad()
        loss.of_paths(*run(seed)).backward()
        optimizer.step()
    with torch.no_grad():
        path, spread, coming = run(1000)
    off = (path - coming).abs()
    assert straight > 5.0
    assert off.mean() < 0.4 * straight
    # what it says of its uncertainty is true of its errors, near and far
    for step in (0, 9):
        told, real = spread[:, 0, step].mean(), off[:, 0, step].square().mean().sqrt()
        assert 0.3 * real < told < 2.0 * real


@pytest.mark.parametrize(("head", "colours"), [("paint", 1), ("paint", 3), ("layers", 1)])
def test_memory_online_equals_memory_in_training(head: str, colours: int) -> None:
    """The bank with its writes in place and the stacked tensors that gradients go through."""
    network = tiny_network(head, colours)
    clips = np.stack([moving_frames(17), moving_frames(21)[4:]])[..., :colours]
    frames = torch.from_numpy(clips).movedim(-1, 2).float() / 255.0
    for seen in (3, 4, 10, 17):  # of itself, not full, full, and after fusions
        state = new_state(network, 2, (64, 64), slots=3)
        with torch.no_grad():
            for t in range(seen):
                state.observe(frames[:, t])
            online = state.predict().frames
            unrolled = unroll_prediction(network, frames[:, :seen], 3, "least_similar", 2)
            unrolled = unrolled.frames
        assert online.shape == (2, 3, colours, 64, 64)
        torch.testing.assert_close(online, unrolled, atol=2e-5, rtol=1e-4)
    assert state.memory.fusions.any()


def test_every_part_of_the_network_learns() -> None:
    network = tiny_network("layers", 1).train()
    frames = torch.from_numpy(moving_frames(19)[None, ..., :1]).movedim(-1, 2).float() / 255.0
    unroll_prediction(network, frames, 3, "least_similar", 2).frames.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_the_memory_matters() -> None:
    """Other frames long ago, the same three last: another prediction."""
    network = tiny_network("paint", 1)
    frames = torch.from_numpy(moving_frames(10)[None, ..., :1]).movedim(-1, 2).float() / 255.0
    other = frames.clone()
    other[:, :5] = other[:, :5].flip(-1)
    one, two = (forecast(network, each, 3).frames for each in (frames, other))
    assert (one - two).abs().max() > 1e-5


def test_configurations_that_cannot_be_say_so() -> None:
    for wrong, word in (
        ({"head": "dream"}, "head"),
        ({"widths": [4, 4]}, "six"),
        ({"colours": 2}, "colours"),
        ({"references": [0, -1]}, "references"),
        ({"references": 3}, "references"),
        ({"color": 3}, "unknown"),
        ({"head": "blend"}, "head"),  # of models from before
    ):
        with pytest.raises(ModelError, match=word):
            PredictionConfig.from_mapping(wrong)
    with pytest.raises(ModelError, match="odd"):
        ConvLstmConfig.from_mapping({"kernel": 4})


def test_convlstm_goes_on_from_its_own_frames() -> None:
    torch.manual_seed(0)
    network = ConvLstm(ConvLstmConfig(hidden=(6, 5)))
    frames = torch.rand(2, 4, 1, 32, 32)
    near, far = network(frames, 2), network(frames, 5)
    assert far.shape == (2, 5, 1, 32, 32)
    torch.testing.assert_close(near, far[:, :2])
    longer = network(torch.cat([frames, near[:, :1]], dim=1), 1)
    torch.testing.assert_close(longer[:, 0], far[:, 1])


# ---------------------------------------------------------------------- losses


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random((2, 2, 1, 12, 12)), rng.random((2, 2, 1, 12, 12))
    error = np.abs(p - y)
    factor = 1.0 / (1.0 + np.exp(10.0 * (0.2 - error)))
    a, b = torch.from_numpy(p), torch.from_numpy(y)
    np.testing.assert_allclose(shrinkage_factor((a - b).abs(), 10.0, 0.2).numpy(), factor)
    loss = PredictionLoss(l1=0.5, l2=2.0, shrinkage=(10.0, 0.2))
    expected = 100 * (0.5 * (factor * error).mean() + 2.0 * (factor * error**2).mean())
    assert loss(a, b).item() == pytest.approx(expected)

    total = 0.0
    for h in (1, 2, 4, 8):
        fields = []
        for f in (p, y):
            here = f[..., :-h, :-h]
            fields.append(
                [
                    (there - here) / (np.abs(there) + np.abs(here) + 0.05)
                    for there in (f[..., h:, :-h], f[..., :-h, h:])
                ]
            )
        squares = sum((fields[0][k] - fields[1][k]) ** 2 for k in range(2))
        total += np.sqrt(squares + 1e-6).mean()
    assert scale_invariant_gradient(a, b).item() == pytest.approx(total)
    coarse = PredictionLoss(l2=0.0, coarse=1.0)(a[..., :8, :8], b[..., :8, :8]).item()
    means = [
        ((p - y)[..., :8, :8].reshape(2, 2, 1, 8 // k, k, 8 // k, k).mean((4, 6)) ** 2).mean()
        for k in (2, 4, 8)
    ]
    assert coarse == pytest.approx(100 * sum(means))


# ---------------------------------------------------------------------- predictor


def test_predictor_waits_predicts_and_begins_anew(tmp_path: Path) -> None:
    predictor = Predictor.load(tiny_prediction_model(tmp_path / "m"))
    frames = moving_frames(12, 70, 90)
    assert predictor.processing_size is None
    for n, frame in enumerate(frames):
        future = predictor.step(frame)
        assert (future is None) == (n < 3)
        assert (predictor.error is None) == (n < 4)
    assert future is not None
    assert future.shape == (3, 70, 90, 3)
    assert future.dtype == np.uint8
    assert predictor.processing_size == (64, 80)
    assert predictor.error is not None
    assert predictor.change is not None
    assert 0.0 < predictor.error < 1.0

    again = predictor.step(frames[-1], horizon=8)  # farther than the network: its own frames
    assert again is not None
    assert again.shape == (8, 70, 90, 3)
    for wrong, word in (
        (frames[0, :60], "reset"),
        (frames[0].astype(np.float32), "uint8"),
        (frames[0, :, :, :1], "shape"),
    ):
        with pytest.raises(InputError, match=word):
            predictor.step(wrong)
    for horizon in (0, 101, 2.5, 2.0, "2"):
        with pytest.raises(InputError, match="horizon"):
            predictor.step(frames[0], horizon=horizon)
    seen = predictor.frames_seen
    assert seen == 13  # what was refused was not seen

    predictor.reset()
    assert predictor.frames_seen == 0
    small = moving_frames(4, 60, 60)
    assert [predictor.step(frame) is None for frame in small] == [True, True, True, False]


def test_a_reset_forgets_everything(tmp_path: Path) -> None:
    fresh, used = (Predictor.load(tiny_prediction_model(tmp_path / "m")) for _ in range(2))
    for frame in moving_frames(9)[::-1]:
        used.step(frame)
    used.reset()
    for frame in moving_frames(6):
        a, b = fresh.step(frame), used.step(frame)
    assert a is not None
    np.testing.assert_array_equal(a, b)


def test_looking_farther_leaves_the_stream_as_it_was(tmp_path: Path) -> None:
    near, far = (Predictor.load(tiny_prediction_model(tmp_path / "m")) for _ in range(2))
    for frame in moving_frames(9):
        a, b = near.step(frame), far.step(frame, horizon=7)
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a, b[:3])


def test_the_memory_reaches_back_one_to_two_spans() -> None:
    """With a span, what is read is that of a stream that began within the span."""
    network = tiny_network("paint", 1)
    frames = torch.from_numpy(moving_frames(60)[:, None, ..., :1]).movedim(-1, 2).float() / 255.0
    state = new_state(network, 1, (64, 64), span=6)
    nbytes = state.memory.nbytes
    with torch.no_grad():
        for t in range(57):
            state.observe(frames[t])
            if t < 30 or (t - 2) % 2:
                continue
            # 3 writes a half; the row that is read began 3 to 5 writes before the newest
            writes = (t - 2) // 2  # before this frame's own
            if state._writes != writes:
                continue
            age = 3 + (writes - 1) % 3
            begin = 2 * (writes - age - 1)
            plain = new_state(network, 1, (64, 64))
            for s in range(begin, t + 1):
                plain.observe(frames[s])
            one, two = state.predict().frames, plain.predict().frames
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert state.memory.nbytes == nbytes
    assert len(state.memory.rows) == 2


def test_nothing_grows_over_a_long_stream(tmp_path: Path) -> None:
    predictor = Predictor.load(tiny_prediction_model(tmp_path / "m", "paint"), processing_size=32)
    frames = moving_frames(16, 32, 32)
    before = 0
    for n, frame in enumerate(itertools.islice(itertools.cycle(frames), 150)):
        predictor.step(frame)
        if n == 10:
            before = predictor.memory_bytes
    assert before == predictor.memory_bytes > 0


def test_options_out_of_range_and_wrong_models_say_so(tmp_path: Path) -> None:
    model = tiny_prediction_model(tmp_path / "m")
    for options, word in (
        ({"processing_size": 8}, "32..2048"),
        ({"observe": 2}, "at least 3"),
        ({"slots": 1}, "2..16"),
        ({"update_rule": "none"}, "unknown"),
        ({"update_every": 0}, "at least 1"),
        ({"memory_span": -1}, "memory_span"),
        ({"memory_span": 2.5}, "memory_span is 2.5; it must be a whole number"),
        ({"update_every": float("nan")}, "update_every is nan; it must be a whole number"),
        ({"observe": 3.5}, "observe is 3.5; it must be a whole number"),
        ({"slots": 2.5}, "slots is 2.5; it must be a whole number"),
    ):
        with pytest.raises(InputError, match=word):
            Predictor.load(model, **options)
    save_model(tmp_path / "base", ConvLstm(ConvLstmConfig()), {})
    with pytest.raises(ModelError, match="baseline"):
        Predictor.load(str(tmp_path / "base"))
    with pytest.raises(ModelError, match="task: prediction"):
        Predictor.load(str(Path(__file__).parent / "data" / "tiny_model"))
    network, spec = load_prediction_network(tmp_path / "base")
    assert isinstance(network, ConvLstm)
    assert spec.architecture == "convlstm"
    config = tmp_path / "m" / "config.yaml"
    text = config.read_text()
    values = yaml.safe_load(text)
    for name, value, said in (
        ("observe", "ten", "observe is the text 'ten'; it takes whole numbers"),
        ("update_every", None, "update_every is None; it takes whole numbers"),
    ):
        wrong = {**values, "defaults": {**values["defaults"], name: value}}
        config.write_text(yaml.safe_dump(wrong))
        for load in (Predictor.load, lambda model: model_method(model, 3)):
            with pytest.raises(ModelError, match=rf"config.yaml: defaults: {said}"):
                load(model)
    config.write_text(yaml.safe_dump({**values, "architecture": ["stremn"]}))
    with pytest.raises(ModelError, match=r"architecture \['stremn'\] is unknown"):
        Predictor.load(model)
    config.write_text(text.replace("defaults:\n", "defaults:\n  of_a_later_version: 1\n"))
    with pytest.raises(ModelError, match=r"config.yaml: defaults: .*'of_a_later_version'"):
        Predictor.load(model)
    config.write_text(text)
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="damaged"):
        Predictor.load(model)


def test_predictions_of_several_reads_join() -> None:
    network = tiny_network("paint", 1)
    frames = torch.from_numpy(moving_frames(8)[None, ..., :1]).movedim(-1, 2).float() / 255.0
    seven = forecast(network, frames, 7).frames
    assert seven.shape == (1, 7, 1, 64, 64)
    three = forecast(network, frames, 3).frames
    torch.testing.assert_close(three, seven[:, :3])
    state = new_state(network, 1, (64, 64))
    with torch.no_grad():
        for t in range(8):
            state.observe(frames[:, t])
        torch.testing.assert_close(extend(state, range(1, 8)).frames, seven)


# ---------------------------------------------------------------------- baselines and evaluation


def test_flow_carries_on_a_steady_movement() -> None:
    rng = np.random.default_rng(2)
    import cv2

    big = cv2.GaussianBlur(rng.integers(0, 256, (100, 160, 3), np.uint8), (0, 0), 2.0)
    frames = [big[10:74, 3 * n : 3 * n + 96].copy() for n in range(6)]
    future = FlowExtrapolation()(frames[0], frames[1], 4)
    assert future.shape == (4, 64, 96, 3)
    for n, image in enumerate(future):
        error = np.abs(image.astype(int) - frames[2 + n])[8:-8, 20:-20].mean()
        still = np.abs(frames[1].astype(int) - frames[2 + n])[8:-8, 20:-20].mean()
        assert error < 0.35 * still


def test_evaluation_scores_each_method_and_video(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_video(tmp_path / name, 14)
    clips = [(f"{name}:{n}", moving_frames(8 + n)[n:]) for name in "ab" for n in range(2)]
    methods = {"model": model_method(tiny_prediction_model(tmp_path / "m"), 3)}
    methods |= {COPY: copy_last, FLOW: optical_flow()}
    result = evaluate_prediction(
        in_batches(clips, 3), methods, 5, 3, by_video=True, progress=False, pictures=tmp_path / "p"
    )
    values = result.as_dict()
    assert values["clips"] == 4
    assert set(values["videos"]) == {"a", "b"}
    expected = sum(
        ((clip[4] / 255.0 - clip[5:] / 255.0) ** 2).sum(axis=(1, 2, 3)) for _, clip in clips[:2]
    )
    np.testing.assert_allclose(result.videos["a"][COPY].sums["mse"], expected, rtol=1e-3)
    assert COPY in result.table()
    assert (tmp_path / "p" / "00.png").is_file()
    assert (tmp_path / "p" / "steps.png").is_file()
    with pytest.raises(InputError, match="no clip"):
        evaluate_prediction([], methods, 5, 3, progress=False)
    with pytest.raises(InputError, match="are needed"):
        evaluate_prediction(in_batches(clips, 3), methods, 5, 4, progress=False)


def test_commands_evaluate_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", digits())
    model = tiny_prediction_model(tmp_path / "m", "layers", colours=1, horizon=10)
    arguments = ["evaluate", "moving-mnist", "--root", str(tmp_path), "--model", model]
    arguments += ["--count", "4", "--json", str(tmp_path / "out.json"), "--quiet"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "LPIPS was not computed" in captured.err
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["partial"]
    assert values["clips"] == 4
    assert set(values["methods"]) == {"m", COPY, FLOW}
    assert len(values["methods"]["m"]["steps"]["mse"]) == 10

    draw_video(tmp_path / "clip", 7, (48, 64))
    color = tiny_prediction_model(tmp_path / "c")
    video = ["predict", str(tmp_path / "clip"), "--model", color, "--out", str(tmp_path / "o")]
    assert cli.main([*video, "--observe", "4", "--horizon", "5"]) == 0
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["steps_with_truth"] == 3
    assert len(list((tmp_path / "o" / "predicted").glob("*.png"))) == 5
    assert (tmp_path / "o" / "sheet.png").is_file()
    assert cli.main([*video, "--observe", "4", "--horizon", "2"]) == 0
    left = sorted(path.name for path in (tmp_path / "o" / "predicted").iterdir())
    assert left == ["001.png", "002.png"], "those of the longer run are gone"
    capsys.readouterr()
    (tmp_path / "file").write_text("no folder")
    assert cli.main([*video[:-1], str(tmp_path / "file"), "--observe", "4"]) == 2
    assert "is a file, a folder is needed" in capsys.readouterr().err
    assert cli.main([*video, "--observe", "9"]) == 2
    assert "7 frames" in capsys.readouterr().err
    clips = ["evaluate", "video", "--root", str(tmp_path / "clip"), "--model", color]
    common = [*clips, "--observe", "4", "--horizon", "2", "--quiet"]
    assert cli.main([*common, "--size", "40"]) == 2
    assert "multiples of 16" in capsys.readouterr().err
    assert cli.main([*common, "--videos", ","]) == 2
    assert "--videos names no video" in capsys.readouterr().err
    assert cli.main([*common, "--size", "48"]) == 0
    assert "optical_flow" in capsys.readouterr().out


def test_a_name_in_an_unknown_encoding_is_drawn_and_printed(tmp_path: Path) -> None:
    clip, out = (tmp_path / os.fsdecode(name) for name in (b"f\xfcr", b"\xfcber"))  # Latin-1
    draw_video(tmp_path / "clip", 5, (48, 64))
    (tmp_path / "clip").rename(clip)
    arguments = ["predict", str(clip), "--model", tiny_prediction_model(tmp_path / "c")]
    arguments += ["--out", str(out), "--observe", "4", "--horizon", "2"]
    # OpenCV ended the process when it drew such a title
    done = subprocess.run(
        [sys.executable, "-m", "stremn_ros.cli", *arguments],
        capture_output=True,
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\udcfcber" in done.stdout
    assert (out / "sheet.png").is_file()


def test_models_of_one_name_are_all_judged(tmp_path: Path) -> None:
    draw_video(tmp_path / "clip", 7, (48, 64))
    models = [tiny_prediction_model(tmp_path / folder / "m") for folder in "ab"]
    out = tmp_path / "out.json"
    arguments = ["evaluate", "video", "--root", str(tmp_path / "clip"), "--json", str(out)]
    arguments += ["--model", ",".join(models), "--observe", "4", "--horizon", "2", "--size", "48"]
    assert cli.main([*arguments, "--quiet"]) == 0
    assert set(json.loads(out.read_text())["methods"]) == {*models, COPY, FLOW}


@pytest.mark.parametrize("data", ["kth", "human36m"])
def test_commands_evaluate_sets_of_other_papers(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data == "kth":
        draw_kth(tmp_path / "walking" / "person17_walking_d1_uncomp", range(1, 8))
    else:
        draw_human36m(tmp_path, range(1, 25))
    color = tiny_prediction_model(tmp_path / "c")
    arguments = ["evaluate", data, "--root", str(tmp_path), "--model", color, "--quiet"]
    arguments += ["--observe", "3", "--horizon", "2", "--json", str(tmp_path / "out.json")]
    assert cli.main(arguments) == 0
    assert "optical_flow" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "out.json").read_text())["methods"]) == {"c", COPY, FLOW}


# ---------------------------------------------------------------------- training


SMALL_NETWORK = {
    "widths": list(WIDTHS),
    "template_channels": 8,
    "key_channels": 4,
    "value_channels": 8,
    "horizon": 3,
}


def settings(tmp_path: Path, **changes: object) -> Path:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", digits(520))
    values = {
        "run": str(tmp_path / "run"),
        "root": str(tmp_path),
        "phases": [{"iterations": 4, "batch": 2, "observe": [5], "coarse": 0.5}],
        "network": SMALL_NETWORK,
        "horizon": 3,
        "warmup": 1,
        "decay": 2,
        "validate_every": 4,
        "validate_clips": 2,
        "checkpoint_every": 2,
        "threads": 1,
        "workers": 0,
        **changes,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_training_in_pieces_is_one_training(tmp_path: Path) -> None:
    whole = PredictTraining.read(settings(tmp_path))
    train(whole)
    expected = load_prediction_network(tmp_path / "run" / "model")[0].state_dict()
    pieces = PredictTraining.read(settings(tmp_path, run=str(tmp_path / "pieces")))
    pieces.time_limit = 1e-6  # one iteration a piece
    for _ in range(4):
        train(pieces)
    found = load_prediction_network(tmp_path / "pieces" / "model")[0].state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 4]
    assert rows[-1]["validation"] > 0.0
    assert (tmp_path / "run" / "curves.png").is_file()


def test_paths_alone_train_the_steer_alone(tmp_path: Path) -> None:
    """A phase without clips touches nothing else, and a later run starts from what fits."""
    network = {**SMALL_NETWORK, "head": "layers"}
    alone = [{"iterations": 3, "batch": 0, "paths": 8, "observe": [4, 12]}]
    common = {"loss": {"path": 0.3}}
    config = PredictTraining.read(settings(tmp_path, network=network, phases=alone, **common))
    torch.manual_seed(config.seed)
    fresh = PredictionNetwork(PredictionConfig.from_mapping(network)).state_dict()
    config.ema_decay = 0.0
    model = train(config)
    trained = load_prediction_network(model)[0].state_dict()
    changed = {name for name, value in trained.items() if not value.equal(fresh[name])}
    assert changed
    assert {name.rsplit(".", 2)[0] for name in changed} <= {"carry.steer.begin", "carry.steer.cell"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(row["off"] > 0.0 and np.isnan(row["mse"]) for row in rows)

    both = [{"iterations": 1, "batch": 2, "paths": 8, "observe": [4]}]
    wider = {**network, "layers": 3}  # other shapes in the head, the same encoder
    run = str(tmp_path / "next")
    given = {**common, "network": wider, "phases": both, "start": str(model), "run": run}
    config = PredictTraining.read(settings(tmp_path, **given))
    config.learning_rate = 0.0
    next_one = load_prediction_network(train(config))[0].state_dict()
    for name, value in next_one.items():
        if not name.startswith("carry.divide"):
            assert value.equal(trained[name]), name
    for wrong in (
        {**common, "network": {**network, "head": "paint"}, "phases": alone},
        {"network": network, "phases": alone},  # nothing in the loss asks for them
        {"phases": [{"iterations": 1, "batch": 0}]},
    ):
        with pytest.raises(InputError, match="paths"):
            PredictTraining.read(settings(tmp_path, **wrong))


def test_training_on_videos_and_of_the_baseline(tmp_path: Path) -> None:
    for name in ("one", "two", "held"):
        draw_video(tmp_path / "videos" / name, 14, (48, 64))
    common = {
        "data": "videos",
        "root": str(tmp_path / "videos"),
        "exclude": ["held"],
        "rows": 40,
        "phases": [{"iterations": 1, "batch": 2, "observe": [5], "size": 32}],
        "validate_every": 1,
    }
    network = {**SMALL_NETWORK, "colours": 3, "head": "paint"}
    folder = train(PredictTraining.read(settings(tmp_path, network=network, **common)))
    assert Predictor.load(str(folder), processing_size=32).horizon == 3
    flow = {"architecture": "flow", "run": str(tmp_path / "flow")}
    small = {"colours": 3, "widths": [8, 8, 8], "carried": 4, "mixing": 4, "horizon": 3}
    likely = {"log_l2": 1.0, "ssim": 0.01, "spread": 0.002}
    given = {**common, **flow, "network": small, "loss": likely}
    folder = train(PredictTraining.read(settings(tmp_path, **given)))
    predictor = Predictor.load(str(folder), processing_size=32)
    for frame in moving_frames(12, 48, 48):  # the default of observe is 10
        future = predictor.step(frame)
    assert future is not None
    assert predictor.spread is not None
    digits = {"data": "moving_mnist", "run": str(tmp_path / "digits")}
    with pytest.raises(InputError, match="data must be videos"):
        train(PredictTraining.read(settings(tmp_path, **{**given, **digits})))
    base = {"architecture": "convlstm", "run": str(tmp_path / "base")}
    hidden = {"colours": 3, "hidden": [4]}
    folder = train(PredictTraining.read(settings(tmp_path, network=hidden, **common, **base)))
    assert isinstance(load_prediction_network(folder)[0], ConvLstm)


def test_a_video_that_is_held_out_is_known_by_any_of_its_names(tmp_path: Path) -> None:
    for name in ("one", "d1/2024.05", "d2/2024.05"):
        draw_video(tmp_path / name, 14, (48, 64))
    (tmp_path / "all.txt").write_text("one\nd1/2024.05\nd2/2024.05\n")
    common = {
        "data": "videos",
        "root": str(tmp_path / "all.txt"),
        "rows": 40,
        "phases": [{"iterations": 1, "batch": 2, "observe": [5], "size": 32}],
        "network": {**SMALL_NETWORK, "colours": 3, "head": "paint"},
    }
    for named, count in (("d1/2024.05", 1), ("2024.05", 2), ("one", 1)):
        config = PredictTraining.read(settings(tmp_path, exclude=[named], **common))
        task = PredictTask(config, "cpu")
        assert len(task._store([], [named]).videos) == count
        assert len(task._store([named]).videos) == 3 - count


def test_training_files_that_are_wrong_say_so(tmp_path: Path) -> None:
    for changes, word in (
        ({"data": "dreams"}, "moving_mnist or videos"),
        ({"speed": 1}, "unknown entries"),
        ({"loss": {"l3": 1.0}}, "loss"),
        ({"update_rule": "none"}, "update_rule"),
        ({"phases": [{"iterations": 1, "observe": [2]}]}, "3 or more"),
        ({"phases": [{"iterations": 1, "observe": [5], "reference": [3]}]}, "reference"),
        ({"phases": [{"iterations": 1, "observe": []}]}, "observe is .*one number or more"),
        ({"phases": [{"iterations": 1, "observe": [5], "reference": []}]}, "reference is "),
        ({"phases": [{"iterations": 1, "batch": -1}]}, "batch is -1; it must be 0 or more"),
        ({"phases": [{"iterations": 1, "shrink": 0.5}]}, "shrink is 0.5; it must be 1 or more"),
        ({"loss": {"l1": -1.0}}, "loss: l1 is -1.0; it must be 0 or more"),
        ({"horizon": 0}, "horizon is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"data": "videos", "rows": 40}, "rows is 40; it must be 0, or at least the size 128"),
    ):
        with pytest.raises(InputError, match=word):
            PredictTraining.read(settings(tmp_path, **changes))
    fifty = {"data": "videos", "phases": [{"iterations": 1, "size": 50}]}
    for changes, word in (
        ({"horizon": 5}, "horizon"),
        ({"phases": []}, "phases is empty"),
        (fifty, "for this network a size must be a multiple of 8"),
        ({"defaults": {"zzz": 5}}, r"defaults: unknown entries \['zzz'\]"),
        ({"defaults": {"slots": "five"}}, "defaults: slots is 'five'; it must be a whole number"),
        ({"defaults": {"update_rule": ["oldest"]}}, "defaults: .*wrong type"),
        ({"defaults": {"observe": 1}}, "defaults: observe is 1"),
    ):
        with pytest.raises(InputError, match=word):
            train(PredictTraining.read(settings(tmp_path, **changes)))


def test_a_network_learns_a_movement() -> None:
    """A few steps on one clip bring it far below the last frame taken for the future."""
    torch.manual_seed(0)
    network = PredictionNetwork(
        PredictionConfig(
            widths=WIDTHS, template_channels=8, key_channels=4, value_channels=8, horizon=3
        )
    )
    frames = torch.zeros(1, 9, 1, 32, 32)
    for t in range(9):
        frames[0, t, 0, 10:20, 2 + 2 * t : 8 + 2 * t] = 1.0
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(40):
        predicted = unroll_prediction(network, frames[:, :6], 5, "least_similar", 2).frames
        loss = (predicted - frames[:, 6:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = (frames[:, 5:6] - frames[:, 6:]).square().mean()
    assert loss.item() < 0.5 * still.item()
