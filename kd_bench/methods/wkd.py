"""Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation (WKD).

Lv, Yang and Li, 2024, NeurIPS, arXiv:2412.08139.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    LossContext,
    Output,
    PerImageLoss,
    UserError,
    require,
    require_positive,
)
from kd_bench.methods.common.adapters import ConvRegressor, map_stages
from kd_bench.methods.common.functional import unit

LEAST = 0.05  # smallest regularization that cannot overflow, see `transport_cost`
SPREAD = 1e-5  # added to the variance, as in the authors' code


def class_distances(weight: Tensor, sharpness: float) -> Tensor:
    """1 - exp(-k (1 - cos(w_i, w_j))), k the sharpness: [K, C] -> [K, K], from 0 to 1."""
    direction = unit(weight, 1)
    apart = (1 - direction @ direction.T).clamp(min=0).fill_diagonal_(0)
    return -torch.expm1(-sharpness * apart)


def transport_cost(
    source: Tensor,
    target: Tensor,
    among: Tensor,
    cost: Tensor,
    regularization: float,
    iterations: int,
) -> Tensor:
    """Cost of moving distributions [B, K] to others [B, K], given unit costs [K, K]: [B].

    sum_ij P_ij C_ij with the plan P of Sinkhorn's iterations (Cuturi, 2013, arXiv:1306.0895), from
    equal factors: its rows sum to the source, and its columns approximately to the target.

    P_ij = u_i exp(-C_ij / r) v_j. Log space would make an iteration several times slower than its
    two products of [B, K] with [K, K], and is not needed for costs of at most 1 and r of at least
    0.05. Entries of the exponential are then at least exp(-20), so the factors of the solution
    differ from the distributions by no more than that, and no iteration moves away from it: factors
    are of the order of exp(40) at most, and even their squares fit in float32.

    Args:
        source, target: may contain zeros anywhere.
        among: [B, K], 1 for the classes that take part, 0 for others, whose probability must be 0.
        cost: [K, K], from 0 to 1.
        regularization: r.
        iterations: number of iterations.
    """
    kernel = (-cost / regularization).exp()
    u, v = among, target
    for _ in range(iterations):
        v = target / (u @ kernel)
        u = source / (v @ kernel.T)
    return (u * (v @ (kernel * cost).T)).sum(1)


class WassersteinLogits(PerImageLoss):
    """-p_t,y log p_s,y, and the cost of moving q_s to q_t, q = softmax of z_k / T over k != y.

    Two terms, "target" (p at temperature 1) and "others", for the label y: the latter is the
    discrete Wasserstein distance of the predictions among the other classes. Moving probability
    from class i to class j costs 1 - exp(-k (1 - s_ij)), s_ij the similarity of the classes in the
    teacher, here the cosine of the weights of its classifier. So confusing similar classes costs
    little, unlike in a divergence. It is computed by a fixed number of Sinkhorn iterations, through
    which gradients flow. Each takes B K^2 operations, but memory for only B K numbers.

    Weights of the classifier are the option `fc` in the authors' code (JiamingLv/WKD), whose
    configurations use CKA of the classes' features over the training set instead. k = 1, T, the
    weight of 600, the regularization of 0.05 and 10 iterations are from its configuration for
    ResNet32x4 and ResNet8x4 on CIFAR-100. There, the weight decreases to zero from epoch 150 of
    240; here it does not. That code adds 1e-8 to costs and denominators.

    Raises:
        UserError: if a number is out of range, there is only one class, or the teacher's classifier
            is not a linear layer with an output for every class.
    """

    terms = ("target", "others")
    needs_labels = True
    cost: Tensor

    def __init__(
        self,
        context: LossContext,
        temperature: float,
        sharpness: float,
        regularization: float,
        iterations: int,
    ):
        super().__init__(context)
        require_positive("temperature", temperature)
        require_positive("sharpness", sharpness)
        require_positive("regularization", regularization)
        require(
            regularization >= LEAST,
            f"regularization must be {LEAST} or more, got {regularization}",
        )
        require(iterations >= 1, f"iterations must be 1 or more, got {iterations}")
        classes = context.num_classes
        require(classes > 1, f"WKD needs two classes or more, got {classes}")
        self.temperature, self.regularization = temperature, regularization
        self.iterations = iterations
        self.register_buffer("cost", class_distances(_classifier_weight(context), sharpness))

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        is_label = F.one_hot(batch.target, student.logits.shape[1]).bool()
        s, t = (
            (out.logits / self.temperature).masked_fill(is_label, -math.inf).softmax(1)
            for out in (student, teacher)
        )
        others = (~is_label).to(s.dtype)
        log_p = student.logits.log_softmax(1)
        return {
            "target": -(teacher.logits.softmax(1) * log_p * is_label).sum(1),
            "others": transport_cost(s, t, others, self.cost, self.regularization, self.iterations),
        }


def _classifier_weight(context: LossContext) -> Tensor:
    """Weights [K, C] of the teacher's classifier."""
    shapes = context.teacher_shapes
    path = shapes.classifier
    assert context.teacher_net is not None  # guaranteed by needs_teacher
    layer = context.teacher_net.get_submodule(path)
    if isinstance(layer, nn.Linear) and layer.out_features == context.num_classes:
        return layer.weight.detach()
    raise UserError(
        f"WKD needs a linear classifier with {context.num_classes} outputs; '{path}' of "
        f"{shapes.model} is {layer}"
    )


class WassersteinFeatures(PerImageLoss):
    """sum_c (m_s - m_t)^2 and sum_c (d_s - d_t)^2, m mean and d deviation of a map's channels.

    Two terms, "mean" and "deviation", of a channel's values at all positions. Together they are
    the squared 2-Wasserstein distance of two normal distributions with diagonal covariance: a map's
    positions are samples of a distribution over its channels. The student's map first passes
    through a trained regressor that ends with a ReLU (`ConvRegressor`). A grid of g x g cells has
    one distribution per cell, over which the terms are averaged.

    As in the authors' code (JiamingLv/WKD), with its weights for ResNet32x4 and ResNet8x4 on
    CIFAR-100, where the mean counts four times as much. There, the weights decrease to zero from
    epoch 150 of 240; here they do not. Variances are divided by the number of positions, not by one
    less as in that code, which is undefined for a single position.

    Raises:
        UserError: if the stage is not a feature map, no regressor fits the two sizes, or the grid
            does not divide the teacher's map.
    """

    terms = ("mean", "deviation")
    is_mean_over_images = True

    def __init__(self, context: LossContext, stage: str, grid: int):
        super().__init__(context)
        self.stages, self.grid = map_stages(context, [stage]), grid
        _, height, width = context.teacher_shapes[stage]
        require(
            grid >= 1 and height % grid == width % grid == 0,
            f"grid must divide the map of {height}x{width} at {stage} of "
            f"{context.teacher_shapes.model}, got {grid}",
        )
        self.regressor = ConvRegressor(context, stage)

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        (stage,) = self.stages
        s = moments(self.regressor(student.features[stage]), self.grid)
        t = moments(teacher.features[stage], self.grid)
        mean, deviation = ((x - y).pow(2).sum(1).mean((1, 2)) for x, y in zip(s, t, strict=True))
        return {"mean": mean, "deviation": deviation}


def moments(features: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Means and deviations over the cells of a grid: [B, C, H, W] -> twice [B, C, g, g]."""
    cells = features.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))  # [B, C, g, h, g, w]
    variance, mean = torch.var_mean(cells, dim=(3, 5), correction=0)
    return mean, (variance + SPREAD).sqrt()
