"""Logit Standardization in Knowledge Distillation (Sun et al., 2024), CVPR, arXiv:2403.01427."""

from __future__ import annotations

from dataclasses import replace

from kd_bench.interfaces import Batch, LogitPair, LogitPlugin
from kd_bench.methods.common.functional import standardize


class Standardize(LogitPlugin):
    """(z - mean z) / std z over the classes instead of z, of student and teacher.

    The losses then depend on relations between classes, but not on the offset or scale of the
    logits, which the student need not match. A loss's temperature becomes the paper's "base
    temperature", and its input has standard deviation 1. The authors' code
    (sunshangquan/logit-standardization-KD) divides the sum of squares by K - 1 instead of K and
    adds 1e-7 to the deviation: 0.5 % smaller values for 100 classes. Losses that standardize logits
    themselves (`mrd`, and `normkd` except for the mean) hardly change.
    """

    def forward(self, pair: LogitPair, batch: Batch) -> LogitPair:
        student, teacher = standardize(pair.student, 1), standardize(pair.teacher, 1)
        return replace(pair, student=student, teacher=teacher)
