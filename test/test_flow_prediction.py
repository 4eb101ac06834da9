"""The prediction network that starts from the optical flow: its parts, its memory, its doubts."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prediction_helpers import moving_frames, tiny_flow_network, tiny_prediction_model
from skimage.metrics import structural_similarity as reference_ssim
from torch.nn import functional as F

from stremn_ros.clip_state import FlowState, extend, forecast, new_state
from stremn_ros.errors import InputError, ModelError
from stremn_ros.evaluation.prediction_metrics import psnr
from stremn_ros.imaging.motion import FlowExtrapolation, HalfFlow
from stremn_ros.network.flow_prediction import (
    FlowPredictionConfig,
    FlowPredictionNetwork,
    origin,
    sample,
)
from stremn_ros.predictor import TOLERANCE, Predictor, confidence
from stremn_ros.runtime.flow_decoder import FlowDecoder
from stremn_ros.runtime.flow_stages import FlowStages
from stremn_ros.training.prediction_losses import PredictionLoss, structural_similarity
from stremn_ros.training.unroll_prediction import unroll_flow_prediction

pytestmark = pytest.mark.usefixtures("one_thread")


def textured(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    """[rows, columns, 3] in 0..1, smooth, without a direction that it repeats in."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    image = np.zeros((rows, columns, 3), np.float32)
    for _ in range(12):
        fx, fy, phase = [*rng.uniform(-0.25, 0.25, 2).tolist(), rng.uniform(0, 6.3)]
        image += np.sin(fx * x + fy * y + phase)[..., None] * rng.uniform(-1, 1, 3)
    return (0.5 + image / 12.0).clip(0.0, 1.0).astype(np.float32)


def panned(count: int, rows: int = 64, columns: int = 64, step: int = 2) -> NDArray[np.uint8]:
    """A camera that moves to the left over a picture: all of it goes ``step`` pixels right."""
    wide = (textured(rows, columns + step * count) * 255.0).astype(np.uint8)
    return np.stack([wide[:, step * (count - n) :][:, :columns] for n in range(count)])


def tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """[T, H, W, C] -> [1, T, C, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)[None].float() / 255.0


def bilinear(image: NDArray[np.float32], x: NDArray, y: NDArray) -> NDArray[np.float32]:
    """[h, w, C] at places in pixels, the edge's values beyond it: written out."""
    height, width = image.shape[:2]
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (x - left)[..., None], (y - top)[..., None]
    above = (1 - a) * image[top, left] + a * image[top, right]
    return (1 - b) * above + b * ((1 - a) * image[low, left] + a * image[low, right])


# ---------------------------------------------------------------------- parts


def test_sampling_is_bilinear_and_holds_the_edge() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((12, 20, 3)).astype(np.float32)
    move = rng.uniform(-9, 9, (12, 20, 2)).astype(np.float32)
    y, x = np.mgrid[:12, :20].astype(np.float32)
    expected = bilinear(image, x + move[..., 0], y + move[..., 1])
    found = sample(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        torch.from_numpy(move).permute(2, 0, 1)[None],
    )
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_a_pixels_origin_is_where_it_moves_here_from() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    motion = torch.stack([3.0 + 0.1 * (x - 20), -1.0 + 0.08 * y])[None]  # a zoom and a pan
    back = origin(motion)
    # y + back is the origin; its motion leads here again
    again = sample(motion, back) + back
    assert again[..., 6:-6, 6:-6].abs().max() < 0.02


def test_half_flow_is_the_movement_in_pixels_of_a_half() -> None:
    frames = panned(2, 96, 128, step=4)
    flow = HalfFlow()(frames[0], frames[1])
    assert flow.shape == (2, 48, 64)
    inside = flow[:, 8:-8, 8:-8]
    assert np.abs(inside[0] - 2.0).mean() < 0.15
    assert np.abs(inside[1]).mean() < 0.15
    assert not HalfFlow()(frames[0, :16, :16], frames[1, :16, :16]).any()  # too small for it


def test_an_untrained_network_is_the_extrapolation_of_the_flow() -> None:
    """Against the written-out warping of the same flow, and in dB against the usual baseline."""
    torch.manual_seed(0)
    network = FlowPredictionNetwork(FlowPredictionConfig(widths=(8, 8, 8))).eval()
    frames = panned(9, 64, 96)
    found = forecast(network, tensor(frames[:5]), 4).frames[0]
    flow = HalfFlow()(frames[3], frames[4]).transpose(1, 2, 0)
    y, x = np.mgrid[:32, :48].astype(np.float32)
    big_y, big_x = np.mgrid[:64, :96].astype(np.float32)
    newest = frames[4].astype(np.float32) / 255.0
    for step in range(1, 5):
        back = -step * flow
        for _ in range(3):
            back = -step * bilinear(flow, x + back[..., 0], y + back[..., 1])
        # twice the size: the middle of a pixel of a half lies between two pixels
        full = 2.0 * bilinear(back, (big_x + 0.5) / 2 - 0.5, (big_y + 0.5) / 2 - 0.5)
        expected = bilinear(newest, big_x + full[..., 0], big_y + full[..., 1])
        np.testing.assert_allclose(
            found[step - 1].permute(1, 2, 0).numpy(), expected, atol=2e-3, err_msg=str(step)
        )
    truth = tensor(frames[5:])[0]
    usual = tensor(FlowExtrapolation()(frames[3], frames[4], 4))[0]
    still = tensor(np.repeat(frames[4:5], 4, axis=0))[0]
    assert psnr(found, truth).mean() > psnr(usual, truth).mean() - 1.0
    assert psnr(found, truth).mean() > psnr(still, truth).mean() + 3.0


# ---------------------------------------------------------------------- memory


def flows_of(frames: NDArray[np.uint8]) -> torch.Tensor:
    flow = HalfFlow()
    pairs = [flow(*frames[n : n + 2]) for n in range(len(frames) - 1)]
    return torch.from_numpy(np.stack(pairs))[None]


def test_memory_online_equals_memory_in_training() -> None:
    network = tiny_flow_network()
    frames = moving_frames(17)
    for seen in (3, 4, 10, 17):  # nothing to read, not full, full, and after fusions
        state = new_state(network, 1, (64, 64), slots=3)
        assert isinstance(state, FlowState)
        for t in range(seen):
            state.observe(tensor(frames)[:, t])
        online = state.predict()
        with torch.no_grad():
            unrolled = unroll_flow_prediction(
                network, tensor(frames[:seen]), flows_of(frames[:seen]), 3, "least_similar", 2
            )
        assert online.spread is not None
        assert unrolled.spread is not None
        torch.testing.assert_close(online.frames, unrolled.frames, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(online.spread, unrolled.spread, atol=2e-5, rtol=1e-4)
    assert state.memory.fusions.any()


def test_the_memory_matters_and_can_be_left_out() -> None:
    """Other frames long ago, the same three last: another prediction, unless it is left out."""
    network = tiny_flow_network()
    with torch.no_grad():
        network.read_head.weight.mul_(100.0)
    frames = moving_frames(10)
    other = frames.copy()
    other[:5] = panned(5)
    with_memory, without = (
        [forecast(network, tensor(each), 3, with_memory=on).frames for each in (frames, other)]
        for on in (True, False)
    )
    assert (with_memory[0] - with_memory[1]).abs().max() > 1e-5
    torch.testing.assert_close(without[0], without[1])


def test_every_part_of_the_network_learns() -> None:
    network = tiny_flow_network().train()
    frames = moving_frames(19)
    decoded = unroll_flow_prediction(
        network, tensor(frames), flows_of(frames), 3, "least_similar", 2
    )
    assert decoded.spread is not None
    (decoded.frames.square().mean() + decoded.spread.mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_decoder_for_the_cpu_gives_what_the_network_gives(colours: int, threads: int) -> None:
    network = tiny_flow_network(colours=colours, horizon=4)
    torch.manual_seed(1)
    # smooth, as rounding grows with the slope of pictures and flows
    images = np.stack([textured(48, 96, seed)[..., :colours] for seed in range(4)])
    frames = torch.from_numpy(images).movedim(-1, 1).unflatten(0, (2, 2))
    coarse = 12.0 * torch.rand(4, 2, 2, 4) - 6.0  # some lead beyond the edges
    flows = F.interpolate(coarse, (24, 48), mode="bicubic").unflatten(0, (2, 2))
    decoder = FlowDecoder(network, threads)
    for size in ((48, 96), (32, 32)):
        clips, moved = frames[..., : size[0], : size[1]], flows[..., : size[0] // 2, : size[1] // 2]
        with torch.inference_mode():
            encoding = network.encode(clips, moved)
            read = torch.randn(2, 8, size[0] // 16, size[1] // 16)
            newest, flow = clips[:, 1], moved[:, 1]
            expected = network.decode(read, encoding, newest, flow)
            some = network.decode(read, encoding, newest, flow, (2, 4))
            movement = network.move(read, encoding, flow)
            found = decoder(*movement, newest, encoding.earlier, (1, 2, 3, 4))
            fewer = decoder(*movement, newest, encoding.earlier, (2, 4))
        assert expected.spread is not None
        assert fewer.spread is not None
        assert expected.frames.shape == (2, 4, colours, *size)
        assert expected.frames.std() > 0.05
        torch.testing.assert_close(found.frames, expected.frames, atol=1e-4, rtol=0.0)
        torch.testing.assert_close(found.spread, expected.spread, atol=1e-4, rtol=0.0)
        torch.testing.assert_close(some.frames, expected.frames[:, 1::2], atol=1e-6, rtol=0.0)
        assert torch.equal(fewer.frames, found.frames[:, 1::2])
        assert torch.equal(fewer.spread, found.spread[:, 1::2])  # type: ignore[index]


@pytest.mark.parametrize("horizon", [1, 2, 3, 4, 7])
def test_the_last_frame_alone_is_the_last_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, horizon: int
) -> None:
    """Within the network's horizon (3) and beyond it; what nobody asked for is not made."""
    model = tiny_prediction_model(tmp_path / "m")
    every, last = (Predictor.load(model, runtime="torch") for _ in range(2))
    made: list[int] = []
    make = FlowDecoder._make

    def counted(self: FlowDecoder, seen: Any, motion: Any, step: int, *out: Any) -> None:
        made.append(step)
        make(self, seen, motion, step, *out)

    monkeypatch.setattr(FlowDecoder, "_make", counted)
    for frame in moving_frames(8):
        one = every.step(frame, horizon)
        made.clear()
        two = last.step(frame, horizon, only_last=True)
        assert (one is None) == (two is None)
        assert (every.error, every.change) == (last.error, last.change)
        if one is None or two is None:
            continue
        assert two.shape == (1, *one.shape[1:])
        np.testing.assert_array_equal(two[0], one[-1])
        assert every.spread is not None
        assert last.spread is not None
        np.testing.assert_array_equal(last.spread, every.spread[-1:])
        # the first is made for the error; a whole horizon where frames follow from frames
        expected = {1: [1], 2: [1, 2], 3: [1, 3], 4: [1, 2, 3, 1], 7: [1, 2, 3, 1, 2, 3, 1]}
        assert sorted(made) == sorted(expected[horizon])
    assert one is not None


def test_the_last_frame_alone_of_a_network_that_makes_all_together(tmp_path: Path) -> None:
    model = tiny_prediction_model(tmp_path / "m", "paint")
    every, last = (Predictor.load(model) for _ in range(2))
    for frame in moving_frames(8):
        one, two = every.step(frame, 5), last.step(frame, 5, only_last=True)
        assert every.error == last.error
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(two, one[-1:])


def test_a_forked_child_predicts_with_threads_of_its_own() -> None:
    """Those of the parent's decoder stayed in the parent; a child that waits for them hangs."""
    network = tiny_flow_network()
    frames = tensor(moving_frames(5))
    stages = FlowStages(network, torch.device("cpu"), threads=2)

    def predicted() -> torch.Tensor:
        state = new_state(stages, 1, (64, 64))
        for t in range(5):
            state.observe(frames[:, t])
        return state.predict().frames

    expected = predicted()
    reader, writer = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: writer.send(predicted().numpy()))
    child.start()
    try:
        assert reader.poll(60.0), "the child hangs"
        np.testing.assert_array_equal(reader.recv(), expected.numpy())
    finally:
        child.kill()
        child.join()


def test_nothing_grows_over_a_long_stream(tmp_path: Path) -> None:
    predictor = Predictor.load(tiny_prediction_model(tmp_path / "m"), processing_size=32)

    def held() -> int:
        """Bytes of all tensors that the states hold."""
        total = 0
        for state in (predictor._state, predictor._ahead):
            assert isinstance(state, FlowState)
            parts = [*state.frames, *state._flows, *itertools.chain(*state._encodings)]
            total += sum(part.numel() * part.element_size() for part in parts)
        return total + predictor.memory_bytes

    sizes = []
    frames = moving_frames(16, 32, 32)
    for n, frame in enumerate(itertools.islice(itertools.cycle(frames), 150)):
        predictor.step(frame, horizon=7)
        if n >= 20:
            sizes.append(held())
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


def test_a_reset_forgets_everything(tmp_path: Path) -> None:
    fresh, used = (Predictor.load(tiny_prediction_model(tmp_path / "m")) for _ in range(2))
    for frame in panned(7):
        used.step(frame)
    used.reset()
    assert used.spread is None
    for frame in moving_frames(6):
        a, b = fresh.step(frame), used.step(frame)
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a, b)


def test_configurations_that_cannot_be_say_so() -> None:
    for wrong, word in (
        ({"widths": [4, 4]}, "three"),
        ({"widths": [4, 4, 0]}, "1 to 4096"),
        ({"colours": 2}, "colours"),
        ({"affinity": "selective"}, "affinity"),
        ({"head": "paint"}, "unknown"),
    ):
        with pytest.raises(ModelError, match=word):
            FlowPredictionConfig.from_mapping(wrong)
    config = FlowPredictionConfig(mixing=8)
    assert FlowPredictionConfig.from_mapping(config.to_mapping()) == config
    with pytest.raises(InputError, match="needs 3 frames"):
        new_state(tiny_flow_network(), 1, (64, 64)).predict()


# ---------------------------------------------------------------------- losses and doubts


def test_losses_are_their_formulas() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 3, 24, 24), torch.rand(2, 3, 3, 24, 24)
    each = (a - b).square().flatten(2).mean(dim=2)
    found = PredictionLoss(l2=0.0, log_l2=1.0)(a, b)
    logs = (each + 1e-4).log()
    torch.testing.assert_close(found, logs.mean())
    found = PredictionLoss(l2=0.0, log_l2=1.0, first=2.0)(a, b)
    expected = (2.0 * logs[:, 0] + logs[:, 1] + logs[:, 2]).mean() / 4.0
    torch.testing.assert_close(found, expected)
    pairs = zip(a.flatten(0, 1).numpy(), b.flatten(0, 1).numpy(), strict=True)
    expected = np.mean(
        [
            reference_ssim(p, q, channel_axis=0, data_range=1.0, use_sample_covariance=False)
            for p, q in pairs
        ]
    )
    assert float(structural_similarity(a, b)) == pytest.approx(expected, abs=1e-3)
    spread = torch.rand(2, 3, 24, 24) + 0.05
    error = (a - b).abs().mean(dim=2)
    laplace = torch.distributions.Laplace(torch.zeros_like(spread), spread)
    likelihood = -laplace.log_prob(error).mean() - np.log(2.0)  # without the constant
    found = PredictionLoss(spread=1.0).of_spread(spread, a, b)
    torch.testing.assert_close(found, likelihood.float(), atol=1e-4, rtol=1e-4)


def test_the_expected_error_is_learned_apart_from_the_picture() -> None:
    """Its loss moves nothing that makes the picture, and leads to the mean error."""
    prediction = torch.rand(1, 1, 3, 8, 8, requires_grad=True)
    truth = torch.rand(1, 1, 3, 8, 8)
    loss = PredictionLoss(spread=1.0)
    spread = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    error = (prediction - truth).abs().mean(dim=2).detach()
    loss.of_spread(spread, prediction, truth).backward()
    assert prediction.grad is None
    optimizer = torch.optim.Adam([spread], 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        loss.of_spread(spread.clamp(min=1e-3), prediction, truth).backward()
        optimizer.step()
    torch.testing.assert_close(spread.detach(), error, atol=0.02, rtol=0.1)


def test_expected_errors_add_up_beyond_the_horizon() -> None:
    network = tiny_flow_network()
    state = new_state(network, 1, (64, 64))
    frames = tensor(moving_frames(8))
    for t in range(8):
        state.observe(frames[:, t])
    near, far = state.predict(), extend(state, range(1, 8))
    assert near.spread is not None
    assert far.spread is not None
    assert far.spread.shape == (1, 7, 64, 64)
    torch.testing.assert_close(far.spread[:, :3], near.spread)
    assert (far.spread[:, 3] > near.spread[:, 2]).all()


def test_confidence_is_a_probability() -> None:
    spread = np.array([[0.002, 0.05], [0.2, 1.0]], np.float32)
    expected = 255.0 * (1.0 - np.exp(-TOLERANCE / spread))
    np.testing.assert_array_equal(confidence(spread, (2, 2)), np.rint(expected))
    assert confidence(np.full((16, 16), 0.1, np.float32), (48, 64)).shape == (48, 64)
