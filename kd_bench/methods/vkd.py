"""VkD: Improving Knowledge Distillation using Orthogonal Projections (Miles et al., 2024).

CVPR 2024, arXiv:2403.06213.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Output, PerImageLoss


class OrthogonalProjection(nn.Module):
    """Linear map [B, channels_in] -> [B, channels] whose matrix has orthonormal columns, or rows.

    Its columns are orthonormal if there are at least as many outputs as inputs: the map then
    preserves inner products of features, so it cannot fit the teacher instead of the student.

    The matrix is the product of k reflections 1 - 2 v v^T / |v|^2, k the smaller number of
    channels, cut to k columns. So it is orthogonal for any values of the trained vectors v; v_i is
    0 before its entry i, which is 1. The product is computed as 1 - V T V^T with a triangular T
    (Joffrain et al., 2006), with three matrix products and a triangular solve, without a loop over
    vectors or synchronizing with the device. It is initialized uniformly at random (Stewart, 1980).
    """

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.is_wide = channels_in > channels
        tall, narrow = max(channels_in, channels), min(channels_in, channels)
        self.below = nn.Parameter(_random_reflections(tall, narrow))  # entries above are unused

    @property
    def weight(self) -> Tensor:
        """The matrix: [channels, channels_in]."""
        one = torch.eye(*self.below.shape, device=self.below.device, dtype=self.below.dtype)
        v = self.below.tril(-1) + one  # [n, k]
        gram = v.T @ v
        inverse = gram.triu(1) + torch.diag(gram.diagonal() / 2)  # of T, [k, k]
        turned = torch.linalg.solve_triangular(inverse, v[: v.shape[1]].T, upper=True)
        matrix = one - v @ turned
        return matrix.T if self.is_wide else matrix

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _random_reflections(tall: int, narrow: int) -> Tensor:
    """Vectors of the reflections that map normal columns to axes, one after the other: [n, k].

    A column's entries below the diagonal, divided by a + sign(a) |column|, a its diagonal entry.
    """
    normal = torch.randn(tall, narrow).tril()
    length = torch.linalg.vector_norm(normal, dim=0)
    head = normal.diagonal()
    return normal.tril(-1) / (head + torch.where(head < 0, -length, length))


class OrthogonalDistillation(PerImageLoss):
    """smooth_l1(P h_s, N(h_t)), mean over channels; P trained, orthogonal; h the pooled features.

    N standardizes the features of an image over the channels (layer norm without parameters), as in
    the paper for classification; for generation, it whitens instead. The smooth L1 distance is that
    of the authors' code (roymiles/VkD), which also has soft targets at temperature 1 with weight 1,
    as does `vkd`. There, they apply to a separate token of the transformer, here to the student's
    logits. The authors keep P orthogonal with PyTorch's parametrization, which uses the same
    reflections (for equal widths, the exponential of a skew-symmetric matrix). The networks may
    differ in width.
    """

    stages = ("pooled",)

    def __init__(self, context: LossContext):
        super().__init__(context)
        student, teacher = (net["pooled"][0] for net in (context.student, context.teacher_shapes))
        self.projection = OrthogonalProjection(student, teacher)

    def per_image(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s = self.projection(student.features["pooled"].flatten(1))  # [B, C]
        t = teacher.features["pooled"].flatten(1)
        return F.smooth_l1_loss(s, F.layer_norm(t, t.shape[1:]), reduction="none").mean(1)
