"""One-for-All: Bridge the Gap Between Heterogeneous Architectures (Hao et al., 2023).

NeurIPS 2023, arXiv:2310.19444.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require
from kd_bench.methods.common.adapters import MapBatchNorm, map_stages
from kd_bench.methods.common.functional import sum_of


def enhanced_cross_entropy(
    student: Tensor, teacher: Tensor, target: Tensor, exponent: float
) -> Tensor:
    """-sum_k ((p_t,k + y_k)^g - y_k) log p_s,k from logits, y the label's one-hot: [B, K] -> [B].

    With larger g, the label's share counts more and those of the others less; at g = 1, this is
    cross entropy with the teacher's predictions.
    """
    is_label = F.one_hot(target, student.shape[1])
    share = (teacher.softmax(1) + is_label).pow(exponent) - is_label
    return -(share * student.log_softmax(1)).sum(1)


class OneForAll(PerImageLoss):
    """-sum_k ((p_t,k + y_k)^g - y_k) log p_s,k, p_s of the student's logits and of early exits.

    Two terms, "logits" and "exits", the latter a sum over the stages; y is the label's one-hot. An
    exit classifies the student's map of a stage by a trained head that is dropped after training.
    So stages are compared only with the teacher's predictions, regardless of its architecture. The
    head of the last stage starts with a 1x1 convolution; earlier ones start with one separable
    convolution for each later stage, which halves the map (two depthwise 3x3 and 1x1 pairs with
    batch norm and a ReLU). An average and a linear layer follow. The head's width is that of the
    wider network.

    As in the authors' code (Hao840/OFAKD) for convolutional students, which has four stages; both
    weights are 1. Its g is 1 in the example for CIFAR-100 and 1.5 for ImageNet. The teacher also
    needs stages with the same names, although they are not read.

    Raises:
        UserError: if a stage is not a feature map, or the exponent g is below 1.
    """

    terms = ("logits", "exits")
    needs_labels = True
    is_mean_over_images = True

    def __init__(self, context: LossContext, stages: Sequence[str], exponent: float):
        super().__init__(context)
        require(exponent >= 1, f"exponent must be 1 or more, got {exponent}")
        self.stages, self.exponent = map_stages(context, stages), exponent
        width = max(net["pooled"][0] for net in (context.student, context.teacher_shapes))
        self.exits = nn.ModuleDict()
        for following, stage in enumerate(reversed(self.stages)):
            channels = context.student[stage][0]
            self.exits[stage] = _head(channels, width, following, context.num_classes)

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        exits = [self.exits[stage](student.features[stage]) for stage in self.stages]
        own, *early = (
            enhanced_cross_entropy(logits, teacher.logits, batch.target, self.exponent)
            for logits in (student.logits, *exits)
        )
        return {"logits": own, "exits": sum_of(early)}


def _head(channels: int, width: int, halvings: int, classes: int) -> nn.Sequential:
    """Classifier of a map: [B, C, H, W] -> [B, K]; initialized as in the authors' code."""
    layers: list[nn.Module] = []
    for left in reversed(range(halvings)):
        channels_out = 2 * channels if left else width
        layers += [*_separable(channels, channels, stride=2), *_separable(channels, channels_out)]
        channels = channels_out
    if not layers:
        layers = [nn.Conv2d(channels, width, 1)]
    head = nn.Sequential(*layers, _GlobalAverage(), nn.Linear(width, classes))
    for module in head:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return head


def _separable(channels_in: int, channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False),
        nn.Conv2d(channels_in, channels, 1, bias=False),
        MapBatchNorm(channels),
        nn.ReLU(),
    ]


class _GlobalAverage(nn.Module):
    """Mean over positions: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))
