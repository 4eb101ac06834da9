"""Metrics of predicted frames, by the definitions of the published tables.

Frames are float tensors [N, C, H, W] in 0..1; each function gives one value a frame, [N]. MSE and
MAE are sums over a frame (over its colors as well); a table's figure is their mean over frames.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stremn_ros.errors import InputError

WINDOWS = {False: 7, True: 11}  # pixels; uniform, Gaussian


def squared_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sum of squared differences of each frame (the tables' MSE)."""
    return (prediction - truth).square().flatten(1).sum(dim=1)


def absolute_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sum of absolute differences of each frame (the tables' MAE)."""
    return (prediction - truth).abs().flatten(1).sum(dim=1)


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a range of 0..1; infinite for equal frames."""
    mean = (prediction - truth).square().flatten(1).mean(dim=1)
    return -10.0 * mean.log10()


def can_measure_ssim() -> bool:
    """Whether scikit-image is installed."""
    return find_spec("skimage") is not None


def ssim(prediction: Tensor, truth: Tensor, gaussian: bool = False) -> Tensor:
    """Structural similarity for a range of 0..1, the mean over the colors, by scikit-image.

    Only windows that lie inside the frame count.

    Args:
        gaussian: False: windows of 7 x 7 pixels, all alike, and the sample covariance; what
            scikit-image does by default, and with it the published tables of video
            prediction. True: the original definition (Wang et al., 2004), Gaussian windows of
            11 x 11 pixels, standard deviation 1.5. On Moving MNIST the first is the higher.

    Raises:
        InputError: the frames are smaller than a window, or scikit-image is not installed.
    """
    side = WINDOWS[gaussian]
    if min(prediction.shape[-2:]) < side:
        raise InputError(f"SSIM needs frames of {side} x {side} pixels at least")
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise InputError(
            f'SSIM needs scikit-image (pip install "stremn_ros[evaluation]"): {error}'
        ) from None
    options: dict[str, Any] = {"win_size": side}
    if gaussian:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(prediction.detach().cpu().numpy(), truth.detach().cpu().numpy(), strict=True)
    values = [
        structural_similarity(a, b, channel_axis=0, data_range=1.0, **options) for a, b in pairs
    ]
    return torch.tensor(values, dtype=torch.float64, device=prediction.device)


class Lpips(nn.Module):
    """LPIPS (Zhang et al., 2018), version 0.1 on AlexNet.

    Nothing of it is shipped or fetched: it needs AlexNet's ImageNet weights as torchvision names
    them, and the metric's own five layers (alex.pth of the package ``lpips``, or of torchmetrics).

    Args:
        backbone: file of AlexNet's weights; layers: file of the metric's. Both are read without
        executing anything in them.

    Raises:
        InputError: a file that is missing or is not of that kind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Path, layers: Path) -> None:
        super().__init__()
        widths = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1)]
        widths += [(384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        self.convolutions = nn.ModuleList(nn.Conv2d(*width) for width in widths)
        weights, own = _tensors(backbone), _tensors(layers)
        try:
            for convolution, number in zip(self.convolutions, (0, 3, 6, 8, 10), strict=True):
                convolution.load_state_dict(
                    {part: weights[f"features.{number}.{part}"] for part in ("weight", "bias")}
                )
            heads = [own[f"lin{n}.model.1.weight"].float() for n in range(5)]
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"{backbone} must hold torchvision's AlexNet and {layers} the LPIPS layers: {error}"
            ) from None
        for n, head in enumerate(heads):
            self.register_buffer(f"head{n}", head)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.eval()

    @torch.no_grad()
    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Frames [N, C, H, W] in 0..1, C 1 or 3 -> [N]."""
        pair = torch.cat([prediction, truth]).expand(-1, 3, -1, -1)
        x = (2.0 * pair - 1.0 - self.mean) / self.std
        total = torch.zeros(len(prediction), device=x.device)
        for n, convolution in enumerate(self.convolutions):
            if n in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            a, b = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            difference = F.conv2d((a - b).square(), self.get_buffer(f"head{n}"))
            total = total + difference.mean(dim=(1, 2, 3))
        return total


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        # weights_only refuses anything but tensors: nothing in the file is executed
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is not documented
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds no table of tensors")
    return loaded
