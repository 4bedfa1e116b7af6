"""WSLD: a value by hand, weights from 0 to 1, and no gradient through them."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, per_image, probabilities
from helpers.outputs import rand

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.wsld import WeightedSoftLabels

SEEN = labelled(0, 2, 1, 4)


def make(temperature: float = 1.0, classes: int = 5) -> WeightedSoftLabels:
    return WeightedSoftLabels(context(classes), temperature)


def weights(student: torch.Tensor, teacher: torch.Tensor, label: int = 0) -> float:
    loss = make(classes=student.shape[1])
    return loss.weight(Output(student), Output(teacher), labelled(label)).item()


def test_a_value_by_hand():
    # L_s / L_t = ln 4 / ln 2 = 2, so w = 1 - e^-2; H = -(ln 1/4 + ln 3/4) / 2 = 0.836988
    student, teacher = probabilities([0.25, 0.75]), probabilities([0.5, 0.5])
    value = per_image(make(classes=2), student, teacher, labelled(0))
    assert value == [pytest.approx((1 - math.exp(-2)) * 0.836988, abs=1e-6)]


def test_the_gradient_is_that_of_soft_targets_times_the_weight():
    # T^2 (q - p) / T, with the weight at temperature 1
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    s, t = (-net.log_softmax(1)[range(4), SEEN.target] for net in (student, teacher))
    soft = 4 * ((student / 4).softmax(1) - (teacher / 4).softmax(1))
    pull = gradients(make(4.0), student, teacher, SEEN)[""]
    torch.testing.assert_close(pull, (1 - (-s / t).exp())[:, None] * soft)


def test_images_with_a_lower_loss_of_the_student_have_a_smaller_weight():
    teacher = torch.tensor([[2.0, 0.0]])
    falling = [weights(torch.tensor([[z, 0.0]]), teacher) for z in (-2.0, 0.0, 2.0, 4.0, 8.0)]
    assert falling == sorted(falling, reverse=True)
    assert falling[2] == pytest.approx(1 - math.exp(-1))  # equal losses
    assert falling[4] < 0.01


def test_the_weights_for_a_teacher_whose_loss_rounds_to_zero():
    sure, unsure = torch.tensor([[500.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert weights(unsure, sure) == 1
    assert weights(sure, sure) == 0  # there is nothing to learn


def test_the_weight_for_a_teacher_that_is_certain_and_wrong():
    wrong = torch.tensor([[-1e4, 1e4]])
    ratio = math.log1p(math.exp(-1)) / 2e4  # of the student's loss to the teacher's
    assert weights(torch.tensor([[1.0, 0.0]]), wrong) == pytest.approx(1 - math.exp(-ratio))


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0)
