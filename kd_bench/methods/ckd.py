"""CKD: Contrastive Knowledge Distillation from a Sample-wise Perspective (Zhu et al., 2024).

arXiv:2404.14109.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import unit


class ContrastiveLogits(PerImageLoss):
    """-log softmax_j(cos(z_t,i, z_s,j) / T) at j = i, mean over images i; j over the batch.

    The teacher's logits for an image should have the same direction as the student's for that
    image, but not as the student's for other images of the batch, including those of the same
    class. Each of B images contributes between 0 and log(B) + 2 / T: log(B) if all cosines are
    equal. For a student equal to its teacher, the loss is not 0 unless T is small. Only directions
    count: the loss is invariant to a positive factor of any image's logits, but not to a shift. A
    batch of one has loss 0.

    As in the authors' code (ZhouXinzzzzz/CKD), with its temperature of 1 and its weight for
    most pairs on CIFAR-100, where it trains students for 480 epochs.
    """

    ignores_temperature = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        cosines = unit(teacher.logits, 1) @ unit(student.logits, 1).T  # [B, B]
        own = torch.arange(len(cosines), device=cosines.device)
        return F.cross_entropy(cosines / self.temperature, own, reduction="none")
