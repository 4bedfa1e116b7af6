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
from kd_bench.methods.common.functional import unit

LEAST = 0.05  # regularization with which nothing overflows, see `transport_cost`


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
    """Cost of moving distributions [B, K] onto others [B, K], by the cost [K, K] of a unit: [B].

    sum_ij P_ij C_ij with the plan P of Sinkhorn's iterations (Cuturi, 2013, arXiv:1306.0895), from
    equal factors: its rows sum to the source, and its columns approximately to the target.

    P_ij = u_i exp(-C_ij / r) v_j. Logarithms would make an iteration several times as slow as its
    two products of [B, K] with [K, K], and are not needed for costs of at most 1 and r of at least
    0.05. Entries of the exponential are then at least exp(-20), so the factors of the solution
    differ from the distributions by no more than that, and no iteration leads away from it: factors
    are of the order of exp(40) at most, which float32 can even square.

    Args:
        source, target: may be zero anywhere.
        among: [B, K], 1 for the classes that take part; 0 for others, which must have no share.
        cost: [K, K], from 0 to 1.
        regularization: r.
        iterations: how many.
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
    little, unlike in a divergence. Computed by a fixed number of Sinkhorn iterations, through which
    gradients flow. Each takes B K^2 operations, but no more than B K numbers of memory.

    Weights of the classifier are the option `fc` in the authors' code (JiamingLv/WKD), whose
    configurations use CKA of the classes' features over the training set instead. k = 1, T, the
    weight of 600, the regularization of 0.05 and 10 iterations are from its configuration for
    ResNet32x4 and ResNet8x4 on CIFAR-100, in which the weight falls to zero from epoch 150 of 240
    on, which it does not here. That code adds 1e-8 to costs and denominators.

    Raises:
        UserError: if a number is out of range, there is only one class, or the teacher's classifier
            is not a linear layer with an output for every class.
    """

    terms = ("target", "others")
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
