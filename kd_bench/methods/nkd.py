"""From Knowledge Distillation to Self-Knowledge Distillation (Yang et al., 2023), arXiv:2303.13005.

ICCV 2023; "Normalized Knowledge Distillation". USKD, of the same paper, needs no teacher.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.partition import is_class, log_within


class NormalizedDistillation(PerImageLoss):
    """-p_t(y) log p_s(y) and -T^2 sum_k r_t(k) log r_s(k), r the softmax without the label y.

    Two terms, "target" and "rest", per image. p is computed at temperature 1, r at T. Without the
    normalisation to r, the probabilities of the other classes would have different sums in the two
    networks, and the minimum of their cross entropy would not be at the teacher's. The paper's loss
    includes the cross entropy of the label, here the term "ce".

    These are cross entropies, not divergences: a student equal to its teacher has a loss above 0.
    T = 3 and the weight gamma = 3.5 of "rest" are those of the authors' code for CIFAR-100
    (yzd-v/cls_KD; 1 and 1.5 for ImageNet).
    """

    terms = ("target", "rest")
    needs_labels = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = (
            F.cross_entropy(net.logits, batch.target, reduction="none")
            for net in (student, teacher)
        )  # [B] each, -log p(y)
        others = ~is_class(batch.target, student.logits)
        log_r_s, log_r_t = (
            log_within(net.logits / self.temperature, others) for net in (student, teacher)
        )  # [B, K] each
        rest = -(log_r_t.exp() * log_r_s).sum(1)
        return {"target": (-t).exp() * s, "rest": self.temperature**2 * rest}
