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

    The teacher's logits of an image should point where the student's do for the same image, and not
    where they do for the others of the batch, including those of its class. Every image contributes
    from 0 to log(B) + 2 / T, for B images: log(B) where all cosines are equal, and a student equal
    to its teacher is not at zero unless T is small. Only directions count: the loss is unchanged
    by a positive factor of any image's logits, but not by a shift. A batch of one has loss 0.

    As in the authors' code (ZhouXinzzzzz/CKD), with its temperature of 1, and its weight for
    CIFAR-100; there, a student trains for 480 epochs.
    """

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        cosines = unit(teacher.logits, 1) @ unit(student.logits, 1).T  # [B, B]
        own = torch.arange(len(cosines), device=cosines.device)
        return F.cross_entropy(cosines / self.temperature, own, reduction="none")
