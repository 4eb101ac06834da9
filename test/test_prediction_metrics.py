"""Metrics of predicted frames against scikit-image, torchmetrics and sums written out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torchmetrics.functional import image as torchmetrics_image

from stremn_ros.errors import InputError
from stremn_ros.evaluation import prediction as prediction_scores
from stremn_ros.evaluation import prediction_metrics as metrics
from stremn_ros.evaluation.prediction import MOST_PSNR, Scores


def frames(colours: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches [3, C, 40, 48]: noise, or mostly black as Moving MNIST is, or nearly equal."""
    rng = np.random.default_rng(colours)
    truth = rng.random((3, colours, 40, 48)).astype(np.float32)
    if kind == "black":
        truth *= rng.random(truth.shape) > 0.9
        truth[:, :, :20] = 0.0
    other = rng.random(truth.shape).astype(np.float32)
    share = 0.01 if kind == "close" else 0.4
    return torch.from_numpy((1 - share) * truth + share * other), torch.from_numpy(truth)


@pytest.mark.parametrize("kind", ["noise", "black", "close"])
@pytest.mark.parametrize("colours", [1, 3])
def test_psnr_agrees_with_the_libraries(colours: int, kind: str) -> None:
    prediction, truth = frames(colours, kind)
    decibels = metrics.psnr(prediction, truth)
    for n in range(len(truth)):
        a, b = (x[n].double().numpy() for x in (prediction, truth))
        theirs = peak_signal_noise_ratio(b, a, data_range=1.0)
        assert decibels[n].item() == pytest.approx(theirs, abs=1e-4)
        pair = prediction[n : n + 1], truth[n : n + 1]
        assert decibels[n].item() == pytest.approx(
            torchmetrics_image.peak_signal_noise_ratio(*pair, data_range=1.0).item(), abs=1e-4
        )


def written_out(a: np.ndarray, b: np.ndarray, weights: np.ndarray, correction: float) -> float:
    """SSIM of two planes, window by window (Wang et al., 2004, equations 14 to 16 and 13)."""
    side = len(weights)
    values = []
    for row in range(a.shape[0] - side + 1):
        for column in range(a.shape[1] - side + 1):
            x, y = (z[row : row + side, column : column + side] for z in (a, b))
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            var_x = correction * (weights * (x - mean_x) ** 2).sum()
            var_y = correction * (weights * (y - mean_y) ** 2).sum()
            covariance = correction * (weights * (x - mean_x) * (y - mean_y)).sum()
            top = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
            values.append(top / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("kind", ["noise", "black", "close"])
def test_ssim_is_the_published_formula(kind: str) -> None:
    prediction, truth = (x[:, :, :24, :26] for x in frames(3, kind))
    far = np.arange(11) - 5
    line = np.exp(-0.5 * (far / 1.5) ** 2)
    gaussian = np.outer(line, line) / np.outer(line, line).sum()
    uniform = np.full((7, 7), 1 / 49)
    for is_gaussian, weights, correction in [(False, uniform, 49 / 48), (True, gaussian, 1.0)]:
        ours = metrics.ssim(prediction, truth, gaussian=is_gaussian)
        for n, (a, b) in enumerate(zip(prediction.double().numpy(), truth.double().numpy())):
            planes = [written_out(x, y, weights, correction) for x, y in zip(a, b, strict=True)]
            assert ours[n].item() == pytest.approx(np.mean(planes), abs=1e-4)


def test_the_two_conventions_of_ssim_differ() -> None:
    pair = frames(1, "black")
    assert abs(metrics.ssim(*pair) - metrics.ssim(*pair, gaussian=True)).min() > 0.002


def test_errors_are_sums_over_a_frame() -> None:
    prediction, truth = frames(3, "noise")
    a, b = prediction.double().numpy(), truth.double().numpy()
    for n in range(3):
        squared, absolute = ((a[n] - b[n]) ** 2).sum(), np.abs(a[n] - b[n]).sum()
        assert metrics.squared_error(prediction, truth)[n].item() == pytest.approx(
            squared, rel=1e-5
        )
        assert metrics.absolute_error(prediction, truth)[n].item() == pytest.approx(
            absolute, rel=1e-5
        )


def test_scores_are_means_over_frames_and_equal_frames_have_a_finite_psnr() -> None:
    prediction, truth = frames(1, "noise")
    prediction[0] = truth[0]
    scores = Scores(3)
    scores.add(prediction[None], truth[None], None)
    scores.add(truth[None], truth[None], None)
    assert scores.clips == 2
    expected = metrics.squared_error(prediction, truth).double().numpy() / 2
    np.testing.assert_allclose(scores.steps("mse"), expected)
    assert scores.mean("mse") == pytest.approx(expected.mean())
    assert scores.steps("psnr")[0] == MOST_PSNR
    assert scores.steps("ssim")[0] == pytest.approx(1.0)


def test_frames_smaller_than_a_window_are_refused() -> None:
    small = torch.zeros(1, 1, 6, 20)
    with pytest.raises(InputError, match="7 x 7"):
        metrics.ssim(small, small)


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    prediction, truth = frames(1, "noise")
    with pytest.raises(InputError, match=r'scikit-image \(pip install "stremn_ros\[evaluation\]"'):
        metrics.ssim(prediction, truth)
    monkeypatch.setattr(prediction_scores, "can_measure_ssim", lambda: False)
    scores = Scores(3, needs_ssim=False)
    scores.add(prediction[None], truth[None], None)
    assert sorted(scores.sums) == ["mae", "mse", "psnr"]


def write_lpips(folder) -> tuple:
    """AlexNet's convolutions and the metric's layers with random weights, named as published."""
    torch.manual_seed(0)
    widths = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1)]
    widths += [(384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
    layers = [nn.Conv2d(*width) for width in widths]
    backbone = {
        f"features.{number}.{part}": value
        for number, layer in zip((0, 3, 6, 8, 10), layers, strict=True)
        for part, value in layer.state_dict().items()
    }
    heads = {
        f"lin{n}.model.1.weight": torch.rand(1, width[1], 1, 1) for n, width in enumerate(widths)
    }
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(heads, folder / "layers.pth")
    return layers, heads


def test_lpips_is_the_published_formula(tmp_path) -> None:
    layers, heads = write_lpips(tmp_path)
    measure = metrics.Lpips(tmp_path / "alexnet.pth", tmp_path / "layers.pth")
    rng = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, 64, 64, generator=rng), torch.rand(2, 3, 64, 64, generator=rng)
    found = measure(a, b)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    for n in range(2):
        x, y = (((2 * image[n] - 1) - shift) / scale for image in (a, b))
        expected = 0.0
        with torch.no_grad():
            for number, layer in enumerate(layers):
                if number in (1, 2):
                    x, y = (nn.functional.max_pool2d(z, 3, 2) for z in (x, y))
                x, y = layer(x).relu(), layer(y).relu()
                unit = [z / (z.norm(dim=0) + 1e-10) for z in (x, y)]
                weights = heads[f"lin{number}.model.1.weight"][0]
                expected += float(((unit[0] - unit[1]) ** 2 * weights).sum(dim=0).mean())
        assert found[n].item() == pytest.approx(expected, rel=1e-4)
    assert measure(a, a).abs().max() == 0.0
    gray = torch.rand(1, 1, 64, 64, generator=rng)
    assert measure(gray, 1 - gray).item() > 0.0


def test_lpips_files_that_are_not_its_weights_are_refused(tmp_path) -> None:
    write_lpips(tmp_path)
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read"):
        metrics.Lpips(bad, tmp_path / "layers.pth")
    with pytest.raises(InputError, match="AlexNet"):
        metrics.Lpips(tmp_path / "layers.pth", tmp_path / "layers.pth")
