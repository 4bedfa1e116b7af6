"""Dynamic Temperature Knowledge Distillation (Wei and Bai, 2024), arXiv:2404.12711."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require_positive
from kd_bench.methods.common.functional import soft_kl

SMALLEST = 0.01  # lower bound of a maximum, since the formula needs positive ones


class DynamicTemperature(PerImageLoss):
    """T_s T_t KL(softmax(z_t / T_t) || softmax(z_s / T_s)), T_s / T_t = max(z_s) / max(z_t).

    T_s = 2 T max(z_s) / (max(z_s) + max(z_t)) and likewise T_t, for each image, so that their
    mean is the reference T, and both networks have the same largest logit after division. The
    student's temperature is not a constant: gradients flow through its maximum, as in the authors'
    code (JinYu1998/DTKD).

    In the code's README, the author withdraws the derivation (equations 4 and 5), but stands by the
    formula's results. A softmax is invariant to a shift of all logits, but these temperatures are
    not, and their formula breaks down for maxima that are not positive, where it gives negative
    temperatures or 0 / 0. Here, maxima below 0.01 are replaced by 0.01; those of trained networks
    are larger. The published method adds a soft-target term with the same T (`st`), and cross
    entropy.
    """

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = self.temperatures(student.logits, teacher.logits)
        return (s * t)[:, 0] * soft_kl(student.logits / s, teacher.logits / t, temperature=1.0)

    def temperatures(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """T_s and T_t of each image, [B, 1], between 0 and 2 T, from logits [B, K]."""
        s, t = (logits.amax(1, keepdim=True).clamp(min=SMALLEST) for logits in (student, teacher))
        factor = 2 * self.temperature / (s + t)
        return factor * s, factor * t
