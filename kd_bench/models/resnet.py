"""Residual networks for small images (He et al., 2016), arXiv:1512.03385, section 4.2.

Shortcuts are projections if the shape changes (option B of the paper), as is usual in the
distillation literature, instead of the paper's option A for CIFAR. Modules are named as in
published checkpoints of these networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_bench.interfaces import require
from kd_bench.models.initialization import initialize_convolutions


def conv3x3(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with padding 1, so that only its stride changes the size."""
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)


def projection_shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution and batch norm if the shape changes."""
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; [B, channels_in, H, W] -> [B, channels, H/s, W/s].

    The last ReLU is a separate module and not in-place, so that a hook can read its input.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection_shortcut(channels_in, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.downsample(x))


def _layer(blocks: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """A ResNet of 6n+2 layers: a 3x3 stem and three stages of n blocks; image -> logits [B, K].

    `widths` are the channels of the stem and of the three stages; the second and third stage halve
    the resolution. Any image size works, since the last map is averaged globally.

    Stages (32x32 image, widths 16, 16, 32, 64): stem and stage1 [16, 32, 32], stage2 [32, 16, 16],
    stage3 [64, 8, 8], each after its ReLU, and before it with the suffix `_pre`; pooled [64], the
    input of the classifier. `stage1_norm` etc. is the batch norm before that ReLU, on the residual
    branch.
    """

    def __init__(self, num_classes: int, depth: int, widths: Sequence[int]):
        super().__init__()
        _check(depth, widths)
        blocks = (depth - 2) // 6
        stem, *layers = widths
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = _layer(blocks, stem, layers[0], stride=1)
        self.layer2 = _layer(blocks, layers[0], layers[1], stride=2)
        self.layer3 = _layer(blocks, layers[1], layers[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(layers[2], num_classes)
        self.stages = _stages(blocks)
        initialize_convolutions(self)  # batch norm (1, 0) and classifier keep PyTorch's defaults

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))  # [B, stem, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, stage3, H/4, W/4]
        return self.fc(self.avgpool(x).flatten(1))


def _stages(blocks: int) -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    layers = {f"stage{i}": f"layer{i}" for i in (1, 2, 3)}
    before = {f"stage{i}_pre": f"layer{i}.{blocks - 1}.relu2:input" for i in (1, 2, 3)}
    norms = {f"stage{i}_norm": f"layer{i}.{blocks - 1}.bn2" for i in (1, 2, 3)}
    own = {"stem": "relu", **layers, "pooled": "fc:input", "stem_pre": "relu:input", **before}
    return {**own, "stem_norm": "bn1", **norms}


def _check(depth: int, widths: Sequence[int]) -> None:
    require(
        isinstance(depth, int) and depth >= 8 and depth % 6 == 2,
        f"depth of a ResNet must be 6n+2, such as 8, 14, 20, 32, 44, 56 or 110; got {depth!r}",
    )
    require(
        isinstance(widths, Sequence)
        and len(widths) == 4
        and all(isinstance(width, int) and width > 0 for width in widths),
        "widths of a ResNet must be four whole numbers above 0 (stem, stage1, stage2, stage3), "
        f"such as [16, 16, 32, 64]; got {widths!r}",
    )
