"""Skewed KL: a value by hand, its limits, its bound, and the gradient near the teacher."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, per_image, probabilities
from helpers.outputs import passes_gradcheck, rand

from kd_bench.interfaces import UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.skew import SkewedKL

SEEN = labelled(0, 2, 1, 4)
STUDENT, TEACHER = 2 * rand(4, 5), 2 * rand(4, 5, seed=1)


def make(alpha: float, reverse: bool = False, temperature: float = 1.0, classes: int = 5):
    return SkewedKL(context(classes), temperature, alpha, reverse)


def test_a_value_by_hand():
    # .2 (3/4, 1/4) + .8 (1/4, 3/4) = (.35, .65): 3/4 ln(15/7) + 1/4 ln(5/13) = 0.332727
    student, teacher = probabilities([0.25, 0.75]), probabilities([0.75, 0.25])
    value = per_image(make(0.2, classes=2), student, teacher, labelled(0))
    assert value == [pytest.approx(0.332727, abs=1e-6)]


def test_reverse_swaps_the_networks():
    forward = per_image(make(0.2), STUDENT, TEACHER, SEEN)
    assert per_image(make(0.2, reverse=True), TEACHER, STUDENT, SEEN) == forward
    assert per_image(make(0.2, reverse=True), STUDENT, TEACHER, SEEN) != pytest.approx(forward)


@pytest.mark.parametrize("reverse", [False, True])
def test_without_skew_it_is_the_divergence(reverse):
    nets = (TEACHER, STUDENT) if reverse else (STUDENT, TEACHER)
    value = per_image(make(1e-9, reverse, temperature=4.0), STUDENT, TEACHER, SEEN)
    assert value == pytest.approx((16 * soft_kl(*nets, 4.0)).tolist())


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_bounded_for_opposite_predictions(reverse):
    opposite = torch.tensor([[1e4, -1e4]])
    value = per_image(make(0.1, reverse, classes=2), opposite, -opposite, labelled(0))
    assert value == [pytest.approx(math.log(10))]


@pytest.mark.parametrize("reverse", [False, True])
def test_near_the_teacher_the_gradient_is_that_of_soft_targets_times_a_constant(reverse):
    near = TEACHER + 1e-4 * STUDENT
    pull = gradients(make(0.1, reverse, temperature=4.0), near, TEACHER, SEEN)[""]
    soft = 4 * ((near / 4).softmax(1) - (TEACHER / 4).softmax(1))
    torch.testing.assert_close(pull, 0.9**2 * soft, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
def test_it_passes_gradcheck(reverse):
    assert passes_gradcheck(make(0.1, reverse, 4.0, classes=4), context(4))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_skew_of_0_or_1_is_refused(alpha):
    with pytest.raises(UserError, match=f"^alpha must be above 0 and below 1, got {alpha}"):
        make(alpha)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0.1, temperature=0)
