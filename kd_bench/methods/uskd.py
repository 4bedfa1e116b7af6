"""From Knowledge Distillation to Self-Knowledge Distillation (Yang et al., 2023), arXiv:2303.13005.

ICCV 2023, "a Unified Approach with Normalized Loss and Customized Soft Labels": USKD, without a
teacher.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require

SMOOTHING = 0.1  # of the labels that the auxiliary classifier learns, in the authors' code


class SelfKnowledge(PerImageLoss):
    """-(p_y^2 + 1 - mean p_y^2) log p_y; -sum_k Z_k log q_k, k != y; -sum_k smooth_k log w_k.

    Three terms for label y, "target", "others" and "weak", mean over the batch. There is no
    teacher: the student's own p = softmax(z) gives the soft label of class y (detached, with mean 1
    over the batch). For the other classes, q is the softmax of z without y. Z_k follows Zipf's law,
    proportional to 1 / rank. Classes are ranked by q + q_w, where q_w is q for an auxiliary linear
    classifier on the averaged map at `stage`, usually the last but one. This classifier learns from
    smoothed labels (w is the softmax of its logits), and is not part of the trained network.

    To rank, the authors' code (yzd-v/cls_KD) uses the logarithm of the student's p, divided as if
    it were p, and includes y itself in the ranks of the others. Weights are those of its
    configuration for ResNet18 on CIFAR-100, with 16 images per GPU.

    Raises:
        UserError: if `stage` is not a map, or there is only one class.
    """

    needs_teacher = False
    terms = ("target", "others", "weak")
    needs_labels = True
    zipf: Tensor

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        classes, shape = context.num_classes, context.student[stage]
        require(
            len(shape) == 3,
            f"stage '{stage}' of {context.student.model} is not a map [C, H, W] but "
            f"{'x'.join(map(str, shape))}",
        )
        require(classes > 1, f"USKD needs two classes or more, got {classes}")
        self.stages = (stage,)
        self.head = nn.Linear(shape[0], classes)
        zipf = 1 / torch.arange(1.0, classes)
        # The label is ranked last, and gets no share.
        self.register_buffer("zipf", F.pad(zipf / zipf.sum(), (0, 1)))

    def per_image(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        weak = self.head(student.features[self.stages[0]].mean((2, 3)))  # [B, K]
        is_label = F.one_hot(batch.target, weak.shape[1]).bool()
        others = [z.masked_fill(is_label, -math.inf).log_softmax(1) for z in (student.logits, weak)]
        return {
            "target": self._target(student.logits, batch.target),
            "others": -(self._soft_labels(*others) * others[0].masked_fill(is_label, 0.0)).sum(1),
            "weak": F.cross_entropy(
                weak, batch.target, label_smoothing=SMOOTHING, reduction="none"
            ),
        }

    def _target(self, logits: Tensor, target: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, target, reduction="none")
        square = (-2 * cross_entropy.detach()).exp()
        return (square + 1 - square.mean()) * cross_entropy

    def _soft_labels(self, student: Tensor, weak: Tensor) -> Tensor:
        """Z of each image [B, K], from log q and log q_w, minus infinity for the label."""
        score = (student.exp() + weak.exp()).masked_fill(student.isneginf(), -1.0)
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(
            1
        )  # 0 is the most probable
        return self.zipf.expand_as(score).gather(1, rank)
