"""Revisiting Knowledge Distillation via Label Smoothing (Yuan et al., 2020), arXiv:1909.11723.

CVPR 2020; first published as "a Teacher-free Framework", hence the name Tf-KD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.functional import soft_kl


class SelfTraining(Loss):
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), the teacher a trained copy of the student.

    Equation 7 of the paper, summed over classes, mean over the batch; teachers of other models are
    rejected. The factor T^2, absent from the equation, is that of the authors' code
    (yuanli2333/Teacher-free-Knowledge-Distillation). That code averages over the classes and
    compensates with a multiplier specific to each network; weight and temperature are those for
    ResNet18 on CIFAR-100: 0.95 times 50 / 100 classes.
    """

    teacher_is_same_model = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        distance = soft_kl(student.logits, teacher.logits, self.temperature)  # [B]
        return self.temperature**2 * distance.mean()


class VirtualTeacher(Loss):
    """T^2 KL(p^d_T || softmax(z_s / T)), p^d a handcrafted teacher that is always correct.

    p^d has `correct` at the label and distributes the rest equally over the other classes (equation
    8). At temperature T it is softmax(log(p^d) / T), as for a teacher with logits log(p^d). Summed
    over classes, mean over the batch; equation 9 with Hinton's T^2, which the paper's equations
    omit, and without which the loss would be negligible at T = 20. The weight is the paper's alpha
    for ResNet18 on CIFAR-100, from the authors' configuration.

    The authors' code computes something else: see `tfkd_reg_as_published`.

    Raises:
        UserError: if the temperature is not above 0, `correct` is not between 1 / K and 1, or there
            is only one class.
    """

    needs_teacher = False
    needs_labels = True

    def __init__(self, context: LossContext, temperature: float, correct: float):
        super().__init__(context)
        classes = context.num_classes
        require_positive("temperature", temperature)
        require(classes > 1, f"a virtual teacher needs two classes or more, got {classes}")
        require(
            1 / classes < correct < 1,
            f"correct must be above 1/{classes}, the probability of a random guess, and below 1, "
            f"got {correct}",
        )
        self.temperature, self.correct = temperature, correct

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        target = self.probabilities(student.logits, batch.target).log()
        return self.temperature**2 * soft_kl(student.logits, target, self.temperature).mean()

    def probabilities(self, logits: Tensor, label: Tensor) -> Tensor:
        """p^d for each image: [B, K]."""
        others = (1 - self.correct) / (logits.shape[1] - 1)
        is_label = F.one_hot(label, logits.shape[1]).bool()
        return torch.where(is_label, self.correct, others).to(logits.dtype)


class PublishedVirtualTeacher(VirtualTeacher):
    """KL(softmax(p^d / T) || softmax(z_s)): probabilities used in place of logits.

    As in the authors' code, yuanli2333/Teacher-free-Knowledge-Distillation: the softmax is applied
    to probabilities, the student has temperature 1, and there is no T^2. At T = 20 the label is 5 %
    above the other classes: the target is almost uniform, and this is label smoothing. The code
    averages over the classes and compensates with a multiplier; the weight is that for ResNet18 on
    CIFAR-100: 0.1 times 100 / 100 classes.
    """

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        target = self.probabilities(student.logits, batch.target) / self.temperature
        return soft_kl(student.logits, target, temperature=1.0).mean()
