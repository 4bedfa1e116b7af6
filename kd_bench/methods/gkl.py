"""Generalized Kullback-Leibler Divergence Loss (Cui et al., 2025), arXiv:2503.08038.

"GKL", after "IKL" of Decoupled Kullback-Leibler Divergence Loss (NeurIPS 2024, arXiv:2305.13948).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.functional import class_means


class GeneralizedKL(Loss):
    """mean_jk (d_j - d_k)^2 / 4 with weights w_j w_k, d = z_t - z_s; -sum_k p_t,k log p_s,k at T.

    Two terms, "wmse" and "soft_ce". If w is the teacher's prediction, they give the two gradients
    of KL: the first that for the teacher, the second that for the student (theorem 1 of IKL). With
    a fixed teacher, the first would be lost, so here it goes to the student.

    The weights depend on the image's class y: w = m_y^power, where m_y is the mean of the teacher's
    softmax at `weight_temperature` over the training images of the class. So a wrong prediction for
    one image does not determine which classes count, and with a power below 1, unlikely classes
    count more. The weights are normalised over the whole batch.

    The sum over pairs of classes is a weighted variance, sum_jk w_j w_k (d_j - d_k)^2 = 2 W sum_j
    w_j (d_j - mean d)^2 with W = sum_j w_j, so it takes O(BK) operations; the authors' code
    (jiequancui/DKL) uses tensors [B, K, K]. That code collects m in each epoch for the next, from
    augmented images, with equal weights in the first epoch. Here, m is computed once before
    training, from images without augmentation. As in that code, there is no T^2.
    For some pairs, it takes w from the teacher's prediction for the image itself, which is not
    implemented here.

    Raises:
        UserError: if a temperature is not above 0, or the power is below 0; 0 gives equal weights.
    """

    terms = ("wmse", "soft_ce")
    needs_labels = True
    weight: Tensor

    def __init__(
        self, context: LossContext, temperature: float, weight_temperature: float, power: float
    ):
        super().__init__(context)
        require_positive("temperature", temperature)
        require_positive("weight_temperature", weight_temperature)
        require(0 <= power < math.inf, f"power must be 0 or more and finite, got {power}")
        self.temperature, self.weight_temperature = temperature, weight_temperature
        self.power = power
        classes = context.num_classes
        # [K, K], one row per label; equal weights until `prepare`.
        self.register_buffer("weight", torch.ones(classes, classes))

    def prepare(self, outputs: Iterable[tuple[Output, Tensor]]) -> None:
        """Compute the weights of each class."""
        predictions = (
            ((teacher.logits / self.weight_temperature).softmax(1), target)
            for teacher, target in outputs
        )
        self.weight.copy_(class_means(predictions, len(self.weight)) ** self.power)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        weight = self.weight.index_select(0, batch.target)  # [B, K]
        pairs = weighted_pairs(teacher.logits - student.logits, weight)
        target = F.softmax(teacher.logits / self.temperature, dim=1)
        return {
            "wmse": pairs / 4,
            "soft_ce": F.cross_entropy(student.logits / self.temperature, target),
        }


def weighted_pairs(d: Tensor, weight: Tensor) -> Tensor:
    """Mean of (d_j - d_k)^2 over images and pairs of classes, weighted by w_j w_k: [B, K] each."""
    total = weight.sum(1, keepdim=True)  # [B, 1]
    centred = d - (weight * d).sum(1, keepdim=True) / total
    spread = (weight * centred.square()).sum(1, keepdim=True)
    return 2 * (total * spread).sum() / total.square().sum()
