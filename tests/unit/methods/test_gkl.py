"""GKL: the sum over pairs of classes, both gradients of KL, and weights from the training set."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import context, labelled, probabilities, softmax
from helpers.outputs import is_finite_for_random_logits, rand
from torch import Tensor

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.gkl import GeneralizedKL, weighted_pairs

BATCH = labelled(0, 2, 1, 4)


def make(classes: int = 5, power: float = 0.5, temperature: float = 2.0) -> GeneralizedKL:
    return GeneralizedKL(context(classes), temperature, weight_temperature=3.0, power=power)


def over_pairs(d: Tensor, weight: Tensor) -> float:
    """The definition: a loop over all pairs of classes of every image."""
    above = below = 0.0
    for row, w in zip(d.tolist(), weight.tolist(), strict=True):
        for j in range(len(row)):
            for k in range(len(row)):
                above += w[j] * w[k] * (row[j] - row[k]) ** 2
                below += w[j] * w[k]
    return above / below


def test_the_weighted_variance_is_the_sum_over_pairs():
    d, weight = 3 * rand(4, 7), rand(4, 7, seed=1).exp()
    assert weighted_pairs(d, weight).item() == pytest.approx(over_pairs(d, weight), rel=1e-12)


def test_values_by_hand():
    # d = (2, 0): two of four equally weighted pairs differ by 2, (4 + 4) / 4 / 4 = 0.5. The soft
    # cross entropy of (3/4, 1/4) and (1/2, 1/2) is log 2
    loss = make(classes=2, temperature=1.0)
    student = torch.zeros(1, 2)
    terms = loss(Output(student), Output(torch.tensor([[2.0, 0.0]])), labelled(0))
    assert terms["wmse"].item() == pytest.approx(0.5)
    terms = loss(Output(student), Output(probabilities([0.75, 0.25])), labelled(0))
    assert terms["soft_ce"].item() == pytest.approx(0.693147, abs=1e-6)


def test_the_terms_have_the_gradients_of_kl_for_both_networks():
    student, teacher = rand(1, 5), rand(1, 5, seed=1)
    loss, batch = make(temperature=1.0).double(), labelled(2)
    loss.weight[2] = teacher.softmax(1)[0]  # the image's own prediction
    ours = {
        name: torch.autograd.grad(value, sides)
        for sides in [tuple(x.clone().requires_grad_() for x in (student, teacher))]
        for name, value in loss(Output(sides[0]), Output(sides[1]), batch).items()
    }
    sides = [x.clone().requires_grad_() for x in (student, teacher)]
    for_student, for_teacher = torch.autograd.grad(soft_kl(*sides, 1.0).sum(), sides)
    torch.testing.assert_close(ours["wmse"][1], for_teacher)
    torch.testing.assert_close(ours["wmse"][0], -for_teacher)
    torch.testing.assert_close(ours["soft_ce"][0], for_student)


def test_weights_are_powers_of_the_mean_prediction_for_each_class():
    loss = make(classes=3, power=0.5).double()
    logits, target = 4 * rand(6, 3), torch.tensor([0, 1, 2, 0, 1, 0])
    parts = [(Output(logits[:4]), target[:4]), (Output(logits[4:]), target[4:])]
    loss.prepare(iter(parts))
    rows = [softmax(row, temperature=3.0) for row in logits.tolist()]
    for label in range(3):
        own = [row for row, y in zip(rows, target.tolist(), strict=True) if y == label]
        expected = [(sum(column) / len(own)) ** 0.5 for column in zip(*own, strict=True)]
        assert loss.weight[label].tolist() == pytest.approx(expected)


def test_an_image_has_the_weights_of_its_label():
    loss = make(classes=3).double()
    loss.weight.copy_(rand(3, 3).exp())
    student, teacher = rand(4, 3), rand(4, 3, seed=1)
    batch = labelled(2, 0, 0, 1)
    expected = over_pairs(teacher - student, loss.weight[batch.target]) / 4
    assert loss(Output(student), Output(teacher), batch)["wmse"].item() == pytest.approx(expected)


def test_a_shift_of_either_networks_logits_changes_nothing():
    loss = make().double()
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    plain = loss(Output(student), Output(teacher), BATCH)
    shifted = loss(Output(student + 7), Output(teacher - rand(4, 1, seed=2)), BATCH)
    torch.testing.assert_close(shifted, plain)


def test_it_is_finite_for_classes_that_the_teacher_never_predicts():
    loss = make()
    logits = torch.full((5, 5), -1e4).fill_diagonal_(1e4)
    loss.prepare([(Output(logits), torch.arange(5))])
    assert loss.weight.eq(torch.eye(5)).all()
    assert is_finite_for_random_logits(loss, context(5), size=5)


def test_a_student_equal_to_its_teacher_has_no_gradient():
    same = rand(4, 5)
    student = same.clone().requires_grad_()
    terms = make().double()(Output(student), Output(same), BATCH)
    (gradient,) = torch.autograd.grad(sum(terms.values()), student)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1.0, 1.0), "temperature must be a number above 0"),
        ((1.0, -1.0, 1.0), "weight_temperature must be a number above 0"),
        ((1.0, 1.0, -0.1), "power must be 0 or more and finite"),
    ],
)
def test_a_number_out_of_range_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        GeneralizedKL(context(4), *values)
