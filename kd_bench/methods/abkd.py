"""ABKD: Pursuing a Proper Allocation of the Probability Mass (Wang et al., 2025), ICML 2025.

arXiv:2505.04560; "in Knowledge Distillation via alpha-beta-Divergence".
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive


class AlphaBetaDivergence(PerImageLoss):
    """T^2 sum_k [p^(a+b) / b(a+b) + q^(a+b) / a(a+b) - p^a q^b / ab], p teacher, q student, at T.

    The alpha-beta-divergence D(p || q) with a = alpha and b = beta, per image. Its limit for
    beta = 0 is D = sum_k [p^a log(p / q) / a - (p^a - q^a) / a^2]; for alpha = 0, p and q are
    exchanged and beta takes the place of alpha. So (1, 0) is KL(p || q), the method `st`, and
    (0, 1) is KL(q || p), `rkl`. The gradient with respect to log q is q^b (q^a - p^a) / a for each
    class: a larger beta favours classes with high probabilities in the student, and a smaller alpha
    shifts from differences of probabilities to their ratios.

    The authors' code (ghwang-s/abkd) has no T^2: its weight of 64 at T = 4 is 4 here (its README
    has 32 for the same example). For alpha or beta = 0, it divides by the other once instead of
    twice, which is the limit only if the other is 1. The authors searched alpha and beta for each
    pair; 0.8 and 0.3 are their example for ResNet56 to ResNet20 on CIFAR-100.

    Raises:
        UserError: if the temperature is not above 0, alpha or beta is below 0, or both are 0.
    """

    def __init__(self, context: LossContext, temperature: float, alpha: float, beta: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        require(
            alpha >= 0 and beta >= 0 and alpha + beta > 0,
            f"alpha and beta must be 0 or more, and not both 0, got {alpha} and {beta}",
        )
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        log_p, log_q = (
            F.log_softmax(net.logits / self.temperature, dim=1) for net in (teacher, student)
        )
        return self.temperature**2 * divergence(log_p, log_q, self.alpha, self.beta)


def divergence(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    """The alpha-beta-divergence from log-probabilities: [B, K], [B, K] -> [B].

    Rearranged, for alpha above 0, so that beta may be 0:
    sum_k [(q^(a+b) - p^(a+b)) / (a+b) - p^a (q^b - p^b) / b] / a.
    """
    if alpha < beta:  # divides by the larger of the two
        return divergence(log_q, log_p, beta, alpha)
    whole = _difference(log_q, log_p, alpha + beta)
    part = (alpha * log_p).exp() * _difference(log_q, log_p, beta)
    return (whole - part).sum(1) / alpha


def _difference(log_x: Tensor, log_y: Tensor, power: float) -> Tensor:
    """(x^power - y^power) / power, and its limit log(x / y) for power = 0."""
    if power == 0:
        return log_x - log_y
    return ((power * log_x).exp() - (power * log_y).exp()) / power
