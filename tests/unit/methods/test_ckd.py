"""CKD: values by hand, the best assignment of students to teachers, and invariances."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.ckd import ContrastiveLogits

CONTEXT = context_of({}, {})


def make(context=CONTEXT, temperature: float = 1.0) -> ContrastiveLogits:
    return ContrastiveLogits(context, temperature)


def per_image(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    batch = batch_of(CONTEXT, len(student))
    return make(temperature=temperature).per_image(output_of(student), output_of(teacher), batch)


def test_values_by_hand():
    # Teacher's directions: 0 and 90 degrees; student's: 0 and 60. Cosines [1, 1/2], [0, sqrt(3)/2]:
    # log(1 + e^(1/2 - 1)) and log(1 + e^(0 - 0.866025))
    teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[5.0, 0.0], [1.0, math.sqrt(3)]])
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-math.sqrt(0.75)))]
    assert per_image(student, teacher).tolist() == pytest.approx(expected)
    # At temperature 1/2 all cosines are twice as large.
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-math.sqrt(3)))]
    assert per_image(student, teacher, 0.5).tolist() == pytest.approx(expected)


def test_the_softmax_runs_over_the_students_images():
    # Both students point to the first teacher: no row distinguishes them, so log 2 for each. A
    # softmax over the teachers would.
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert per_image(student, teacher).tolist() == pytest.approx([math.log(2)] * 2)


def test_the_loss_is_smallest_for_the_matching_permutation():
    teacher = rand(5, 4)
    losses = {
        order: per_image(teacher[list(order)], teacher).mean().item()
        for order in itertools.permutations(range(5))
    }
    assert min(losses, key=losses.__getitem__) == (0, 1, 2, 3, 4)
    assert sorted(losses.values())[1] > losses[(0, 1, 2, 3, 4)] + 1e-3


def test_positive_factors_change_nothing_and_shifts_do():
    student, teacher = rand(5, 4), rand(5, 4, seed=1)
    before = per_image(student, teacher)
    factor = torch.tensor([[0.1], [1.0], [5.0], [30.0], [1e3]])
    torch.testing.assert_close(per_image(factor * student, teacher), before)
    torch.testing.assert_close(per_image(student, factor * teacher), before)
    assert not torch.allclose(per_image(student + 1, teacher), before)


def test_a_batch_of_one_has_loss_zero():
    assert per_image(rand(1, 4), rand(1, 4, seed=1)).tolist() == [0]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(temperature=0)
