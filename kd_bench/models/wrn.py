"""Wide Residual Networks (Zagoruyko and Komodakis, 2016), arXiv:1605.07146, without dropout."""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import require
from kd_bench.models.initialization import initialize_convolutions
from kd_bench.models.resnet import conv3x3

STEM = 16  # channels


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, and a shortcut, without a ReLU after the sum.

    [B, channels_in, H, W] -> [B, channels, H/s, W/s]. If the number of channels changes, the
    shortcut is a 1x1 convolution of the first ReLU's output.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(channels_in, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.shortcut = None
        if channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _block(number: int, channels_in: int, channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(channels_in, channels, stride)
    others = (PreActivationBlock(channels, channels, 1) for _ in range(number - 1))
    return nn.Sequential(first, *others)


class WideResNet(nn.Module):
    """A WRN of 6n+4 layers: a 3x3 stem and three stages of n blocks; image -> logits [B, K].

    The stages have 16, 32 and 64 channels times `width`.

    Stages (32x32 image, width 2): stem [16, 32, 32], stage1 [32, 32, 32], stage2 [64, 16, 16],
    stage3 [128, 8, 8], after the batch norm and the ReLU that follow a stage (those of the next
    stage's first block, or the last ones). The suffix `_pre` means before that ReLU, which is the
    output of that batch norm, `_norm`. The suffix `_sum` means the sum at the end of a stage, which
    RepDistiller and the authors of attention transfer read. pooled [128] is the input of the
    classifier. Initialized as in RepDistiller: convolutions by `initialize_convolutions`, batch
    norm (1, 0), the classifier by PyTorch's default with zero biases.
    """

    def __init__(self, num_classes: int, depth: int, width: int):
        super().__init__()
        _check(depth, width)
        number = (depth - 4) // 6
        widths = [STEM, *(width * channels for channels in (16, 32, 64))]
        self.conv1 = conv3x3(3, STEM)
        self.block1 = _block(number, widths[0], widths[1], stride=1)
        self.block2 = _block(number, widths[1], widths[2], stride=2)
        self.block3 = _block(number, widths[2], widths[3], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        self.stages = _stages()
        initialize_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(image))))
        x = self.relu(self.bn1(x))  # [B, 64 width, H/4, W/4]
        return self.fc(self.avgpool(x).flatten(1))


def _stages() -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    relus = {f"stage{i}": f"block{i + 1}.0.relu1" for i in (1, 2)}
    relus = {"stem": "block1.0.relu1", **relus, "stage3": "relu"}
    norms = {f"stage{i}": f"block{i + 1}.0.bn1" for i in (1, 2)}
    norms = {"stem": "block1.0.bn1", **norms, "stage3": "bn1"}
    sums = {"stem": "conv1", **{f"stage{i}": f"block{i}" for i in (1, 2, 3)}}
    return {
        **relus,
        "pooled": "fc:input",
        **{f"{stage}_pre": f"{path}:input" for stage, path in relus.items()},
        **{f"{stage}_norm": path for stage, path in norms.items()},
        **{f"{stage}_sum": path for stage, path in sums.items()},
    }


def _check(depth: int, width: int) -> None:
    require(
        isinstance(depth, int) and depth >= 10 and depth % 6 == 4,
        f"depth of a wide ResNet must be 6n+4, such as 10, 16, 22, 28 or 40; got {depth!r}",
    )
    require(
        isinstance(width, int) and width > 0,
        f"width of a wide ResNet must be a whole number above 0; got {width!r}",
    )
