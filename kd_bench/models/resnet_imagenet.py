"""ResNet-18, 34 and 50 (He et al., 2016), arXiv:1512.03385, table 1.

For small images, the stem is a 3x3 convolution of stride 1 without max pooling, as is usual for
32x32; for ImageNet it is the paper's, a 7x7 convolution of stride 2 and max pooling.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd_bench.interfaces import require
from kd_bench.models.initialization import initialize_convolutions
from kd_bench.models.resnet import BasicBlock, conv3x3, projection_shortcut

WIDTHS = (64, 128, 256, 512)  # of the 3x3 convolutions in the four stages
EXPANSION = 4  # output channels of a bottleneck, per channel of its 3x3 convolution


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; [B, channels_in, H, W] -> [B, channels, ..].

    The 3x3 convolution has a quarter of the `channels`, and the stride, as is usual today; in the
    paper, the first 1x1 convolution has the stride. The last ReLU is a separate module for hooks.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        inner = channels // EXPANSION
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = projection_shortcut(channels_in, channels, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu3(out + self.downsample(x))


Block = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride

# Depth -> number of blocks in each stage, and their kind.
LAYOUTS: dict[int, tuple[tuple[int, ...], type[BasicBlock] | type[Bottleneck]]] = {
    18: ((2, 2, 2, 2), BasicBlock),
    34: ((3, 4, 6, 3), BasicBlock),
    50: ((3, 4, 6, 3), Bottleneck),
}


def _layer(block: Block, number: int, channels_in: int, channels: int, stride: int) -> nn.Module:
    first = block(channels_in, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(number - 1)))


class ImageNetResNet(nn.Module):
    """A ResNet of four stages of 64 to 512 channels (ResNet-50: 256 to 2048): image -> [B, K].

    Args:
        num_classes: K.
        depth: 18, 34 or 50.
        stem: "small", or "imagenet" with a total stride of 4; the stage `stem` is read after its
            ReLU, before pooling.

    Stages (32x32 image, ResNet-50): stem [64, 32, 32], stage1 [256, 32, 32], stage2 [512, 16, 16],
    stage3 [1024, 8, 8], stage4 [2048, 4, 4], each after its ReLU, and before it with the suffix
    `_pre`; pooled [2048], the input of the classifier. `stage1_norm` etc. is the batch norm before
    that ReLU, on the residual branch. Initialized as in RepDistiller: convolutions by
    `initialize_convolutions`, batch norm (1, 0), the classifier by PyTorch's default.
    """

    def __init__(self, num_classes: int, depth: int, stem: str = "small"):
        super().__init__()
        require(
            depth in LAYOUTS,
            f"depth of this ResNet must be {', '.join(map(str, LAYOUTS))}; got {depth!r}",
        )
        require(
            stem in ("small", "imagenet"),
            f"stem of this ResNet must be small or imagenet; got {stem!r}",
        )
        blocks, block = LAYOUTS[depth]
        factor = EXPANSION if block is Bottleneck else 1
        widths = [64, *(factor * width for width in WIDTHS)]
        is_small = stem == "small"
        self.conv1 = conv3x3(3, 64) if is_small else nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if is_small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(block, blocks[0], widths[0], widths[1], stride=1)
        self.layer2 = _layer(block, blocks[1], widths[1], widths[2], stride=2)
        self.layer3 = _layer(block, blocks[2], widths[2], widths[3], stride=2)
        self.layer4 = _layer(block, blocks[3], widths[3], widths[4], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[4], num_classes)
        self.stages = _stages(blocks, "3" if block is Bottleneck else "2")
        initialize_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))  # [B, 64, H, W]
        x = self.layer1(self.maxpool(x))
        x = self.layer4(self.layer3(self.layer2(x)))  # [B, stage4, H/8, W/8] or [.., H/32, W/32]
        return self.fc(self.avgpool(x).flatten(1))


def _stages(blocks: tuple[int, ...], last: str) -> dict[str, str]:
    """Stage -> module path; `last` is the number of a block's last ReLU and batch norm."""
    ends = {f"stage{i}": f"layer{i}.{number - 1}" for i, number in enumerate(blocks, start=1)}
    after = {stage: end.partition(".")[0] for stage, end in ends.items()}
    before = {f"{stage}_pre": f"{end}.relu{last}:input" for stage, end in ends.items()}
    norms = {f"{stage}_norm": f"{end}.bn{last}" for stage, end in ends.items()}
    own = {"stem": "relu", **after, "pooled": "fc:input", "stem_pre": "relu:input", **before}
    return {**own, "stem_norm": "bn1", **norms}
