"""Jacobian matching: values by hand, invariances, and the second derivative."""

import pytest
import torch
from helpers.small_nets import batch, context, linear, rand, smooth
from torch.autograd import gradcheck

from kd_bench.methods.sobolev import JacobianMatching, class_gradient

LOSS = JacobianMatching(context())
# The first row has length 5, so that its unit vector is rational
STUDENT = torch.tensor([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
TEACHER = torch.tensor([[4.0, 3.0, 0.0], [1.0, 0.0, 2.0]])


def of_linear(student, teacher, target):
    seen = batch(torch.zeros(len(target), 3, 1, 1, dtype=student.dtype), target)
    return LOSS(linear(seen.image, student), linear(seen.image, teacher), seen)


def test_unit_length_gradients_of_the_labels_logit_are_compared():
    # (3, 4) / 5 and (4, 3) / 5: (0.6 - 0.8)^2 + (0.8 - 0.6)^2 = 0.08
    assert of_linear(STUDENT, TEACHER, [0]).item() == pytest.approx(0.08)


def test_it_is_the_mean_over_images():
    # Both rows are equal for class 1: (0.08 + 0) / 2
    teacher = torch.stack([TEACHER[0], 7 * STUDENT[1]])
    assert of_linear(STUDENT, teacher, [0, 1]).item() == pytest.approx(0.04)


def test_logit_gradients_are_compared_up_to_scale_but_not_sign():
    assert of_linear(STUDENT, 100 * STUDENT, [0]).item() == pytest.approx(0.0, abs=1e-12)
    assert of_linear(STUDENT, -STUDENT, [0]).item() == pytest.approx(4.0)  # |g - (-g)|^2, |g| = 1


def test_gradients_are_per_image():
    image, mix, classify = rand(3, 3, 2, 2), rand(5, 3, seed=1), rand(4, 5, seed=2)
    seen = batch(image, [2, 0, 3])
    together = class_gradient(smooth(seen.image, mix, classify).logits, seen, create_graph=False)
    for i, label in enumerate(seen.target):
        one = image[i : i + 1].detach().requires_grad_()
        smooth(one, mix, classify).logits[0, label].backward()
        torch.testing.assert_close(together[i], one.grad.flatten())


def test_it_passes_gradcheck():
    seen = batch(rand(3, 3, 2, 2), [2, 0, 3])
    teacher = smooth(seen.image, rand(6, 3, seed=3), rand(4, 6, seed=4))

    def value(mix, classify):
        return LOSS(smooth(seen.image, mix, classify), teacher, seen)

    assert gradcheck(value, (rand(5, 3).requires_grad_(), rand(4, 5, seed=1).requires_grad_()))


def test_zero_gradients_give_a_finite_loss_and_gradient():
    student = torch.zeros(2, 3, requires_grad=True)
    loss = of_linear(student, TEACHER, [0])
    loss.backward()
    assert loss.item() == pytest.approx(1.0)  # |0 - g|^2
    assert student.grad.isfinite().all()
