"""DistiLLM: Towards Streamlined Distillation for Large Language Models (Ko et al., 2024).

ICML 2024, arXiv:2402.03898. Only its divergences, for a classifier, without sampling.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import kl, log_mixture


class SkewedKL(PerImageLoss):
    """T^2 KL(p || a p + (1 - a) q), p the teacher and q the student, or exchanged if `reverse`.

    The skewed divergences with a = alpha, per image: at most -T^2 log(a), since the mixture is
    nowhere much smaller than the first argument. As alpha approaches 0, it becomes the method `st`,
    or `rkl` if `reverse`; the gradient near the teacher is (1 - a)^2 times theirs. alpha = 0.1 is
    the paper's. T^2 is Hinton's; the paper uses temperature 1.

    Raises:
        UserError: if the temperature is not above 0, or alpha is not between 0 and 1.
    """

    def __init__(self, context: LossContext, temperature: float, alpha: float, reverse: bool):
        super().__init__(context)
        require_positive("temperature", temperature)
        require(
            0 < alpha < 1,
            f"alpha must be above 0 and below 1, got {alpha}; its limit 0 is st, or rkl if reverse",
        )
        self.temperature, self.alpha, self.reverse = temperature, alpha, reverse

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        nets = (student, teacher) if self.reverse else (teacher, student)
        first, other = (F.log_softmax(net.logits / self.temperature, dim=1) for net in nets)
        return self.temperature**2 * kl(first, log_mixture(first, other, self.alpha))
