"""Decoupled Knowledge Distillation (Zhao, Cui, Song, Qiu and Liang, 2022), arXiv:2203.08679."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.partition import is_class, kl_between, kl_within


class DecoupledDistillation(PerImageLoss):
    """T^2 KL(b_t || b_s) and T^2 KL(r_t || r_s), b the label or not, r the softmax without it.

    Two terms, "target" (TCKD) and "rest" (NCKD), per image; b = (p_y, 1 - p_y) at temperature T.
    KL(p_t || p_s) is the first plus the second times the teacher's 1 - p_y (section 3.1 of the
    paper). So ordinary distillation suppresses the knowledge of a confident teacher about the other
    classes; DKD weights it independently. T^2 and the ramp over 20 of 240 epochs are those of the
    authors' code (megvii-research/mdistiller), which takes logarithms of probabilities and masks
    the label by subtracting 1000 from its logit; here everything is a difference of logarithms.

    The authors tuned the weight of "rest" for every pair of networks; see `conf/method/dkd.yaml`.
    With two classes "rest" is 0.
    """

    terms = ("target", "rest")
    needs_labels = True

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits / self.temperature, teacher.logits / self.temperature  # [B, K]
        label = is_class(batch.target, s)
        others = self.others(t, label, batch.epoch)
        scale = self.temperature**2
        return {"target": scale * kl_between(s, t, label), "rest": scale * kl_within(s, t, others)}

    def others(self, teacher: Tensor, label: Tensor, epoch: Tensor) -> Tensor:
        """The classes of "rest": logits [B, K], mask of the label [B, K], epoch [] -> [B, K]."""
        return ~label
