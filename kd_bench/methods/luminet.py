"""LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration.

Hossain et al., 2023, arXiv:2310.03669; first called "The Bright Side of Perceptual Knowledge
Distillation".
"""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import soft_kl, standardize


class Perception(PerImageLoss):
    """KL(softmax(h_t / T) || softmax(h_s / T)), h each class's logits standardized over the batch.

    h_ik = (z_ik - m_k) / d_k with mean m_k and (biased) standard deviation d_k over the images i:
    how much more an image resembles class k than the others of the batch do. The loss is invariant
    to a shift and a positive scale of the student's logits for any class. It depends on the batch
    size, and is zero for a batch of one. A class with equal logits for all images gets zeros.

    There is no T^2. The authors' code (ismail31416/LumiNet) multiplies by the square of a factor
    alpha, 33 for ResNet32x4 and ResNet8x4 on CIFAR-100, which is part of the weight here; it adds
    1e-5 to the variance.
    """

    ignores_temperature = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = standardize(student.logits, dim=0), standardize(teacher.logits, dim=0)
        return soft_kl(s, t, self.temperature)
