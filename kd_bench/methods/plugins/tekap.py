"""Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation (Hossain et al., 2025).

ICLR 2025, called TeKAP; only its augmentation of logits.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from kd_bench.interfaces import (
    Batch,
    LogitPair,
    LogitPlugin,
    LossContext,
    require,
    require_positive,
)


class PerturbedTeachers(LogitPlugin):
    """Adds w times the loss for each of several teachers (1 - n) z_t + n e, e standard normal.

    New noise is drawn in every step. Values are those of the authors' code (mdimtiazh/TeKAP): three
    additional teachers, n = 0.1 and w = 0.8, so that the loss is 3.4 times as large. The paper also
    perturbs features, for CRD.
    """

    def __init__(self, context: LossContext, teachers: int, noise: float, weight: float):
        super().__init__(context)
        require(teachers >= 1, f"teachers must be 1 or more, got {teachers}")
        require(0 <= noise <= 1, f"noise must be from 0 to 1, got {noise}")
        require_positive("weight", weight)
        self.teachers, self.noise, self.weight = teachers, noise, weight

    def forward(self, pair: LogitPair, batch: Batch) -> list[LogitPair]:
        weight = self.weight * pair.weight
        draws = [torch.randn_like(pair.teacher) for _ in range(self.teachers)]
        return [
            pair,
            *(
                replace(pair, teacher=pair.teacher.lerp(e, self.noise), weight=weight)
                for e in draws
            ),
        ]
