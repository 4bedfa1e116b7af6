"""MobileNetV1 (Howard et al., 2017), arXiv:1704.04861, table 1, for ImageNet."""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import require_positive
from kd_bench.models.initialization import initialize_convolutions

STEM = 32  # channels
# Channels and stride of each block: table 1 of the paper. The last block has a stride of 1, which
# follows from the size of its input in the table.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# The last block of each stage, before the next strided one.
ENDS = {"stem": 0, "stage1": 2, "stage2": 4, "stage3": 10, "stage4": 12}


class SeparableConvolution(nn.Sequential):
    """A depthwise 3x3 and a 1x1 convolution, each with batch norm and a ReLU.

    [B, channels_in, H, W] -> [B, channels, H/stride, W/stride].
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class MobileNetV1(nn.Module):
    """A stem of stride 2 and thirteen separable convolutions; image -> logits [B, K].

    `width` multiplies the numbers of channels in the paper.

    Stages (224x224 image): stem [64, 112, 112], stage1 [128, 56, 56], stage2 [256, 28, 28], stage3
    [512, 14, 14], stage4 [1024, 7, 7], of the same sizes as in a ResNet. Each is read after its
    ReLU, and before it with the suffix `_pre`; `_norm` is the batch norm before that ReLU. pooled
    [1024] is the input of the classifier. Initialized like the other networks: convolutions by
    `initialize_convolutions`, batch norm (1, 0), the classifier by PyTorch's default.
    """

    def __init__(self, num_classes: int, width: float = 1.0):
        super().__init__()
        require_positive("width", width)
        channels = int(STEM * width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        blocks = []
        for full_width, stride in BLOCKS:
            out = int(full_width * width)
            blocks.append(SeparableConvolution(channels, out, stride))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.stages = _stages()
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.conv1(image))  # [B, 1024, H/32, W/32]
        return self.fc(self.avgpool(x).flatten(1))


def _stages() -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    return {
        **{stage: f"blocks.{block}" for stage, block in ENDS.items()},
        "pooled": "fc:input",
        **{f"{stage}_pre": f"blocks.{block}.5:input" for stage, block in ENDS.items()},
        **{f"{stage}_norm": f"blocks.{block}.4" for stage, block in ENDS.items()},
    }
