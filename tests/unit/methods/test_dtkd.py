"""DTKD: temperatures by hand, the limit of equal maxima, and maxima that are not positive."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.dtkd import DynamicTemperature
from kd_bench.methods.st import SoftTarget

CONTEXT = context_of({}, {})


def make(context=CONTEXT, temperature: float = 4.0) -> DynamicTemperature:
    return DynamicTemperature(context, temperature)


def value(loss, student: Tensor, teacher: Tensor) -> Tensor:
    return loss(output_of(student), output_of(teacher), batch_of(CONTEXT, len(student)))


def test_values_by_hand():
    # Maxima ln 3 and 3 ln 3, T = 1: T_s = 2 · 1/4 = 1/2 and T_t = 3/2. Student softmax(2 ln 3, 0) =
    # (9, 1) / 10, teacher softmax(2 ln 3, 0) the same: zero. With the teacher's other logit at
    # 3 ln 3 as well: KL((1/2, 1/2) || (9/10, 1/10)) = ln(5/3); times 3/4
    log3 = math.log(3)
    student = torch.tensor([[log3, 0.0], [log3, 0.0]])
    teacher = torch.tensor([[3 * log3, 0.0], [3 * log3, 3 * log3]])
    loss = make(temperature=1.0)
    s, t = loss.temperatures(student, teacher)
    assert s[:, 0].tolist() == pytest.approx([0.5, 0.5])
    assert t[:, 0].tolist() == pytest.approx([1.5, 1.5])
    each = loss.per_image(output_of(student), output_of(teacher), batch_of(CONTEXT, 2))
    assert each.tolist() == pytest.approx([0, 0.75 * math.log(5 / 3)], abs=1e-6)


def test_equal_maxima_give_soft_targets():
    student, teacher = rand(5, K), rand(5, K, seed=1)
    student[:, 1] = teacher[:, 2] = 4.0
    assert value(make(), student, teacher).item() == pytest.approx(
        value(SoftTarget(CONTEXT, 4.0), student, teacher).item()
    )


def test_the_temperatures_average_to_the_reference_and_level_the_maxima():
    student, teacher = rand(5, K).abs(), 9 * rand(5, K, seed=1).abs()
    s, t = make().temperatures(student, teacher)
    torch.testing.assert_close(s + t, torch.full_like(s, 8.0))
    torch.testing.assert_close((student / s).amax(1), (teacher / t).amax(1))


def test_maxima_that_are_not_positive_have_positive_temperatures():
    # The published formula gives -2 and 10 for maxima of -1 and 5, 0 / 0 for zeros.
    student = torch.tensor([[-1.0, -3.0], [0.0, 0.0], [-1.0, -2.0]]).requires_grad_()
    teacher = torch.tensor([[5.0, 1.0], [0.0, 0.0], [-7.0, -8.0]])
    s, t = make().temperatures(student, teacher)
    assert ((s > 0) & (t > 0)).all()
    assert s[1:].flatten().tolist() == t[1:].flatten().tolist() == [4.0, 4.0]
    loss = value(make(), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_gradients_flow_through_the_students_temperature():
    # With a fixed temperature, it would be the gradient of a softmax, which sums to zero.
    student = (2 * rand(5, K)).requires_grad_()
    (gradient,) = torch.autograd.grad(value(make(), student, rand(5, K, seed=1)), student)
    assert (gradient.sum(1).abs() > 1e-3).any()


def test_the_loss_is_finite_for_a_tiny_and_a_large_maximum():
    student = torch.tensor([[0.011, -1e4], [-1e4, -2e4]]).requires_grad_()
    loss = value(make(), student, torch.tensor([[1e4, -1e4], [1e4, -1e4]]))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(temperature=0)
