"""LumiNet: a value by hand, shifts and scales of classes, and batches without variation."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.luminet import Perception

CONTEXT = context_of({}, {})


def make(context=CONTEXT, temperature: float = 1.0) -> Perception:
    return Perception(context, temperature)


def per_image(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    batch = batch_of(CONTEXT, len(student))
    return make(temperature=temperature).per_image(output_of(student), output_of(teacher), batch)


def test_values_by_hand():
    # Two images: every class becomes 1 and -1. Teacher: (1, 1) and (-1, -1), both uniform; student:
    # (1, -1) and (-1, 1). KL = -log(1/2) - mean log q with q = softmax(1, -1) at T = 2, whose
    # logits are 1/2 and -1/2: mean log q = -log(e^(1/2) + e^(-1/2))
    student = torch.tensor([[9.0, 3.0], [1.0, 4.0]])
    teacher = torch.tensor([[5.0, 8.0], [4.0, 2.0]])
    expected = math.log(math.exp(0.5) + math.exp(-0.5)) - math.log(2)
    assert per_image(student, teacher, 2.0).tolist() == pytest.approx([expected] * 2)


def test_the_loss_is_not_multiplied_by_the_squared_temperature():
    # For large T, T^2 KL is constant, so the loss decreases like 1 / T^2.
    student, teacher = rand(6, K), rand(6, K, seed=1)
    hot, hotter = (per_image(student, teacher, t).mean() for t in (1e3, 1e4))
    assert (hot / hotter).item() == pytest.approx(100, rel=1e-2)


def test_shifts_and_scales_of_the_students_classes_change_nothing():
    student, teacher = rand(6, K), rand(6, K, seed=1)
    scale, shift = torch.tensor([0.01, 1.0, 5.0, 300.0]), torch.tensor([9.0, -3.0, 0.0, 1.0])
    before = per_image(student, teacher)
    torch.testing.assert_close(per_image(scale * student + shift, teacher), before)
    torch.testing.assert_close(per_image(student, scale * teacher + shift), before)


def test_a_student_of_another_scale_is_at_the_minimum():
    teacher = rand(6, K)
    student = (3 * teacher - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(per_image(student, teacher).mean(), student)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("size", [1, 5])
def test_equal_images_have_no_loss_and_no_gradient(size):
    # In float32, the mean of five equal numbers may have a rounding error
    student = torch.full((size, K), 0.1).requires_grad_()
    value = per_image(student, torch.full((size, K), 0.7)).mean()
    value.backward()
    assert value.item() == 0
    assert not student.grad.any()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(temperature=0)
