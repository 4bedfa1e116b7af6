"""Knowledge Distillation Based on Transformed Teacher Matching (Zheng and Yang, 2024), ICLR 2024.

arXiv:2402.11148.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import kl


class TransformedTeacher(PerImageLoss):
    """KL(q || p_s), q = p_t^gamma / sum_k p_t(k)^gamma, both networks at temperature 1.

    The power transform q is softmax(z_t / T) with T = 1 / gamma: ordinary distillation without the
    student's temperature, and without T^2. The student's probabilities must become as soft as the
    teacher's softened ones, which acts as a regulariser. gamma = 0.1 and the weight of 45 are from
    the example in the authors' README (zkxufo/TTM), VGG13 to VGG8 on CIFAR-100 at batch size 64;
    they were tuned for every pair.
    """

    def __init__(self, context: LossContext, gamma: float):
        super().__init__(context)
        require_positive("gamma", gamma)
        self.gamma = gamma

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        log_q = F.log_softmax(self.gamma * teacher.logits, dim=1)
        return kl(log_q, F.log_softmax(student.logits, dim=1))


class WeightedTransformedTeacher(TransformedTeacher):
    """U KL(q || p_s), U = sum_k p_t(k)^gamma, q = p_t^gamma / U, both networks at temperature 1.

    TTM with a weight per image, which is 1 if the teacher is certain and, for gamma < 1, largest if
    its prediction is uniform: K^(1 - gamma), 40 for 100 classes and gamma = 0.2. So the weight of
    the term is only 4; this and gamma = 0.2 are from the example in the authors' README
    (zkxufo/TTM) for VGG13 to VGG8 on CIFAR-100, where CRD is added with weight 0.8.
    """

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.smoothness(teacher.logits) * super().per_image(student, teacher, batch)

    def smoothness(self, logits: Tensor) -> Tensor:
        """U of each image, from the teacher's logits: [B, K] -> [B]."""
        return (self.gamma * F.log_softmax(logits, dim=1)).exp().sum(1)
