"""NormKD: Normalized Logits for Knowledge Distillation (Chi et al., 2023), arXiv:2308.00520."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import soft_kl, standardize


class NormalizedLogits(PerImageLoss):
    """T_t^2 KL(softmax(z_t / T_t) || softmax(z_s / T_s)), T = c std_k(z), for each image.

    Each network's temperature for an image is proportional to the (unbiased) standard deviation of
    its logits over the K classes. So the scale of the student's logits has no effect, and that of
    the teacher's acts as a weight of the image. Gradients flow through the student's deviation, as
    in the authors' code (gizi1/NormKD). Since a softmax is invariant to shifts, this is the
    divergence of standardized logits, except for the factor T_t^2. Equal logits give a uniform
    distribution.

    Raises:
        UserError: if `deviations` (c) is not above zero, or there is only one class.
    """

    ignores_temperature = True

    def __init__(self, context: LossContext, deviations: float):
        super().__init__(context)
        require_positive("deviations", deviations)
        classes = context.num_classes
        require(classes > 1, f"normalized logits need two classes or more, got {classes}")
        self.deviations = deviations

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        classes = student.logits.shape[1]
        unbiased = (classes / (classes - 1)) ** 0.5  # ratio to the deviation in `standardize`
        s, t = standardize(student.logits, dim=1), standardize(teacher.logits, dim=1)
        factor = (self.deviations * teacher.logits.std(1)).square()
        return factor * soft_kl(s, t, self.deviations * unbiased)
