"""On-Policy Distillation of Language Models (Agarwal et al., 2024), ICLR 2024, arXiv:2306.13649.

"GKD". Only its divergences, for a classifier, without sampling from the student.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive
from kd_bench.methods.common.functional import kl, log_mixture, soft_kl


class JensenShannon(PerImageLoss):
    """T^2 [b KL(p || m) + (1 - b) KL(q || m)], m = b p + (1 - b) q, p teacher, q student, at T.

    The generalised Jensen-Shannon divergence with b = beta, per image; it is bounded, even if one
    network assigns no probability to the other's class. As beta approaches 0, it becomes
    beta KL(p || q), and as beta approaches 1, (1 - beta) KL(q || p): the methods `st` and `rkl`.
    Near the teacher it is beta (1 - beta) times either. T^2 is Hinton's; the paper uses
    temperature 1.

    Raises:
        UserError: if the temperature is not above 0, or beta is not between 0 and 1.
    """

    def __init__(self, context: LossContext, temperature: float, beta: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        require(
            0 < beta < 1,
            f"beta must be above 0 and below 1, got {beta}; the limits are st (0) and rkl (1)",
        )
        self.temperature, self.beta = temperature, beta

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        log_p, log_q = (
            F.log_softmax(net.logits / self.temperature, dim=1) for net in (teacher, student)
        )
        log_m = log_mixture(log_p, log_q, self.beta)
        mean = self.beta * kl(log_p, log_m) + (1 - self.beta) * kl(log_q, log_m)
        return self.temperature**2 * mean


class ReverseKL(PerImageLoss):
    """T^2 KL(softmax(z_s / T) || softmax(z_t / T)), summed over classes, mean over the batch.

    The student need not cover all of the teacher's classes, but should avoid those that the teacher
    finds unlikely. T^2 is Hinton's; the paper uses temperature 1.
    """

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return self.temperature**2 * soft_kl(teacher.logits, student.logits, self.temperature)
