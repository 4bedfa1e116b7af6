"""TTM and WTTM: values by hand, the tempered teacher, and the weights of images."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import (
    context,
    divergence,
    gradients,
    labelled,
    per_image,
    probabilities,
    softmax,
)
from helpers.outputs import rand

from kd_bench.interfaces import UserError
from kd_bench.methods.ttm import TransformedTeacher, WeightedTransformedTeacher

SEEN = labelled(0, 2, 1, 4)
BOTH = [TransformedTeacher, WeightedTransformedTeacher]


def test_values_by_hand():
    # (.9, .1)^(1/2) = (.948683, .316228) with sum U = 1.264911: (3/4, 1/4) against (1/2, 1/2) is
    # 0.130812, and 0.165466 times U
    student, teacher = probabilities([0.5, 0.5]), probabilities([0.9, 0.1])
    plain, weighted = (
        per_image(loss(context(2), gamma=0.5), student, teacher, labelled(0)) for loss in BOTH
    )
    assert plain == [pytest.approx(0.130812, abs=1e-6)]
    assert weighted == [pytest.approx(0.165466, abs=1e-6)]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
def test_it_is_the_divergence_of_a_tempered_teacher_from_an_untempered_student(temperature):
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = [divergence(softmax(t, temperature), softmax(s)) for s, t in rows]
    value = per_image(TransformedTeacher(context(5), 1 / temperature), student, teacher, SEEN)
    assert value == pytest.approx(expected)


def test_weights_are_the_sums_of_the_powers():
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    sums = [sum(p**0.3 for p in softmax(t)) for t in teacher.tolist()]
    plain, weighted = (per_image(loss(context(5), 0.3), student, teacher, SEEN) for loss in BOTH)
    assert weighted == pytest.approx([u * kl for u, kl in zip(sums, plain, strict=True)])


def test_wttm_with_weights_of_one_is_ttm():
    class Unweighted(WeightedTransformedTeacher):
        def smoothness(self, logits):
            return torch.ones_like(logits[:, 0])

    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    plain, one = (
        per_image(loss(context(5), 0.3), student, teacher, SEEN)
        for loss in (TransformedTeacher, Unweighted)
    )
    assert one == plain
    # The weights are one for gamma = 1
    plain, weighted = (per_image(loss(context(5), 1.0), student, teacher, SEEN) for loss in BOTH)
    assert weighted == pytest.approx(plain)


def test_the_weight_is_one_for_a_certain_teacher_and_largest_for_a_uniform_one():
    loss = WeightedTransformedTeacher(context(100), gamma=0.2)
    sure, undecided = torch.zeros(1, 100).double(), torch.zeros(1, 100).double()
    sure[0, 7] = 1e4
    assert loss.smoothness(sure).tolist() == [1]
    assert loss.smoothness(undecided).tolist() == [pytest.approx(100**0.8)]


def test_a_probability_that_rounds_to_zero_still_counts():
    # With the power 0.1 it is e^-20 / (1 + e^-20) of the target; 0^0.1 would be 0.
    teacher = torch.tensor([[200.0, 0.0]])
    loss = TransformedTeacher(context(2), gamma=0.1)
    pull = gradients(loss, torch.tensor([[20.0, 0.0]]), teacher, labelled(0))[""]
    assert pull.abs().max() < 1e-15
    assert gradients(loss, torch.tensor([[60.0, 0.0]]), teacher, labelled(0))[""][0, 1] < -1e-9


@pytest.mark.parametrize("loss", BOTH)
def test_a_power_of_zero_is_refused(loss):
    with pytest.raises(UserError, match="gamma must be a number above 0, got 0"):
        loss(context(5), 0)
