"""BKL: a value by hand, its limits, and probabilities that underflow."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, is_finite_for_random_logits, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.bkl import BalancedDivergence
from kd_bench.methods.common.functional import soft_kl

CONTEXT = context_of({}, {})


def make(context=CONTEXT, temperature=1.0, alpha=0.5, beta=0.2) -> BalancedDivergence:
    return BalancedDivergence(context, temperature, alpha, beta)


def per_image(student: Tensor, teacher: Tensor, **values: float) -> Tensor:
    batch = batch_of(CONTEXT, len(student))
    return make(**values).per_image(output_of(student), output_of(teacher), batch)


def test_a_value_by_hand():
    # p_t = (.8, .2), p_s = (.6, .4), a = 1/4, b = 0: numerators (.2 - .45) ln(4/3) and
    # (.05 - .3) ln(1/2), over 1 and sqrt(.2)
    student, teacher = torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[0.8, 0.2]]).log()
    expected = -0.25 * math.log(4 / 3) + 0.25 * math.log(2) / math.sqrt(0.2)
    value = per_image(student, teacher, alpha=0.25, beta=0.0)
    assert value.tolist() == pytest.approx([expected], rel=1e-5)


def test_it_matches_a_slow_loop():
    student, teacher = rand(3, K), rand(3, K, seed=1)
    expected = []
    for s, t in zip((student / 2).softmax(1), (teacher / 2).softmax(1), strict=True):
        total = 0.0
        for q, p in zip(s.tolist(), t.tolist(), strict=True):
            ratio = math.log(p / q)
            total += (0.3 * p * ratio - 0.7 * q * ratio) / (p * p + q * q) ** 0.3
        expected.append(4 * total)
    value = per_image(student, teacher, temperature=2.0, alpha=0.3, beta=0.4)
    assert value.tolist() == pytest.approx(expected)


def test_with_beta_one_it_is_a_sum_of_divergences():
    student, teacher = rand(5, K), rand(5, K, seed=1)
    forward, reverse = soft_kl(student, teacher, 3.0), soft_kl(teacher, student, 3.0)
    for alpha in (0.0, 0.3, 1.0):
        value = per_image(student, teacher, temperature=3.0, alpha=alpha, beta=1.0)
        torch.testing.assert_close(value, 9 * (alpha * forward + (1 - alpha) * reverse))


def test_with_alpha_a_half_it_is_symmetric_and_otherwise_not():
    student, teacher = rand(5, K), rand(5, K, seed=1)
    torch.testing.assert_close(per_image(student, teacher), per_image(teacher, student))
    assert not torch.allclose(
        per_image(student, teacher, alpha=0.3), per_image(teacher, student, alpha=0.3)
    )


def test_beta_zero_ignores_the_probability_of_classes_and_beta_one_does_not():
    # p_t / p_s is 0.8, 1 and 1.5 in both pairs; classes that differ are ten times more probable in
    # the first pair.
    pairs = [([0.5, 0.3, 0.2], [0.4, 0.3, 0.3]), ([0.05, 0.93, 0.02], [0.04, 0.93, 0.03])]

    def values(beta: float) -> list[float]:
        logits = [[torch.tensor([p]).log() for p in pair] for pair in pairs]
        return [per_image(*pair, beta=beta).item() for pair in logits]

    first, second = values(beta=0.0)
    assert first == pytest.approx(second, rel=1e-5)
    for beta in (0.5, 1.0):
        first, second = values(beta)
        assert first == pytest.approx(10**beta * second, rel=1e-5)


def test_equal_networks_have_neither_loss_nor_gradient():
    student = rand(5, K).requires_grad_()
    value = per_image(student, student.detach()).sum()
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 0
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("beta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("classes", "size"), [(2, 6), (10, 6), (10, 1)])
def test_it_stays_finite_for_large_random_logits(classes, size, beta):
    context = context_of({}, {}, classes)
    assert is_finite_for_random_logits(make(context, beta=beta), context, size=size)


def test_probabilities_that_underflow_count_as_in_double_precision():
    student, teacher = 200 * rand(4, K), 200 * rand(4, K, seed=1)
    single = per_image(student.float(), teacher.float(), beta=0.0)
    torch.testing.assert_close(
        single.double(), per_image(student, teacher, beta=0.0), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0"),
        ({"alpha": 1.1}, "alpha must be from 0 to 1, got 1.1"),
        ({"beta": -0.1}, "beta must be from 0 to 1, got -0.1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        make(**values)
