"""Jensen-Shannon and reverse KL: values by hand, limits, a bound, the gradient near the teacher."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, per_image, probabilities
from helpers.outputs import rand
from helpers.shipped import load

from kd_bench.interfaces import UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.jsd import JensenShannon, ReverseKL

SEEN = labelled(0, 2, 1, 4)
STUDENT, TEACHER = 2 * rand(4, 5), 2 * rand(4, 5, seed=1)


def value(beta: float, student=STUDENT, teacher=TEACHER, temperature: float = 1.0) -> list[float]:
    loss = JensenShannon(context(student.shape[1]), temperature, beta)
    return per_image(loss, student, teacher, SEEN)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.5, 0.130812),  # m = (1/2, 1/2): twice half of KL((3/4, 1/4) || m)
        # m = (3/8, 5/8): (3/4 ln 2 + 1/4 ln .4) / 4 + (1/4 ln 2/3 + 3/4 ln 1.2) 3/4
        (0.25, 0.099228),
    ],
)
def test_values_by_hand(beta, expected):
    student, teacher = probabilities([0.25, 0.75]), probabilities([0.75, 0.25])
    assert value(beta, student, teacher) == [pytest.approx(expected, abs=1e-6)]


def test_its_limits_are_the_two_kl_divergences():
    forward, reverse = soft_kl(STUDENT, TEACHER, 4.0), soft_kl(TEACHER, STUDENT, 4.0)
    first = [v / 1e-6 for v in value(1e-6, temperature=4.0)]
    last = [v / 1e-6 for v in value(1 - 1e-6, temperature=4.0)]
    assert first == pytest.approx((16 * forward).tolist(), rel=1e-4)
    assert last == pytest.approx((16 * reverse).tolist(), rel=1e-4)


def test_reverse_kl_is_kl_with_the_networks_swapped():
    loss = ReverseKL(context(5), 4.0)
    expected = 16 * soft_kl(TEACHER, STUDENT, 4.0)
    assert per_image(loss, STUDENT, TEACHER, SEEN) == pytest.approx(expected.tolist())
    assert per_image(loss, TEACHER, TEACHER, SEEN) == [0, 0, 0, 0]


def test_reverse_kl_penalizes_classes_the_teacher_excludes_but_not_missed_classes():
    # The teacher predicts two classes, the student one of them: ln 2, whereas KL(p || q) is ~50.
    teacher, student = torch.tensor([[0.0, 0.0, -100.0]]), torch.tensor([[100.0, 0.0, 0.0]])
    loss = ReverseKL(context(3), 1.0)
    assert per_image(loss, student, teacher, labelled(0)) == [pytest.approx(math.log(2))]
    assert per_image(loss, -student, teacher, labelled(0))[0] > 40


def test_swapping_the_networks_and_the_shares_changes_nothing():
    assert value(0.2, TEACHER, STUDENT) == pytest.approx(value(0.8))


def test_it_is_bounded_for_opposite_predictions():
    # m is (1/2, 1/2), so each divergence is ln 2.
    opposite = torch.tensor([[1e4, -1e4]])
    assert value(0.5, opposite, -opposite) == [pytest.approx(math.log(2))]


def test_with_the_weight_in_its_file_a_student_near_its_teacher_has_the_gradient_of_st():
    config = load("method", "jsd")
    hyper = {key: x for key, x in config.losses["jsd"].items() if key != "_target_"}
    near = TEACHER + 1e-4 * STUDENT
    pull = gradients(JensenShannon(context(5), **hyper), near, TEACHER, SEEN)[""]
    soft = 4 * ((near / 4).softmax(1) - (TEACHER / 4).softmax(1))
    torch.testing.assert_close(config.weights["jsd"] * pull, soft, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_a_share_of_0_or_1_is_refused_with_the_methods_for_these_limits(beta):
    message = rf"^beta must be above 0 and below 1, got {beta}; the limits are st \(0\) and rkl"
    with pytest.raises(UserError, match=message):
        JensenShannon(context(5), 4.0, beta)


@pytest.mark.parametrize(
    "make", [lambda t: JensenShannon(context(5), t, 0.5), lambda t: ReverseKL(context(5), t)]
)
def test_a_temperature_of_zero_is_refused(make):
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0)
