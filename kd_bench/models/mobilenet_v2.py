"""MobileNetV2 (Sandler et al., 2018), arXiv:1801.04381, for small images.

As in RepDistiller, which uses half the width: ReLU instead of ReLU6, a stem of stride 2 and blocks
of stride 1 in the first two groups, an expansion by a 1x1 convolution in the first block as well,
and no dropout.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import require_positive
from kd_bench.models.initialization import initialize_classifier, initialize_convolutions

STEM, HEAD = 32, 1280  # channels before and after the blocks; a width below 1 keeps the head's
# Expansion, channels, blocks, and stride of the first block: table 2 of the paper, for 32x32.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The last group of each stage.
ENDS = {"stage1": 1, "stage2": 2, "stage3": 4, "stage4": 6}


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and a linear projection; [B, channels_in, H, W] -> ...

    A 1x1, a depthwise 3x3 and a 1x1 convolution, each with batch norm, a ReLU after the first two.
    There is a shortcut if the shape does not change.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int):
        super().__init__()
        inner = channels_in * expansion
        self.has_shortcut = stride == 1 and channels_in == channels
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


def _convolution(channels_in: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class MobileNetV2(nn.Module):
    """A stem, seven groups of inverted residuals, a 1x1 convolution; image -> logits [B, K].

    `width` multiplies the numbers of channels in the paper.

    Stages (32x32 image, width 0.5): stem [16, 16, 16], stage1 [12, 16, 16], stage2 [16, 8, 8],
    stage3 [48, 4, 4], stage4 [160, 2, 2]; pooled [1280], the input of the classifier. Blocks have
    a linear output, so there is no ReLU after stage1 to stage4, and `stage1_pre` etc. equal them;
    `stem_pre` is before the stem's ReLU. `_norm` is the last batch norm.
    Initialized as in RepDistiller: convolutions by `initialize_convolutions`, batch norm (1, 0),
    the classifier by `initialize_classifier`.
    """

    def __init__(self, num_classes: int, width: float):
        super().__init__()
        require_positive("width", width)
        channels = int(STEM * width)
        self.conv1 = _convolution(3, channels, kernel=3, stride=2)
        groups = []
        for expansion, full_width, number, stride in GROUPS:
            group = []
            for i in range(number):
                out = int(full_width * width)
                group.append(InvertedResidual(channels, out, 1 if i else stride, expansion))
                channels = out
            groups.append(nn.Sequential(*group))
        self.blocks = nn.Sequential(*groups)
        head = int(HEAD * max(width, 1.0))
        self.conv2 = _convolution(channels, head, kernel=1, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, num_classes)
        self.stages = _stages()
        initialize_convolutions(self)
        initialize_classifier(self.classifier)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(image)))  # [B, 1280, H/16, W/16]
        return self.classifier(self.avgpool(x).flatten(1))


def _stages() -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    ends = {stage: f"blocks.{group}" for stage, group in ENDS.items()}
    norms = {
        stage: f"blocks.{group}.{GROUPS[group][2] - 1}.conv.7" for stage, group in ENDS.items()
    }
    return {
        "stem": "conv1",
        **ends,
        "pooled": "classifier:input",
        "stem_pre": "conv1.2:input",
        **{f"{stage}_pre": path for stage, path in ends.items()},
        "stem_norm": "conv1.1",
        **{f"{stage}_norm": path for stage, path in norms.items()},
    }
