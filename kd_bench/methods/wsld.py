"""Rethinking Soft Labels for Knowledge Distillation (Zhou et al., 2021), arXiv:2102.00650.

ICLR 2021; "Weighted Soft Labels": the subtitle is "A Bias-Variance Tradeoff Perspective".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive


class WeightedSoftLabels(PerImageLoss):
    """w T^2 H(softmax(z_t / T), softmax(z_s / T)), w = 1 - exp(-L_s / L_t), H the cross entropy.

    L_s and L_t are the networks' cross entropies with the label, at temperature 1 and without
    gradient: an image that the student classifies better than the teacher would only act as a
    regulariser, so its weight is reduced. H is a cross entropy and not a divergence, so a student
    equal to its teacher has a loss above 0. T = 4 and the weight of 2.25 are those of yzd-v/cls_KD
    for CIFAR-100; the authors' code (bellymonster/Weighted-Soft-Label-Distillation, ImageNet) has 2
    and 2.5. It adds 1e-7 to L_t; here, L_t is bounded below by a number that only matters if it
    is 0.
    """

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        p = F.softmax(teacher.logits / self.temperature, dim=1)  # [B, K]
        log_q = F.log_softmax(student.logits / self.temperature, dim=1)
        soft = -(p * log_q).sum(1)  # [B]
        return self.temperature**2 * self.weight(student, teacher, batch) * soft

    def weight(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """w of each image, from 0 to 1: [B]."""
        s, t = (
            F.cross_entropy(net.logits.detach(), batch.target, reduction="none")
            for net in (student, teacher)
        )
        return -torch.expm1(-s / t.clamp(min=torch.finfo(t.dtype).tiny))
