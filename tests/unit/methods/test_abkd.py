"""ABKD: well-known divergences as special cases, the paper's formula in a loop, and limits."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, per_image, probabilities, softmax
from helpers.outputs import passes_gradcheck, rand

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.abkd import AlphaBetaDivergence
from kd_bench.methods.jsd import ReverseKL
from kd_bench.methods.st import SoftTarget

SEEN = labelled(0, 2, 1, 4)
STUDENT, TEACHER = 2 * rand(4, 5), 2 * rand(4, 5, seed=1)


def value(alpha: float, beta: float, temperature: float = 1.0) -> list[float]:
    loss = AlphaBetaDivergence(context(5), temperature, alpha, beta)
    return per_image(loss, STUDENT, TEACHER, SEEN)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        # 4 (1 - sum sqrt(p q)) = 4 (1 - 2 · 0.6 · 0.8): four times the squared Hellinger distance
        (0.5, 0.5, 0.16),
        # sum (p - q)^2 / 2 = 0.28^2
        (1.0, 1.0, 0.0784),
        # sum p log(p / q) = 0.28 ln(16 / 9), and the same the other way round
        (1.0, 0.0, 0.161102),
        (0.0, 1.0, 0.161102),
    ],
)
def test_values_by_hand(alpha, beta, expected):
    loss = AlphaBetaDivergence(context(2), 1.0, alpha, beta)
    student, teacher = probabilities([0.36, 0.64]), probabilities([0.64, 0.36])
    assert per_image(loss, student, teacher, labelled(0)) == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.parametrize(("a", "b"), [(0.8, 0.3), (0.3, 0.8), (0.1, 1.5), (2.0, 1.0)])
def test_it_matches_the_papers_formula_in_a_loop(a, b):
    def slow(s: list[float], t: list[float]) -> float:
        pairs = zip(softmax(t, 4.0), softmax(s, 4.0), strict=True)
        total = sum(
            p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b) for p, q in pairs
        )
        return -16 * total / (a * b)

    rows = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    assert value(a, b, temperature=4.0) == pytest.approx([slow(s, t) for s, t in rows])


def test_its_limits_are_the_divergences_of_st_and_rkl():
    student, teacher = Output(STUDENT), Output(TEACHER)
    forward = SoftTarget(context(5), 4.0)(student, teacher, SEEN)
    reverse = ReverseKL(context(5), 4.0)(student, teacher, SEEN)
    for corner, expected in (((1.0, 0.0), forward), ((0.0, 1.0), reverse)):
        loss = AlphaBetaDivergence(context(5), 4.0, *corner)
        torch.testing.assert_close(loss(student, teacher, SEEN), expected)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.0, 0.4)])
def test_it_is_continuous_at_its_limits(alpha, beta):
    assert value(alpha + 1e-7, beta + 1e-7) == pytest.approx(value(alpha, beta), rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(0.8, 0.3), (0.3, 0.8), (0.5, 0.0)])
def test_its_gradient_is_a_difference_of_powers_weighted_by_the_students_confidence(a, b):
    p, q = TEACHER.softmax(1), STUDENT.softmax(1)
    pull = q**b * (q**a - p**a) / a  # with respect to log q
    pull = pull - q * pull.sum(1, keepdim=True)  # to the logits
    loss = AlphaBetaDivergence(context(5), 1.0, a, b)
    torch.testing.assert_close(gradients(loss, STUDENT, TEACHER, SEEN)[""], pull)


def test_swapping_the_networks_and_the_powers_changes_nothing():
    loss = AlphaBetaDivergence(context(5), 1.0, 0.3, 0.8)
    exchanged = per_image(loss, TEACHER, STUDENT, SEEN)
    assert value(0.8, 0.3) == pytest.approx(exchanged)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.2, 0.9), (0.5, 0.0), (0.0, 0.5)])
def test_it_is_positive_and_zero_with_zero_gradient_for_the_teacher(alpha, beta):
    assert min(value(alpha, beta)) > 0
    loss = AlphaBetaDivergence(context(5), 1.0, alpha, beta)
    assert per_image(loss, TEACHER, TEACHER, SEEN) == pytest.approx([0, 0, 0, 0], abs=1e-14)
    assert gradients(loss, TEACHER, TEACHER, SEEN)[""].abs().max() < 1e-14


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.3, 0.8), (0.5, 0.0), (0.0, 0.5)])
def test_it_passes_gradcheck(alpha, beta):
    assert passes_gradcheck(AlphaBetaDivergence(context(4), 4.0, alpha, beta), context(4))


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (-0.1, 1.0), (1.0, -0.1)])
def test_powers_out_of_range_are_refused(alpha, beta):
    message = f"^alpha and beta must be 0 or more, and not both 0, got {alpha} and {beta}$"
    with pytest.raises(UserError, match=message):
        AlphaBetaDivergence(context(5), 4.0, alpha, beta)
