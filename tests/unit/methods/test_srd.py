"""SRD: two images by hand, and the soft maximum in the limit."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import UserError
from kd_bench.methods.srd import SimpleRecipe, standardise

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})


def make(context) -> SimpleRecipe:
    return SimpleRecipe(context, exponent=4.0, temperature=1.0)


def unprojected(exponent: float) -> SimpleRecipe:
    loss = SimpleRecipe(CONTEXT, exponent, temperature=1.0)
    loss.projector = nn.Identity()
    return loss


def feature_term(loss: SimpleRecipe, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    batch = batch_of(CONTEXT, len(student))
    return loss(output_of(pooled=student), output_of(pooled=teacher), batch)["feature"]


def test_two_swapped_images():
    # Mean 2, variance 1: student -a, a and teacher a, -a with a^2 = 1 / 1.0001. Two entries of
    # (2a)^4: log(32 a^4) = ln 32 - 2 ln 1.0001
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[3.0], [1.0]])
    value = feature_term(unprojected(4.0), student, teacher).item()
    assert value == pytest.approx(math.log(32) - 2 * math.log(1.0001), abs=1e-5)


def test_logits_are_compared_by_divergence_without_squared_temperature():
    # softmax([ln 3, 0]) = [3/4, 1/4] against [1/2, 1/2]: 0.130812 for every image. The same for
    # temperature 2 and logits twice as large, as there is no T^2.
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    for temperature in (1.0, 2.0):
        loss = SimpleRecipe(CONTEXT, 4.0, temperature)
        teacher = output_of(temperature * logits, pooled=torch.ones(2, 5))
        value = loss(
            output_of(torch.zeros(2, 2), pooled=torch.ones(2, 3)), teacher, batch_of(CONTEXT, 2)
        )
        assert value["logits"].item() == pytest.approx(0.130812, abs=1e-6)


def test_standardised_channels_have_mean_zero_and_variance_one():
    # Equal to PyTorch's batch norm without parameters
    x = 3 * rand(6, 4) + 5
    expected = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-4)
    torch.testing.assert_close(standardise(x), expected)


def test_a_high_power_approaches_the_maximum():
    # (sum d^a)^(1/a) -> max d; with 20 entries the error of the logarithm is at most ln(20) / a.
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    largest = (standardise(student) - standardise(teacher)).abs().max().log().item()
    value = feature_term(unprojected(200.0), student, teacher).item() / 200
    assert largest <= value <= largest + math.log(20) / 200


def test_the_projectors_gradient_is_independent_of_the_batch_size():
    # Duplicated images double the sum, which adds a constant to the logarithm.
    loss = make(CONTEXT).double()
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    once, twice = (
        torch.autograd.grad(
            feature_term(loss, student.repeat(n, 1), teacher.repeat(n, 1)),
            loss.projector[1].weight,
        )[0]
        for n in (1, 2)
    )
    torch.testing.assert_close(once, twice)


def test_equal_features_have_a_finite_loss_and_zero_gradient():
    x = rand(4, 5).requires_grad_()
    value = feature_term(unprojected(4.0), x, x.detach())
    value.backward()
    assert value.item() == pytest.approx(math.log(1e-6))
    assert not x.grad.any()


def test_a_single_image_works():
    value = feature_term(make(CONTEXT), torch.ones(1, 3), torch.ones(1, 5))
    assert value.item() == pytest.approx(math.log(1e-6), abs=1e-5)


@pytest.mark.parametrize(
    ("exponent", "temperature", "message"),
    [(0.5, 1.0, "exponent must be 1 or more, got 0.5"), (4.0, 0.0, "temperature must be a number")],
)
def test_values_out_of_range_are_refused(exponent, temperature, message):
    with pytest.raises(UserError, match=message):
        SimpleRecipe(CONTEXT, exponent, temperature)
