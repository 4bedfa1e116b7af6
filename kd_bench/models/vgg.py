"""VGG (Simonyan and Zisserman, 2015), arXiv:1409.1556, with batch norm, for small images.

As in RepDistiller: a single linear layer as classifier, and pooling after the fourth block only for
images of 64 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import require
from kd_bench.models.initialization import initialize_classifier, initialize_convolutions

WIDTHS = (64, 128, 256, 512, 512)  # of the five blocks
# Depth -> convolutions of each block. VGG-8 is RepDistiller's.
LAYOUTS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _block(convolutions: int, channels_in: int, channels: int) -> nn.Sequential:
    """3x3 convolutions, each with batch norm and a ReLU."""
    parts: list[nn.Module] = []
    for i in range(convolutions):
        conv = nn.Conv2d(channels if i else channels_in, channels, 3, padding=1)
        parts += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*parts)


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions, max pooling after the first three; image -> logits [B, K].

    Images must have at least 8x8 pixels; the last map is averaged globally. Images with a height
    of 64 are also pooled after the fourth block.

    Stages (32x32 image): stem [64, 32, 32], stage1 [128, 16, 16], stage2 [256, 8, 8], stage3 and
    stage4 [512, 4, 4], the blocks after their last ReLU, and before it with the suffix `_pre`,
    which is the output of the batch norm `_norm`; pooled [512], the input of the classifier. For
    64x64 images, stage3 is [512, 8, 8] and stage4 [512, 4, 4].
    Initialized as in RepDistiller: convolutions by `initialize_convolutions`, batch norm (1, 0),
    the classifier by `initialize_classifier`.

    Args:
        num_classes: K.
        depth: a key of `LAYOUTS`.
        image_size: height and width.

    Raises:
        UserError: there is no such depth.
    """

    def __init__(self, num_classes: int, depth: int, image_size: tuple[int, int] = (32, 32)):
        super().__init__()
        require(
            depth in LAYOUTS,
            f"depth of a VGG must be {', '.join(map(str, LAYOUTS))}; got {depth!r}",
        )
        numbers = LAYOUTS[depth]
        self.block0 = _block(numbers[0], 3, WIDTHS[0])
        self.block1 = _block(numbers[1], WIDTHS[0], WIDTHS[1])
        self.block2 = _block(numbers[2], WIDTHS[1], WIDTHS[2])
        self.block3 = _block(numbers[3], WIDTHS[2], WIDTHS[3])
        self.block4 = _block(numbers[4], WIDTHS[3], WIDTHS[4])
        self.pool = nn.MaxPool2d(2)
        # Set here because torch.fx cannot trace a branch on the size of the image.
        self.pools_fourth = image_size[0] == 64
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        self.stages = _stages(numbers)
        initialize_convolutions(self)
        initialize_classifier(self.classifier)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.block0(image))
        x = self.pool(self.block1(x))
        x = self.pool(self.block2(x))
        x = self.block3(x)
        if self.pools_fourth:
            x = self.pool(x)
        x = self.block4(x)  # [B, 512, H/8, W/8], or H/16 and W/16
        return self.classifier(self.avgpool(x).flatten(1))


def _stages(numbers: tuple[int, ...]) -> dict[str, str]:
    """Stage -> module path; a path with `:input` means the input of that module."""
    blocks = {f"stage{i}" if i else "stem": f"block{i}" for i in range(len(numbers))}
    relus = {stage: 3 * number - 1 for stage, number in zip(blocks, numbers, strict=True)}
    return {
        **blocks,
        "pooled": "classifier:input",
        **{f"{stage}_pre": f"{blocks[stage]}.{relu}:input" for stage, relu in relus.items()},
        **{f"{stage}_norm": f"{blocks[stage]}.{relu - 1}" for stage, relu in relus.items()},
    }
