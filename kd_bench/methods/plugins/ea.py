"""EA-KD: Entropy-based Adaptive Knowledge Distillation (Su et al., 2025), arXiv:2311.13621.

ICCV 2025.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LogitPair, LogitPlugin, LossContext, require_positive


class EntropyAdaptive(LogitPlugin):
    """w times each image's loss, w = (H_t + H_t H_s / log K) / 2, H the entropy of softmax(z / T).

    Images on which the teacher is uncertain count more, especially if the student is, too. w has no
    gradient and is between 0 and log K. T = 3 applies only to w, not to the loss.
    """

    weights_images = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature
        self.bound = self.upper_bound(context.num_classes)

    def upper_bound(self, classes: int) -> float:
        """The largest entropy of a prediction."""
        return math.log(classes)

    def forward(self, pair: LogitPair, batch: Batch) -> LogitPair:
        s, t = (entropy(x.detach() / self.temperature) for x in (pair.student, pair.teacher))
        return replace(pair, weight=pair.weight * (t + t * s / self.bound) / 2)


class EntropyAdaptiveAsPublished(EntropyAdaptive):
    """As `ea`, but with K instead of log K, so that the student's entropy hardly counts.

    The authors' code (cpsu00/EA-KD) does this for CIFAR-100: 100 instead of 4.6. For ImageNet, it
    uses log 1000.
    """

    def upper_bound(self, classes: int) -> float:
        """The number that the code uses in place of the largest entropy."""
        return float(classes)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of predictions in nats: [B, K] -> [B], from 0 to log K."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)
