"""Training Data-Efficient Image Transformers (Touvron et al., 2021), arXiv:2012.12877."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require


class DistillationToken(Loss):
    """CE(psi(z_class), y) and CE(psi(z_token), argmax z_t), for a ViT with a distillation token.

    Hard-label distillation, equation 3 of the paper: each token has a classifier; the class token
    learns from the labels and the distillation token from the teacher's prediction. Two terms:
    "label", the recipe's loss on labels, and "teacher". At inference, the student's logits are the
    mean of both, as in timm; the paper adds both softmaxes (section 4). The method's `ce` on the
    mean is disabled by a weight of 0.

    Raises:
        UserError: if the student has no distillation token.
    """

    terms = ("label", "teacher")
    student_stages = ("class_head", "token_head")

    def __init__(self, context: LossContext):
        super().__init__(context)
        require(
            all(stage in context.student for stage in self.student_stages),
            f"{context.student.model} has no distillation token; choose a student that has one,"
            " such as model=timm model.name=deit_tiny_distilled_patch16_224",
        )
        self.label_loss = context.label_loss

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        of_class, of_token = (student.features[stage] for stage in self.student_stages)
        return {
            "label": self.label_loss(of_class, batch.target),
            "teacher": F.cross_entropy(of_token, teacher.logits.argmax(1)),
        }
