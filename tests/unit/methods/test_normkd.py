"""NormKD: a value by hand, scaled logits, and equal logits, whose standard deviation is 0."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.normkd import NormalizedLogits

CONTEXT = context_of({}, {})


def make(context=CONTEXT, deviations: float = 2.0) -> NormalizedLogits:
    return NormalizedLogits(context, deviations)


def per_image(student: Tensor, teacher: Tensor, deviations: float = 2.0) -> Tensor:
    context = context_of({}, {}, student.shape[1])
    batch = batch_of(context, len(student))
    return make(context, deviations).per_image(output_of(student), output_of(teacher), batch)


def test_values_by_hand():
    # [a, 0, -a] has the (unbiased) standard deviation a. With c = 1 / ln 2 the student [5, 0, -5]
    # becomes softmax(ln 2, 0, -ln 2) = (4, 2, 1) / 7. The teacher [3, 0, 0] has deviation sqrt(3):
    # softmax(sqrt(3) ln 2, 0, 0) = (r, 1, 1) / (r + 2) with r = 2^sqrt(3).
    student, teacher = torch.tensor([[5.0, 0.0, -5.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    r = 2 ** math.sqrt(3)
    p, q = [r / (r + 2), 1 / (r + 2), 1 / (r + 2)], [4 / 7, 2 / 7, 1 / 7]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = 3 / math.log(2) ** 2 * kl
    value = per_image(student, teacher, 1 / math.log(2))
    assert value.tolist() == pytest.approx([expected], rel=1e-5)


def test_it_is_the_divergence_at_two_temperatures():
    student, teacher = rand(5, K) + 3, 4 * rand(5, K, seed=1)
    s, t = (2 * x.std(1, keepdim=True) for x in (student, teacher))
    expected = t[:, 0] ** 2 * soft_kl(student / s, teacher / t, 1.0)
    torch.testing.assert_close(per_image(student, teacher), expected)


def test_the_students_scale_has_no_effect_and_the_teachers_squared_is_a_factor():
    student, teacher = rand(5, K), rand(5, K, seed=1)
    scale = torch.tensor([[0.01], [0.5], [1.0], [7.0], [1e3]])
    before = per_image(student, teacher)
    torch.testing.assert_close(per_image(scale * student, teacher), before)
    torch.testing.assert_close(per_image(student, scale * teacher), scale[:, 0] ** 2 * before)


def test_gradients_flow_through_the_students_deviation():
    # The loss is invariant to scale, so the gradient is orthogonal to the logits of each image.
    student = rand(5, K).requires_grad_()
    (gradient,) = torch.autograd.grad(per_image(student, rand(5, K, seed=1)).sum(), student)
    assert gradient.any()
    assert (gradient * student).sum(1).abs().max() < 1e-12


def test_equal_logits_are_uniform_and_have_no_gradient():
    student = torch.full((1, K), 0.1).requires_grad_()
    teacher = torch.tensor([[2.0, 0.0, 0.0, 0.0]])  # deviation 1, so softmax(1, 0, 0, 0) at c = 2
    value = per_image(student, teacher)
    value.sum().backward()
    rest = math.e + 3
    entropy = math.log(rest) - math.e / rest
    assert value.item() == pytest.approx(4 * (math.log(4) - entropy), rel=1e-5)
    assert not student.grad.any()
    assert per_image(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.ones(1, K)).item() == 0


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match="need two classes or more, got 1"):
        make(context_of({}, {}, classes=1))


def test_zero_deviations_are_refused():
    with pytest.raises(UserError, match="deviations must be a number above 0, got 0"):
        make(deviations=0)
