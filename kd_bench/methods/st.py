"""Distilling the Knowledge in a Neural Network (Hinton et al., 2014), arXiv:1503.02531."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import soft_kl


class SoftTarget(PerImageLoss):
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), summed over classes, mean over the batch.

    The factor T^2 keeps the scale of the gradient independent of T (section 2 of the paper). The
    paper gives cross entropy a much lower weight than this term: RepDistiller weights them 0.1 and
    0.9 at T = 4 (method.weights.ce=0.1 method.weights.st=0.9). Weight 1 for both and T = 4 are the
    choice of the predecessor, hankyul2/KnowledgeDistillation.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.temperature**2 * soft_kl(student.logits, teacher.logits, self.temperature)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        # The mean of `per_image`, but with T^2 last, which reproduces older records bitwise.
        distance = soft_kl(student.logits, teacher.logits, self.temperature)  # [B]
        return self.temperature**2 * distance.mean()
