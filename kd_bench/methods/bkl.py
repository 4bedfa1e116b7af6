"""Revisiting the Functional Properties of KL Divergence in Knowledge Distillation (BKL).

A repository of 2025, CKeyZhang/BKL; no paper could be found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss, require, require_positive


class BalancedDivergence(PerImageLoss):
    """T^2 sum_k (a p_t - (1 - a) p_s) log(p_t / p_s) / (p_t^2 + p_s^2)^((1 - b) / 2), p at T.

    Mean over the batch. The numerator is a KL(p_t || p_s) + (1 - a) KL(p_s || p_t), class by class;
    the denominator increases the weight of classes that both networks find improbable. a = 1/2 is
    symmetric in the networks; b = 1 gives the plain divergences, and b = 0 a function of only the
    ratio p_t / p_s.

    From the code, with its values and weights for CIFAR-100. As published it fails, since a and b
    are read from the distiller, which does not have them; it adds 1e-12 to the denominator.

    Raises:
        UserError: if the temperature is not above zero, or a or b is not from 0 to 1.
    """

    def __init__(self, context: LossContext, temperature: float, alpha: float, beta: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        for name, value in (("alpha", alpha), ("beta", beta)):
            require(0 <= value <= 1, f"{name} must be from 0 to 1, got {value}")
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = ((out.logits / self.temperature).log_softmax(1) for out in (student, teacher))
        # In log space throughout: p / (p^2 + q^2)^((1 - b) / 2) is at most p^b, however small p is.
        scale = (1 - self.beta) / 2 * torch.logaddexp(2 * s, 2 * t)
        numerator = self.alpha * (t - scale).exp() - (1 - self.alpha) * (s - scale).exp()
        return self.temperature**2 * (numerator * (t - s)).sum(1)
