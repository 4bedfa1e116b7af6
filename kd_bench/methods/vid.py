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
    """Normal distribution of each value of the teacher's map, given the student's map.

    The mean is computed by three 1x1 convolutions with ReLUs in between; the variance is one
    trained value per channel, softplus(a) + smallest.
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
        """Variance of each channel: [C]."""
        return F.softplus(self.a) + self.smallest

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """-log q(teacher | student) without its constant, mean over all values: a scalar."""
        s, t = to_common_size(student, teacher)
        variance = self.variance().view(-1, 1, 1)  # [C, 1, 1]
        return 0.5 * ((self.mean(s) - t).pow(2) / variance + variance.log()).mean()


class VariationalInformation(Loss):
    """Sum over stages of mean((mu(F_s) - F_t)^2 / v + log v) / 2, mu and v trained.

    The paper's variational bound for intermediate feature maps, as a mean over batch, channels and
    positions instead of a sum; it can be negative. Three stages, weight 1, mu without the paper's
    batch norm, and the initial v of 5 are RepDistiller's, reportedly from the authors' code, which
    is no longer public. The paper also has a term for the last layer, which is omitted here. In
    mdistiller, v is never passed to the optimizer, so the loss is a plain mean squared error.

    Args:
        initial_variance: v of every channel before training.
        smallest_variance: lower bound of v.

    Raises:
        UserError: if the smallest variance is not above 0, or not below the initial one.
    """

    is_mean_over_images = True

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
