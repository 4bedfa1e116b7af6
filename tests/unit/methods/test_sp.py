"""SP: similarities by hand, and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.interfaces import UserError
from kd_bench.methods.sp import SimilarityPreserving

CONTEXT = context_of(
    {"stage1": (2, 2, 2), "stage2": (3, 1, 1), "pooled": (3,)},
    {"stage1": (3, 4, 4), "stage2": (2, 2, 1), "pooled": (2,)},
)
BATCH = batch_of(CONTEXT, 2)


def value(student: torch.Tensor, teacher: torch.Tensor) -> float:
    loss = SimilarityPreserving(CONTEXT, ["stage1"])
    return loss(output_of(stage1=student), output_of(stage1=teacher), BATCH).item()


def test_two_different_images_against_two_equal_ones():
    # Student: products [[1, 0], [0, 4]], rows [1, 0] and [0, 1]. Teacher: all equal, rows
    # [1, 1] / sqrt(2). Each row: (1 - 1/sqrt(2))^2 + 1/2 = 2 - sqrt(2); two rows over B^2 = 4
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    teacher = torch.ones(2, 3, 1, 1)
    assert value(student, teacher) == pytest.approx((2 - math.sqrt(2)) / 2, rel=1e-6)


def test_it_matches_a_loop():
    student, teacher = rand(4, 2, 2, 2), rand(4, 3, 4, 4, seed=1)

    def row(x: torch.Tensor, i: int) -> list[float]:
        products = [float((x[i] * x[j]).sum()) for j in range(4)]
        length = math.sqrt(sum(p * p for p in products))
        return [p / length for p in products]

    expected = sum(
        (s - t) ** 2 / 16
        for i in range(4)
        for s, t in zip(row(student, i), row(teacher, i), strict=True)
    )
    assert value(student, teacher) == pytest.approx(expected, rel=1e-9)


def test_stages_are_summed():
    student = output_of(stage1=rand(4, 2, 2, 2), stage2=rand(4, 3, 1, 1, seed=1))
    teacher = output_of(stage1=rand(4, 3, 4, 4, seed=2), stage2=rand(4, 2, 2, 1, seed=3))
    one, other, both = (
        SimilarityPreserving(CONTEXT, stages)(student, teacher, BATCH)
        for stages in (["stage1"], ["stage2"], ["stage1", "stage2"])
    )
    torch.testing.assert_close(both, one + other)


def test_it_is_invariant_to_scale_and_the_order_of_channels_and_positions():
    student = rand(4, 2, 2, 2)
    shuffled = 5 * student[:, [1, 0]].flatten(2)[..., [2, 0, 3, 1]].view(4, 2, 2, 2)
    assert value(shuffled, student) == pytest.approx(0, abs=1e-15)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"^stage 'pooled' of small is not a map"):
        SimilarityPreserving(CONTEXT, ["pooled"])
