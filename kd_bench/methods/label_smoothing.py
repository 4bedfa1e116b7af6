"""Rethinking the Inception Architecture (Szegedy et al., 2016), arXiv:1512.00567."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, Output, PerImageLoss


class UniformTarget(PerImageLoss):
    """H(u, p_s) = -1/K sum_k log p_s,k, u uniform over the K classes.

    Section 7 of the paper: label smoothing by epsilon is cross entropy with the label times
    1 - epsilon plus this term times epsilon; these are the weights (0.9 and 0.1 for the paper's
    epsilon of 0.1). There is no teacher, so any gain of a method over this row is more than the
    effect of softer targets.
    """

    needs_teacher = False

    def per_image(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        return -student.logits.log_softmax(1).mean(1)
