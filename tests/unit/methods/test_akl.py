"""Adaptive KL: a value by hand, the head of a distribution, and equal networks."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, per_image, probabilities
from helpers.outputs import rand

from kd_bench.interfaces import UserError
from kd_bench.methods.akl import AdaptiveKL
from kd_bench.methods.jsd import ReverseKL
from kd_bench.methods.ttm import TransformedTeacher

SEEN = labelled(0, 2, 1, 4)


def make(mass: float = 0.5, temperature: float = 1.0, classes: int = 5) -> AdaptiveKL:
    return AdaptiveKL(context(classes), temperature, mass)


def share(mass: float, p: list[float], q: list[float]) -> float:
    return make(mass).head_share(torch.tensor([p]), torch.tensor([q])).item()


def test_a_value_by_hand():
    # The head is the first class, with .4 of the errors .4, 0, .4, so a share of 1/2: the mean of
    # KL(p || q) = .6 ln 3 + .1 ln .2 = 0.498223 and KL(q || p) = .2 ln 1/3 + .5 ln 5 = 0.584997
    student, teacher = probabilities([0.2, 0.3, 0.5]), probabilities([0.6, 0.3, 0.1])
    value = per_image(make(classes=3), student, teacher, labelled(0))
    assert value == [pytest.approx(0.541610, abs=1e-6)]


@pytest.mark.parametrize(
    ("mass", "expected"),
    [
        (0.3, 3 / 8),  # the first class is always in the head
        (0.5, 3 / 8),  # .4 is below .5, .7 above
        (0.75, 4 / 8),  # .4 and .7
        (0.95, 5 / 8),  # .4, .7 and .9
    ],
)
def test_the_head_has_the_most_probable_classes_up_to_a_mass(mass, expected):
    p, q = [0.1, 0.4, 0.2, 0.3], [0.4, 0.1, 0.3, 0.2]  # errors .3, .3, .1, .1
    assert share(mass, p, q) == pytest.approx(expected)


def test_the_order_of_classes_has_no_effect():
    student, teacher, order = rand(4, 5), rand(4, 5, seed=1), [3, 0, 4, 1, 2]
    value = per_image(make(), student, teacher, SEEN)
    assert per_image(make(), student[:, order], teacher[:, order], SEEN) == pytest.approx(value)


def test_the_share_has_no_gradient():
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    w = make().head_share(teacher.softmax(1), student.softmax(1))[:, None]
    forward = gradients(TransformedTeacher(context(5), 1.0), student, teacher, SEEN)[""]
    reverse = gradients(ReverseKL(context(5), 1.0), student, teacher, SEEN)[""]
    pull = gradients(make(), student, teacher, SEEN)[""]
    torch.testing.assert_close(pull, w * forward + (1 - w) * reverse)


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient():
    logits = rand(4, 5)
    assert per_image(make(temperature=4.0), logits, logits, SEEN) == [0, 0, 0, 0]
    assert gradients(make(temperature=4.0), logits, logits, SEEN)[""].abs().max() < 1e-15


def test_the_factor_is_the_squared_temperature():
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    cold = per_image(make(), student, teacher, SEEN)
    warm = per_image(make(temperature=3.0), 3 * student, 3 * teacher, SEEN)
    assert warm == pytest.approx([9 * v for v in cold])


@pytest.mark.parametrize("mass", [0.0, 1.0])
def test_a_mass_of_0_or_1_is_refused(mass):
    with pytest.raises(UserError, match=f"^mass must be above 0 and below 1, got {mass}"):
        make(mass)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(temperature=0)
