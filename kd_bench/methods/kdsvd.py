"""Self-supervised Knowledge Distillation Using Singular Value Decomposition (Lee et al., 2018).

Lee, Kim and Song, ECCV 2018, arXiv:1807.06819.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require
from kd_bench.methods.common.adapters import map_stages, require_equal_channels
from kd_bench.methods.common.functional import sum_of, unit

# Below this difference of two singular values' shares of the energy their vectors count as mixed.
MIXED = 1e-4


def channel_directions(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How channels go together most: maps [B, C, H, W] -> vectors [B, C, count], values [B, count].

    The first right singular vectors, and values, of each image's matrix [H*W, C]; fewer than
    `count` where a map has fewer channels or places.

    The gradient of a singular vector has the differences of squared singular values in its
    denominators and does not exist where two are equal. 1/d is replaced by d/(d^2 + MIXED^2), with
    squared values that sum to one: the true gradient for values that differ, bounded for those that
    nearly agree, and fading as they do. A map of zeros has a gradient of zero. So nothing is ever
    not finite, and nothing has to be set to zero afterwards. The values have no gradient.
    """
    x = x.flatten(2).transpose(1, 2)  # [B, H*W, C]
    x = x / _length(x.detach())
    with torch.no_grad():
        _, values, rows = torch.linalg.svd(x, full_matrices=False)
        vectors = rows[:, :count].transpose(1, 2)  # [B, C, count]
        energy, values = values.square(), values[:, :count]
    # First-order perturbation of A = X^T X: dv_i = sum_j v_j (v_j . dA v_i) / (l_i - l_j), j over
    # the singular vectors, and over what is orthogonal to all of them, where l_j = 0.
    moved = x.transpose(1, 2) @ (x @ vectors)  # [B, C, count]: A v_i
    along = rows @ moved  # [B, R, count]: v_j . A v_i
    across = moved - rows.transpose(1, 2) @ along
    own = energy[:, None, :count]
    step = rows.transpose(1, 2) @ (_inverse(own - energy[:, :, None]) * along)
    step = step + _inverse(own) * across
    return vectors + (step - step.detach()), values


def _length(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return length.masked_fill(length == 0, 1.0)


def _inverse(difference: Tensor) -> Tensor:
    return difference / (difference.square() + MIXED**2)


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """Of the student's vectors [B, C, M], the most like each of the teacher's, with its sign.

    Returns:
        [B, C, K] for a teacher's [B, C, K].
    """
    cosine = student.detach().transpose(1, 2) @ teacher  # [B, M, K]
    candidate = torch.arange(student.shape[2], device=student.device)[:, None]
    chosen = candidate == cosine.abs().argmax(1, keepdim=True)  # [B, M, K]
    return student @ (chosen * torch.where(cosine < 0, -1.0, 1.0).to(cosine.dtype))


def relation(first: Tensor, second: Tensor) -> Tensor:
    """exp(-(a_c - b_d)^2 / 8) for two stages' vectors: [B, C, K], [B, D, K] -> [B, C, D, K]."""
    return torch.exp(-(first[:, :, None] - second[:, None]).square() / 8)


class SingularVectors(Loss):
    """Sum over consecutive stages of ||R_s - R_t||^2 / B, R how channels' directions relate.

    A stage's map, as a matrix [H*W, C], is distilled to its first right singular vectors, the
    teacher's first `vectors`; of the student's first `candidates` the most alike are taken, with
    their sign. Both are multiplied by the teacher's singular values (of length one together, so
    all ones for a single vector) and compared between stages by a radial basis function.

    As in HobbitLong/RepDistiller, after the authors' TensorFlow code (sseung0703/SSKD_SVD), which
    halves and does not divide by B: 32 times as much at batch 64. mdistiller takes [C*H, W] for the
    matrix, so that its vectors are about places and not channels. These codes set what is not
    finite to zero, also in the gradient; here nothing needs it, see `channel_directions`. Singular
    vectors have no sign of their own, and R depends on it: the teacher's are turned to have a sum
    above zero, which for maps after a ReLU makes the first one nowhere negative. The weight is
    mdistiller's 1, at batch 64, as RepDistiller has no script; it leaves the term about a hundredth
    of cross entropy.

    A singular value decomposition makes a GPU wait, so no CUDA graph can hold this loss. Features
    that are not finite are refused by it, with an error.

    Raises:
        UserError: for fewer than two stages, unequal channels, and more vectors than a map has.
    """

    cuda_graph_safe = False

    def __init__(self, context: LossContext, stages: Sequence[str], vectors: int, candidates: int):
        super().__init__(context)
        self.stages = map_stages(context, stages)
        require(len(stages) > 1, f"KDSVD needs two stages or more, got {', '.join(stages)}")
        for stage in self.stages:
            require_equal_channels(context, stage, "KDSVD")
        shapes = [
            network[stage]
            for stage in self.stages
            for network in (context.student, context.teacher_shapes)
        ]
        most = min(min(channels, height * width) for channels, height, width in shapes)
        require(
            1 <= vectors <= most,
            f"vectors must be from 1 to {most}, as many as the smallest map has, got {vectors}",
        )
        require(
            candidates >= vectors,
            f"candidates must be at least as many as vectors ({vectors}), got {candidates}",
        )
        self.vectors, self.candidates = vectors, candidates

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        both = [
            self._directions(student.features[stage], teacher.features[stage])
            for stage in self.stages
        ]
        return sum_of(
            (relation(s, s_before) - relation(t, t_before)).square().sum() / len(s)
            for (s_before, t_before), (s, t) in pairwise(both)
        )

    def _directions(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Of student and teacher: [B, C, vectors] each, weighted."""
        t, values = channel_directions(teacher, self.vectors)
        t = t * torch.where(t.sum(1, keepdim=True) < 0, -1.0, 1.0)
        s = align(channel_directions(student, self.candidates)[0], t)
        weight = unit(values, 1)[:, None]  # [B, 1, vectors]
        return weight * s, weight * t
