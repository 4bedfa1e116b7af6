"""ShuffleNet V2 (Ma et al., 2018), arXiv:1807.11164, for small images.

As in RepDistiller: a 1x1 stem of stride 1 without pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_bench.models.shufflenet_v1 import shuffled

STEM, HEAD = 24, 1024  # channels
WIDTHS = (116, 232, 464)  # of the stages, at width 1: table 5 of the paper
BLOCKS = (4, 8, 4)


def _pointwise(channels_in: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class SplitUnit(nn.Module):
    """Three convolutions of half of the channels, none of the others: [B, C, H, W] -> same.

    The last ReLU is applied to both halves, so that its input is the unit's whole output before the
    ReLU. It does not change the half without convolutions, which is nonnegative.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *_pointwise(half, half), nn.ReLU(), *_depthwise(half, 1), *_pointwise(half, half)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        passed, taken = x.chunk(2, dim=1)
        return self.relu(shuffled(torch.cat([passed, self.branch(taken)], 1), 2))


class DownUnit(nn.Module):
    """Two concatenated branches of stride 2: [B, channels_in, H, W] -> [B, channels, H/2, W/2]."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(*_depthwise(channels_in, 2), *_pointwise(channels_in, half))
        self.right = nn.Sequential(
            *_pointwise(channels_in, half), nn.ReLU(), *_depthwise(half, 2), *_pointwise(half, half)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(shuffled(torch.cat([self.left(x), self.right(x)], 1), 2))


def _layer(number: int, channels_in: int, channels: int) -> nn.Sequential:
    others = (SplitUnit(channels) for _ in range(number - 1))
    return nn.Sequential(DownUnit(channels_in, channels), *others)


class ShuffleNetV2(nn.Module):
    """A 1x1 stem, three stages that halve the resolution, a 1x1 convolution; image -> [B, K].

    Stages (32x32 image): stem [24, 32, 32], stage1 [116, 16, 16], stage2 [232, 8, 8], stage3
    [464, 4, 4], each after its ReLU, and before it with the suffix `_pre`; half of the channels of
    stage1_pre etc. come from the previous unit, so they are nonnegative. (RepDistiller's have the
    channel order before the shuffle, unlike its stages; these have the stages' order.) pooled
    [1024] is the input of the classifier. `stem_norm` is the stem's batch norm; no batch norm has
    all the channels of a stage. Initialized by PyTorch's defaults, as in RepDistiller.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu1 = nn.ReLU()
        self.layer1 = _layer(BLOCKS[0], STEM, WIDTHS[0])
        self.layer2 = _layer(BLOCKS[1], WIDTHS[0], WIDTHS[1])
        self.layer3 = _layer(BLOCKS[2], WIDTHS[1], WIDTHS[2])
        self.conv2 = nn.Conv2d(WIDTHS[2], HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(HEAD)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(HEAD, num_classes)
        self.stages = _stages()

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(image)))  # [B, 24, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, 464, H/8, W/8]
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _stages() -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    ends = {f"stage{i}": f"layer{i}.{number - 1}" for i, number in enumerate(BLOCKS, start=1)}
    return {
        "stem": "relu1",
        **{f"stage{i}": f"layer{i}" for i in (1, 2, 3)},
        "pooled": "linear:input",
        "stem_pre": "relu1:input",
        **{f"{stage}_pre": f"{end}.relu:input" for stage, end in ends.items()},
        "stem_norm": "bn1",
    }
