"""NKD: values by hand, a loop, and the effect of normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import (
    context,
    gradients,
    labelled,
    normalised,
    probabilities,
    softmax,
    terms,
)
from helpers.outputs import rand

from kd_bench.interfaces import UserError
from kd_bench.methods.nkd import NormalizedDistillation

SEEN = labelled(0, 2, 1, 4)


def make(temperature: float = 1.0, classes: int = 5) -> NormalizedDistillation:
    return NormalizedDistillation(context(classes), temperature)


def test_values_by_hand():
    # -.5 ln .2 = 0.804719; without the label (.6, .4) against halves: -(.6 + .4) ln .5
    student, teacher = probabilities([0.2, 0.4, 0.4]), probabilities([0.5, 0.3, 0.2])
    value = terms(make(classes=3), student, teacher, labelled(0))
    assert value == {
        "target": [pytest.approx(-0.5 * math.log(0.2))],
        "rest": [pytest.approx(math.log(2))],
    }


def test_it_matches_a_loop():
    # The target at temperature 1, the rest at 3
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    expected: dict[str, list[float]] = {"target": [], "rest": []}
    for s, t, label in zip(student.tolist(), teacher.tolist(), SEEN.target.tolist(), strict=True):
        expected["target"].append(-softmax(t)[label] * math.log(softmax(s)[label]))
        q, p = (normalised(x[:label] + x[label + 1 :]) for x in (softmax(s, 3.0), softmax(t, 3.0)))
        expected["rest"].append(-9 * sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    value = terms(make(3.0), student, teacher, SEEN)
    assert value["target"] == pytest.approx(expected["target"])
    assert value["rest"] == pytest.approx(expected["rest"])


def test_the_targets_gradient_is_that_of_the_label_times_the_teachers_confidence():
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    confidence = teacher.softmax(1)[range(4), SEEN.target]
    hard = student.softmax(1) - torch.nn.functional.one_hot(SEEN.target, 5)
    pull = gradients(make(), student, teacher, SEEN)["target"]
    torch.testing.assert_close(pull, confidence[:, None] * hard)


def test_the_rest_does_not_depend_on_the_students_confidence_in_the_label():
    # Both are equal after normalisation over the other classes; without it, their sums differ.
    teacher = rand(4, 5)
    surer = teacher + 7 * torch.nn.functional.one_hot(SEEN.target, 5)
    assert gradients(make(3.0), surer, teacher, SEEN)["rest"].abs().max() < 1e-15


def test_the_rest_of_two_classes_is_zero():
    value = terms(make(classes=2), rand(2, 2), rand(2, 2, seed=1), labelled(0, 1))
    assert value["rest"] == [0, 0]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0)
