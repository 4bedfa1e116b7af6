"""Shared functions: values by hand, loops, and limits stated in the papers."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import divergence, softmax
from helpers.outputs import rand
from hypothesis import given, settings, strategies
from torch.autograd import gradcheck

from kd_bench.methods.common.functional import (
    attention_map,
    correlation,
    soft_kl,
    standardize,
    unit,
)


def test_soft_kl_of_three_quarters_against_a_half():
    # softmax([2 ln 3, 0] / 2) = [3/4, 1/4], softmax([0, 0]) = [1/2, 1/2];
    # 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    assert soft_kl(student, teacher, 2.0).tolist() == pytest.approx([0.130812], abs=1e-6)
    # and with arguments swapped, as KL is not symmetric: 1/2 ln(2/3) + 1/2 ln 2 = 0.143841
    assert soft_kl(teacher, student, 2.0).tolist() == pytest.approx([0.143841], abs=1e-6)


@settings(deadline=None)
@given(seed=strategies.integers(0, 999), temperature=strategies.floats(0.5, 20))
def test_soft_kl_is_the_sum_over_classes_for_each_image(seed, temperature):
    student, teacher = 3 * rand(3, 5, seed=seed), 3 * rand(3, 5, seed=seed + 1000)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = [divergence(softmax(t, temperature), softmax(s, temperature)) for s, t in rows]
    distance = soft_kl(student, teacher, temperature)
    assert distance.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@settings(deadline=None)
@given(seed=strategies.integers(0, 999), shift=strategies.floats(-50, 50))
def test_soft_kl_is_invariant_to_shifted_logits(seed, shift):
    student, teacher = rand(4, 3, seed=seed), rand(4, 3, seed=seed + 1000)
    shifted = soft_kl(student + shift, teacher - 2 * shift, 4.0)
    torch.testing.assert_close(shifted, soft_kl(student, teacher, 4.0), rtol=1e-9, atol=1e-12)


def test_soft_kl_is_nonnegative_and_zero_at_equality():
    student, teacher = rand(50, 4), rand(50, 4, seed=1)
    assert (soft_kl(student, teacher, 4.0) > 0).all()
    assert (soft_kl(teacher, teacher, 4.0) == 0).all()


def test_soft_kl_ignores_classes_of_probability_zero():
    student, teacher = rand(6, 10), rand(6, 10, seed=1)
    nobody = torch.full((6, 90), -1e4, dtype=torch.double)
    padded = soft_kl(torch.cat([student, nobody], 1), torch.cat([teacher, nobody], 1), 4.0)
    torch.testing.assert_close(padded, soft_kl(student, teacher, 4.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_kl_and_its_gradient_are_finite_for_extreme_logits(temperature):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, -1e4]])
    distance = soft_kl(student, teacher, temperature)
    # All of the teacher's mass is where the student's log-probability is -20,000 / T (- ln 2).
    rounded = [20_000 / temperature, 20_000 / temperature + math.log(2)]
    assert distance.tolist() == pytest.approx(rounded, rel=1e-5)
    distance.sum().backward()
    assert student.grad.isfinite().all()


def test_soft_kl_passes_gradcheck():
    student, teacher = rand(3, 4).requires_grad_(), rand(3, 4, seed=1)
    assert gradcheck(lambda s: soft_kl(s, teacher, 4.0), student)


def test_attention_follows_the_energy():
    # Two channels, two positions: energies (3^2 + 1^2)/2 = 5 and (0^2 + 2^2)/2 = 2, length sqrt(29)
    features = torch.tensor([[[[3.0, 0.0]], [[-1.0, 2.0]]]])
    expected = [5 / math.sqrt(29), 2 / math.sqrt(29)]
    assert attention_map(features)[0].tolist() == pytest.approx(expected)


def test_attention_has_one_unit_length_row_per_image():
    attention = attention_map(rand(5, 3, 2, 4))
    assert attention.shape == (5, 8)
    torch.testing.assert_close(attention.norm(dim=1), torch.ones(5, dtype=torch.double))


@settings(deadline=None)
@given(seed=strategies.integers(0, 999), scale=strategies.floats(0.01, 1000))
def test_attention_is_invariant_to_the_scale_of_features(seed, scale):
    features = rand(2, 3, 4, 4, seed=seed)
    torch.testing.assert_close(attention_map(-scale * features), attention_map(features))


def test_attention_is_invariant_to_the_order_of_channels():
    features = rand(2, 4, 3, 3)
    torch.testing.assert_close(attention_map(features[:, [2, 0, 3, 1]]), attention_map(features))


def test_attention_of_zero_features_and_its_gradient_are_zero():
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention = attention_map(features)
    assert not attention.any()
    (attention - 0.25).pow(2).sum().backward()
    assert not features.grad.any()


def test_attention_passes_gradcheck():
    assert gradcheck(attention_map, rand(2, 3, 2, 2).requires_grad_())


def test_unit_vectors_have_length_one_except_zero():
    # [3, 4] / 5, and zero. The gradient passes through a zero vector unscaled, not times 1e12.
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    directions = unit(x, 1)
    assert directions.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    directions.sum().backward()
    assert x.grad[1].tolist() == [1, 1]


def test_unit_passes_gradcheck():
    assert gradcheck(lambda x: unit(x, 2), rand(2, 3, 4).requires_grad_())


def test_standardized_values_have_mean_zero_and_variance_one():
    # [1, 2, 3, 6]: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    expected = [(value - 3) / math.sqrt(3.5) for value in (1, 2, 3, 6)]
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    assert standardize(x, 1)[0].tolist() == pytest.approx(expected)
    assert standardize(x.T, 0)[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_standardized_values_are_unchanged_by_shift_and_scale(scale):
    x = rand(3, 5).float()
    torch.testing.assert_close(standardize(scale * (x + 2), 1), standardize(x, 1))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, -3e8])
def test_values_that_differ_only_by_rounding_become_zeros_without_gradient(value):
    # In float32, the mean of seven values of 0.1 is not 0.1.
    x = torch.full((2, 7), value).requires_grad_()
    y = standardize(x, 1)
    y[:, 0].sum().backward()
    assert not y.any()
    assert not x.grad.any()


def test_correlation_of_a_line_a_parabola_and_a_constant():
    x = torch.tensor([[-1.0, 0.0, 1.0]])
    assert correlation(x, 2 * x + 5, 1).item() == pytest.approx(1)
    assert correlation(x, -x, 1).item() == pytest.approx(-1)
    assert correlation(x, x**2, 1).item() == pytest.approx(0)
    assert correlation(x, torch.ones(1, 3), 1).item() == 0
    # Deviations [-1, 0, 1] and [-2, -1, 3]: 5 / sqrt(2 · 14)
    skewed = torch.tensor([[1.0, 2.0, 6.0]])
    assert correlation(x, skewed, 1).item() == pytest.approx(5 / math.sqrt(28))


def test_standardize_passes_gradcheck():
    assert gradcheck(lambda x: standardize(x, 0), rand(4, 3).requires_grad_())
