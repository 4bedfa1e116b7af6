"""ShuffleNet (Zhang et al., 2018), arXiv:1707.01083, for small images.

As in RepDistiller: a 1x1 stem of stride 1 without pooling, and, unlike in the paper, a ReLU after
the depthwise convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 24  # channels
GROUPS = 3
WIDTHS = (240, 480, 960)  # of the stages, for 3 groups: table 1 of the paper
BLOCKS = (4, 8, 4)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels in the order 0, n, 2n, .., 1, n + 1, .. for n channels per group: [B, C, H, W]."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions and a shortcut.

    [B, channels_in, H, W] -> [B, channels, H/s, W/s]. With a stride of 2 the shortcut is average
    pooling, and the convolutions' `channels - channels_in` channels are concatenated, not added.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        own = channels - channels_in if stride == 2 else channels
        inner = own // 4
        self.groups = 1 if channels_in == STEM else GROUPS  # too few channels for groups
        self.conv1 = nn.Conv2d(channels_in, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, own, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(own)
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = shuffled(self.relu1(self.bn1(self.conv1(x))), self.groups)
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut is None:
            return self.relu3(out + x)
        return self.relu3(torch.cat([out, self.shortcut(x)], 1))


def _layer(number: int, channels_in: int, channels: int) -> nn.Sequential:
    first = ShuffleUnit(channels_in, channels, 2)
    return nn.Sequential(first, *(ShuffleUnit(channels, channels, 1) for _ in range(number - 1)))


class ShuffleNetV1(nn.Module):
    """A 1x1 stem and three stages that halve the resolution; image -> logits [B, K].

    Stages (32x32 image): stem [24, 32, 32], stage1 [240, 16, 16], stage2 [480, 8, 8], stage3
    [960, 4, 4], each after its ReLU, and before it with the suffix `_pre`; pooled [960], the input
    of the classifier. `stage1_norm` etc. is the batch norm before that ReLU, on the residual
    branch. Initialized by PyTorch's defaults, as in RepDistiller.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _layer(BLOCKS[0], STEM, WIDTHS[0])
        self.layer2 = _layer(BLOCKS[1], WIDTHS[0], WIDTHS[1])
        self.layer3 = _layer(BLOCKS[2], WIDTHS[1], WIDTHS[2])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        self.stages = _stages()

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))  # [B, 24, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, 960, H/8, W/8]
        return self.linear(self.avgpool(x).flatten(1))


def _stages() -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    ends = {f"stage{i}": f"layer{i}.{number - 1}" for i, number in enumerate(BLOCKS, start=1)}
    return {
        "stem": "relu",
        **{f"stage{i}": f"layer{i}" for i in (1, 2, 3)},
        "pooled": "linear:input",
        "stem_pre": "relu:input",
        **{f"{stage}_pre": f"{end}.relu3:input" for stage, end in ends.items()},
        "stem_norm": "bn1",
        **{f"{stage}_norm": f"{end}.bn3" for stage, end in ends.items()},
    }
