"""Variational Information Distillation (Ahn et al., 2019), CVPR 2019, arXiv:1904.05835."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import map_stages, to_common_size
from kd_bench.methods.common.functional import sum_of


class Gaussian(nn.Module):
    """What a student's map says of its teacher's: a normal distribution of each of its values.

    The mean is three 1x1 convolutions with ReLUs between them; the variance is one number for each
    channel, softplus(a) + smallest, where a is learnt like any weight.
    """

    def __init__(self, channels_in: int, channels: int, initial: float, smallest: float):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels_in, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        above = initial - smallest
        inverse_softplus = above + math.log(-math.expm1(-above))
        self.a = nn.Parameter(torch.full((channels,), inverse_softplus))
        self.smallest = smallest

    def variance(self) -> Tensor:
        """Of each channel: [C]."""
        return F.softplus(self.a) + self.smallest

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """-log q(teacher | student) without its constant, mean over all values: a scalar."""
        s, t = to_common_size(student, teacher)
        variance = self.variance().view(-1, 1, 1)  # [C, 1, 1]
        return 0.5 * ((self.mean(s) - t).pow(2) / variance + variance.log()).mean()


class VariationalInformation(Loss):
    """Sum over stages of mean((mu(F_s) - F_t)^2 / v + log v) / 2, mu and v learnt.

    The paper's variational bound for intermediate maps, as a mean over batch, channels and places
    instead of a sum; it may be below zero. Three stages, the weight 1, mu without the paper's batch
    norm, and v from 5 on are RepDistiller's, said to come from the authors' code, which is no
    longer public. The paper has a term for the last layer, too, which is not here. In mdistiller v
    is never given to the optimizer, which leaves a plain mean square.

    Args:
        initial_variance: v of every channel before training.
        smallest_variance: v is always above this.

    Raises:
        UserError: for a smallest variance that is not above 0, or not below the initial one.
    """

    def __init__(
        self,
        context: LossContext,
        stages: Sequence[str],
        initial_variance: float,
        smallest_variance: float,
    ):
        super().__init__(context)
        require_positive("smallest_variance", smallest_variance)
        require_positive("initial_variance", initial_variance)
        require(
            smallest_variance < initial_variance,
            f"smallest_variance must be below initial_variance, {initial_variance}, "
            f"got {smallest_variance}",
        )
        self.stages = map_stages(context, stages)
        self.gaussians = nn.ModuleDict(
            {
                stage: Gaussian(
                    context.student[stage][0],
                    context.teacher_shapes[stage][0],
                    initial_variance,
                    smallest_variance,
                )
                for stage in self.stages
            }
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return sum_of(
            self.gaussians[stage](student.features[stage], teacher.features[stage])
            for stage in self.stages
        )
