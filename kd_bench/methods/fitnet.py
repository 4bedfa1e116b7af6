"""FitNets: Hints for Thin Deep Nets (Romero et al., 2015), ICLR 2015, arXiv:1412.6550.

`fitnet_two_stage` follows the paper: the hint alone, then distillation. `fitnet` combines the hint
with cross entropy from the first epoch, as RepDistiller and most comparisons do.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import ConvRegressor, map_stages
from kd_bench.methods.common.functional import soft_kl


class Hint(Loss):
    """mean((r(F_s) - F_t)^2) over batch, channels and positions; r is a trained regressor.

    Equation 3 of the paper is half the sum; the mean, its weight of 100 and the batch norm in r are
    RepDistiller's. In the paper the hint is the teacher's middle layer and r ends with the
    nonlinearity of that layer; here it is `stage` after its ReLU, and r ends with a ReLU. The
    authors omit r if both shapes are equal; here, as in RepDistiller, it is always present.

    Raises:
        UserError: if the stage is not a feature map, or no regressor fits the two sizes.
    """

    is_mean_over_images = True

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        self.stages = map_stages(context, [stage])
        self.regressor = ConvRegressor(context, stage)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        (stage,) = self.stages
        return F.mse_loss(self.regressor(student.features[stage]), teacher.features[stage])


class AnnealedTarget(Loss):
    """lambda(e) KL(softmax(z_t / T) || softmax(z_s / T)), summed over classes, mean over the batch.

    Equation 2 of the paper, whose cross entropy differs from the divergence by a constant; there is
    no factor T^2. lambda decreases linearly from `first` in the first epoch to `last` in the last
    one. The authors' code (adri-romsor/FitNets, CIFAR) uses T = 3 and lambda from 4 to 1, but over
    more epochs than it trains for, so lambda ends near 1.8.

    Raises:
        UserError: if the temperature or `first` is not above 0, or `last` is below 0.
    """

    def __init__(self, context: LossContext, temperature: float, first: float, last: float):
        super().__init__(context)
        require_positive("temperature", temperature)
        require_positive("first", first)
        require(last >= 0, f"last must be 0 or more, got {last}")
        self.temperature, self.first, self.last = temperature, first, last
        self.steps = max(context.epochs - 1, 1)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        strength = self.first + (self.last - self.first) * (batch.epoch - 1) / self.steps
        return strength * soft_kl(student.logits, teacher.logits, self.temperature).mean()
